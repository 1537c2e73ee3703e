"""Hash a file while it is read, without reading it twice."""

import hashlib

from .store import Source, chunks


class HashedSource:
    """A file whose SHA-256 is known once it was read in order; parts can be read before."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self._position = 0  # up to which it is hashed
        self.remote = source.remote

    @property
    def name(self) -> str:
        """The location of the file."""
        return self._source.name

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._source.size

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes."""
        data = self._source.read(start, length)
        if start <= self._position < start + len(data):
            self._hash.update(memoryview(data)[self._position - start :])
            self._position = start + len(data)
        return data

    def sha256(self) -> str:
        """Read what was not read in order, such as the end; return the SHA-256 of the file."""
        if self._position == 0:
            for _ in chunks(self):
                pass
        if self._position < self.size:
            self.read(self._position, self.size - self._position)
        return self._hash.hexdigest()

    def close(self) -> None:
        """Release the file."""
        self._source.close()
