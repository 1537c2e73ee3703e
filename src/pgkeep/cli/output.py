"""What people and machines read: results, and what happens meanwhile, as text or as JSON.

Results go to standard output (`say`, `show`, `sql`), what happens to standard error. Everything is
printed here, for names and messages of others may hold what a terminal obeys: it is escaped, and
each text is a line. JSON has an escape of its own.
"""

import contextlib
import sys
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import click

from .. import errors as e
from .. import progress
from ..terminal import harmless, printable

Level = Literal["info", "warning", "error"]
REMEMBERED = 100  # lines


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


def show(lines: Iterable[str]) -> None:
    """Print several lines at once: each call writes through."""
    click.echo("\n".join(map(printable, lines)))


def sql(block: bytes) -> None:
    """Write SQL or rows: as they are into files and pipes, escaped to a terminal."""
    sys.stdout.buffer.write(harmless(block) if sys.stdout.isatty() else block)


def ask(question: str) -> bool:
    """Ask whether to go on."""
    return click.confirm(printable(question))


class Output:
    """Where a command tells what happens."""

    def __init__(self, style: str = "text") -> None:
        self.style = style
        self.printed = False  # whether standard output has its one JSON document
        self.tail: deque[str] = deque(maxlen=REMEMBERED)  # of what was told

    def info(self, text: str) -> None:
        """Tell what is being done."""
        self._line("info", text)

    def warning(self, text: str) -> None:
        """Tell what one should know."""
        self._line("warning", text)

    def failed(self, error: e.PgkeepError) -> None:
        """Tell, as the last thing of all, why the command failed."""
        if self.style == "json":
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
        """Tell, as the last thing of all, that the command has done its work.

        With --json, standard output holds one document and nothing else.
        """
        if self.style == "json":
            self._json("info", text, hint=None, exit_code=0)
        else:
            say(f"done: {text}", err=as_json)

    def progress(self, *, silent: bool) -> progress.Silent:
        """Return what tells how far a command is."""
        if silent:
            return progress.Silent()
        if self.style == "json":
            return progress.Lines(self.info)  # a bar is no JSON, on a terminal either
        return progress.create(self.info, sys.stderr)

    def _line(self, level: Level, text: str) -> None:
        self.tail.append(f"{datetime.now().astimezone():%H:%M:%S} {level}: {printable(text)}")
        if self.style == "json":
            self._json(level, text)
        elif level == "info":
            _tell(f"{datetime.now().astimezone():%H:%M:%S} {text}")
        else:
            _tell(f"{level}: {text}")

    def _json(self, level: Level, text: str, **more: object) -> None:
        import json  # noqa: PLC0415 - few ask for it

        record = {"time": datetime.now(UTC).isoformat(), "level": level, "message": text, **more}
        _tell(json.dumps(record))


def _tell(text: str) -> None:
    """Write a line to standard error; that nobody reads it is no reason to end a backup."""
    with contextlib.suppress(OSError):
        click.echo(printable(text), err=True)


def current() -> Output:
    """Return the output of the running command."""
    output = click.get_current_context().find_object(Output)
    return output if output is not None else Output()
