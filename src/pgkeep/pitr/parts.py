"""Pack the files of a base backup into several tar archives, and unpack them.

Several, so that they are compressed, encrypted, uploaded and restored at the same time. `tar` reads
each of them, in any order, into the same directory.
"""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from isal import isal_zlib

from .. import errors as e
from ..artifact.file import MultiMemberInflater
from ..progress import Advance
from ..stores.store import Source, chunks

PART_SIZE = 256 << 20  # bytes of files in a part; a file of a table can have 1 GiB
BLOCK = 1 << 20
_LEVEL = 1


class Entry(NamedTuple):
    """A file or directory below the data directory."""

    path: str  # relative, with slashes
    size: int  # bytes; directories have 0


def entries(root: Path) -> list[Entry]:
    """Return all files and directories, directories before what is in them.

    Links below pg_tblspc are followed: the contents of tablespaces are packed as directories.
    """
    found: list[Entry] = []

    def walk(folder: Path, prefix: str) -> None:
        for item in sorted(os.scandir(folder), key=lambda item: item.name):
            path = f"{prefix}{item.name}"
            is_tablespace = prefix == "pg_tblspc/" and item.is_symlink()
            if item.is_dir(follow_symlinks=is_tablespace):
                found.append(Entry(path, 0))
                walk(Path(item.path), f"{path}/")
            elif item.is_file(follow_symlinks=False):
                found.append(Entry(path, item.stat().st_size))

    walk(root, "")
    return found


def divided(found: Sequence[Entry], size: int = PART_SIZE) -> list[list[Entry]]:
    """Divide entries into parts of about this size, in their order."""
    parts: list[list[Entry]] = [[]]
    total = 0
    for entry in found:
        if total and total + entry.size > size:
            parts.append([])
            total = 0
        parts[-1].append(entry)
        total += entry.size
    return parts


def pack(
    root: Path, part: Sequence[Entry], write: Callable[[bytes], None], progress: Advance
) -> None:
    """Write one part as a compressed tar archive.

    Raises:
        OSError: a file could not be read, or has become shorter.

    """
    # TarFile copies each block several times, and is five times as slow.
    compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, 31)

    def put(data: bytes) -> None:
        if compressed := compressor.compress(data):
            write(compressed)

    for entry in part:
        path, info = root / entry.path, tarfile.TarInfo(entry.path)
        if path.is_dir():
            info.type, info.mode = tarfile.DIRTYPE, 0o700
            put(info.tobuf(tarfile.PAX_FORMAT))
            continue
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            info.size, info.mode = status.st_size, stat.S_IMODE(status.st_mode)
            info.mtime = int(status.st_mtime)
            put(info.tobuf(tarfile.PAX_FORMAT))
            _put_contents(file, info.size, put)
        progress(info.size)
    put(bytes(2 * tarfile.BLOCKSIZE))  # the end of the archive
    write(compressor.flush())


def _put_contents(file: IO[bytes], size: int, put: Callable[[bytes], None]) -> None:
    """Write the bytes of a file, and zeros up to the end of a block."""
    left = size
    while left:
        block = file.read(min(BLOCK, left))
        if not block:
            raise OSError(f"{file.name}: found {size - left} bytes, expected {size}")
        put(block)
        left -= len(block)
    put(bytes(-size % tarfile.BLOCKSIZE))


class _Inflated(io.RawIOBase):
    """A file object that reads the contents of a compressed source."""

    def __init__(self, source: Source, progress: Advance) -> None:
        self._blocks = self._inflate(source, progress)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            if not self._rest:
                self._rest = memoryview(next(self._blocks, b""))
                if not self._rest:
                    break
            taken, self._rest = self._rest[:size], self._rest[size:]
            parts.append(bytes(taken))
            size -= len(taken)
        return b"".join(parts)

    @staticmethod
    def _inflate(source: Source, progress: Advance) -> Iterator[bytes]:
        inflater = MultiMemberInflater()
        for chunk in chunks(source):
            yield from inflater.feed(chunk)
            progress(len(chunk))
        inflater.close()


def unpack(source: Source, target: Path, progress: Advance) -> None:
    """Write the files of one part below a directory, to the end of the source.

    Raises:
        VerificationFailed: it is damaged, or contains something else than files and directories.
        OSError: a file could not be written.

    """
    reader = _Inflated(source, progress)
    try:
        with tarfile.open(fileobj=reader, mode="r|", bufsize=BLOCK) as tar:
            for info in tar:
                _extract(tar, info, target, source.name)
        while reader.read(BLOCK):
            pass
    except tarfile.TarError as error:
        raise e.VerificationFailed(f"{source.name}: damaged tar archive: {error}") from error


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo, target: Path, name: str) -> None:
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts or not (info.isfile() or info.isdir()):
        raise e.VerificationFailed(
            f"{name}: found {info.name!r}, expected files and directories below a data directory"
        )
    written = target / path
    if info.isdir():
        written.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    written.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    contents = tar.extractfile(info)
    assert contents is not None  # noqa: S101 - it is a regular file
    handle = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(handle, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        while block := contents.read(BLOCK):
            file.write(block)
        os.fchmod(handle, info.mode & 0o700)
