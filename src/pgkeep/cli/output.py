"""What people and machines read: results, and what happens meanwhile, as text or as JSON.

Results go to standard output (`say`, `show`, `note`, `sql`), everything else to standard error.
Everything is printed here: names and messages of others can contain what a terminal obeys, so they
are escaped, and each text is one line. JSON has its own escapes.
"""

import contextlib
import sys
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Any, Literal

import click

from .. import errors as e
from .. import progress
from ..run_id import run_id
from ..terminal import harmless, printable
from .events import Event

Level = Literal["info", "warning", "error"]
_EVENTS: dict[Level, Event] = {"info": Event.INFO, "warning": Event.WARNING, "error": Event.ERROR}
REMEMBERED = 100  # lines
WIDTH = 80  # of tables and paragraphs


class Verbosity(Enum):
    """How much a command prints about its work."""

    QUIET = "quiet"  # warnings, errors, and the output that was asked for
    NORMAL = "normal"
    VERBOSE = "verbose"  # also programs and connections, and the time of each step


class Styled(str):
    """A text that may be printed as it is: escaped, then coloured."""

    __slots__ = ()


def style(text: str, **how: Any) -> Styled:
    """Return a text in colour."""
    return Styled(click.style(printable(text), **how))


def say(*parts: str, err: bool = False) -> None:
    """Print one line."""
    texts = (part if isinstance(part, Styled) else printable(part) for part in parts)
    click.echo("".join(texts), err=err)


def note(*parts: str, err: bool = False) -> None:
    """Print one line about what was done, unless --quiet is given."""
    if current().verbosity != Verbosity.QUIET:
        say(*parts, err=err)


def plugin(line: str) -> None:
    """Print the line of a monitoring plugin; if nobody reads it, the exit code is enough."""
    with contextlib.suppress(OSError):
        say(line)


def show(lines: Iterable[str]) -> None:
    """Print several lines at once: each call writes through."""
    click.echo("\n".join(map(printable, lines)))


def sql(block: bytes) -> None:
    """Write SQL or rows: as they are into files and pipes, escaped to a terminal."""
    sys.stdout.buffer.write(harmless(block) if sys.stdout.isatty() else block)


def ask(question: str) -> bool:
    """Ask whether to go on; the default is no. Every question of pgkeep is asked here."""
    with current().display.paused():
        return click.confirm(printable(question), prompt_suffix=" ")


def ask_secret(prompt: str) -> str:
    """Ask for a text that is not shown while it is typed."""
    with current().display.paused():
        text: str = click.prompt(printable(prompt), hide_input=True, default="", show_default=False)
    return text


