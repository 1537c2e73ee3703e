"""Threads that work on one task together: the first failure stops all of them and is reported.

Later failures are mostly consequences, such as a broken pipe (trap B31). A signal takes precedence
over every failure: the run ends as the signal requires.

The waiting thread can be the main thread, where a signal can raise an exception at any instruction.
Therefore it waits on queues, which are written in C, and not on conditions, which can lose their
lock. It holds signals while it joins threads: an interrupted join takes a running thread for a
finished one.
"""

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Self, TypeVar

from . import interrupts

Item = TypeVar("Item")
Worker = TypeVar("Worker")


class Stopped(Exception):
    """Raised in a thread of a group that was stopped."""


class TaskGroup:
    """Start threads and wait for all of them; no thread outlives `wait`."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._changes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._stopping: list[Callable[[], None]] = []
        self._running = 0
        self.stopped = False

    def start(self, work: Callable[[], None], name: str) -> None:
        """Run a function in a new thread."""
        thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        with interrupts.held():
            with self._lock:
                self._running += 1
            thread.start()
            self._threads.append(thread)

    def on_stop(self, action: Callable[[], None]) -> None:
        """Register an action for an early stop (kill, cancel, wake); any thread can run it."""
        with self._lock:
            self._stopping.append(action)
            stopped = self.stopped
        if stopped:
            _try(action)

    def fail(self, error: BaseException) -> None:
        """Stop all threads because of an error, from any thread, also from none of the group."""
        self._fail(error)

    def check(self) -> None:
        """Leave the calling thread if the group was stopped."""
        if self.stopped:
            raise Stopped

    def wait(self, tick: Callable[[], None] = lambda: None, every: float = 0.5) -> None:
        """Wait for all threads; call `tick` every `every` seconds; raise the first failure."""
        try:
            while not self._is_over():
                with contextlib.suppress(queue.Empty):
                    self._changes.get(timeout=every)
                if self._is_over():
                    break
                tick()
        except BaseException as error:  # noqa: BLE001 - a signal's exception, or a tick that found a failure
            self._fail(error)
        with interrupts.held():
            if self._error is not None:
                self.stop()
            for thread in self._threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def _is_over(self) -> bool:
        with self._lock:
            return self._running == 0 or self._error is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all threads if a signal arrived before `wait`."""
        with interrupts.held():
            if any(thread.is_alive() for thread in self._threads):
                self.stop()
                for thread in self._threads:
                    thread.join()

    def stop(self) -> None:
        """Stop all threads early; run every action even if another action fails."""
        with self._lock:
            if self.stopped:
                return
            self.stopped = True
            actions = list(self._stopping)
        with interrupts.held():
            for action in actions:
                _try(action)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass  # because another thread failed, which is the error to report
        except BaseException as error:  # noqa: BLE001 - passed to the thread that waits
            self._fail(error)
        finally:
            with self._lock:
                self._running -= 1
            self._changes.put(None)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if isinstance(error, KeyboardInterrupt):
                interrupts.caught()
                self._error = error
            elif self._error is None and not self.stopped:
                self._error = error
        self._changes.put(None)


def for_each(
    items: Iterable[Item],
    workers: Sequence[Worker],
    work: Callable[[Item, Worker, TaskGroup], None],
    *,
    name: str,
    cancel: Callable[[Worker], None] = lambda _: None,
) -> None:
    """Process all items in order, with one thread for each worker.

    After a failure, `cancel` stops the other workers; the first failure is raised.
    """
    waiting = list(items)
    remaining = iter(waiting)
    lock = threading.Lock()
    threads = TaskGroup()

    def run(worker: Worker) -> None:
        while True:
            threads.check()
            with lock:
                try:
                    item = next(remaining)
                except StopIteration:
                    return
            work(item, worker, threads)

    with threads:
        for number, worker in enumerate(workers[: len(waiting)]):
            threads.on_stop(functools.partial(cancel, worker))
            threads.start(functools.partial(run, worker), f"{name}-{number}")
        threads.wait()


def _try(action: Callable[[], None]) -> None:
    """Run a stop action; its failure is ignored because the first failure is reported."""
    with contextlib.suppress(Exception):
        action()
