"""Copy a file to another store while it is written."""

import hashlib
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Self

from .. import errors as e
from .. import interrupts
from ..stores.local import LocalSource, LocalUpload
from ..stores.store import Store, Upload

BLOCK = 1 << 20
PATIENCE = 2.0  # seconds for a copy to stop after it is no longer needed


class LiveCopy:
    """A thread that uploads a growing local file to a store.

    It never delays the writer of the file: it reads the bytes from the disk when it can.
    """

    def __init__(
        self,
        original: LocalUpload,
        store: Store,
        name: str,
        owner: str,
        prepare: Callable[[], None],
    ) -> None:
        """Store the parameters; the thread calls `prepare` first."""
        self.original = original
        self._store = store
        self._name = name
        self._owner = owner
        self._prepare = prepare
        self._changed = threading.Condition()
        self._written = 0
        self._sent = 0
        self._complete = False
        self._stopped = False
        self._error: BaseException | None = None
        self._upload: Upload | None = None
        self._hash = hashlib.sha256()
        # A daemon thread: a server that does not respond must not delay the end of a run.
        self._thread = threading.Thread(target=self._run, name="copy", daemon=True)

    def grown(self, length: int) -> None:
        """Notify the thread that bytes were written."""
        with interrupts.held(), self._changed:
            self._written += length
            self._changed.notify()

    def completed(self) -> None:
        """Notify the thread that no more bytes follow."""
        with interrupts.held(), self._changed:
            self._complete = True
            self._changed.notify()

    def upload(self, sha256: str, progress: Callable[[int], None] = lambda _: None) -> Upload:
        """Wait until all bytes are uploaded; return the sealed upload.

        Raises:
            StoreError: the upload failed, or read different bytes than were written.

        """
        reported = 0
        while self._thread.is_alive():
            with interrupts.held():
                self._thread.join(0.5)
            progress(self._sent - reported)
            reported = self._sent
        if self._error is not None:
            raise self._error
        if self._upload is None or self._hash.hexdigest() != sha256:
            raise e.StoreError(f"{self._name}: the copy read different bytes than were written")
        return self._upload

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with interrupts.held():
            with self._changed:
                self._stopped = True
                self._changed.notify()
            self._thread.join(PATIENCE)
            if self._upload is not None:
                self._upload.__exit__()

    def _run(self) -> None:
        try:
            self._prepare()
            self._upload = self._store.create(self._name, owner=self._owner)
            with closing(self.original.source()) as source:
                while length := self._wait():
                    data = source.read(self._sent, length)
                    self._upload.write(data)
                    self._hash.update(data)
                    self._sent += length
            if not self._stopped:
                self._upload.seal()
        except BaseException as error:  # noqa: BLE001 - raised when the upload is requested
            self._error = error

    def _wait(self) -> int:
        """Wait for more bytes; return how many to read, 0 at the end."""
        with self._changed:
            while not self._stopped:
                if self._written > self._sent:
                    return min(BLOCK, self._written - self._sent)
                if self._complete:
                    break
                self._changed.wait()
        return 0


class CopiedUpload:
    """A local file that reports its growth to a live copy."""

    def __init__(self, copy: LiveCopy) -> None:
        self._original = copy.original
        self._copy = copy

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self._original.write(data)
        self._copy.grown(len(data))

    def seal(self) -> None:
        """Make the file durable."""
        self._original.seal()
        self._copy.completed()

    def stop(self) -> None:
        """Do nothing: writing a local file does not block."""

    def source(self) -> LocalSource:
        """Open the file."""
        return self._original.source()

    def publish(self) -> None:
        """Give the file its name."""
        self._original.publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the callers that opened the file and the copy close them."""
