"""A time limit for a complete request.

The timeout of a socket applies to each piece: a server that sends one byte per second never exceeds
it. Here, a thread shuts down the connections of calls that take too long.
"""

import contextlib
import socket
import threading
import time
from typing import Any, Self

import botocore.awsrequest

EVERY = 0.25  # seconds between two checks
ATTEMPTS = 20  # of a call, including redirects
_local = threading.local()
_active: dict[int, "Deadline"] = {}
_starting = threading.Lock()
_watch: threading.Thread | None = None


class Deadline:
    """The time limit in seconds for each attempt of a call; afterwards, no attempt starts."""

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self.endless = False  # redirected again and again: botocore would follow forever
        self._attempts = 0
        self._seconds = seconds
        self._ends: float | None = None
        self._connection: Any = None

    def begin(self, connection: Any) -> None:
        """Record that an attempt starts on a connection."""
        self._attempts += 1
        self.endless = self._attempts > ATTEMPTS
        if self.expired or self.endless:
            raise TimeoutError("no further attempt")
        self._connection = connection
        self._ends = time.monotonic() + self._seconds

    def look(self) -> None:
        """Shut down the connection if the time is over."""
        if self._ends is None or time.monotonic() < self._ends:
            return
        self.expired = True
        found = getattr(self._connection, "sock", None)
        if found is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(found, socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        _start()
        self._before = getattr(_local, "deadline", None)
        _local.deadline = self
        _active[id(self)] = self
        return self

    def __exit__(self, *_: object) -> None:
        _active.pop(id(self), None)
        self._ends = None
        _local.deadline = self._before


class _Timed:
    """A connection that reports every attempt to the deadline of its thread."""

    def request(self, *args: Any, **more: Any) -> Any:
        deadline: Deadline | None = getattr(_local, "deadline", None)
        if deadline is not None:
            deadline.begin(self)
        return super().request(*args, **more)  # type: ignore[misc]


class _Connection(_Timed, botocore.awsrequest.AWSHTTPConnection):  # type: ignore[misc]
    pass


class _SecureConnection(_Timed, botocore.awsrequest.AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(botocore.awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _Connection


class _SecurePool(botocore.awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _SecureConnection


def install(client: Any) -> None:
    """Make the connections of a botocore client respect deadlines."""
    # botocore has no public way to choose the classes of its connections.
    session = client._endpoint.http_session  # noqa: SLF001
    session._pool_classes_by_scheme.update(http=_Pool, https=_SecurePool)  # noqa: SLF001


def _start() -> None:
    global _watch  # noqa: PLW0603
    with _starting:
        if _watch is None:
            _watch = threading.Thread(target=_look, name="deadlines", daemon=True)
            _watch.start()


def _look() -> None:
    while True:
        time.sleep(EVERY)
        for deadline in list(_active.values()):
            deadline.look()
