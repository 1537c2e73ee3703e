"""Read an object by ranges."""

from ... import errors as e
from .bucket import Bucket
from .errors import AnswerTruncated

ATTEMPTS = 3  # to read an answer that was truncated, to see an object that was written


class S3Source:
    """An object, open for reading at any place."""

    remote = True

    def __init__(self, bucket: Bucket, name: str, size: int) -> None:
        self._bucket = bucket
        self._name = name
        self._size = size

    @property
    def name(self) -> str:
        """The object's URL."""
        return self._bucket.url_of(self._name)

    @property
    def size(self) -> int:
        """Length in bytes when it was opened."""
        return self._size

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes; a truncated answer is requested again."""
        if not length:
            return b""
        data = b""
        for attempt in range(ATTEMPTS):
            try:
                data = self._bucket.read(self._name, start, length)
            except AnswerTruncated:
                if attempt == ATTEMPTS - 1:
                    raise
            if len(data) == length:
                return data
        raise e.StoreError(f"{self.name} is shorter than expected: no byte {start + len(data)}")

    def close(self) -> None:
        """Do nothing: no connection is kept open."""
