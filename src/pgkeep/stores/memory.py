"""A store in memory: for tests of what stands above, and for trying things out."""

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from .. import errors as e
from .store import Item


class MemoryStore:
    """Files as a dictionary."""

    remote = False

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        """A name for messages."""
        return "memory:"

    def url_of(self, name: str) -> str:
        """Return a name for messages."""
        return f"memory:{name}"

    def check_writable(self) -> None:
        """Memory takes everything."""

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Nobody else sees this store."""
        del name
        yield True

    def create(self, name: str, *, owner: str = "0", sha256: str | None = None) -> "MemoryUpload":
        """Begin a new file."""
        del owner, sha256
        return MemoryUpload(self, name)

    def open(self, name: str) -> "MemorySource":
        """Open a file for reading."""
        try:
            return MemorySource(name, self.files[name])
        except KeyError:
            raise e.StoreError(f"could not open {name}: no such file in memory") from None

    def exists(self, name: str) -> bool:
        """Tell whether there is such a file."""
        return name in self.files

    def items(self) -> Iterator[Item]:
        """Yield the published files."""
        for name, data in list(self.files.items()):
            yield Item(name, len(data))

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        self.files.pop(name, None)

    def sweep(self, ours: Callable[[str], bool], owner: str = "0") -> list[str]:
        """Nothing unfinished outlives its upload here."""
        del ours, owner
        return []


class MemoryUpload:
    """Bytes that are not yet a file."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self._store = store
        self._name = name
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._data += data

    def seal(self) -> None:
        """Memory has nothing to make durable."""

    def stop(self) -> None:
        """Nothing waits here that could be woken."""

    def source(self) -> "MemorySource":
        """Open what has been written."""
        return MemorySource(self._name, bytes(self._data))

    def publish(self) -> None:
        """Make the file visible."""
        self._store.files[self._name] = bytes(self._data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.clear()


class MemorySource:
    """A file's bytes."""

    remote = False

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = data

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes."""
        data = self._data[start : start + length]
        if len(data) < length:
            raise e.StoreError(f"{self.name} is shorter than expected: no byte {len(self._data)}")
        return data

    def close(self) -> None:
        """Nothing to give back."""
