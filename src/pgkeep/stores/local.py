"""A directory on a local or mounted file system.

Written as `.NAME.partial-RANDOM` beside its final place, fsynced, renamed, the directory fsynced:
after a crash there is the old state or the new one (rename(2), fsync(2)).
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from .. import errors as e
from .. import interrupts
from ..model import naming
from .store import UNKNOWN, Item

_PARTIAL = re.compile(r"\.(?P<name>.+)\.partial-[0-9a-f]{8}")


class LocalStore:
    """A directory; it is made, private to its owner, when the first file is."""

    remote = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def url(self) -> str:
        """The directory's path."""
        return str(self.directory)

    def url_of(self, name: str) -> str:
        """Return a file's path."""
        return str(self.directory / name)

    def check_writable(self) -> None:
        """Make the directory if it is not there; raise StoreError if nothing can be put into it."""
        self.prepare()
        with _translated("write to", self.directory):
            if not self.directory.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(self.directory, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def existing(self) -> Path:
        """Return the directory, or the lowest existing one above it."""
        existing = self.directory.resolve()
        while not os.path.exists(existing):  # noqa: PTH110 - Path's raises where it may not look
            existing = existing.parent
        return existing

    def free(self) -> int:
        """Return how many bytes are free where the directory is, or would be."""
        return shutil.disk_usage(self.existing()).free

    def prepare(self) -> None:
        """Make the directory, readable by its owner only, if it is not there."""
        missing = [self.directory, *self.directory.parents]
        with _translated("reach", self.directory):
            missing = missing[: next(n for n, one in enumerate(missing) if one.exists())]
        for directory in reversed(missing):
            with _translated("create directory", directory):
                directory.mkdir(mode=0o700, exist_ok=True)
                directory.chmod(0o700)  # a umask may have taken from the owner too

    def create(self, name: str, *, owner: str = "0", sha256: str | None = None) -> "LocalUpload":
        """Begin a new file."""
        del owner, sha256
        self.prepare()
        return LocalUpload(self.directory, name)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Lock a file, which is made if need be and never removed; it dies with its holder."""
        self.prepare()
        path = self.directory / name
        with _translated("open", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.geteuid() == 0:
                # What root has looked at once must not be locked to the directory's owner for ever.
                with contextlib.suppress(OSError):
                    owner = self.directory.stat()
                    os.fchown(fd, owner.st_uid, owner.st_gid)
            with _translated("lock", path):
                alone = _flock(fd)
            yield alone
        finally:
            os.close(fd)

    def open(self, name: str) -> "LocalSource":
        """Open a file for reading."""
        return LocalSource(self.directory / name)

    def exists(self, name: str) -> bool:
        """Tell whether there is such a file."""
        with _translated("look for", self.directory / name):
            try:
                (self.directory / name).lstat()  # a link that leads nowhere is one that fails
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def items(self) -> Iterator[Item]:
        """Yield the published files."""
        with _translated("read directory", self.directory):
            try:
                entries = os.scandir(self.directory)
            except FileNotFoundError:
                return
            with entries:
                for entry in entries:
                    if not _PARTIAL.fullmatch(entry.name):
                        yield from _item(entry)

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        with _translated("remove", self.directory / name), contextlib.suppress(FileNotFoundError):
            (self.directory / name).unlink()

    def sweep(self, ours: Callable[[str], bool], owner: str = "0") -> list[str]:
        """Remove partial files that a killed run left; the caller holds the run's lock."""
        del owner
        swept = []
        with _translated("clean", self.directory), contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.directory):  # noqa: PTH208 - names are all we need
                match = _PARTIAL.fullmatch(name)
                if match and ours(match["name"]):
                    (self.directory / name).unlink(missing_ok=True)
                    swept.append(name)
        return swept


class LocalUpload:
    """A partial file; renamed when it is published, removed when it is not."""

    def __init__(self, directory: Path, name: str) -> None:
        self._final = directory / name
        # No longer, for a name of 63 bytes takes 255 with all of this, and no file may have more.
        self._partial = directory / f".{name}.partial-{os.urandom(4).hex()}"
        self._fd = -1
        self._exists = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with interrupts.held(), _translated("create", self._partial):
            self._fd = os.open(self._partial, flags, 0o600)
            self._exists = True

    def __del__(self) -> None:
        """Remove what a signal has taken from whoever would have entered the context."""
        self._remove()

    def write(self, data: bytes) -> None:
        """Append bytes; the system may take fewer than it is given."""
        with _translated("write", self._partial):
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]

    def seal(self) -> None:
        """Flush to the disk; some file systems report a full disk only here or at close."""
        with _translated("write", self._partial):
            os.fsync(self._fd)
            with interrupts.held():
                fd, self._fd = self._fd, -1
                os.close(fd)

    def stop(self) -> None:
        """Nothing waits here that could be woken."""

    def source(self) -> "LocalSource":
        """Open the file, sealed or still growing."""
        return LocalSource(self._partial)

    def publish(self) -> None:
        """Rename to the final name and make the renaming durable."""
        with interrupts.held(), _translated("rename", self._partial):
            self._partial.rename(self._final)
            self._exists = False
            _sync_directory(self._final.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        # What goes wrong here is a consequence, and must not hide the failure that led here.
        with interrupts.held():
            if self._fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(self._fd)
                self._fd = -1
            if self._exists:
                with contextlib.suppress(OSError):
                    self._partial.unlink(missing_ok=True)
                self._exists = False


class LocalSource:
    """An open file, read by position so that threads do not disturb each other."""

    remote = False

    def __init__(self, path: Path) -> None:
        self._path = path
        with _translated("open", path):
            # Not to wait for the writer of a pipe.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise e.StoreError(
                f"{path} is not a file", hint="A backup is read at any place: save it as a file."
            )
        self._size = status.st_size

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self._path)

    @property
    def size(self) -> int:
        """Length in bytes when it was opened."""
        return self._size

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes."""
        with _translated("read", self._path):
            data = os.pread(self._fd, length, start)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), start + len(data))
                if not more:
                    raise e.StoreError(
                        f"{self._path} is shorter than expected: no byte {start + len(data)}"
                    )
                data += more
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _item(entry: "os.DirEntry[str]") -> Iterator[Item]:
    """Yield a file; one that cannot be looked at, such as a link to itself, fails when it is read.

    Another run may remove it while we look (trap B10).
    """
    try:
        if entry.is_file():
            yield Item(entry.name, entry.stat().st_size)
        elif entry.is_dir():
            return
        elif entry.is_symlink():
            entry.stat()
        elif naming.parse(entry.name) is not None:  # a pipe or the like in its place
            yield Item(entry.name, UNKNOWN)
    except FileNotFoundError:
        if entry.is_symlink():
            yield Item(entry.name, UNKNOWN)
    except OSError:
        yield Item(entry.name, UNKNOWN)


def _flock(fd: int) -> bool:
    """Lock a file; return False if somebody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot do that; PostgreSQL lets them pass too.
        if error.errno not in (errno.EBADF, errno.EINVAL):
            raise
    finally:
        os.close(fd)


@contextlib.contextmanager
def _translated(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = e.Missing if isinstance(error, FileNotFoundError) else e.StoreError
        raise kind(
            f"could not {action} {path}: {error.strerror or error}", hint=_hint(error)
        ) from error


def _hint(error: OSError) -> str | None:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "Free some space or point BACKUP_DIR elsewhere; nothing was published."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "Give the user that runs pgkeep the right to do that, or change BACKUP_DIR."
        case _:
            return None
