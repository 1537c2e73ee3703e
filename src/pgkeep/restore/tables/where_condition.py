"""Check the condition of --where: it must be one SQL expression by itself.

Between our own parentheses `true) or (true` would be another query, `--` would hide what follows,
and a syntax error would be about our text.
"""

import psycopg
from psycopg import sql

from ... import errors as e
from ...postgres.connection import Connection

_PLACE = "WHERE\n"


def check(connection: Connection, table: sql.Composable, condition: str) -> None:
    """Have the server parse the condition alone; nothing is executed.

    `table` is what stands after FROM. The search path decides what the condition may name.

    Raises:
        UsageError: it is not a condition; names the position.

    """
    start = sql.SQL("SELECT FROM {} " + _PLACE).format(table).as_bytes(connection)
    text = condition.encode(connection.info.encoding)
    # Parentheses that the condition closes itself are an error without ours: it needs no
    # others. What may follow WHERE (ORDER BY, UNION) is an error within them.
    for query in (start + text + b"\n", start + b"(\n" + text + b"\n)"):
        result = connection.pgconn.prepare(b"", query)
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise _error(result, query, len(start), connection.info.encoding)
    if connection.pgconn.describe_prepared(b"").nparams:
        raise e.UsageError("--where: parameter $1 is not allowed")


def embedded(condition: str | None) -> sql.Composable:
    """Return a condition that has been checked as a part of a longer query."""
    return sql.SQL("(\n{}\n)").format(sql.SQL(condition if condition is not None else "true"))


def _error(
    result: psycopg.pq.abc.PGresult, query: bytes, start: int, encoding: str
) -> e.UsageError:
    field = psycopg.pq.DiagnosticField
    message = (result.error_field(field.MESSAGE_PRIMARY) or b"").decode(encoding, "replace")
    hint = result.error_field(field.MESSAGE_HINT)
    position = result.error_field(field.STATEMENT_POSITION)
    if position is None and result.error_field(field.SQLSTATE) == b"42601":
        return e.UsageError("--where: expected one condition, found several statements")
    typed = len(query[start:].decode(encoding, "replace").strip("(\n)"))
    place = ""
    if position is not None:
        before = len(query[:start].decode(encoding, "replace"))
        number = int(position) - before - (2 if query[start:].startswith(b"(\n") else 0)
        place = f" at character {number}" if 0 < number <= typed else " at its end"
    return e.UsageError(
        f"--where{place}: {message}",
        hint=None if hint is None else hint.decode(encoding, "replace"),
    )
