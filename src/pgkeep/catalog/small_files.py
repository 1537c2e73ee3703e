"""The small files of a remote store, from copies where these are current: a request less for each.

Copies are in two places: in a folder of this machine, and in one object of the store, the summary.
Neither is a source of truth. A copy counts only if name, length and version (ETag) are those of the
store's own list, and if its SHA-256 is right. One in the summary counts only if the ETag is its MD5
too: an identity that can add objects, but not change those that a lock protects, could write a
summary. Encrypted with a key of KMS, objects have other ETags, and a new machine reads them all.
Whatever else is found is ignored, and the file itself is read. Both places can be removed at any
time.
"""

import contextlib
import hashlib
import os
import secrets
import stat
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .. import errors as e
from ..model import naming, record
from ..model.manifest import LARGEST
from ..model.unreadable import UNREADABLE
from ..stores.store import Item, Store, write_file

SUMMARY = "summary.json.gz"  # no name of a backup's file
FORMAT = 1
LARGEST_COPIES = 128 << 20  # bytes of all copies of a store together; the newest have priority
STORES = 50  # whose copies a machine keeps
_GZIP = 16 + zlib.MAX_WBITS


class _Copy(msgspec.Struct, frozen=True):
    """A file with the version that its bytes belong to."""

    name: str
    version: str
    sha256: str
    text: str

    def is_of(self, item: Item | None) -> bool:
        """Whether it has the bytes of a listed file."""
        data = self.text.encode()
        return (
            item is not None
            and bool(item.version)
            and (self.name, self.version, len(data)) == (item.name, item.version, item.size)
            and hashlib.sha256(data).hexdigest() == self.sha256
        )

    @property
    def is_proved(self) -> bool:
        """Whether the version depends on the bytes: the ETag of most objects is their MD5."""
        digest = hashlib.md5(self.text.encode(), usedforsecurity=False).hexdigest()
        return self.version.strip('"') == digest


class _Copies(msgspec.Struct, frozen=True):
    """The contents of the summary, and of a file in the folder of this machine."""

    store: str
    files: list[_Copy]
    format: int = FORMAT


_DECODER = msgspec.json.Decoder(_Copies)  # examined now, not in several threads at once


class SmallFiles:
    """Reads files that a remote store has listed, each from a copy if that is current."""

    def __init__(self, store: Store, items: Mapping[str, Item]) -> None:
        self._store = store
        self._items = items
        self._copies: dict[str, _Copy] = {}
        self._summary_read = False
        self._before: dict[str, str] | None = None  # versions in the folder of this machine
        if (path := self._path()) is not None:
            with contextlib.suppress(OSError):
                found = _decode(_read(path))
                if found is not None and found.store == store.url:
                    self._take(found.files)
                    if len(self._copies) == len(found.files):
                        self._before = self._versions()

    def missing(self, names: Collection[str]) -> set[str]:
        """Return the files that have no copy; the summary is read if these are several."""
        missing = {name for name in names if name not in self._copies}
        item = self._items.get(SUMMARY)
        if len(missing) < 2 or item is None or self._summary_read:
            return missing
        self._summary_read = True
        with contextlib.suppress(e.StoreError):
            found = _decode(self._store.load(item, LARGEST_COPIES).data)
            if found is not None:
                self._take(copy for copy in found.files if copy.is_proved)
        return missing - self._copies.keys()

    def read(self, name: str) -> tuple[bytes, int]:
        """Return the bytes of a file and its length, which can be above the limit of a manifest.

        Raises:
            StoreError: the file cannot be read.

        """
        copy = self._copies.get(name)
        if copy is not None:
            data = copy.text.encode()
            return data, len(data)
        item = self._items[name]
        loaded = self._store.load(item, LARGEST)
        # A file that was replaced meanwhile is read again the next time.
        if (loaded.version, loaded.size) == (item.version, item.size):
            with contextlib.suppress(UnicodeDecodeError):
                digest = hashlib.sha256(loaded.data).hexdigest()
                self._copies[name] = _Copy(name, item.version, digest, loaded.data.decode())
        return loaded.data, loaded.size

    def keep(self) -> None:
        """Write the copies to the folder of this machine, if it is usable and they are others."""
        path = self._path()
        if path is None or self._before == self._versions():
            return
        with contextlib.suppress(OSError):
            _prepare(path.parent)
            partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(self._encode())
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            _remove_oldest(path.parent)

    def write_summary(self) -> None:
        """Write the copies to the store, for machines that have none.

        Raises:
            StoreError: the store does not accept it.

        """
        write_file(self._store, SUMMARY, self._encode())

    def _take(self, found: Iterable[_Copy]) -> None:
        for copy in found:
            if copy.name not in self._copies and copy.is_of(self._items.get(copy.name)):
                self._copies[copy.name] = copy

    def _versions(self) -> dict[str, str]:
        return {copy.name: copy.version for copy in self._copies.values()}

    def _path(self) -> Path | None:
        if self._store.cache is None:
            return None
        return self._store.cache / f"{hashlib.sha256(self._store.url.encode()).hexdigest()}.json.gz"

    def _encode(self) -> bytes:
        copies = _Copies(self._store.url, list(_newest(self._copies)))
        compressor = zlib.compressobj(6, wbits=_GZIP)
        return compressor.compress(msgspec.json.encode(copies)) + compressor.flush()


def _newest(copies: Mapping[str, _Copy]) -> Iterator[_Copy]:
    """Yield the copies within the limit, the newest first."""
    left = LARGEST_COPIES // 2  # JSON adds names, hashes and escapes
    for name in sorted(copies, key=lambda name: (_time(name), name), reverse=True):
        left -= len(copies[name].text)
        if left < 0:
            return
        yield copies[name]


def _time(name: str) -> datetime:
    """Return the time in the name of a manifest or a record."""
    if (backup := naming.parse(name)) is not None:
        return backup.taken
    written = record.parse(name)
    return datetime.min.replace(tzinfo=UTC) if written is None else written.finished


def _decode(data: bytes) -> _Copies | None:
    """Return the copies, None if the bytes are something else."""
    with contextlib.suppress(zlib.error, *UNREADABLE):
        found = _DECODER.decode(zlib.decompressobj(_GZIP).decompress(data, LARGEST_COPIES))
        return found if found.format == FORMAT else None
    return None


def _read(path: Path) -> bytes:
    """Read a file of this user that nobody else can have written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        for status in (os.fstat(descriptor), path.parent.stat()):
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return b""
        return file.read(LARGEST_COPIES)


def _prepare(folder: Path) -> None:
    """Create the folder, accessible only by this user.

    Raises:
        OSError: it belongs to somebody else, as HOME does after some kinds of sudo, or the home
            directory does not exist, as that of accounts for services.

    """
    if not folder.parent.parent.is_dir():
        raise FileNotFoundError(str(folder.parent.parent))
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if existing.stat().st_uid != os.geteuid():
        raise PermissionError(str(existing))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _remove_oldest(folder: Path) -> None:
    """Remove the copies of stores that have not changed for the longest time."""
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[STORES:]:
        path.unlink(missing_ok=True)
