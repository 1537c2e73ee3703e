"""Encrypt a stream on its way to a store, so that no plain text reaches a disk or the network."""

import io
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, Self

from .. import errors as e
from .. import interrupts
from ..model.naming import Cipher
from ..processes import Child
from ..stores.store import Source, Upload
from . import gpg
from .recipients import Recipients

WAITING = 2  # blocks that can wait for the encryption, each of some MiB
BLOCK = 1 << 20  # bytes that are written to the store at once
HANG = 300.0  # seconds in which gpg must write something, while it has input
PATIENCE = 5.0  # seconds for a thread to stop after it is no longer needed


class _Sink(Protocol):
    """Where encrypted bytes go."""

    def write(self, data: bytes) -> None: ...


def encrypt(data: bytes, recipients: Recipients) -> bytes:
    """Return a small file's contents encrypted."""
    sink = io.BytesIO()

    class Memory:
        def write(self, data: bytes) -> None:
            sink.write(data)

    with _Encryption(Memory(), recipients) as encryption:
        encryption.write(data)
        encryption.finish()
    return sink.getvalue()


class EncryptedUpload:
    """An upload that stores the encrypted form of what is written."""

    def __init__(self, upload: Upload, recipients: Recipients) -> None:
        """Store the parameters; the caller closes the inner upload."""
        self._upload = upload
        self._encryption = _Encryption(upload, recipients)

    def write(self, data: bytes) -> None:
        """Append bytes of plain text."""
        self._encryption.write(data)

    def seal(self) -> None:
        """Encrypt the rest and make all bytes durable."""
        self._encryption.finish()
        self._upload.seal()

    def stop(self) -> None:
        """Make a `write` fail that waits."""
        self._encryption.stop()
        self._upload.stop()

    def source(self) -> Source:
        """Open the sealed file, which is encrypted."""
        return self._upload.source()

    def publish(self) -> None:
        """Give the file its name."""
        self._upload.publish()

    def __enter__(self) -> Self:
        self._encryption.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._encryption.running:  # after a failure: it can wait for the store
            self._upload.stop()
        self._encryption.__exit__()


class _Encryption:
    """A thread that encrypts blocks in their order and writes the result to a sink."""

    def __init__(self, sink: _Sink, recipients: Recipients) -> None:
        self._sink = _Blocks(sink)
        self._recipients = recipients
        self._blocks: queue.Queue[bytes] = queue.Queue(WAITING)  # an empty block is the end
        self._rest = memoryview(b"")  # of the block that is being encrypted
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self._child: Child | None = None
        self._thread = threading.Thread(target=self._run, name="encrypt", daemon=True)

    @property
    def running(self) -> bool:
        """Whether something is left to encrypt, or to write."""
        return self._thread.is_alive()

    def write(self, data: bytes) -> None:
        """Append bytes of plain text; waits while too many are waiting."""
        hanging = self._hanging()
        while data:
            self._check()
            with suppress(queue.Full):
                self._blocks.put(data, timeout=0.5)
                return
            hanging()

    def finish(self) -> None:
        """Wait until everything is encrypted and written."""
        ended = False
        hanging = self._hanging()
        while self._thread.is_alive():
            hanging()
            if not ended:
                with suppress(queue.Full):
                    self._blocks.put(b"", timeout=0.5)
                    ended = True
            with interrupts.held():
                self._thread.join(0.5)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Make a `write` fail that waits."""
        self._stopped = True
        if self._child is not None:  # which can hang
            self._child.kill()
        with suppress(queue.Full):
            self._blocks.put_nowait(b"")

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of plain text, for the thread; empty at the end."""
        while not self._rest and not self._ended:
            self._rest = memoryview(self._blocks.get())
            self._ended = not self._rest
        if self._stopped:
            raise _stopped()  # pyrage makes an error of its own of it
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped or not self._thread.is_alive():
            raise _stopped()

    def _hanging(self) -> Callable[[], None]:
        """Return a function to call while waiting; it fails if gpg does not go on."""
        before, since = self._sink.writes, time.monotonic()

        def check() -> None:
            nonlocal before, since
            if self._child is None or self._sink.writing or self._sink.writes != before:
                before, since = self._sink.writes, time.monotonic()
            elif time.monotonic() - since > HANG:
                self.stop()
                raise e.StoreError(f"could not encrypt: gpg has written nothing for {HANG:g} s")

        return check

    def _run(self) -> None:
        try:
            if self._recipients.cipher is Cipher.AGE:
                self._age()
            else:
                self._gpg()
            self._sink.flush()
            if not self._ended:
                raise e.StoreError("the encryption ended before its input")
        except BaseException as error:  # noqa: BLE001 - raised by `write` or `finish`
            self._error = self._sink.error or (_stopped() if self._stopped else error)

    def _age(self) -> None:
        import pyrage  # noqa: PLC0415 - an optional dependency

        keys = [
            (pyrage.ssh if key.startswith("ssh-") else pyrage.x25519).Recipient.from_str(key)
            for key in self._recipients.keys
        ]
        pyrage.encrypt_io(self, self._sink, keys)

    def _gpg(self) -> None:
        with (
            gpg.home_of(self._recipients.keyring) as home,
            gpg.encryption(home, self._recipients.names) as child,
        ):
            self._child = child
            feeder = threading.Thread(target=self._feed, args=(child,), daemon=True)
            feeder.start()
            while block := child.read():
                self._sink.write(block)
            feeder.join()
            try:
                child.finish()
            except e.ProgramFailed as error:
                raise e.StoreError(f"could not encrypt: {error.message}") from error

    def _feed(self, child: Child) -> None:
        """Write the plain text to gpg; if it is stopped, gpg must not take that for the end."""
        try:
            while block := self.read(BLOCK):
                child.write(block)
            child.end_input()
        except BaseException:  # noqa: BLE001 - `finish` of the child reports why it ended
            child.kill()

    def __enter__(self) -> Self:
        with interrupts.held():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with interrupts.held():
            while self._thread.is_alive() and not self._stopped:
                self.stop()
            self._thread.join(PATIENCE)


def _stopped() -> e.StoreError:
    return e.StoreError("the encryption was stopped")


class _Blocks:
    """Collects small pieces before they are written, and keeps the error of a write."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink
        self._parts: list[bytes] = []
        self._size = 0
        self.writes = 0  # calls of `write`
        self.writing = False  # it waits for the sink, which has its own limits
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Append bytes; return how many, as files do."""
        self.writes += 1
        self._parts.append(bytes(data))
        self._size += len(data)
        if self._size >= BLOCK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Write what was collected."""
        data = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self.writing = True
        try:
            if data:
                self._sink.write(data)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.writing = False
