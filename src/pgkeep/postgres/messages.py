"""Errors of the server and of the driver as errors of pgkeep."""

import contextlib
import re
from collections.abc import Iterator

import psycopg

from .. import errors as e


def one_line(error: Exception | str) -> str:
    """Return libpq's message, which can have several lines, as one line."""
    return re.sub(r"\s*\n\s*", "; ", str(error).strip())


def server_error(error: psycopg.Error, kind: type[e.PgkeepError] = e.DumpFailed) -> e.PgkeepError:
    """Translate an unexpected error of the server."""
    # A deadlock, for example, is an OperationalError with a code that keeps the connection intact.
    # With 57P01 and similar codes, the server ends the connection.
    state = error.sqlstate or "57P"
    if isinstance(error, psycopg.OperationalError) and state.startswith("57P"):
        return kind(f"lost the connection to the server: {one_line(error)}")
    return kind(f"the server refused: {error.diag.message_primary or error}")


@contextlib.contextmanager
def translated(kind: type[e.PgkeepError] = e.DumpFailed) -> Iterator[None]:
    """Raise errors of the server as errors of pgkeep."""
    try:
        yield
    except psycopg.Error as error:
        raise server_error(error, kind) from error


def is_lock_table_full(said: str) -> bool:
    """Whether an error says that the lock table is full: its hint has this word in any language."""
    return "max_locks_per_transaction" in said


LOCK_TABLE_HINT = (
    "The lock table of the server is full. Double max_locks_per_transaction, whose value SHOW"
    " max_locks_per_transaction; prints, with ALTER SYSTEM, and restart the server."
)


def restore_error(
    error: psycopg.Error, what: str, kind: type[e.RestoreFailed] = e.RestoreFailed
) -> e.RestoreFailed:
    """Translate a server error without its DETAIL and CONTEXT, which can contain rows."""
    message = error.diag.message_primary or one_line(error)
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        message = f"lost the connection to the server: {message}"
    hint = error.diag.message_hint
    if is_lock_table_full(hint or ""):
        hint = LOCK_TABLE_HINT
    return kind(f"{what}: {message}", hint=hint)
