"""A bucket of S3 or of anything that speaks it; needs the extra `s3` (botocore).

An object appears when its upload is completed, and not before; parts that were sent are invisible
until then (S3 User Guide, "Uploading and copying objects using multipart upload"). A backup's files
lie at PREFIX/TYPE/FILE, so that a lifecycle rule can name a tier.
"""

import base64
import bisect
import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import queue
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

import botocore.config
import botocore.exceptions
import botocore.loaders
import botocore.session

from .. import errors as e
from .. import interrupts
from ..model import naming
from .deadline import Deadline, install
from .store import Item

MIB = 1 << 20
SMALLEST_PART = 8 * MIB  # S3 refuses parts below 5 MiB, but for the last one
LARGEST_PART = 5 << 30  # by S3's limits
LARGEST_OBJECT = 5 * 10**12
IN_MEMORY = 64 * MIB  # of a part; a larger one waits in an unnamed temporary file
SENDERS = 2  # parts on their way at once
CONNECT_SECONDS = 10
ATTEMPTS = 3  # to read what was cut, to see what was written
CLEANING_SECONDS = 3.0
PAGES = 2000  # of a listing, each of a thousand keys
LISTING = 5  # times the timeout, for a whole listing
SLOWEST = 10_000  # bytes a second of an answer
SHA256 = "sha256"  # the metadata that holds it, where it is known before the upload begins

