"""What holds for every reader: a value or one of pgkeep's own errors, in bounded time."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pgkeep import errors as e
from pgkeep.stores.memory import MemorySource

Reader = Callable[[bytes], object]
Target = Sequence[Reader]

FIRST = ord("a")  # the byte that selects the first reader
SECONDS = 8.0  # of processor time for an input of at most 64 KiB, with instrumented code
LONGEST_MESSAGE = 20_000  # characters
_LONGEST_READ = 1 << 28  # bytes


class Broken(Exception):
    """A rule that every reader must keep is broken."""


class StrictSource(MemorySource):
    """A file that is read as a file of a disk: no negative positions, no endless reads."""

    def read(self, start: int, length: int) -> bytes:
        if start < 0 or not 0 <= length <= _LONGEST_READ:
            raise Broken(f"a read of {length} bytes at {start}")
        return super().read(start, length)


def reader_of(target: Target, data: bytes) -> Reader | None:
    """Return the reader that the first byte selects."""
    return target[(data[0] - FIRST) % len(target)] if data else None


def run(target: Target, data: bytes) -> None:
    """Give an input to its reader.

    Raises anything but an error of pgkeep if the reader does.
    """
    reader = reader_of(target, data)
    if reader is None:
        return
    began = time.thread_time()
    try:
        with _watched():
            reader(data[1:])
    except e.PgkeepError as error:
        _check_message(error)
    if (taken := time.thread_time() - began) > SECONDS:
        raise Broken(f"{reader.__name__} takes {taken:.1f} s for {len(data)} bytes")


_watching = False  # whether a reader runs
_PROGRAMS = ("os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen", "pty.spawn")
_CHANGES = ("os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink")


@contextmanager
def _watched() -> Iterator[None]:
    """Let an audit hook refuse programs, connections and files elsewhere (PEP 578)."""
    global _watching  # noqa: PLW0603 - the hook cannot be removed
    _watching = True
    try:
        yield
    finally:
        _watching = False


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if not _watching:
        return
    if event in _PROGRAMS or event == "socket.connect":
        raise Broken(f"{event} {arguments!r}"[:500])
    flags = arguments[2] if event == "open" else 0
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in _CHANGES) and not _is_temporary(arguments):
        raise Broken(f"{event} {arguments!r}"[:500])


def _is_temporary(arguments: tuple[object, ...]) -> bool:
    """Whether a file may be changed: it is below the directory for temporary files."""
    path, folder = arguments[0], arguments[-1]
    if isinstance(path, int):  # a descriptor, which was opened before
        return True
    name = os.fsdecode(path)  # type: ignore[arg-type]
    if isinstance(folder, int) and folder >= 0 and not name.startswith("/"):
        name = f"/proc/self/fd/{folder}/{name}"
    real = os.path.realpath(name)
    return f"{real}/".startswith(_TEMPORARY) or real == os.devnull


_TEMPORARY = f"{os.path.realpath(tempfile.gettempdir())}/"
sys.addaudithook(_audit)


def _check_message(error: e.PgkeepError) -> None:
    message = error.message
    if not message or len(message) > LONGEST_MESSAGE:
        raise Broken(f"the message has {len(message)} characters: {message[:200]!r}")


def text_of(data: bytes) -> str:
    """Return bytes as the name of a file, in which any byte can be."""
    return data.decode("utf-8", "surrogateescape")


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    """Yield the bytes in pieces."""
    for start in range(0, len(data), max(1, size)):
        yield data[start : start + max(1, size)]
