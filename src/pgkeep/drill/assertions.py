"""Run assertions on a restored database: SQL files of the user whose queries must return true."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from .. import errors as e
from ..postgres.connection import Connection, Endpoint
from .checks import DrillCheck

SHOWN = 60  # characters of a statement in a message

# What a semicolon ends no statement in (manual, section 4.1, "Lexical Structure"), and the comments
# that may nest.
_TOKEN = re.compile(
    r"""--[^\n]*|/\*|[eE]'(?:\\.|''|[^'\\])*'|'(?:''|[^'])*'|"(?:""|[^"])*"
    |(?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$|;""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """A query that must return exactly one row with one true value."""

    file: str
    number: int  # in the file, from 1
    statement: str

    @property
    def name(self) -> str:
        """How messages call it."""
        text = " ".join(self.statement.split())
        shown = text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
        return f"{Path(self.file).name}, statement {self.number} ({shown})"


def read(paths: Iterable[Path]) -> list[Assertion]:
    """Read files of statements.

    Raises:
        UsageError: one cannot be read, or has no statement.

    """
    found: list[Assertion] = []
    for path in paths:
        try:
            statements = list(split(path.read_text("utf-8-sig")))
        except OSError as error:
            raise e.UsageError(f"could not read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise e.UsageError(f"{path} is not UTF-8") from error
        if not statements:
            raise e.UsageError(
                f"{path} has no statement",
                hint="Write queries that return one row with one true value each.",
            )
        found += [
            Assertion(file=str(path), number=number, statement=statement)
            for number, statement in enumerate(statements, 1)
        ]
    return found


def split(text: str) -> Iterator[str]:
    """Yield the statements of a script, without those that hold nothing but comments."""
    begin = position = 0
    said = False  # whether there is more than comments
    while match := _TOKEN.search(text, position):
        said |= bool(text[position : match.start()].strip())
        position = match.end()
        found = match.group()
        if found == ";":
            if said:
                yield text[begin : match.start()].strip()
            begin, said = position, False
        elif found == "/*":
            position = _end_of_comment(text, position)
        elif not found.startswith("--"):
            said = True
    if said or text[position:].strip():
        yield text[begin:].strip()


def _end_of_comment(text: str, position: int) -> int:
    depth = 1
    while match := _COMMENT.search(text, position):
        position = match.end()
        depth += 1 if match.group() == "/*" else -1
        if not depth:
            return position
    return len(text)


def check(endpoint: Endpoint, assertions: Sequence[Assertion], timeout: float) -> DrillCheck:
    """Ask every question, each in a transaction of its own that may not write.

    Raises:
        ConnectionFailed: the database cannot be reached.

    """
    findings = []
    for assertion in assertions:
        # A connection each: what one sets, or breaks, is nothing to the next.
        with endpoint.connect() as connection:
            problem = _ask(connection, assertion.statement, timeout)
        if problem is not None:
            findings.append(f"assertion {assertion.name}: {problem}")
    return DrillCheck(name="assertions", checked=len(assertions), findings=findings)


def _ask(connection: Connection, statement: str, timeout: float) -> str | None:
    """Return what is wrong with the answer."""
    try:
        # Names are looked up as the application's are.
        connection.execute("RESET search_path")
        connection.execute("BEGIN READ ONLY")
        connection.execute(f"SET LOCAL statement_timeout = {round(timeout * 1000)}".encode())
        cursor = connection.execute(statement.encode())
        if cursor.description is None:
            return "it returns no rows"
        rows = cursor.fetchmany(2)
    except psycopg.errors.QueryCanceled:
        return f"no answer within {timeout:g} s"
    except psycopg.Error as error:
        return error.diag.message_primary or str(error).strip()
    if cursor.rowcount != 1 or len(rows[0]) != 1:
        width = len(cursor.description)
        return f"{cursor.rowcount} rows of {width} columns, expected one true value"
    if rows[0][0] is not True:
        return f"it is {_shown(rows[0][0])}"
    return None


def _shown(value: object) -> str:
    if value is None:
        return "null"
    return "false" if value is False else "not a boolean"
