"""The files of backups in a bucket: objects PREFIX/TYPE/FILE.

The folder of its type lets a lifecycle rule name a tier.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ... import errors as e
from ..store import Item, Loaded
from .bucket import Bucket, marked
from .client import S3Settings
from .errors import AnswerTruncated
from .source import ATTEMPTS, S3Source
from .upload import S3Upload


class S3Store:
    """The backups below one prefix of a bucket.

    Without `tiers` it reads files that are directly below the prefix, whatever their names.
    """

    remote = True

    def __init__(self, settings: S3Settings, *, tiers: bool = True) -> None:
        self.settings = settings
        self.bucket = Bucket(settings, tiers=tiers)

    @property
    def url(self) -> str:
        """The bucket and the prefix."""
        return self.settings.url

    @property
    def cache(self) -> Path | None:
        """The folder of this machine for copies of small objects."""
        return self.settings.cache

    def url_of(self, name: str) -> str:
        """Return the location of a file, for messages."""
        return self.bucket.url_of(name)

    def check_writable(self) -> None:
        """Send one request, so that a wrong setting is reported before any work."""
        self.bucket.uploads()

    def sync(self) -> None:
        """Do nothing: a bucket answers when an object is durable."""

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Lock nothing: the lock in the database holds between hosts."""
        del name
        yield True

    def create(
        self, name: str, *, owner: str = "0", sha256: str | None = None, new: bool = False
    ) -> S3Upload:
        """Start a new object."""
        return S3Upload(self.bucket, name, owner, sha256, new=new)

    def open(self, name: str) -> S3Source:
        """Open an object for reading."""
        size = self.bucket.size(name)
        if size is None:
            raise e.Missing(f"could not open {self.url_of(name)}: no such object")
        return S3Source(self.bucket, name, size)

    def load(self, item: Item, limit: int) -> Loaded:
        """Read a small object; a truncated answer is requested again."""
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(AnswerTruncated):
                return self.bucket.load(item, limit)
        return self.bucket.load(item, limit)

    def exists(self, name: str) -> bool:
        """Return whether an object exists; False where that may not be asked."""
        try:
            return self.bucket.size(name) is not None
        except e.AccessDenied:
            return False

    def items(self) -> Iterator[Item]:
        """Yield the objects."""
        return self.bucket.objects()

    def named(self, prefix: str) -> list[str]:
        """Return the names of objects that begin like this."""
        return self.bucket.named(prefix)

    def delete(self, name: str) -> None:
        """Remove an object; one by one, because many servers refuse batches (traps C3, C4).

        Raises:
            Retained: Object Lock keeps it.

        """
        try:
            self.bucket.delete(name)
        except e.AccessDenied as error:
            until = self.bucket.retained_until(name)
            if until is None:
                raise
            raise e.Retained(f"{self.url_of(name)} is retained until {until}") from error

    def sweep(self, ours: Callable[[str], bool], owner: str = "0") -> list[str]:
        """Abort the uploads that an earlier run of this cluster left unfinished (trap C8)."""
        uploads = self.bucket.uploads()
        swept = []
        for mark in uploads:
            name, cluster = marked(mark.name) or ("", "")
            if cluster != owner or not ours(name):
                continue
            for upload in uploads:
                if upload.name == name:
                    self.bucket.abort_upload(upload)
                    swept.append(name)
            self.bucket.abort_upload(mark)
        return swept
