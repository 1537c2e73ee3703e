"""The protocol of all stores of backups.

A file is stored in two steps: `Upload.seal` makes all bytes durable but invisible, `Upload.publish`
gives them their name atomically. A file that is not published leaves nothing under its name.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from .. import interrupts
from ..errors import StoreError

UNKNOWN = -1  # the length of a file that cannot be examined


class Item(NamedTuple):
    """One file of a store."""

    name: str
    size: int  # bytes
    version: str = ""  # changes with the contents (an ETag); empty if the store has none
    modified: float | None = None  # when it was stored, in seconds since 1970; None if unknown


class Loaded(NamedTuple):
    """A small file, read completely."""

    data: bytes  # empty if the file is larger than the limit
    size: int  # bytes
    version: str = ""  # as in Item


class Upload(Protocol):
    """A file that is being written to a store; leaving the context unpublished removes it."""

    def write(self, data: bytes) -> None:
        """Append bytes."""

    def seal(self) -> None:
        """Make all bytes durable; no more bytes can be written."""

    def stop(self) -> None:
        """Make a `write` fail that waits for the store in another thread."""

    def source(self) -> "Source":
        """Open the sealed file for verification, before it is published."""

    def publish(self) -> None:
        """Give the sealed file its name, replacing an existing file."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class Source(Protocol):
    """A file of a store, open for random access; safe to share between threads."""

    remote: bool

    @property
    def name(self) -> str:
        """The location of the file, for messages."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes; raise StoreError if the file has fewer."""

    def close(self) -> None:
        """Release the file; it can be closed already."""


class Store(Protocol):
    """A flat folder of files; every method raises StoreError for external failures."""

    remote: bool  # reading costs time or money: read nothing twice or unnecessarily

    @property
    def cache(self) -> Path | None:
        """A folder of this machine for copies of small files of a remote store."""

    @property
    def url(self) -> str:
        """The location of the store, for messages."""

    def url_of(self, name: str) -> str:
        """The location of a file that exists or not, for messages."""

    def check_writable(self) -> None:
        """Raise StoreError if the store is known not to be writable."""

    def sync(self) -> None:
        """Make names durable that a killed process may not have made durable."""

    def lock(self, name: str) -> AbstractContextManager[bool]:
        """Hold a lock that other hosts need not see; yield False if it is already held."""

    def create(
        self, name: str, *, owner: str = "0", sha256: str | None = None, new: bool = False
    ) -> Upload:
        """Start a new file; `owner` is the cluster's system identifier, `sha256` is optional.

        If `new`, publishing it raises Exists instead of replacing a file, as far as the store can.
        """

    def open(self, name: str) -> Source:
        """Open a file for reading."""

    def load(self, item: Item, limit: int) -> Loaded:
        """Read a small file that was listed, of at most `limit` bytes, in one request."""

    def exists(self, name: str) -> bool:
        """Return whether the file exists; False without permission to ask."""

    def items(self) -> Iterator[Item]:
        """Yield the published files, in no particular order."""

    def named(self, prefix: str) -> list[str]:
        """Return the names of published files that begin like this."""

    def delete(self, name: str) -> None:
        """Remove a file; a missing file is not an error."""

    def sweep(self, ours: Callable[[str], bool], owner: str = "0") -> list[str]:
        """Remove unfinished uploads of a cluster under these names; return what was removed."""


@contextmanager
def locked(store: Store, name: str, seconds: float) -> Iterator[bool]:
    """Hold a lock that is only held for moments; yield False after waiting `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        with store.lock(name) as alone:
            if alone or time.monotonic() > deadline:
                yield alone
                return
        time.sleep(0.02)


@contextmanager
def all_or_none(store: Store, names: Sequence[str]) -> Iterator[None]:
    """Remove these files, the last first, if a signal or an error interrupts the block."""
    try:
        yield
    except BaseException:
        # If the manifest cannot be removed, the others must stay. A bucket may not respond.
        with nullcontext() if store.remote else interrupts.held(), suppress(StoreError):
            for name in reversed(names):
                store.delete(name)
        raise


def read_all(source: Source) -> bytes:
    """Return the contents of a small file."""
    return source.read(0, source.size)


def load_opened(source: Source, limit: int) -> Loaded:
    """Read an open file of at most `limit` bytes, and close it."""
    with closing(source):
        return Loaded(read_all(source) if source.size <= limit else b"", source.size)


def chunks(source: Source) -> Iterator[bytes]:
    """Yield a file from beginning to end."""
    size = (8 << 20) if source.remote else (1 << 20)  # each read of a remote file is a request
    for start in range(0, source.size, size):
        yield source.read(start, min(size, source.size - start))


def sha256_of(source: Source, progress: Callable[[int], None] = lambda _: None) -> str:
    """Return the SHA-256 of a file, read from beginning to end."""
    digest = hashlib.sha256()
    for chunk in chunks(source):
        digest.update(chunk)
        progress(len(chunk))
    return digest.hexdigest()


def write_file(
    store: Store, name: str, data: bytes, *, owner: str = "0", new: bool = False
) -> None:
    """Write and publish a small file; `owner` is the cluster's system identifier.

    Raises:
        Exists: the store has it, and it was to be `new`.

    """
    digest = hashlib.sha256(data).hexdigest()
    with store.create(name, owner=owner, sha256=digest, new=new) as upload:
        upload.write(data)
        upload.seal()
        upload.publish()
