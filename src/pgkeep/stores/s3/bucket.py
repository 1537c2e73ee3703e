"""Requests to a bucket: one method for each, all errors translated."""

import base64
import contextlib
import dataclasses
import hashlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from ... import errors as e
from ...model import naming
from ...model.cluster import FOLDER as CLUSTERS
from ...model.cluster import is_description
from ...model.record import FOLDER
from ..store import Item, Loaded
from .client import S3Settings, create_client
from .errors import Absent, NotSupported, required, translated

MIB = 1 << 20
IN_MEMORY = 64 * MIB  # of a part; a larger one waits in an unnamed temporary file
CLEANING_SECONDS = 3.0
PAGES = 2000  # of a listing, each of a thousand keys
LISTING = 5  # times the timeout, for a whole listing
SLOWEST = 10_000  # bytes a second of an answer
SHA256 = "sha256"  # the metadata that has it, where it is known before the upload starts

_ARCHIVE = re.compile(rf"{CLUSTERS}[0-9]+/")  # WAL and base backups of a cluster
_MARKER = re.compile(r"(?P<name>.+)\.(?P<owner>[0-9]+)")


class Upload(NamedTuple):
    """An unfinished multipart upload; the name may be that of a marker."""

    name: str
    id: str


def marker(name: str, owner: str) -> str:
    """Return the name of the upload that says to which cluster the upload of a file belongs.

    An upload itself does not say it. So each is started together with a second one, which never
    gets a part.
    """
    return f"{name}.{owner}"


def marked(name: str) -> tuple[str, str] | None:
    """Return file and cluster if this is the name of a marker."""
    match = _MARKER.fullmatch(name)
    return None if match is None else (match["name"], match["owner"])


class Part:
    """The bytes of one request until they are sent."""

    def __init__(self, number: int, limit: int) -> None:
        self.number = number
        self.size = 0
        self._limit = limit
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115

    @property
    def full(self) -> bool:
        """Whether no byte fits in any more."""
        return self.size >= self._limit

    @property
    def body(self) -> dict[str, Any]:
        """The arguments of a request; a server with Object Lock requires the MD5 (trap C2)."""
        self._file.seek(0)
        md5 = base64.b64encode(self._md5.digest()).decode()
        return {"Body": self._file, "ContentLength": self.size, "ContentMD5": md5}

    def take(self, data: memoryview) -> int:
        """Append as many bytes as fit in; return how many."""
        taken = data[: self._limit - self.size]
        try:
            self._file.write(taken)
        except OSError as error:
            raise e.StoreError(f"could not keep a part: {error.strerror}") from error
        self._md5.update(taken)
        self.size += len(taken)
        return len(taken)

    def close(self) -> None:
        """Free the bytes."""
        self._file.close()


