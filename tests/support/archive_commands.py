"""archive_command and restore_command: a client that the server's user can run, and recoveries."""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pgkeep
from pgkeep.postgres.server import Account

# What the client consists of: a copy that is complete shows that it imports nothing else.
_MODULES = ("__init__.py", "cli/__init__.py", "pitr/__init__.py", "pitr/archive_client.py")


def client(folder: Path) -> Path:
    """Make a `pgkeep` that the server's user can run, with the modules of the client only."""
    package = Path(pgkeep.__file__).parent
    copy = folder / "lib" / "pgkeep"
    for name in _MODULES:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, copy / name)
    python = next(
        path for path in (sys.executable, "/usr/bin/python3") if Account.choose().can([path, "-V"])
    )
    program = folder / "pgkeep"
    program.write_text(
        f"#!{python} -I\nimport sys\nsys.path.insert(0, {str(copy.parent)!r})\n"
        "from pgkeep.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    return program


class Copy:
    """A data directory that was copied while its server was stopped, and the server that has it."""

    def __init__(self, programs: Path, source: Path, folder: Path) -> None:
        self.programs = programs
        self.data = folder / "data"
        self.log = folder / "log"
        self.folder = folder
        self._account = Account.choose()
        shutil.copytree(source, self.data)
        self._account.own(folder)

    @property
    def params(self) -> dict[str, str]:
        return {"host": str(self.folder), "user": "postgres", "dbname": "postgres"}

    def signal(self, name: str) -> None:
        (self.data / name).touch()
        self._account.own(self.data / name)

    @contextlib.contextmanager
    def started(self, **settings: str) -> "Iterator[subprocess.Popen[bytes]]":
        """Start the server, and wait until it is ready or has ended."""
        command = [str(self.programs / "postgres"), "-D", str(self.data), "-k", str(self.folder)]
        defaults = {
            "wal_retrieve_retry_interval": "100ms", "archive_mode": "off", "hot_standby": "off"
        }  # fmt: skip
        for name, value in (defaults | settings).items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("wb") as log:
            process = self._account.popen(command, stdout=log, stderr=log, cwd="/")
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and not self._ready():
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(3)
            process.wait()

    def _ready(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[7].strip() == "ready"
        return False
