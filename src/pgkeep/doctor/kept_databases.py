"""Databases that a swap replaced, or that wait for one, and that nobody has dropped."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from .. import progress
from ..backup.findings import Finding
from ..postgres.connection import Connection
from ..postgres.database_names import State, dated
from ..postgres.facts import shared_rows
from ..sql.statements import quoted

KEPT = timedelta(days=7)  # in which an undo, or a swap, is to be expected

_QUERY = """
SELECT datname, CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT')
    THEN pg_catalog.pg_database_size(oid) END
FROM pg_catalog.pg_database ORDER BY datname
"""


def examine(connection: Connection, now: datetime) -> Iterator[Finding]:
    """Yield a warning for each that is older than a week, with its size."""
    for name, size in shared_rows(connection, _QUERY):
        found = dated(name)
        if found is None or now - found[1] < KEPT:
            continue
        state, since = found
        takes = "" if size is None else f" ({progress.size(size)})"
        day = f"{since.astimezone(UTC):%Y-%m-%d}"
        yield Finding(
            "warning",
            f"database {name} was replaced by a restore on {day} and still exists{takes}"
            if state == State.OLD
            else f"database {name} was restored on {day} and still waits for a swap{takes}",
            f"If you no longer need it, drop it: DROP DATABASE {quoted(name)};",
        )
