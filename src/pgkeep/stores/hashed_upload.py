"""Count and hash the bytes of an upload on their way to the store."""

import hashlib

from .store import Source, Upload


class HashedUpload:
    """An upload that knows its length and its SHA-256; the caller closes the inner upload."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """The SHA-256 of all bytes so far."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._upload.write(data)
        self._hash.update(data)
        self.size += len(data)

    def seal(self) -> None:
        """Make all bytes durable."""
        self._upload.seal()

    def stop(self) -> None:
        """Make a `write` fail that waits."""
        self._upload.stop()

    def source(self) -> Source:
        """Open the sealed file."""
        return self._upload.source()

    def publish(self) -> None:
        """Give the file its name."""
        self._upload.publish()

    def __enter__(self) -> "HashedUpload":
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the caller closes the inner upload."""
