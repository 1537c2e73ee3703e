"""A directory on a local or mounted file system.

A file is written as `.NAME.partial-RANDOM` in the same directory, fsynced and renamed; then the
directory is fsynced. After a crash, either the old or the new state exists (rename(2), fsync(2)).
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
from typing import Self

from .. import errors as e
from .. import interrupts
from ..model import naming
from ..model.cluster import FOLDER as CLUSTERS
from ..model.cluster import is_description
from ..model.record import FOLDER
from .store import UNKNOWN, Item, Loaded, load_opened

_PARTIAL = re.compile(r"\.(?P<name>.+)\.partial-[0-9a-f]{8}")


class LocalStore:
    """A directory, created with the first file; only its owner has access."""

    remote = False
    cache = None

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
        """Create the directory if it does not exist; raise StoreError if it is not writable."""
        self.prepare()
        with _translated("write to", self.directory):
            if not self.directory.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(self.directory, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def existing(self) -> Path:
        """Return the directory, or the lowest existing one above it."""
        existing = self.directory.resolve()
        while not os.path.exists(existing):  # noqa: PTH110 - Path's raises without permission
            existing = existing.parent
        return existing

    def free(self) -> int:
        """Return the free bytes of the file system that contains, or would contain, it."""
        return shutil.disk_usage(self.existing()).free

    def prepare(self) -> None:
        """Create the directory, accessible only by its owner, if it does not exist."""
        missing = [self.directory, *self.directory.parents]
        with _translated("reach", self.directory):
            missing = missing[: next(n for n, path in enumerate(missing) if path.exists())]
        for directory in reversed(missing):
            with _translated("create directory", directory):
                directory.mkdir(mode=0o700, exist_ok=True)
                directory.chmod(0o700)  # the umask can remove permissions of the owner too
                sync_name(directory)

    def sync(self) -> None:
        """Make names durable that a killed process may not have made durable."""
        self.prepare()
        with _translated("flush", self.directory):
            sync_directory(self.directory)

    def create(
        self, name: str, *, owner: str = "0", sha256: str | None = None, new: bool = False
    ) -> "LocalUpload":
        """Start a new file."""
        del owner, sha256
        self.prepare()
        path = self.directory / name
        if path.parent == self.directory:
            return LocalUpload(self.directory, name, new=new)
        self._prepare_folder(path.parent)
        upload = LocalUpload(path.parent, path.name, new=new)
        self._give_to_owner(upload.fileno())
        return upload

    def _prepare_folder(self, folder: Path) -> None:
        """Create a folder of the directory; what root creates stays usable for its owner.

        The owner of the directory can have put a link there, which root must not follow.
        """
        with _translated("create directory", folder):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                sync_directory(self.directory)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(fd, 0o700)  # the umask can remove permissions of the owner too
                self._give_to_owner(fd)
            finally:
                os.close(fd)

    def _give_to_owner(self, fd: int) -> None:
        if os.geteuid() == 0:
            with contextlib.suppress(OSError):
                owner = self.directory.stat()
                os.fchown(fd, owner.st_uid, owner.st_gid)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Lock a file, which is created if necessary and never removed; ends with its holder."""
        self.prepare()
        path = self.directory / name
        with _translated("open", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._give_to_owner(fd)
            with _translated("lock", path):
                alone = _flock(fd)
            yield alone
        finally:
            os.close(fd)

    def open(self, name: str) -> "LocalSource":
        """Open a file for reading."""
        return LocalSource(self.directory / name)

    def load(self, item: Item, limit: int) -> Loaded:
        """Read a small file."""
        return load_opened(self.open(item.name), limit)

    def exists(self, name: str) -> bool:
        """Return whether the file exists."""
        with _translated("look for", self.directory / name):
            try:
                (self.directory / name).lstat()  # a dangling link exists; reading it fails
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def items(self) -> Iterator[Item]:
        """Yield the published files, also records, and the descriptions of clusters."""
        yield from _items(self.directory)
        for folder in (FOLDER, CLUSTERS):
            with contextlib.suppress(e.StoreError):  # these are no backups
                for item in _items(self.directory / folder):
                    name = folder + item.name
                    if folder == FOLDER or is_description(name):
                        yield item._replace(name=name)

    def named(self, prefix: str) -> list[str]:
        """Return the names of published files that begin like this."""
        try:
            with _translated("read directory", self.directory):
                names = os.listdir(self.directory)  # noqa: PTH208 - names are all we need
        except e.Missing:
            return []
        return [name for name in names if name.startswith(prefix)]

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
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
    """A partial file; renamed when it is published, otherwise removed."""

    def __init__(self, directory: Path, name: str, *, new: bool = False) -> None:
        self._new = new
        self._final = directory / name
        # A name of 63 bytes takes 255 with all of this, which is the limit for file names.
        self._partial = directory / f".{name}.partial-{os.urandom(4).hex()}"
        self._fd = -1
        self._exists = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with interrupts.held(), _translated("create", self._partial):
            self._fd = os.open(self._partial, flags, 0o600)
            self._exists = True

    def __del__(self) -> None:
        """Remove the file if a signal prevented the caller from entering the context."""
        self._remove()

    def fileno(self) -> int:
        """Return the descriptor of the open file."""
        return self._fd

    def write(self, data: bytes) -> None:
        """Append bytes; the system can accept fewer than it is given."""
        with _translated("write", self._partial):
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]

    def seal(self) -> None:
        """Flush to disk; some file systems report a full disk only here or at close."""
        with _translated("write", self._partial):
            os.fsync(self._fd)
            with interrupts.held():
                fd, self._fd = self._fd, -1
                os.close(fd)

    def stop(self) -> None:
        """Do nothing: no method of this class waits."""

    def source(self) -> "LocalSource":
        """Open the file, sealed or still growing."""
        return LocalSource(self._partial)

    def publish(self) -> None:
        """Rename to the final name and make the rename durable."""
        with interrupts.held(), _translated("rename", self._partial):
            if self._new and self._final.exists():
                raise e.Exists(f"{self._final} exists")
            self._partial.rename(self._final)
            self._exists = False
            sync_directory(self._final.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        # An error here is a consequence of an earlier failure, and must not hide it.
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
    """An open file, read by position so that threads do not affect each other."""

    remote = False

    def __init__(self, path: Path) -> None:
        self._path = path
        with _translated("open", path):
            # O_NONBLOCK: do not wait for the writer of a pipe.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self._fd)
        if stat.S_ISDIR(status.st_mode):
            os.close(self._fd)
            raise e.StoreError(
                f"{path} is a directory, expected a file", hint=_directory_hint(path)
            )
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise e.StoreError(
                f"{path} is not a file",
                hint="A backup is read at arbitrary positions. Save it as a file.",
            )
        self._size = status.st_size

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self._path)

    @property
    def size(self) -> int:
        """Length in bytes when the file was opened."""
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
        """Close the file, if it is open: the reader of an encrypted file closes it too."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _items(directory: Path) -> Iterator[Item]:
    with _translated("read directory", directory):
        try:
            entries = os.scandir(directory)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                if not _PARTIAL.fullmatch(entry.name):
                    yield from _item(entry)


def _item(entry: "os.DirEntry[str]") -> Iterator[Item]:
    """Yield a file; one that cannot be examined, such as a link to itself, fails when it is read.

    Another run can remove it meanwhile (trap B10).
    """
    try:
        if entry.is_file():
            found = entry.stat()
            yield Item(entry.name, found.st_size, modified=found.st_mtime)
        elif entry.is_dir():
            return
        elif entry.is_symlink():
            entry.stat()
        elif naming.parse(entry.name) is not None:  # a pipe or similar with the name of a backup
            yield Item(entry.name, UNKNOWN)
    except FileNotFoundError:
        if entry.is_symlink():
            yield Item(entry.name, UNKNOWN)
    except OSError:
        yield Item(entry.name, UNKNOWN)


def _directory_hint(path: Path) -> str:
    if (path / "toc.dat").exists():
        return f"It has the directory format of pg_dump. Convert it: pg_restore -f FILE.sql {path}."
    return f"List the backups in it with: pgkeep list --dir={path}."


def _flock(fd: int) -> bool:
    """Lock a file; return False if it is already locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_name(directory: Path) -> None:
    """Make the name of a directory durable; like PostgreSQL, not if its parent cannot be read."""
    with contextlib.suppress(PermissionError):
        sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems do not support this; PostgreSQL ignores it too.
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
            return "Free disk space, or set BACKUP_DIR to another directory; nothing was published."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "Grant the permission to the user that runs pgkeep, or change BACKUP_DIR."
        case _:
            return None