class Output:
    """Where a command prints what happens."""

    def __init__(self, style: str = "text") -> None:
        self.style = style
        self.verbosity = Verbosity.NORMAL
        self.printed = False  # whether standard output has its one JSON document
        self.tail: deque[str] = deque(maxlen=REMEMBERED)  # the last lines
        self._about: dict[str, str | None] = dict.fromkeys(("target", "cluster", "database"))
        self._open = False  # whether a run has started and not ended
        self.display = progress.Silent()  # the last one

    def about(self, **names: str | None) -> None:
        """Set the target, cluster or database that the next events are about."""
        self._about |= names

    def info(self, text: str) -> None:
        """Print what is being done, unless --quiet is given."""
        self._line("info", text)

    def warning(self, text: str, **more: object) -> None:
        """Print a warning; only events have more than the text."""
        self._line("warning", text, **more)

    def event(self, event: Event, text: str, level: Level = "info", **more: object) -> None:
        """Print an event for machines; people get no line."""
        if self.style == "json" and (level != "info" or self.verbosity != Verbosity.QUIET):
            self._json(level, text, event=event, **more)

    def started(self, command: str, version: str) -> None:
        """Print that a command starts, for machines."""
        self._open = True
        self.event(Event.RUN_STARTED, command, version=version)

    def ended(self, code: int) -> None:
        """Print that a command has ended, for machines, if it has not reported it itself."""
        if self._open:
            self._open = False
            self.event(Event.RUN_FINISHED, "done", hint=None, exit_code=code)

    def log(self) -> None:
        """Print the debug messages of the library as well, for --verbose."""
        import logging  # noqa: PLC0415 - few ask for it

        self.log_warnings()
        logging.getLogger("pgkeep").setLevel(logging.DEBUG)

    def log_warnings(self) -> None:
        """Print the warnings of the library when they happen."""
        import logging  # noqa: PLC0415 - few ask for it

        class Handler(logging.Handler):
            def emit(handler, record: logging.LogRecord) -> None:  # noqa: N805
                show = self.warning if record.levelno >= logging.WARNING else self.info
                show(record.getMessage())

        logging.getLogger("pgkeep").handlers[:] = [Handler()]
        logging.getLogger("pgkeep").propagate = False

    def capture(self) -> None:
        """Print warnings of Python and of other libraries as events."""
        import logging  # noqa: PLC0415 - few ask for it

        class Handler(logging.Handler):
            def emit(handler, record: logging.LogRecord) -> None:  # noqa: N805
                self.warning(record.getMessage().strip(), logger=record.name)

        logging.captureWarnings(capture=True)
        logging.getLogger().handlers[:] = [Handler(logging.WARNING)]

    def failed(self, error: e.PgkeepError) -> None:
        """Print, as the last line, why the command failed."""
        if self.style == "json":
            self._open = False
            details = {"details": error.details} if error.details else {}
            self._json(
                "error", error.message, hint=error.hint, exit_code=error.exit_code, **details
            )
            return
        _tell(f"error: {error.message}")
        for detail in error.details:
            _tell(f"    {detail}")
        for number, line in enumerate((error.hint or "").splitlines()):
            _tell(f"{'      ' if number else 'hint: '}{line}")

    def done(self, text: str, *, as_json: bool = False) -> None:
        """Print, as the last line, that the command succeeded, unless --quiet is given.

        With --json, standard output contains one document and nothing else.
        """
        if self.verbosity == Verbosity.QUIET:
            return
        if self.style == "json":
            self._open = False
            self._json("info", text, event=Event.RUN_FINISHED, hint=None, exit_code=0)
        else:
            say(f"done: {text}", err=as_json)

    def _create_display(self, *, silent: bool) -> progress.Silent:
        if silent or self.verbosity == Verbosity.QUIET:
            return progress.Silent()
        verbose = self.verbosity == Verbosity.VERBOSE
        if verbose or self.style == "json":  # a bar is no JSON, even on a terminal
            every = progress.EVERY if sys.stderr.isatty() else progress.LOG_EVERY
            return progress.Lines(
                partial(self._line, "info", event=Event.STEP),
                partial(self._line, "info", event=Event.PROGRESS),
                every,
                with_times=verbose,
            )
        return progress.create(self.info, sys.stderr)

    def progress(self, *, silent: bool) -> progress.Silent:
        """Return the progress display of a command."""
        self.display = self._create_display(silent=silent)
        return self.display

    def _line(self, level: Level, text: str, **more: object) -> None:
        self.tail.append(f"{datetime.now().astimezone():%H:%M:%S} {level}: {printable(text)}")
        if level == "info" and self.verbosity == Verbosity.QUIET:
            return
        if self.style == "json":
            self._json(level, text, **more)
        elif level == "info":
            _tell(f"{datetime.now().astimezone():%H:%M:%S} {text}")
        else:
            _tell(f"{level}: {text}")

    def _json(self, level: Level, text: str, **more: object) -> None:
        import json  # noqa: PLC0415 - few ask for it

        record = {
            "time": datetime.now(UTC).isoformat(),
            "level": level,
            "event": _EVENTS[level],
            "run": run_id(),
            **self._about,
            "message": text,
            **more,
        }
        _tell(json.dumps(record))


def _tell(text: str) -> None:
    """Write a line to standard error. If nobody reads it, that is no reason to end a backup."""
    with contextlib.suppress(OSError):
        click.echo(printable(text), err=True)


def current() -> Output:
    """Return the output of the running command."""
    output = click.get_current_context().find_object(Output)
    return output if output is not None else Output()