class Bucket:
    """The objects below one prefix of a bucket, by the names of files.

    Without `tiers`, all objects are directly below the prefix.
    """

    def __init__(self, settings: S3Settings, *, tiers: bool = True) -> None:
        self.settings = settings
        self._tiers = tiers
        self._conditional = True  # until the service refuses it
        self._lock = threading.Lock()
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The client, made when it is first needed."""
        with self._lock:
            if self._client is None:
                with translated("reach", self.settings.url):
                    self._client = create_client(self.settings)
            return self._client

    def quick(self) -> "Bucket":
        """Return the same bucket for cleaning up, which must not take long."""
        timeout = min(CLEANING_SECONDS, self.settings.timeout)
        settings = dataclasses.replace(self.settings, timeout=timeout, attempts=1)
        return Bucket(settings, tiers=self._tiers)

    def key(self, name: str) -> str:
        """Return the key of a file."""
        parsed = naming.parse(name) if self._tiers else None
        folder = f"{parsed.type}/" if parsed else ""
        return f"{self.settings.prefix}{folder}{name}"

    def url_of(self, name: str) -> str:
        """Return the location of a file, for messages."""
        return f"s3://{self.settings.bucket}/{self.key(name)}"

    def size(self, name: str) -> int | None:
        """Return an object's length in bytes; None if it does not exist."""
        try:
            with translated("look at", self.url_of(name), self.settings.timeout):
                found = self.client.head_object(**self._object(name))
        except Absent:
            return None
        return int(required(found, "ContentLength", self.url_of(name)))

    def objects(self) -> Iterator[Item]:
        """Yield the objects that have the key of their name (trap C10)."""
        for page in self._objects_pages():
            for found in page.get("Contents", ()):
                key = required(found, "Key", self.settings.url)
                name = key.removeprefix(self.settings.prefix)
                if not name.startswith(FOLDER) and not is_description(name):
                    name = name.rpartition("/")[2]
                if name and key == self.key(name):
                    version = str(found.get("ETag", ""))
                    size = int(required(found, "Size", self.url_of(name)))
                    yield Item(name, size, version, _modified(found))

    def _objects_pages(self) -> Iterator[dict[str, Any]]:
        """Yield the pages of a list; WAL archives, of a hundred thousand files, are skipped."""
        operation, prefix = "list_objects_v2", self.settings.prefix
        if not self._tiers:
            yield from self._pages(operation, "list", prefix, Delimiter="/")
            return
        after: str | None = ""
        while after is not None:
            former, after = after, None
            start = {"StartAfter": former} if former else {}
            for page in self._pages(operation, "list", prefix, **start):
                yield page
                found = page.get("Contents", ()) if page.get("IsTruncated") else ()
                folder = (
                    _ARCHIVE.match(found[-1].get("Key", "").removeprefix(prefix)) if found else None
                )
                following = f"{prefix}{folder[0]}~" if folder is not None else ""
                if following > former:  # after all names in it; a service can ignore StartAfter
                    after = following
                    break

    def load(self, item: Item, limit: int) -> Loaded:
        """Read a small object in one request; return no bytes if it is larger than the limit."""
        seconds = self.settings.timeout + min(item.size, limit) / SLOWEST
        with translated("read", self.url_of(item.name), seconds):
            found = self.client.get_object(**self._object(item.name))
            with contextlib.closing(found["Body"]) as body:
                size = int(required(found, "ContentLength", self.url_of(item.name)))
                data: bytes = body.read() if size <= limit else b""
        return Loaded(data, size, str(found.get("ETag", "")))

    def read(self, name: str, start: int, length: int) -> bytes:
        """Return bytes of an object, fewer if it ends before."""
        with translated("read", self.url_of(name), self.settings.timeout + length / SLOWEST):
            found = self.client.get_object(
                **self._object(name), Range=f"bytes={start}-{start + length - 1}"
            )
            data: bytes = found["Body"].read()
        return data

    def named(self, prefix: str) -> list[str]:
        """Return the names of objects that begin like this."""
        start, url = len(self.settings.prefix), self.settings.url
        pages = self._pages("list_objects_v2", "list", self.settings.prefix + prefix)
        found = (each for page in pages for each in page.get("Contents", ()))
        return [required(each, "Key", url)[start:] for each in found]

    def put(self, name: str, part: Part, sha256: str | None, *, new: bool = False) -> None:
        """Store a small object in one request.

        Raises:
            Exists: it exists, and was to be `new`.

        """

        def send(**condition: str) -> None:
            with translated("upload", self.url_of(name)):
                self.client.put_object(
                    **self._object(name), **part.body, **_metadata(sha256), **condition
                )

        self._conditionally(send, new=new)

    def _conditionally(self, send: Callable[..., None], *, new: bool) -> None:
        """Send a request that must not replace an object, where the service supports this."""
        if new and self._conditional:
            try:
                send(IfNoneMatch="*")
            except NotSupported:
                self._conditional = False
            else:
                return
        send()

    def delete(self, name: str) -> None:
        """Remove an object, if it exists."""
        with contextlib.suppress(Absent), translated("remove", self.url_of(name)):
            self.client.delete_object(**self._object(name))

    def retained_until(self, name: str) -> str | None:
        """Return until when Object Lock keeps an object; None where that is unknown."""
        try:
            with translated("look at", self.url_of(name), self.settings.timeout):
                found = self.client.get_object_retention(**self._object(name))
        except e.StoreError:
            return None
        until = found.get("Retention", {}).get("RetainUntilDate")
        return None if until is None else f"{until:%Y-%m-%d %H:%M} UTC"

    def start_upload(self, name: str, sha256: str | None = None) -> Upload:
        """Start a multipart upload."""
        with translated("begin the upload of", self.url_of(name)):
            started = self.client.create_multipart_upload(
                **self._upload_target(name), **_metadata(sha256)
            )
        return Upload(name, str(required(started, "UploadId", self.url_of(name))))

    def upload_part(self, upload: Upload, part: Part) -> str:
        """Send one part; return its tag."""
        with translated("upload", self.url_of(upload.name)):
            sent = self.client.upload_part(
                **self._object(upload.name), UploadId=upload.id, PartNumber=part.number, **part.body
            )
        return str(required(sent, "ETag", self.url_of(upload.name)))

    def complete_upload(
        self, upload: Upload, parts: list[dict[str, Any]], *, new: bool = False
    ) -> None:
        """Make an object of the parts that were sent.

        Raises:
            Exists: it exists, and was to be `new`.

        """
        target = {**self._object(upload.name), "UploadId": upload.id}

        def send(**condition: str) -> None:
            with translated("complete the upload of", self.url_of(upload.name)):
                self.client.complete_multipart_upload(
                    **target, MultipartUpload={"Parts": parts}, **condition
                )

        self._conditionally(send, new=new)

    def abort_upload(self, upload: Upload) -> None:
        """Remove the parts of an upload, if it exists."""
        with (
            contextlib.suppress(Absent),
            translated("abort the upload of", self.url_of(upload.name)),
        ):
            self.client.abort_multipart_upload(
                **self._upload_target(upload.name), UploadId=upload.id
            )

    def uploads(self, name: str | None = None) -> list[Upload]:
        """Return the unfinished uploads, of one file or all; none where listing is not allowed."""
        prefix = self.settings.prefix if name is None else self.key(name)
        found = []
        try:
            for page in self._pages("list_multipart_uploads", "list unfinished uploads of", prefix):
                for upload in page.get("Uploads", ()):
                    key = required(upload, "Key", self.settings.url)
                    file = key.rpartition("/")[2]
                    if file and key == self._upload_target(file)["Key"]:
                        number = required(upload, "UploadId", self.url_of(file))
                        found.append(Upload(file, number))
        except e.AccessDenied:
            return []
        return found

    def _pages(
        self, operation: str, action: str, prefix: str, **more: str
    ) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing; a server may not answer, or never come to an end."""
        paginator = self.client.get_paginator(operation)
        pages = iter(paginator.paginate(Bucket=self.settings.bucket, Prefix=prefix, **more))
        url = self.settings.url
        deadline = time.monotonic() + LISTING * self.settings.timeout
        for _ in range(PAGES):
            with translated(action, url, self.settings.timeout):
                page = next(pages, None)
            if page is None:
                return
            yield page
            if time.monotonic() > deadline:
                raise e.StoreError(
                    f"could not {action} {url}: that took longer than"
                    f" {LISTING * self.settings.timeout:g} s",
                    hint="Increase BACKUP_S3_TIMEOUT if the service is that slow.",
                )
        raise e.StoreError(f"could not {action} {url}: no end after {PAGES} pages")

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self.settings.bucket, "Key": self.key(name)}

    def _upload_target(self, name: str) -> dict[str, str]:
        """Return where an upload lies; a marker lies beside its file."""
        file, *owner = marked(name) or (name,)
        return {"Bucket": self.settings.bucket, "Key": ".".join([self.key(file), *owner])}


def _modified(found: dict[str, Any]) -> float | None:
    """Return when an object was stored, in seconds since 1970; not every service reports it."""
    return found["LastModified"].timestamp() if "LastModified" in found else None


def _metadata(sha256: str | None) -> dict[str, Any]:
    return {} if sha256 is None else {"Metadata": {SHA256: sha256}}
