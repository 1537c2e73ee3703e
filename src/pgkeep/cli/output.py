"""What people and machines read while a command runs: lines of text, or of JSON.

Results go to standard output; everything here goes to standard error.
"""

import contextlib
import sys
from collections import deque
from datetime import UTC, datetime
from typing import Literal

import click

from .. import errors as e
from .. import progress

Level = Literal["info", "warning", "error"]
REMEMBERED = 100  # lines


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
            self._json("error", error.message, hint=error.hint, exit_code=error.exit_code)
            return
        _tell(f"error: {error.message}")
        if error.hint:
            _tell(f"hint: {error.hint}")

    def done(self, text: str, *, as_json: bool = False) -> None:
        """Tell, as the last thing of all, that the command has done its work.

        With --json, standard output holds one document and nothing else.
        """
        if self.style == "json":
            self._json("info", text, hint=None, exit_code=0)
        else:
            click.echo(f"done: {text}", err=as_json)

    def progress(self, *, silent: bool) -> progress.Silent:
        """Return what tells how far a command is."""
        if silent:
            return progress.Silent()
        if self.style == "json":
            return progress.Lines(self.info)  # a bar is no JSON, on a terminal either
        return progress.create(self.info, sys.stderr)

    def _line(self, level: Level, text: str) -> None:
        self.tail.append(f"{datetime.now().astimezone():%H:%M:%S} {level}: {text}")
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
        click.echo(text, err=True)


def current() -> Output:
    """Return the output of the running command."""
    output = click.get_current_context().find_object(Output)
    return output if output is not None else Output()