# What a server says when an identity may not do a thing, as opposed to being none.
DENIED = frozenset({"AccessDenied", "Forbidden", "403", "UnauthorizedAccess"})
ABSENT = frozenset({"NoSuchKey", "NotFound", "404", "NoSuchUpload"})
_OWNER = re.compile(r"(?P<name>.+)\.(?P<owner>[0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """How to reach a bucket; credentials come from botocore's own chain."""

    bucket: str
    prefix: str = "backups/"
    endpoint: str | None = None
    region: str | None = None
    max_parts: int = 10_000
    part_size: int | None = None  # bytes of each part; none: they grow
    timeout: float = 60.0  # seconds without an answer
    limit: float = 21_600.0  # seconds that an upload may lag behind what is written
    attempts: int = 3  # of each call

    @property
    def url(self) -> str:
        """Where it is, for people and for --backup."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


class S3Store:
    """The backups below one prefix of a bucket."""

    remote = True

    def __init__(self, settings: S3Settings, *, tiers: bool = True) -> None:
        """Take `tiers` away to read files that lie right below the prefix, whatever they are."""
        self.settings = settings
        self._tiers = tiers
        self._lock = threading.Lock()
        self._made: Any = None

    @property
    def url(self) -> str:
        """The bucket and the prefix."""
        return self.settings.url

    @property
    def client(self) -> Any:
        """The client, made when it is first needed; it may be shared between threads."""
        with self._lock:
            if self._made is None:
                with _translated("reach", self.url):
                    self._made = _client(self.settings)
            return self._made

    def key(self, name: str) -> str:
        """Return the key of a file."""
        parsed = naming.parse(name) if self._tiers else None
        folder = f"{parsed.type}/" if parsed else ""
        return f"{self.settings.prefix}{folder}{name}"

    def url_of(self, name: str) -> str:
        """Return where a file lies, for messages."""
        return f"s3://{self.settings.bucket}/{self.key(name)}"

    def check_writable(self) -> None:
        """Ask the server something, so that a wrong setting is told before any work."""
        self._uploads(self.settings.prefix)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Nothing is locked here: the database's own lock holds between hosts."""
        del name
        yield True

    def create(self, name: str, *, owner: str = "0", sha256: str | None = None) -> "S3Upload":
        """Begin a new object."""
        return S3Upload(self, name, owner, sha256)

    def open(self, name: str) -> "S3Source":
        """Open an object for reading."""
        size = self.size(name)
        if size is None:
            raise e.Missing(f"could not open {self.url_of(name)}: there is no such object")
        return S3Source(self, name, size)

    def exists(self, name: str) -> bool:
        """Tell whether there is such an object; no, where we may not look."""
        try:
            return self.size(name) is not None
        except e.AccessDenied:
            return False

    def size(self, name: str) -> int | None:
        """Return an object's length in bytes; None if there is none."""
        try:
            with _translated("look at", self.url_of(name), self.settings.timeout):
                found = self.client.head_object(Bucket=self.settings.bucket, Key=self.key(name))
        except _Absent:
            return None
        return int(found["ContentLength"])

    def items(self) -> Iterator[Item]:
        """Yield the objects that lie where a file of their name would, page by page (trap C10)."""
        for page in self._pages("list_objects_v2", "list", self.settings.prefix):
            for found in page.get("Contents", ()):
                name = found["Key"].rpartition("/")[2]
                if name and found["Key"] == self.key(name):
                    yield Item(name, int(found["Size"]))

    def _pages(self, operation: str, action: str, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing; a server may not answer, or never come to an end."""
        paginator = self.client.get_paginator(operation)
        pages = iter(paginator.paginate(Bucket=self.settings.bucket, Prefix=prefix))
        ends = time.monotonic() + LISTING * self.settings.timeout
        for _ in range(PAGES):
            with _translated(action, self.url, self.settings.timeout):
                page = next(pages, None)
            if page is None:
                return
            yield page
            if time.monotonic() > ends:
                raise e.StoreError(
                    f"could not {action} {self.url}: that took longer than"
                    f" {LISTING * self.settings.timeout:g} s",
                    hint="Raise BACKUP_S3_TIMEOUT if the service is that slow.",
                )
        raise e.StoreError(f"could not {action} {self.url}: no end after {PAGES} pages")

    def delete(self, name: str) -> None:
        """Remove an object; one by one, for batches are refused by many servers (traps C3, C4).

        Raises:
            Retained: Object Lock keeps it.

        """
        try:
            with _translated("remove", self.url_of(name)):
                self.client.delete_object(Bucket=self.settings.bucket, Key=self.key(name))
        except _Absent:
            pass
        except e.AccessDenied as error:
            until = self._retained_until(name)
            if until is None:
                raise
            raise e.Retained(f"{self.url_of(name)} is retained until {until}") from error

    def sweep(self, ours: Callable[[str], bool], owner: str = "0") -> list[str]:
        """Abort the uploads that an earlier run of this cluster left unfinished (trap C8).

        An upload does not tell whose it is. So each is begun together with a second one, which
        never gets a part, and whose key says it: what another cluster is just sending stays.
        """
        uploads = self._uploads(self.settings.prefix)
        swept = []
        for marker, marker_id in uploads:
            match = _OWNER.fullmatch(marker)
            if match is None or match["owner"] != owner or not ours(match["name"]):
                continue
            for name, upload_id in uploads:
                if name == match["name"]:
                    self.abort(name, upload_id)
                    swept.append(name)
            self.abort(marker, marker_id)
        return swept

    def quick(self) -> "S3Store":
        """Return the same store for cleaning up, which must not take long."""
        timeout = min(CLEANING_SECONDS, self.settings.timeout)
        settings = dataclasses.replace(self.settings, timeout=timeout, attempts=1)
        return S3Store(settings, tiers=self._tiers)

    def clear(self, name: str, owner: str, begun: Sequence[tuple[str, str]]) -> None:
        """Abort what is unfinished of one file: what was begun, and what was begun unanswered."""
        found = self._uploads(self.key(name))
        ours = [one for one in found if one[0] in (name, f"{name}.{owner}")]
        for one, upload_id in sorted({*begun, *ours}):  # the file first, then what says whose it is
            self.abort(one, upload_id)

    def abort(self, name: str, upload_id: str) -> None:
        """Remove the parts of an upload; it is no error when there is no such upload."""
        with contextlib.suppress(_Absent), _translated("abort the upload of", self.url_of(name)):
            self.client.abort_multipart_upload(
                Bucket=self.settings.bucket, Key=self._upload_key(name), UploadId=upload_id
            )

    def begin(self, name: str, sha256: str | None = None) -> str:
        """Begin an upload in parts; return its identifier."""
        with _translated("begin the upload of", self.url_of(name)):
            begun = self.client.create_multipart_upload(
                Bucket=self.settings.bucket, Key=self._upload_key(name), **_metadata(sha256)
            )
        return str(begun["UploadId"])

    def send(self, name: str, upload_id: str, part: "_Part") -> str:
        """Send one part; return its tag."""
        with _translated("upload", self.url_of(name)):
            sent = self.client.upload_part(
                Bucket=self.settings.bucket, Key=self.key(name), UploadId=upload_id,
                PartNumber=part.number, **part.body,
            )  # fmt: skip
        return str(sent["ETag"])

    def complete(self, name: str, upload_id: str, parts: list[dict[str, Any]]) -> None:
        """Make an object of the parts that were sent."""
        with _translated("complete the upload of", self.url_of(name)):
            self.client.complete_multipart_upload(
                Bucket=self.settings.bucket, Key=self.key(name), UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )  # fmt: skip

    def put(self, name: str, part: "_Part", sha256: str | None) -> None:
        """Store a small object in one request."""
        with _translated("upload", self.url_of(name)):
            self.client.put_object(
                Bucket=self.settings.bucket, Key=self.key(name), **part.body, **_metadata(sha256)
            )

    def get(self, name: str, start: int, length: int) -> bytes:
        """Return bytes of an object, fewer if it ends before."""
        with _translated("read", self.url_of(name), self.settings.timeout + length / SLOWEST):
            found = self.client.get_object(
                Bucket=self.settings.bucket, Key=self.key(name),
                Range=f"bytes={start}-{start + length - 1}",
            )  # fmt: skip
            data: bytes = found["Body"].read()
        return data

    def _upload_key(self, name: str) -> str:
        match = _OWNER.fullmatch(name)
        return f"{self.key(match['name'])}.{match['owner']}" if match else self.key(name)

    def _uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Return name and identifier of unfinished uploads; none where we may not look."""
        found = []
        try:
            for page in self._pages("list_multipart_uploads", "list unfinished uploads of", prefix):
                for one in page.get("Uploads", ()):
                    name = one["Key"].rpartition("/")[2]
                    if name and one["Key"] == self._upload_key(name):
                        found.append((name, one["UploadId"]))
        except e.AccessDenied:
            return []
        return found

    def _retained_until(self, name: str) -> str | None:
        try:
            found = self.client.get_object_retention(
                Bucket=self.settings.bucket, Key=self.key(name)
            )
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            return None
        until = found.get("Retention", {}).get("RetainUntilDate")
        return None if until is None else f"{until:%Y-%m-%d %H:%M} UTC"


class S3Upload:
    """An object on its way: a small one in one request, a large one in parts while it is made."""

    def __init__(self, store: S3Store, name: str, owner: str, sha256: str | None) -> None:
        self._store = store
        self._name = name
        self._owner = owner
        self._sha256 = sha256
        self._size = 0
        self._part = _Part(1, store.settings)
        self._sender: _Sender | None = None
        self._completed = False  # the object is there
        self._published = False  # and is to stay

    def write(self, data: bytes) -> None:
        """Append bytes; waits where the parts before are not sent yet."""
        view = memoryview(data)
        while view:
            if self._part.full:
                self._send_part()
            view = view[self._part.take(view) :]
        self._size += len(data)

    def seal(self) -> None:
        """Send what is left of the parts and wait for them; a small object is sent by `publish`."""
        if self._sender is not None:
            self._send_part()
            self._sender.finish()

    def stop(self) -> None:
        """Wait for the server no longer, in whatever thread."""
        if self._sender is not None:
            self._sender.stop()

    def source(self) -> "S3Source":
        """Read it back. S3 has none without its name, but without a manifest it is no backup."""
        self._complete()
        return S3Source(self._store, self._name, self._size)

    def publish(self) -> None:
        """Complete the upload."""
        self._complete()
        self._published = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._part.close()
        self.stop()
        store = self._store if self._published else self._store.quick()
        # What goes wrong here is a consequence; the next run sweeps what is left.
        with contextlib.suppress(Exception):
            if self._completed and not self._published:
                store.delete(self._name)
            if self._sender is not None:
                store.clear(self._name, self._owner, self._sender.has_begun())

    def _send_part(self) -> None:
        if self._sender is None:
            self._sender = _Sender(self._store, self._name, self._owner, self._sha256)
        part, self._part = self._part, _Part(self._part.number + 1, self._store.settings)
        self._sender.send(part)

    def _complete(self) -> None:
        if self._completed:
            return
        if self._sender is None:
            self._store.put(self._name, self._part, self._sha256)
        else:
            try:
                self._store.complete(self._name, self._sender.upload_id, self._sender.parts)
            except e.StoreError:
                # The answer may be lost and the deed done.
                if not self._is_there():
                    raise
        self._completed = True
        self._check_size()

    def _is_there(self) -> bool:
        with contextlib.suppress(e.StoreError):
            return self._store.size(self._name) == self._size
        return False

    def _check_size(self) -> None:
        for _ in range(ATTEMPTS):
            try:
                size = self._store.size(self._name)
            except e.AccessDenied:
                return  # an identity that may only write
            if size == self._size:
                return
            time.sleep(0.5)  # not every server shows at once what it has (trap C11)
        raise e.StoreError(
            f"{self._store.url_of(self._name)} has {size} bytes, {self._size} were sent"
        )


class _Part:
    """The bytes of one part until they are sent."""

    def __init__(self, number: int, settings: S3Settings) -> None:
        self.number = number
        self.size = 0
        self._limit = settings.part_size or part_size(number, settings.max_parts)
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115

    @property
    def full(self) -> bool:
        return self.size >= self._limit

    @property
    def body(self) -> dict[str, Any]:
        """What a request says of its body; a server with Object Lock wants the MD5 (trap C2)."""
        self.file.seek(0)
        md5 = base64.b64encode(self._md5.digest()).decode()
        return {"Body": self.file, "ContentLength": self.size, "ContentMD5": md5}

    def take(self, data: memoryview) -> int:
        """Append as much as has room; return how much."""
        taken = data[: self._limit - self.size]
        try:
            self.file.write(taken)
        except OSError as error:
            raise e.StoreError(f"could not keep a part: {error.strerror}") from error
        self._md5.update(taken)
        self.size += len(taken)
        return len(taken)

    def close(self) -> None:
        self.file.close()


class _Sender:
    """Threads that send parts; they are daemons, for none may hold up the end of a run.

    Whoever hands them a part may have to wait, but never for the server itself: it can be stopped.
    """

    def __init__(self, store: S3Store, name: str, owner: str, sha256: str | None) -> None:
        self.upload_id = ""  # none yet
        self._etags: dict[int, str] = {}
        self._store = store
        self._name = name
        self._owner = owner
        self._sha256 = sha256
        self._begun: list[tuple[str, str]] = []
        self._beginning = threading.Lock()
        self._waiting: queue.Queue[_Part | None] = queue.Queue(1)
        self._error: BaseException | None = None
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"s3-{number}", daemon=True)
            for number in range(SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def parts(self) -> list[dict[str, Any]]:
        """What CompleteMultipartUpload wants to know."""
        return [
            {"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())
        ]

    def send(self, part: _Part) -> None:
        """Hand over a part; waits while the ones before are on their way."""
        try:
            self._put(part)
        except BaseException:
            part.close()
            raise

    def finish(self) -> None:
        """Wait until every part has arrived; raise what went wrong."""
        deadline = self._deadline()
        for _ in self._threads:
            self._put(None)
        for thread in self._threads:
            while thread.is_alive():
                self._check(deadline)
                with interrupts.held():
                    thread.join(0.2)
        self._check(deadline)

    def stop(self) -> None:
        """Send no more; a part that is on its way cannot be called back."""
        self._stopped = True
        with interrupts.held(), contextlib.suppress(queue.Empty):
            while True:
                if part := self._waiting.get_nowait():
                    part.close()

    def has_begun(self) -> list[tuple[str, str]]:
        """Return what is to be aborted of an upload that was stopped, perhaps while it began."""
        if self._beginning.acquire(timeout=CLEANING_SECONDS):
            self._beginning.release()
        return self._begun

    def _put(self, part: _Part | None) -> None:
        deadline = self._deadline()
        while True:
            self._check(deadline)
            with interrupts.held(), contextlib.suppress(queue.Full):
                self._waiting.put(part, timeout=0.2)
                return

    def _deadline(self) -> float:
        return time.monotonic() + self._store.settings.limit

    def _check(self, deadline: float) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise self._was_stopped()
        if time.monotonic() > deadline:
            raise e.StoreError(
                f"could not upload {self._store.url_of(self._name)}: it lags behind by more than"
                f" {self._store.settings.limit:g} s",
                hint="Raise BACKUP_S3_LIMIT if the connection is that slow.",
            )

    def _work(self) -> None:
        while not self._stopped:
            try:
                part = self._waiting.get(timeout=0.5)
            except queue.Empty:
                continue
            if part is None:
                return
            try:
                upload_id = self._begin()
                self._etags[part.number] = self._store.send(self._name, upload_id, part)
            except BaseException as error:  # noqa: BLE001 - raised where the bytes come from
                self._error = error
                return
            finally:
                part.close()

    def _begin(self) -> str:
        """Begin the upload if that is not done; return its identifier."""
        with self._beginning:
            if not self.upload_id:
                # First, or a run that is killed in between would leave an upload that is nobody's.
                marker = f"{self._name}.{self._owner}"
                self._begun.append((marker, self._begin_one(marker, None)))
                self.upload_id = self._begin_one(self._name, self._sha256)
                self._begun.append((self._name, self.upload_id))
            return self.upload_id

    def _begin_one(self, name: str, sha256: str | None) -> str:
        if self._stopped:
            raise self._was_stopped()
        return self._store.begin(name, sha256)

    def _was_stopped(self) -> e.StoreError:
        return e.StoreError(f"the upload of {self._store.url_of(self._name)} was stopped")


class S3Source:
    """An object, read by ranges."""

    remote = True

    def __init__(self, store: S3Store, name: str, size: int) -> None:
        self._store = store
        self._name = name
        self._size = size

    @property
    def name(self) -> str:
        """The object's URL."""
        return self._store.url_of(self._name)

    @property
    def size(self) -> int:
        """Length in bytes when it was opened."""
        return self._size

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes; what is cut short on the way is asked for again."""
        if not length:
            return b""
        data = b""
        for attempt in range(ATTEMPTS):
            try:
                data = self._store.get(self._name, start, length)
            except _Cut:
                if attempt == ATTEMPTS - 1:
                    raise
            if len(data) == length:
                return data
        raise e.StoreError(f"{self.name} is shorter than expected: no byte {start + len(data)}")

    def close(self) -> None:
        """Nothing to give back."""


@functools.cache
def _slope(max_parts: int) -> int:
    """Return by how many bytes each part is larger than the one before."""
    wanted = min(LARGEST_OBJECT, max_parts * LARGEST_PART * 19 // 20)

    def total(slope: int) -> int:
        growing = min(max_parts, (LARGEST_PART - SMALLEST_PART) // slope + 1)
        grown = growing * SMALLEST_PART + slope * growing * (growing - 1) // 2
        return grown + (max_parts - growing) * LARGEST_PART

    return bisect.bisect_left(range(1, LARGEST_PART), wanted, key=total) + 1


def part_size(number: int, max_parts: int) -> int:
    """Return the length of a part of a stream that may end anywhere up to 5 TB (trap C5).

    It begins small and grows in a straight line, for the number of parts is limited and nobody
    knows how many there will be.
    """
    return min(LARGEST_PART, SMALLEST_PART + (number - 1) * _slope(max_parts))


@functools.cache
def _loader() -> Any:
    """Return what reads the description of the service: once, for it is long."""
    return botocore.loaders.create_loader()


def _client(settings: S3Settings) -> Any:
    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    custom = (
        settings.endpoint
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    config = botocore.config.Config(
        connect_timeout=min(CONNECT_SECONDS, settings.timeout),
        read_timeout=settings.timeout,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=32,
        s3={"addressing_style": "path" if custom else "auto"},
        # Newer checksums are refused by many servers that are not Amazon's (trap C1).
        request_checksum_calculation="when_required" if custom else "when_supported",
        response_checksum_validation="when_required",
    )
    client = session.create_client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region or session.get_config_variable("region") or "us-east-1",
        verify=os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or None,
        config=config,
    )
    install(client)
    return client


def _metadata(sha256: str | None) -> dict[str, Any]:
    return {} if sha256 is None else {"Metadata": {SHA256: sha256}}


class _Absent(e.Missing):
    """There is no such object or upload."""


class _Cut(e.StoreError):
    """The answer ended too early."""


@contextlib.contextmanager
def _translated(action: str, what: str, seconds: float | None = None) -> Iterator[None]:
    """Turn what botocore raises into our errors, with what helps.

    On demand an answer must be complete within some seconds.
    """
    deadline = Deadline(math.inf if seconds is None else seconds)
    try:
        with deadline:
            yield
    except Exception as error:
        if deadline.expired:
            raise e.StoreError(
                f"could not {action} {what}: no complete answer within {seconds:g} s",
                hint="Raise BACKUP_S3_TIMEOUT if the service is that slow.",
            ) from error
        if deadline.endless:
            raise e.StoreError(
                f"could not {action} {what}: the service redirects without end",
                hint="Check BACKUP_S3_ENDPOINT and BACKUP_S3_REGION.",
            ) from error
        with _told(action, what):
            raise


@contextlib.contextmanager
def _told(action: str, what: str) -> Iterator[None]:
    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise _refusal(error, f"could not {action} {what}") from error
    except (
        botocore.exceptions.IncompleteReadError,
        botocore.exceptions.ReadTimeoutError,
        botocore.exceptions.ResponseStreamingError,
        botocore.exceptions.FlexibleChecksumError,
    ) as error:
        raise _Cut(f"could not {action} {what}: {error}") from error
    except (botocore.exceptions.BotoCoreError, OSError, ValueError) as error:
        raise e.StoreError(f"could not {action} {what}: {error}", hint=_hint(error)) from error


def _refusal(error: botocore.exceptions.ClientError, failed: str) -> e.StoreError:
    said = error.response.get("Error", {})
    code, message = str(said.get("Code", "?")), str(said.get("Message", ""))
    text = f"{failed}: {code}{': ' if message else ''}{message}"
    if code in ABSENT:
        return _Absent(text)
    if code in DENIED:
        return e.AccessDenied(text, hint=_HINTS["AccessDenied"])
    return e.StoreError(text, hint=_HINTS.get(code))


_KEYS = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role."
_REGION = "Set BACKUP_S3_REGION to the region of the bucket."
_HINTS = {
    "AccessDenied": "The identity lacks a right; docs/s3.md lists what each command needs.",
    "AuthorizationHeaderMalformed": _REGION,
    "ExpiredToken": "The session token has expired: get a new one.",
    "IllegalLocationConstraintException": _REGION,
    "InvalidAccessKeyId": _KEYS,
    "InvalidObjectState": "It lies in an archive class: restore it there first (RestoreObject).",
    "NoSuchBucket": "Make the bucket, or set BACKUP_S3_BUCKET right.",
    "PermanentRedirect": _REGION,
    "RequestTimeTooSkewed": "The clock of this machine is wrong: set it.",
    "SignatureDoesNotMatch": _KEYS,
    "301": _REGION,
}


def _hint(error: Exception) -> str | None:
    if str(error).startswith("Invalid endpoint"):
        return (
            "Check BACKUP_S3_ENDPOINT: the name of a host has letters, digits, hyphens and dots,"
            " no underscore; an IP address will do too."
        )
    match error:
        case botocore.exceptions.NoCredentialsError():
            return "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role."
        case botocore.exceptions.SSLError():
            return "If the server has a certificate of your own, name its CA in AWS_CA_BUNDLE."
        case botocore.exceptions.HTTPClientError() | botocore.exceptions.ConnectionError():
            return "Check BACKUP_S3_ENDPOINT and the way there, proxies included."
        case _:
            return None
