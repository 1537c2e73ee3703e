"""A store in memory, for tests and experiments."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Self

from .. import errors as e
from .store import Item, Loaded, load_opened


class MemoryStore:
    """Files as a dictionary."""

    remote = False
    cache = None

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
        """Do nothing: memory is always writable."""

    def sync(self) -> None:
        """Do nothing: nothing here is durable."""

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Lock nothing: no other process sees this store."""
        del name
        yield True

    def create(
        self, name: str, *, owner: str = "0", sha256: str | None = None, new: bool = False
    ) -> "MemoryUpload":
        """Start a new file."""
        del owner, sha256
        return MemoryUpload(self, name, new)

    def open(self, name: str) -> "MemorySource":
        """Open a file for reading."""
        try:
            return MemorySource(name, self.files[name])
        except KeyError:
            raise e.StoreError(f"could not open {name}: no such file in memory") from None

    def load(self, item: Item, limit: int) -> Loaded:
        """Read a small file."""
        return load_opened(self.open(item.name), limit)

    def exists(self, name: str) -> bool:
        """Return whether the file exists."""
        return name in self.files

    def items(self) -> Iterator[Item]:
        """Yield the published files."""
        for name, data in list(self.files.items()):
            yield Item(name, len(data))

    def named(self, prefix: str) -> list[str]:
        """Return the names that begin like this."""
        return [name for name in self.files if name.startswith(prefix)]

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        self.files.pop(name, None)

    def sweep(self, ours: Callable[[str], bool], owner: str = "0") -> list[str]:
        """Do nothing: unfinished uploads leave no files."""
        del ours, owner
        return []


class MemoryUpload:
    """Bytes that are not published yet."""

    def __init__(self, store: MemoryStore, name: str, new: bool) -> None:
        self._store = store
        self._name = name
        self._new = new
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._data += data

    def seal(self) -> None:
        """Do nothing: memory is not durable."""

    def stop(self) -> None:
        """Do nothing: no method of this class waits."""

    def source(self) -> "MemorySource":
        """Open the bytes written so far."""
        return MemorySource(self._name, bytes(self._data))

    def publish(self) -> None:
        """Make the file visible."""
        if self._new and self._name in self._store.files:
            raise e.Exists(f"memory:{self._name} exists")
        self._store.files[self._name] = bytes(self._data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        """Do nothing: no resource is held."""
