"""Write to a slow store through temporary files, so that the writer does not wait for it.

A backup that goes only to a bucket would hold its snapshot while it is uploaded. The files have no
name and only their owner can read them, so a killed run leaves nothing. Each is freed when all of
it is sent.
"""

import contextlib
import os
import shutil
import tempfile
import threading
from typing import IO, Self

from .. import errors as e
from .. import interrupts
from .store import Source, Upload

SEGMENT = 32 << 20  # bytes of one file
RESERVE = 256 << 20  # bytes that stay free for others
BLOCK = 1 << 20
PATIENCE = 2.0  # seconds for the thread to stop after it is no longer needed


def room() -> int:
    """Return how many bytes can be spooled: free space of the temporary folder, less a reserve."""
    try:
        return max(0, shutil.disk_usage(tempfile.gettempdir()).free - RESERVE)
    except OSError:  # no folder can be written to
        return 0


class _Segment:
    """A file without a name, and how much of it was written and sent."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.written = 0
        self.sent = 0

    @property
    def full(self) -> bool:
        return self.written >= SEGMENT


class SpooledUpload:
    """An upload that is fed from temporary files by a thread; the caller closes the upload."""

    def __init__(self, upload: Upload, name: str) -> None:
        self._upload = upload
        self._name = name
        self._changed = threading.Condition()
        self._segments: list[_Segment] = []
        self._complete = False
        self._stopped = False
        self._error: BaseException | None = None
        # A daemon thread: a server that does not respond must not delay the end of a run.
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def write(self, data: bytes) -> None:
        """Append bytes; waits only while there is no room for more."""
        view = memoryview(data)
        while view:
            segment = self._writable()
            try:
                length = os.write(segment.file.fileno(), view[: SEGMENT - segment.written])
            except OSError as error:
                raise e.StoreError(f"could not keep a part: {error.strerror}") from error
            view = view[length:]
            with interrupts.held(), self._changed:
                segment.written += length
                self._changed.notify_all()

    def seal(self) -> None:
        """Wait until everything is sent."""
        with interrupts.held(), self._changed:
            self._complete = True
            self._changed.notify_all()
        while self._thread.is_alive():
            with interrupts.held():
                self._thread.join(0.5)
        self._check()
        self._upload.seal()

    def stop(self) -> None:
        """Make a `write` fail that waits."""
        self._upload.stop()
        with interrupts.held(), self._changed:
            self._stopped = True
            self._changed.notify_all()

    def source(self) -> Source:
        """Open the sealed file."""
        return self._upload.source()

    def publish(self) -> None:
        """Give the file its name."""
        self._upload.publish()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        with interrupts.held():
            self._thread.join(PATIENCE)
            if not self._thread.is_alive():
                for segment in self._segments:
                    segment.file.close()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise e.StoreError(f"the upload of {self._name} was stopped")

    def _writable(self) -> _Segment:
        """Return the file to write to; the first one is made in any case."""
        while True:
            with interrupts.held(), self._changed:
                self._check()
                if self._segments and not self._segments[-1].full:
                    return self._segments[-1]
                if not self._segments or room() >= SEGMENT:
                    self._segments.append(self._segment())
                    return self._segments[-1]
                self._changed.wait(0.2)

    def _segment(self) -> _Segment:
        try:
            return _Segment()
        except OSError as error:
            raise e.StoreError(f"could not keep a part: {error.strerror}") from error

    def _run(self) -> None:
        try:
            while (segment := self._next()) is not None:
                length = min(BLOCK, segment.written - segment.sent)
                self._upload.write(os.pread(segment.file.fileno(), length, segment.sent))
                segment.sent += length
                if segment.full and segment.sent == segment.written:
                    with self._changed:
                        self._segments.remove(segment)
                        self._changed.notify_all()
                    segment.file.close()
        except BaseException as error:  # noqa: BLE001 - raised where the bytes come from
            self._error = error
            with contextlib.suppress(RuntimeError), self._changed:
                self._changed.notify_all()

    def _next(self) -> _Segment | None:
        """Wait for bytes to send; None at the end."""
        with self._changed:
            while not self._stopped:
                for segment in self._segments:
                    if segment.written > segment.sent:
                        return segment
                if self._complete:
                    break
                self._changed.wait()
        return None
