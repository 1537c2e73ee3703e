"""What people and machines read while a command runs: lines of text, or of JSON.

Results go to standard output; everything here goes to standard error.
"""

import json
import sys
from datetime import UTC, datetime
from typing import Literal

import click

from .. import errors as e
from .. import progress

Level = Literal["info", "warning", "error"]


class Output:
    """Where a command tells what happens."""

    def __init__(self, style: str = "text") -> None:
        self.style = style

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
        click.echo(f"error: {error.message}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)

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
        return progress.Silent() if silent else progress.create(self.info, sys.stderr)

    def _line(self, level: Level, text: str) -> None:
        if self.style == "json":
            self._json(level, text)
        elif level == "info":
            click.echo(f"{datetime.now().astimezone():%H:%M:%S} {text}", err=True)
        else:
            click.echo(f"{level}: {text}", err=True)

    def _json(self, level: Level, text: str, **more: object) -> None:
        record = {"time": datetime.now(UTC).isoformat(), "level": level, "message": text, **more}
        click.echo(json.dumps(record), err=True)


def current() -> Output:
    """Return the output of the running command."""
    output = click.get_current_context().find_object(Output)
    return output if output is not None else Output()
