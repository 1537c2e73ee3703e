"""Take locks on tables that others use: short waits, nothing held between them, within a limit.

A session that waits for an exclusive lock makes every later session wait, also readers. So a wait
is short. A step that gives up releases all its locks, and the others go first.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg

from ... import errors as e
from ...postgres.connection import Connection

WAIT = 500  # milliseconds for one lock
PAUSE = 1.0  # seconds in which sessions that have queued behind us go on

T = TypeVar("T")

_HOLDERS = """
SELECT DISTINCT l.relation::pg_catalog.regclass::pg_catalog.text, a.pid, a.usename, a.state,
       a.application_name
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.relation = ANY (%s) AND a.pid <> pg_catalog.pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_catalog.pg_database
                    WHERE datname = pg_catalog.current_database())
ORDER BY 1, 2 LIMIT 4
"""


def within(
    connection: Connection,
    seconds: float,
    step: Callable[[], T],
    tables: Callable[[], Sequence[int]],
) -> T:
    """Execute a step of a transaction, again as long as it does not get its locks.

    Raises:
        RestoreFailed: not within this time; names who holds locks on the tables.

    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = {WAIT}".encode())
                result = step()
                connection.execute("SET LOCAL lock_timeout = 0")
                return result
        except (psycopg.Error, e.RestoreFailed) as error:
            if not _is_of_lock(error):
                raise
            if time.monotonic() + PAUSE > deadline:
                raise _given_up(connection, seconds, tables()) from error
        time.sleep(PAUSE)


def _is_of_lock(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, e.RestoreFailed) else error
    return isinstance(cause, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected)


def _given_up(connection: Connection, seconds: float, tables: Sequence[int]) -> e.RestoreFailed:
    holders = [
        f"{table} by process {pid} of {role} ({', '.join(filter(None, (application, state)))})"
        for table, pid, role, state, application in connection.execute(_HOLDERS, [list(tables)])
    ]
    locked = f"; locked: {'; '.join(holders)}" if holders else ""
    return e.RestoreFailed(
        f"locks were not available within {seconds:g} s; nothing was changed{locked}",
        hint="End the transactions of these sessions, or increase --lock-timeout.",
    )
