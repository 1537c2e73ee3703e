"""Pack the files of a base backup into several tar archives, and unpack them.

Several, so that they are compressed, encrypted, uploaded and restored at the same time. `tar` reads
each of them, in any order, into the same directory.
"""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from isal import isal_zlib

from .. import errors as e
from ..artifact.compression import MultiMemberInflater
from ..progress import Advance

PART_SIZE = 256 << 20  # bytes of files in a part; a file of a table can have 1 GiB
BLOCK = 1 << 20
_LEVEL = 1
_HEADER_LIMIT = 1 << 20  # bytes of the extended headers of a member, which have a long path
_HEADERS = 8
_DEPTH = 64  # directories
_EACH = 4096  # bytes of headers and padding that a file has at most, without an unusual path


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


def limit_of(size: int, files: int) -> int:
    """Return how many bytes the tar archives of a base backup can have; 0 files: unknown."""
    return size + (files or 1_000_000) * _EACH + (1 << 20)


def inflated(blocks: Iterable[bytes], name: str, limit: int) -> bytes:
    """Return the contents of a small compressed file.

    Raises:
        VerificationFailed: it is damaged, or has more bytes.

    """
    reader = _Inflated(blocks, name, limit, lambda _: None)
    return b"".join(iter(lambda: reader.read(BLOCK), b""))


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
    """A file object that reads the contents of compressed blocks, up to a limit."""

    def __init__(self, blocks: Iterable[bytes], name: str, limit: int, progress: Advance) -> None:
        self._blocks = self._inflate(blocks, name, limit, progress)
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
    def _inflate(
        blocks: Iterable[bytes], name: str, limit: int, progress: Advance
    ) -> Iterator[bytes]:
        inflater = MultiMemberInflater()
        size = 0
        for chunk in blocks:
            for block in inflater.feed(chunk):
                size += len(block)
                if size > limit:
                    raise e.VerificationFailed(
                        f"{name}: found more than {limit} bytes after decompression, expected fewer"
                        " according to the manifest"
                    )
                yield block
            progress(len(chunk))
        inflater.close()


class _Archive(tarfile.TarFile):
    """A tar archive that counts the extended headers in front of the next member."""

    headers = header_bytes = 0


class _Member(tarfile.TarInfo):
    """A member whose extended headers are few and short: tarfile keeps them, one in another."""

    def _proc_member(self, tar: _Archive) -> tarfile.TarInfo | None:
        extended = (
            tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )  # fmt: skip
        if self.type not in extended:
            tar.headers = tar.header_bytes = 0
        else:
            tar.headers += 1
            tar.header_bytes += self.size
            if self.size < 0 or tar.header_bytes > _HEADER_LIMIT or tar.headers > _HEADERS:
                raise tarfile.ReadError(
                    f"an extended header of {self.size} bytes after {tar.headers - 1} others"
                )
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]


def members(
    blocks: Iterable[bytes], name: str, limit: int, progress: Advance
) -> Iterator[tuple[str, tarfile.TarInfo, Callable[[int], bytes]]]:
    """Yield the files and directories of one part, each with a function that reads its contents.

    `limit` is for the bytes of the tar archive. It is read to its end.

    Raises:
        VerificationFailed: it is damaged, or contains something else than files and directories.

    """
    reader = _Inflated(blocks, name, limit, progress)
    seen: set[str] = set()
    try:
        with _Archive.open(fileobj=reader, mode="r|", bufsize=BLOCK, tarinfo=_Member) as tar:
            for info in tar:
                path = _checked(info, name)
                if path in seen:
                    raise e.VerificationFailed(f"{name}: found {path!r} twice")
                seen.add(path)
                yield path, info, _reader(tar, info, name)
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them
        while reader.read(BLOCK):
            pass
    except _DAMAGE as error:
        raise e.VerificationFailed(f"{name}: damaged tar archive: {error}") from error


_DAMAGE = (tarfile.TarError, ValueError, OverflowError, EOFError)


def _reader(tar: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> Callable[[int], bytes]:
    contents = tar.extractfile(info) if info.isfile() else None

    def read(size: int) -> bytes:
        try:
            return b"" if contents is None else contents.read(size)
        except _DAMAGE as error:
            raise e.VerificationFailed(f"{name}: damaged tar archive: {error}") from error

    return read


# No base backup contains it. Who stops a server reads a process id from it.
_PID_FILE = PurePosixPath("postmaster.pid")


def _checked(info: tarfile.TarInfo, name: str) -> str:
    """Return the path of a member, if it can be one below a data directory."""
    path = PurePosixPath(info.name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not 0 < len(path.parts) <= _DEPTH
        or "\0" in info.name
        or not (info.isfile() or info.isdir())
        or info.issparse()  # its size costs nothing in the archive
        or info.size < 0
        or path == _PID_FILE
    ):
        raise e.VerificationFailed(
            f"{name}: found {info.name[:200]!r}, expected files and directories below a data"
            " directory"
        )
    return str(path)


def unpack(blocks: Iterable[bytes], name: str, target: Path, limit: int, progress: Advance) -> None:
    """Write the files of one part below a directory, to the end of the source.

    Raises:
        VerificationFailed: it is damaged, or contains something else than files and directories.
        RestoreFailed: a file could not be written.

    """
    for path, info, read in members(blocks, name, limit, progress):
        try:
            _extract(target / path, info, read)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise e.VerificationFailed(f"{name}: {path!r} is a file and a directory") from error
        except OSError as error:
            raise e.RestoreFailed(f"could not write {target / path}: {error.strerror}") from error


def _extract(written: Path, info: tarfile.TarInfo, read: Callable[[int], bytes]) -> None:
    if info.isdir():
        written.mkdir(mode=0o700, parents=True, exist_ok=True)
        return
    written.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(handle, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        while block := read(BLOCK):
            file.write(block)
        os.fchmod(handle, info.mode & 0o700)
