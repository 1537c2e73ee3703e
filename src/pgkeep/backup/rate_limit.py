"""Limit how fast a backup reads, so that the server has time for others."""

import threading
import time
from collections.abc import Callable

EVERY = 1.0  # seconds between two calls of `waits`


class RateLimit:
    """A limit in bytes per second for all threads together; without a rate, nothing waits."""

    def __init__(self, rate: float | None, waits: Callable[[], None]) -> None:
        self._rate = rate
        self._waits = waits  # called by a thread while it waits
        self._lock = threading.Lock()
        self._paid = 0.0  # time until which all bytes so far are allowed
        self._stopped = threading.Event()

    def take(self, size: int) -> None:
        """Wait until so many bytes are allowed, after those that other threads took before."""
        if self._rate is None:
            return
        with self._lock:
            until = self._paid = max(self._paid, time.monotonic()) + size / self._rate
        while (left := until - time.monotonic()) > 0:
            if self._stopped.wait(min(left, EVERY)):
                return
            self._waits()

    def stop(self) -> None:
        """Let nothing wait any more."""
        self._stopped.set()
