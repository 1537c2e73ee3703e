"""archive_command and restore_command: a client that the server's user can run, and recoveries."""

import contextlib
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pgkeep
from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.model import wal
from pgkeep.pitr.archive import WalArchive
from pgkeep.pitr.archive_fetch import Fetcher, Source
from pgkeep.pitr.archive_push import Copier, Destination, Pusher
from pgkeep.pitr.archive_server import ArchiveServer, listening
from pgkeep.pitr.wal_file import Origin
from pgkeep.postgres.server import Account
from pgkeep.stores.local import LocalStore
from pgkeep.stores.store import Store

ORIGIN = Origin("7000000000000000001", 1 << 20)

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


def segment(number: int, filler: bytes = b"x") -> tuple[str, bytes]:
    """Return name and bytes of a segment of the first timeline of ORIGIN."""
    size = ORIGIN.segment_size
    header = (0xD110, 2, 1, number * size, 0, int(ORIGIN.system_identifier), size, 8192)
    data = struct.pack("HHIQI4xQII", *header) + filler * 1000
    return wal.Segment(1, number).name(size), data + bytes(size - len(data))


@contextlib.contextmanager
def service(
    folder: Path, stores: Sequence[Store], origin: Origin = ORIGIN, copiers: Sequence[Copier] = ()
) -> Iterator[Path]:
    """Run the service with these stores, almost without pauses; yield its socket."""

    def check() -> None:
        for store in stores:
            if isinstance(store, LocalStore) and not store.directory.exists():
                raise e.StoreError("it is not mounted")

    archives = [WalArchive(store, origin, Encryption()) for store in stores]
    fetcher = Fetcher([Source(archive, check) for archive in archives], folder / "spool", origin,
                      pauses=(0.01,))  # fmt: skip
    pusher = Pusher([Destination(archive, lambda: None) for archive in archives], copiers, origin)
    server = ArchiveServer(pusher, fetcher, origin.system_identifier, lambda _: None)
    stop = threading.Event()
    group = None if Account.choose().gid is None else "nogroup"
    with listening(folder / "run" / "archive.sock", group) as listener:
        threads = [threading.Thread(target=server.serve, args=(listener, stop.is_set))]
        threads += [threading.Thread(target=copier.run) for copier in copiers]
        for thread in threads:
            thread.start()
        try:
            yield folder / "run" / "archive.sock"
        finally:
            stop.set()
            for copier in copiers:
                copier.stop()
            for thread in threads:
                thread.join()
            fetcher.close()


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
