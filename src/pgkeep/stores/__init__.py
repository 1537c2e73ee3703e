"""Where backups lie: the protocol that every store speaks.

A file appears in two steps: `Upload.seal` makes all bytes durable yet invisible, `Upload.publish`
gives them their name in one atomic act. Whatever is not published leaves nothing under its name.
"""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple, Protocol, Self


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

    def source(self) -> "Source":
        """Open the sealed file for reading it back, before it has its name."""

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

    @property
    def url(self) -> str:
        """Where the store is, for messages."""

    def create(self, name: str) -> Upload:
        """Begin a new file."""

    def open(self, name: str) -> Source:
        """Open a file for reading."""

    def items(self) -> Iterator[Item]:
        """Yield the published files, in no particular order."""

    def delete(self, name: str) -> None:
        """Remove a file; it is no error when there is none."""

    def sweep(self, ours: Callable[[str], bool]) -> list[str]:
        """Remove what unfinished uploads of these names left; return what went."""


def read_all(source: Source) -> bytes:
    """Return a whole small file."""
    return source.read(0, source.size)


def chunks(source: Source, size: int = 1 << 20) -> Iterator[bytes]:
    """Yield a file from its beginning to its end."""
    for start in range(0, source.size, size):
        yield source.read(start, min(size, source.size - start))
