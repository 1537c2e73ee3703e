"""Where backups lie: the protocol that every store speaks.

A file appears in two steps: `Upload.seal` makes all bytes durable yet invisible, `Upload.publish`
gives them their name in one atomic act. Whatever is not published leaves nothing under its name.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from .. import interrupts
from ..errors import StoreError

UNKNOWN = -1  # the length of a file that cannot be looked at


class Item(NamedTuple):
    """One file of a store."""

    name: str
    size: int  # bytes


class Upload(Protocol):
    """A file on its way into a store; leaving the context unpublished removes it."""

    def write(self, data: bytes) -> None:
        """Append bytes."""

    def seal(self) -> None:
        """Make everything written durable; nothing may be written afterwards."""

    def stop(self) -> None:
        """Have a `write` fail that waits for the store in another thread."""

    def source(self) -> "Source":
        """Open the sealed file for reading it back, before it is published."""

    def publish(self) -> None:
        """Give the sealed file its name, replacing a file that had it."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Source(Protocol):
    """A file of a store, open for reading at any place; safe to share between threads."""

    remote: bool

    @property
    def name(self) -> str:
        """Where the file lies, for messages."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes; raise StoreError when the file has fewer."""

    def close(self) -> None:
        """Give the file back."""


class Store(Protocol):
    """A flat folder of files; every method raises StoreError for what goes wrong outside."""

    remote: bool  # reading costs time or money: nothing is read twice, or without need

    @property
    def url(self) -> str:
        """Where the store is, for messages."""

    def url_of(self, name: str) -> str:
        """Where a file is or would be, for messages."""

    def check_writable(self) -> None:
        """Raise StoreError if it is known already that nothing can be put here."""

    def lock(self, name: str) -> AbstractContextManager[bool]:
        """Hold a lock that other hosts need not see; give False if somebody has it."""

    def create(self, name: str, *, owner: str = "0", sha256: str | None = None) -> Upload:
        """Begin a new file of a cluster, which the system identifier names; its hash if known."""

    def open(self, name: str) -> Source:
        """Open a file for reading."""

    def exists(self, name: str) -> bool:
        """Tell whether there is such a file; no, where that may not be asked."""

    def items(self) -> Iterator[Item]:
        """Yield the published files, in no particular order."""

    def delete(self, name: str) -> None:
        """Remove a file; it is no error when there is none."""

    def sweep(self, ours: Callable[[str], bool], owner: str = "0") -> list[str]:
        """Remove what unfinished uploads of a cluster left under these names; return what went."""


@contextmanager
def locked(store: Store, name: str, seconds: float) -> Iterator[bool]:
    """Hold a lock that others have for moments only; give False if one has it for so long."""
    deadline = time.monotonic() + seconds
    while True:
        with store.lock(name) as alone:
            if alone or time.monotonic() > deadline:
                yield alone
                return
        time.sleep(0.02)


@contextmanager
def all_or_none(store: Store, names: Sequence[str]) -> Iterator[None]:
    """Take these files back, the last first, when a signal or an error comes in between."""
    try:
        yield
    except BaseException:
        # Where the manifest cannot be taken back, the others must stay. A bucket may not answer.
        with nullcontext() if store.remote else interrupts.held(), suppress(StoreError):
            for name in reversed(names):
                store.delete(name)
        raise


def read_all(source: Source) -> bytes:
    """Return a whole small file."""
    return source.read(0, source.size)


def chunks(source: Source) -> Iterator[bytes]:
    """Yield a file from its beginning to its end."""
    size = (8 << 20) if source.remote else (1 << 20)  # each costs a round trip there
    for start in range(0, source.size, size):
        yield source.read(start, min(size, source.size - start))


def sha256_of(source: Source, progress: Callable[[int], None] = lambda _: None) -> str:
    """Return the SHA-256 of a file, read from its beginning to its end."""
    digest = hashlib.sha256()
    for chunk in chunks(source):
        digest.update(chunk)
        progress(len(chunk))
    return digest.hexdigest()


def write_file(store: Store, name: str, data: bytes, *, owner: str = "0") -> None:
    """Write and publish a small file of a cluster, which the system identifier names."""
    digest = hashlib.sha256(data).hexdigest()
    with store.create(name, owner=owner, sha256=digest) as upload:
        upload.write(data)
        upload.seal()
        upload.publish()
