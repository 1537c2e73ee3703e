"""Run programs with a clean environment; their messages become errors."""

import atexit
import collections
import contextlib
import fcntl
import functools
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from . import errors as e
from . import interrupts

_log = logging.getLogger(__name__)

CAUSE_LIMIT = 3  # lines of the first error
WARNINGS_LIMIT = 100  # of one program; they are stored in the manifest

# Variables that a child inherits: libpq's settings, the locale, paths of its own files. It must not
# see any others, above all no cloud credentials (trap A1.9).
INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_.*|TZ|TMPDIR|SSL_CERT_.*|KRB5.*|LOCPATH|LD_LIBRARY_PATH"
)


@contextlib.contextmanager
def in_long_slices() -> Iterator[None]:
    """Let the threads and programs that are started here run in longer time slices.

    They pass much data through pipes. By default, Linux interrupts a process to run the one that it
    has just written for; with SCHED_BATCH it does not (sched(7)), which saves switches and misses
    of the caches. Another policy that was chosen for us stays.
    """
    try:
        usual = os.sched_getscheduler(0) == os.SCHED_OTHER
        if usual:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except (AttributeError, OSError):  # not Linux, or forbidden in a container
        usual = False
    try:
        yield
    finally:
        if usual:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child: harmless variables of ours, and the given settings."""
    kept = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
    lc_all = kept.pop("LC_ALL", None)  # would have priority over LC_MESSAGES
    if lc_all:
        kept["LC_CTYPE"] = lc_all
    # The messages of programs are searched for words, so they must be in English.
    return {"HOME": "/nonexistent", **kept, "LC_MESSAGES": "C", **extra}


_alive: set["subprocess.Popen[bytes]"] = set()


@atexit.register
def kill_all() -> None:
    """End all children, also those that a signal separated from the code that would do it."""
    for process in list(_alive):
        process.kill()


class Child:
    """A running program, with pipes for input and output; keeps its messages.

    Standard error is read continuously, because the program would block when that pipe is full
    (trap B30). Its first error and its last lines become the error's message: an error can be
    followed by many lines, such as the statement that failed.
    """

    def __init__(
        self,
        command: Sequence[str | bytes],
        environment: Mapping[str, str],
        descriptors: Iterable[int] = (),
        *,
        with_input: bool = False,
    ) -> None:
        self.name = Path(os.fsdecode(command[0])).name
        self.warnings: list[str] = []
        self._cause: list[str] = []  # the first error, with its detail and hint
        self._complaints: collections.deque[str] = collections.deque(maxlen=20)  # the last lines
        with interrupts.held():
            self._process = subprocess.Popen(
                [*_buffered(), *command],
                stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment),
                pass_fds=tuple(descriptors),
                start_new_session=True,  # pgkeep handles the terminal's ^C, not the child
                bufsize=0,
            )
            _alive.add(self._process)
        self._since = time.monotonic()
        _log.debug("started %s, process %d", self.name, self._process.pid)
        assert self._process.stdout is not None  # noqa: S101
        self.output = self._process.stdout.fileno()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            # Fewer and larger reads; without permission the default size is used.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.output, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def read(self, size: int = 1 << 20) -> bytes:
        """Return some output; empty at the end."""
        return os.read(self.output, size)

    def write(self, data: bytes) -> None:
        """Write to the program's input; if the program has ended, `finish` reports why."""
        assert self._process.stdin is not None  # noqa: S101
        view = memoryview(data)
        try:
            while view:
                view = view[self._process.stdin.write(view) :]
        except BrokenPipeError:
            raise self.failure() from None

    def end_input(self) -> None:
        """Close the program's input."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def finish(self) -> None:
        """Close the input and wait for the end; raise ProgramFailed if the program failed."""
        self.end_input()
        status = self._process.wait()
        _log.debug("%s ended with status %d after %.1f s", self.name, status, self._age())
        if status != 0:
            raise self.failure()
        self._listener.join()

    def _age(self) -> float:
        return time.monotonic() - self._since

    def failure(self) -> e.ProgramFailed:
        """Return the error that reports how the program ended, with its last messages."""
        status = self._process.wait()
        self._listener.join(timeout=5)
        how = f"exit status {status}" if status >= 0 else f"signal {-status}"
        last = list(self._complaints)
        cause = [line for line in self._cause if line not in last]
        return e.ProgramFailed(self.name, how, [*cause, *last], self._cause)

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self._process.poll() is None

    def interrupt(self) -> None:
        """Ask the program to end, as ^C does."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill the program; its results are no longer needed."""
        self._process.kill()

    def close(self) -> None:
        """Release everything: process, pipes, thread."""
        with interrupts.held():
            self._process.kill()
            self._process.wait()
            _alive.discard(self._process)
            self._listener.join(timeout=5)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> None:
        assert self._process.stderr is not None  # noqa: S101
        with io.TextIOWrapper(self._process.stderr, "utf-8", "replace") as lines:
            for line in lines:
                text = line.rstrip()
                if "warning: " in text:
                    if len(self.warnings) < WARNINGS_LIMIT:
                        self.warnings.append(text.partition("warning: ")[2])
                elif _is_complaint(text):
                    self._complaints.append(text)
                    if _is_cause(text, self._cause):
                        self._cause.append(text)


@functools.lru_cache
def _buffered() -> tuple[str, ...]:
    """Return the prefix that makes a program write in large pieces, if coreutils are installed.

    The C library writes 4 kB at a time into a pipe. A third of the CPU time of a dump was spent on
    these calls and on reading so many pieces.
    """
    stdbuf = shutil.which("stdbuf")
    return (stdbuf, "-o256K") if stdbuf else ()


def _is_cause(line: str, before: Sequence[str]) -> bool:
    """Whether a line is the program's first error, or belongs to it."""
    if not before:
        return re.match(r"pg_\w+: error: |psql:.* (ERROR|FATAL):  ", line) is not None
    return len(before) < CAUSE_LIMIT and re.match(r"pg_\w+: (detail|hint): ", line) is not None


def _is_complaint(line: str) -> bool:
    """Whether a line of stderr is kept: no progress, and no row of a table."""
    if line.startswith(("CONTEXT:", "DETAIL:  Failing row")):
        return False
    return re.match(r"pg_\w+: (?!error|hint|detail)", line) is None


def run(command: Sequence[str], extra: Mapping[str, str], failure: type[e.PgkeepError]) -> bytes:
    """Run a program to its end; return its output.

    Raises:
        PgkeepError: it failed, as an error of the given class.

    """
    with Child(command, environment(dict(extra))) as child:
        output = b"".join(iter(child.read, b""))
        try:
            child.finish()
        except e.ProgramFailed as error:
            raise failure(error.message) from error
    return output
