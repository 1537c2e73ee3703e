"""A reader that looks for secrets wherever a running pgkeep could leave them, again and again."""

import contextlib
import os
import subprocess
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support import invoke

GZIP = b"\x1f\x8b\x08"
MEMBER = 1 << 16  # bytes that are decompressed of each gzip member
LARGEST = 1 << 26  # bytes that are read of a file


def found(data: bytes, secrets: Sequence[bytes]) -> bytes | None:
    """Return a secret that data contains, also in any gzip member in it."""
    start = 0
    while True:
        for secret in secrets:
            if secret in data:
                return secret
        start = data.find(GZIP, start)
        if start < 0:
            return None
        with contextlib.suppress(zlib.error):
            plain = zlib.decompressobj(31).decompress(data[start:], MEMBER)
            for secret in secrets:
                if secret in plain:
                    return secret
        start += 1


class Reader(threading.Thread):
    """Reads all files below folders, and what a process and its descendants show in /proc."""

    def __init__(self, pid: int, folders: Sequence[Path], secrets: Sequence[bytes]) -> None:
        super().__init__(daemon=True)
        self.leaks: set[str] = set()
        self.rounds = 0
        self.unnamed = 0  # files without a name that were read
        self._pid = pid
        self._folders = folders
        self._secrets = secrets
        self._ended = threading.Event()
        self._seen: dict[str, tuple[int, int]] = {}  # unchanged files are read once

    def run(self) -> None:
        """Read until `end`, and once more."""
        while True:
            last = self._ended.is_set()
            for pid in [self._pid, *_descendants(self._pid)]:
                self._process(pid)
            for folder in self._folders:
                self._folder(folder)
            self.rounds += 1
            if last:
                return
            self._ended.wait(0.02)  # pgkeep needs the processor too

    def end(self) -> None:
        """Finish the last round."""
        self._ended.set()
        self.join()

    def _folder(self, folder: Path) -> None:
        for parent, folders, names in os.walk(folder):
            if "PG_VERSION" in names:  # the data directory of a temporary server
                folders.clear()
                continue
            for name in names:
                self._file(f"{parent}/{name}")

    def _file(self, path: str) -> None:
        with contextlib.suppress(OSError):
            state = os.stat(path)  # noqa: PTH116 - thousands of times
            if self._seen.get(path) == (state.st_size, state.st_mtime_ns):
                return
            with open(path, "rb") as file:  # noqa: PTH123
                self._check(path, file.read(LARGEST))
            self._seen[path] = (state.st_size, state.st_mtime_ns)

    def _process(self, pid: int) -> None:
        for part in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                self._check(f"{part} of {pid}", Path(f"/proc/{pid}/{part}").read_bytes())
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().startswith("postgres"):
                return
            for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{name}")  # noqa: PTH115
                    if link.endswith(" (deleted)"):
                        self.unnamed += 1
                        self._file(f"/proc/{pid}/fd/{name}")

    def _check(self, where: str, data: bytes) -> None:
        secret = found(data, self._secrets)
        if secret is not None:
            self.leaks.add(f"{where}: {secret.decode()}")


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
            for child in map(int, children):
                yield child
                yield from _descendants(child)


def watched(
    *args: str, env: Mapping[str, str], folders: Sequence[Path], secrets: Sequence[bytes]
) -> Reader:
    """Run pgkeep under the eyes of a reader; return what that found."""
    process = invoke.start(*args, env=env)
    reader = Reader(process.pid, folders, secrets)
    reader.start()
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    finally:
        reader.end()
    assert process.returncode == 0, f"pgkeep {args}: exit {process.returncode}\n{out}\n{err}"
    reader._check("output", (out + err).encode())
    return reader
