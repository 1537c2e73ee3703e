"""Take a base backup in the background, because a lost slot has ended the window."""

import threading
import time
from collections.abc import Callable

from .. import errors as e

FIRST_PAUSE = 60.0  # seconds after a failure
LONGEST_PAUSE = 3600.0


class NewBase:
    """One base backup at a time, tried again later if it fails."""

    def __init__(self, take: Callable[[], None]) -> None:
        """Store the parameter, which takes a base backup."""
        self._take = take
        self._thread: threading.Thread | None = None
        self._error = ""
        self._pause = FIRST_PAUSE
        self._next = 0.0

    def poll(self, *, wanted: bool) -> str | None:
        """Begin a base backup if one is wanted; return how one ended: its error, or nothing."""
        if self._thread is None:
            if wanted and time.monotonic() >= self._next:
                # A daemon: the end of the receiver does not wait for it.
                self._thread = threading.Thread(target=self._run, name="base backup", daemon=True)
                self._thread.start()
            return None
        if self._thread.is_alive():
            return None
        self._thread = None
        if self._error:
            self._next = time.monotonic() + self._pause
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        else:
            self._pause = FIRST_PAUSE
        return self._error

    def _run(self) -> None:
        try:
            self._take()
            self._error = ""
        except e.PgkeepError as error:
            self._error = error.message
        except Exception as error:  # noqa: BLE001 - whatever it is, receiving goes on
            self._error = f"{type(error).__name__}: {error}"
