"""Errors of the server and of the driver as errors of pgkeep."""

import contextlib
import re
from collections.abc import Iterator

import psycopg

from .. import errors as e


def one_line(error: Exception) -> str:
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


def restore_error(error: psycopg.Error, what: str) -> e.RestoreFailed:
    """Translate a server error without its DETAIL and CONTEXT, which can contain rows."""
    message = error.diag.message_primary or one_line(error)
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        message = f"lost the connection to the server: {message}"
    hint = error.diag.message_hint
    if isinstance(error, psycopg.errors.OutOfMemory) and "shared memory" in message:
        hint = "Run ALTER SYSTEM SET max_locks_per_transaction = 1024; and restart the server."
    return e.RestoreFailed(f"{what}: {message}", hint=hint)
