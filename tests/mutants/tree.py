"""A copy of the repository with an environment of its own, in which bugs are planted."""

import compileall
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bug import PACKAGE, Bug
from .recorder import VARIABLE

ROOT = Path(__file__).parents[2]
TEST_SECONDS = 120  # a bug can make a test wait forever
RUN_SECONDS = 900
EPOCH = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run of pytest."""

    test: str | None  # the first test that failed; None if all passed
    message: str
    seconds: float


class RunFailed(Exception):
    """The tests did not run to a result; with what pytest printed."""


class Tree:
    """The files of this checkout, also those that are not committed, below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changes = 0
        self._copy_files()
        (folder / "build").symlink_to(ROOT / "build")
        self._make_environment()
        # Here, because Python leaves truncated files in tests that limit the size of files.
        compileall.compile_dir(folder / PACKAGE, quiet=2)

    @contextlib.contextmanager
    def planted(self, bug: Bug) -> Iterator[None]:
        """Plant a bug, and remove it again."""
        path = self._folder / bug.path
        code = path.read_text(encoding="utf-8")
        try:
            self._write(path, bug.planted(code))
            yield
        finally:
            self._write(path, code)

    def run(self, tests: Sequence[str]) -> Outcome:
        """Run tests until the first failure.

        Raises:
            RunFailed: pytest could not run them.

        """
        record = self._folder / ".record.json"
        record.unlink(missing_ok=True)
        command = [
            str(self._folder / ".venv" / "bin" / "python"), "-m", "pytest", "-x", "-q", "-n", "0",
            "-p", "tests.mutants.recorder", "-p", "no:cacheprovider", "--hypothesis-seed=0",
            f"--timeout={TEST_SECONDS}", *tests,
        ]  # fmt: skip
        began = time.monotonic()
        with subprocess.Popen(
            command, cwd=self._folder, env={**os.environ, VARIABLE: str(record)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=RUN_SECONDS)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        seconds = time.monotonic() - began
        if process.returncode == 0:
            return Outcome(None, "", seconds)
        if process.returncode != 1 or not record.exists():
            raise RunFailed(output[-3000:])
        found = json.loads(record.read_text(encoding="utf-8"))
        return Outcome(found["test"], found["message"], seconds)

    def _copy_files(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.decode().split("\0")):
            source, target = ROOT / name, self._folder / name
            if source.is_symlink() or source.is_file():  # not removed, and no other repository
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)

    def _make_environment(self) -> None:
        """Make an environment with the packages of ours, except that pgkeep is the copied one."""
        target = self._folder / ".venv"
        venv.create(target, symlinks=True)
        ours = Path(sysconfig.get_path("purelib"))
        theirs = target / ours.relative_to(sys.prefix)
        for path in ours.iterdir():
            if path.suffix != ".pth":
                (theirs / path.name).symlink_to(path)
        (theirs / "pgkeep.pth").write_text(str(self._folder / "src"), encoding="utf-8")
        for path in (Path(sys.prefix) / "bin").iterdir():
            _install(path, target / "bin" / path.name)

    def _write(self, path: Path, code: str) -> None:
        """Write code with a new time: Python compares time and length with its compiled file."""
        self._changes += 1
        path.write_text(code, encoding="utf-8")
        os.utime(path, (EPOCH + self._changes,) * 2)
        compileall.compile_file(path, quiet=2)


def _install(source: Path, target: Path) -> None:
    """Copy a script that names its interpreter, and link any other program."""
    if target.exists() or not source.is_file():
        return
    with source.open("rb") as file:
        script = file.read(2) == b"#!"
    if not script:
        target.symlink_to(source)
        return
    target.write_text(source.read_text().replace(sys.prefix, str(target.parents[1])))
    target.chmod(0o755)
