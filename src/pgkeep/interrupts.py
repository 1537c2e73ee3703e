"""Signals that end a run: raise an exception in the main thread, and hold signals where necessary.

Python runs a signal handler between any two instructions of the main thread. An exception that the
handler raises is ignored in callbacks of weak references, in `__del__` and in callbacks from C; in
these cases `sys.unraisablehook` raises it again later. Between a system call and the assignment of
its result, the exception would leak a file or a process. Therefore such code, and all cleanup,
holds signals until it is done.
"""

import signal
import sys
import threading
from types import FrameType
from typing import Self

from . import errors as e

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AGAIN = 0.01  # seconds until an ignored exception is raised again


class _State:
    """The signal state of this process."""

    def __init__(self) -> None:
        self.received: int | None = None  # the first signal
        self.raised = False  # at least once; Python can have ignored it
        self.caught = False  # or stored: the run ends from here on
        self.over = False  # the exit code is decided
        self.held = 0  # number of active `held` blocks
        self.done: list[str] = []  # results that remain although the run was ended


_state = _State()


class Interrupted(KeyboardInterrupt):
    """SIGTERM, SIGINT or SIGHUP: stop children, remove partial files, exit as the signal would.

    Derived from KeyboardInterrupt, because psycopg then cancels the running query.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    def ended(self) -> e.PgkeepError:
        """Return the error to print, which lists what was completed before."""
        caught()
        error = e.PgkeepError("; ".join([f"ended by {self}", *_state.done]))
        error.exit_code = 128 + self.number
        return error


def install() -> None:
    """Make signals raise Interrupted in the main thread, except signals that are ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # set by nohup, or by a shell's &
            signal.signal(number, _handle)
    signal.signal(signal.SIGALRM, _raise_again)
    sys.unraisablehook = _not_raised


def caught() -> None:
    """Ignore later signals: the exception has arrived, and cleanup must not be interrupted."""
    _state.caught = True


def over() -> None:
    """Keep the exit code, whatever signal arrives from now on."""
    _state.over = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # Python restores the default handlers


def completed(what: str, instead_of: str | None = None) -> None:
    """Record a result that remains if a signal ends the run; the last line of output lists it.

    It can take the place of an earlier result.
    """
    if instead_of in _state.done:
        _state.done.remove(instead_of)
    _state.done.append(what)


def pending() -> bool:
    """Whether a signal has arrived, for code that holds signals."""
    return _state.received is not None


def check() -> None:
    """Raise a signal's exception that was lost, before the next step starts."""
    if _is_main() and _state.received is not None and not _state.caught:
        raise Interrupted(_state.received)


class held:  # noqa: N801 - reads like the function that it stands for
    """Hold signals while a block runs; if one arrived meanwhile, raise at the end of the block."""

    def __enter__(self) -> Self:
        if _is_main():
            _state.held += 1
        return self

    def __exit__(self, *_: object) -> None:
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
        # The exception can be on its way; if Python ignored it, the timer raises it again.
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
        return
    _state.raised = True
    raise Interrupted(_state.received)


def _raise_again(number: int, frame: FrameType | None) -> None:
    del number, frame
    if _state.received is not None and _is_wanted():
        raise Interrupted(_state.received)


def _is_wanted() -> bool:
    """Whether the exception can be raised now and is not being handled already."""
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
    """Raise our exception again elsewhere, because Python ignores it here."""
    if not _is_ours(args.exc_value):
        sys.__unraisablehook__(args)
    elif not _state.over:
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
