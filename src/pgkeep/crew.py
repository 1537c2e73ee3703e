"""Threads that work on one task together: the first failure stops all of them and is the one told.

What fails next is mostly a consequence, such as a broken pipe (trap B31).
"""

import threading
from collections.abc import Callable
from typing import Self


class Stopped(Exception):
    """Raised inside a member of a crew that has been stopped."""


class Crew:
    """Start members, wait for all of them; whatever happens, none outlives `wait`."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._error: BaseException | None = None
        self._stopping: list[Callable[[], None]] = []
        self._running = 0
        self.stopped = False

    def start(self, work: Callable[[], None], name: str) -> None:
        """Run something in a thread of its own."""
        thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        with self._lock:
            self._running += 1
        self._threads.append(thread)
        thread.start()

    def on_stop(self, action: Callable[[], None]) -> None:
        """Have an action done, in any thread, when the crew stops early: kill, cancel, wake."""
        with self._lock:
            self._stopping.append(action)
            stopped = self.stopped
        if stopped:
            action()

    def check(self) -> None:
        """Leave the calling member if the crew has been stopped."""
        if self.stopped:
            raise Stopped

    def wait(self, tick: Callable[[], None] = lambda: None, every: float = 0.5) -> None:
        """Wait for all members, calling `tick` every so many seconds; raise the first failure."""
        try:
            while True:
                with self._lock:
                    if self._running == 0 or self._error is not None:
                        break
                    self._changed.wait(every)
                    if self._running == 0 or self._error is not None:
                        break
                tick()
        except BaseException as error:  # noqa: BLE001 - a signal's exception, or a tick that found a failure
            self._fail(error)
        if self._error is not None:
            self.stop()
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nobody behind when a signal came before `wait`."""
        if any(thread.is_alive() for thread in self._threads):
            self.stop()
            for thread in self._threads:
                thread.join()

    def stop(self) -> None:
        """Stop everybody early."""
        with self._lock:
            if self.stopped:
                return
            self.stopped = True
            actions = list(self._stopping)
        for action in actions:
            action()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._fail(error)
        finally:
            with self._lock:
                self._running -= 1
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None and not self.stopped:
                self._error = error
            self._changed.notify_all()
