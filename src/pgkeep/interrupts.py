"""Signals that end a run: an exception in the main thread that is not lost, held where necessary.

Python runs a signal handler between two instructions of the main thread, wherever that is. What the
handler raises is ignored in the callback of a weak reference, in `__del__` and in callbacks of C:
`sys.unraisablehook` then has it raised again. Between a system call and the assignment of its
result the exception would lose a file or a process: such places, and all cleaning up, hold signals
until they are done.
"""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

from . import errors as e

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AGAIN = 0.01  # seconds until an exception that was ignored is raised again


class _State:
    """What is known of signals in this process."""

    def __init__(self) -> None:
        self.received: int | None = None  # the first signal
        self.raised = False  # at least once; it may have been ignored
        self.caught = False  # or stored: from here on the run ends by itself
        self.over = False  # the exit code is decided
        self.held = 0  # how many blocks hold signals
        self.done: list[str] = []  # what stays, although the run was ended


_state = _State()


class Interrupted(KeyboardInterrupt):
    """SIGTERM, SIGINT or SIGHUP: end children, remove partial files, exit as the signal would.

    A KeyboardInterrupt, because psycopg then cancels what the server is doing for us.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    def ended(self) -> e.PgkeepError:
        """Return the error to print, which names what was completed before."""
        caught()
        error = e.PgkeepError("; ".join([f"ended by {self}", *_state.done]))
        error.exit_code = 128 + self.number
        return error


def install() -> None:
    """Have signals raise Interrupted in the main thread, except those that are ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup, or a shell's & sets it
            signal.signal(number, _handle)
    signal.signal(signal.SIGALRM, _raise_again)
    sys.unraisablehook = _not_raised


def caught() -> None:
    """Ignore later signals: the exception has arrived, and cleaning up must not be interrupted."""
    _state.caught = True


def over() -> None:
    """Leave the exit code as it is, whatever signal comes now."""
    _state.over = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # Python restores the default handlers


def completed(what: str) -> None:
    """Note what stays if a signal ends the run; its last line says so."""
    _state.done.append(what)


def pending() -> bool:
    """Tell whether a signal has arrived, for code that holds signals."""
    return _state.received is not None


def check() -> None:
    """Raise what has arrived and was lost, before the next piece of work is started."""
    if _is_main() and _state.received is not None and not _state.caught:
        raise Interrupted(_state.received)


class held:  # noqa: N801 - reads like the function that it stands for
    """Hold signals while a block runs; raise at its end what has arrived meanwhile."""

    def __enter__(self) -> Self:
        if _is_main():
            _state.held += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not _is_main():
            return
        _state.held -= 1
        if _state.received is not None and _is_wanted():
            _state.raised = True
            raise Interrupted(_state.received)


def _is_main() -> bool:
    return threading.get_ident() == _MAIN


_MAIN = threading.main_thread().ident


def _handle(number: int, frame: FrameType | None) -> None:
    del frame
    if _state.received is None:
        _state.received = number
    if not _is_wanted():
        return
    if _state.raised:
        # On its way perhaps; if it was lost, it is raised again.
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        return
    _state.raised = True
    raise Interrupted(_state.received)


def _raise_again(number: int, frame: FrameType | None) -> None:
    del number, frame
    if _state.received is not None and _is_wanted():
        raise Interrupted(_state.received)


def _is_wanted() -> bool:
    """Tell whether the exception may be raised now, and nobody handles it already."""
    if _state.over or _state.caught or _state.held:
        return False
    return not _is_ours(sys.exc_info()[1])


def _is_ours(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, Interrupted):
            return True
        error = error.__context__
    return False


def _not_raised(args: "sys.UnraisableHookArgs") -> None:
    """Have an exception of ours, which Python can only ignore here, raised elsewhere."""
    if not _is_ours(args.exc_value):
        sys.__unraisablehook__(args)
    elif not _state.over:
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
