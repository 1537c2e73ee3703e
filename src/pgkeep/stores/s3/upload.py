"""Write an object while its contents are made: a small one in one request, a large one in parts.

Parts that were sent are invisible until the upload is completed (S3 User Guide, "Uploading and
copying objects using multipart upload").
"""

import bisect
import contextlib
import functools
import queue
import threading
import time
from typing import Any, Self

from ... import errors as e
from ... import interrupts
from .bucket import CLEANING_SECONDS, MIB, Bucket, Part, Upload, marker
from .source import ATTEMPTS, S3Source

SMALLEST_PART = 8 * MIB  # S3 refuses parts below 5 MiB, except the last one
LARGEST_PART = 5 << 30  # by S3's limits
LARGEST_OBJECT = 5 * 10**12
SENDERS = 2  # parts on their way at the same time


def part_size(number: int, max_parts: int) -> int:
    """Return the length in bytes of a part of a stream of unknown length up to 5 TB (trap C5).

    The first parts are small, and the size grows linearly, because the number of parts is limited
    and the length of the stream is not known in advance.
    """
    return min(LARGEST_PART, SMALLEST_PART + (number - 1) * _slope(max_parts))


@functools.cache
def _slope(max_parts: int) -> int:
    """Return the difference in bytes between the sizes of consecutive parts."""
    wanted = min(LARGEST_OBJECT, max_parts * LARGEST_PART * 19 // 20)

    def total(slope: int) -> int:
        growing = min(max_parts, (LARGEST_PART - SMALLEST_PART) // slope + 1)
        grown = growing * SMALLEST_PART + slope * growing * (growing - 1) // 2
        return grown + (max_parts - growing) * LARGEST_PART

    return bisect.bisect_left(range(1, LARGEST_PART), wanted, key=total) + 1


class S3Upload:
    """An object that is being written; leaving the context unpublished removes it."""

    def __init__(
        self, bucket: Bucket, name: str, owner: str, sha256: str | None, *, new: bool = False
    ) -> None:
        self._bucket = bucket
        self._name = name
        self._owner = owner
        self._sha256 = sha256
        self._new = new  # the object must not exist
        self._size = 0
        self._part = self._empty_part(1)
        self._sender: _PartSender | None = None
        self._completed = False  # the object exists
        self._published = False  # and is to stay

    def write(self, data: bytes) -> None:
        """Append bytes; waits until earlier parts are sent."""
        view = memoryview(data)
        while view:
            if self._part.full:
                self._send_part()
            view = view[self._part.take(view) :]
        self._size += len(data)

    def seal(self) -> None:
        """Send the last part and wait for all; a small object is sent by `publish`."""
        if self._sender is not None:
            self._send_part()
            self._sender.finish()

    def stop(self) -> None:
        """Stop waiting for the server, in whatever thread."""
        if self._sender is not None:
            self._sender.stop()

    def source(self) -> S3Source:
        """Open it for reading. S3 needs its name for that; without a manifest it is no backup."""
        self._complete()
        return S3Source(self._bucket, self._name, self._size)

    def publish(self) -> None:
        """Complete the upload."""
        self._complete()
        self._published = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._part.close()
        self.stop()
        bucket = self._bucket if self._published else self._bucket.quick()
        # An error here is a consequence of an earlier one; the next run removes what is left.
        with contextlib.suppress(Exception):
            if self._completed and not self._published:
                bucket.delete(self._name)
            if self._sender is not None:
                self._abort(bucket, self._sender.started())

    def _abort(self, bucket: Bucket, started: list[Upload]) -> None:
        """Abort the uploads of this file: started ones, and those whose answer got lost."""
        names = (self._name, marker(self._name, self._owner))
        found = [upload for upload in bucket.uploads(self._name) if upload.name in names]
        for upload in sorted({*started, *found}):  # the file first, then the marker
            bucket.abort_upload(upload)

    def _empty_part(self, number: int) -> Part:
        settings = self._bucket.settings
        return Part(number, settings.part_size or part_size(number, settings.max_parts))

    def _send_part(self) -> None:
        if self._sender is None:
            self._sender = _PartSender(self._bucket, self._name, self._owner, self._sha256)
        part, self._part = self._part, self._empty_part(self._part.number + 1)
        self._sender.send(part)

    def _complete(self) -> None:
        if self._completed:
            return
        if self._sender is None:
            self._bucket.put(self._name, self._part, self._sha256, new=self._new)
        else:
            try:
                self._sender.complete(new=self._new)
            except e.Exists:
                raise
            except e.StoreError:
                # The answer may be lost although the object exists.
                if not self._exists():
                    raise
        self._completed = True
        self._check_size()

    def _exists(self) -> bool:
        with contextlib.suppress(e.StoreError):
            return self._bucket.size(self._name) == self._size
        return False

    def _check_size(self) -> None:
        for _ in range(ATTEMPTS):
            try:
                size = self._bucket.size(self._name)
            except e.AccessDenied:
                return  # an identity that is only allowed to write
            if size == self._size:
                return
            time.sleep(0.5)  # not every server shows a new object at once (trap C11)
        raise e.StoreError(
            f"{self._bucket.url_of(self._name)} has {size} bytes, {self._size} were sent"
        )


class _PartSender:
    """Threads that send parts; they are daemons, so that none delays the end of a run.

    A caller that hands over a part may have to wait, but never for the server itself: `stop` ends
    the waiting.
    """

    def __init__(self, bucket: Bucket, name: str, owner: str, sha256: str | None) -> None:
        self._bucket = bucket
        self._name = name
        self._owner = owner
        self._sha256 = sha256
        self._tags: dict[int, str] = {}
        self._upload: Upload | None = None
        self._started: list[Upload] = []
        self._starting = threading.Lock()
        self._waiting: queue.Queue[Part | None] = queue.Queue(1)
        self._error: BaseException | None = None
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"s3-{number}", daemon=True)
            for number in range(SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, part: Part) -> None:
        """Hand over a part; waits while earlier ones are on their way."""
        try:
            self._put(part)
        except BaseException:
            part.close()
            raise

    def finish(self) -> None:
        """Wait until every part has arrived.

        Raises:
            StoreError: a part did not arrive.

        """
        deadline = self._deadline()
        for _ in self._threads:
            self._put(None)
        for thread in self._threads:
            while thread.is_alive():
                self._check(deadline)
                with interrupts.held():
                    thread.join(0.2)
        self._check(deadline)

    def complete(self, *, new: bool) -> None:
        """Make an object of the parts."""
        parts: list[dict[str, Any]] = [
            {"PartNumber": number, "ETag": tag} for number, tag in sorted(self._tags.items())
        ]
        self._bucket.complete_upload(self._started_upload(), parts, new=new)

    def stop(self) -> None:
        """Send no more parts; one that is on its way cannot be called back."""
        self._stopped = True
        with interrupts.held(), contextlib.suppress(queue.Empty):
            while True:
                if part := self._waiting.get_nowait():
                    part.close()

    def started(self) -> list[Upload]:
        """Return the uploads that were started, also if it was stopped while one was starting."""
        if self._starting.acquire(timeout=CLEANING_SECONDS):
            self._starting.release()
        return self._started

    def _put(self, part: Part | None) -> None:
        deadline = self._deadline()
        while True:
            self._check(deadline)
            with interrupts.held(), contextlib.suppress(queue.Full):
                self._waiting.put(part, timeout=0.2)
                return

    def _deadline(self) -> float:
        return time.monotonic() + self._bucket.settings.limit

    def _check(self, deadline: float) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise self._was_stopped()
        if time.monotonic() > deadline:
            raise e.StoreError(
                f"could not upload {self._bucket.url_of(self._name)}: it lags behind by more than"
                f" {self._bucket.settings.limit:g} s",
                hint="Increase BACKUP_S3_LIMIT if the connection is that slow.",
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
                self._tags[part.number] = self._bucket.upload_part(self._started_upload(), part)
            except BaseException as error:  # noqa: BLE001 - raised where the bytes come from
                self._error = error
                return
            finally:
                part.close()

    def _started_upload(self) -> Upload:
        """Start the upload if that is not done yet; return it."""
        with self._starting:
            if self._upload is None:
                # The marker first: a run that is killed in between must not leave an upload that
                # belongs to no cluster.
                self._start(marker(self._name, self._owner), None)
                self._upload = self._start(self._name, self._sha256)
            return self._upload

    def _start(self, name: str, sha256: str | None) -> Upload:
        if self._stopped:
            raise self._was_stopped()
        upload = self._bucket.start_upload(name, sha256)
        self._started.append(upload)
        return upload

    def _was_stopped(self) -> e.StoreError:
        return e.StoreError(f"the upload of {self._bucket.url_of(self._name)} was stopped")
