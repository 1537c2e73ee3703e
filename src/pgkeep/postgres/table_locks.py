"""Lock many tables without making other sessions wait.

A session that requests an exclusive lock waits for those who hold the table, and everybody who
needs the table afterwards waits behind it. A session that waits for one table while it holds others
therefore stops readers of those others, as soon as an ALTER of one of them is queued. Therefore a
try takes all tables that are free and does not wait. If one is not free, all locks are released,
and that table is waited for alone, while nothing else is held (traps A6.2, D30).
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from .. import errors as e
from .connection import Connection

LOCK_BATCH = 1000  # tables in one LOCK statement
# Seconds that one try can wait, with locks on other tables, for tables that were busy before. It
# grows: two tables that are often busy are hardly ever free at the same time. It stays below
# deadlock_timeout (1 s by default), after which the server looks for deadlocks, logs the wait, and
# cancels an autovacuum that is in the way.
SHORTEST_WAIT = 0.05
LONGEST_WAIT = 0.9

# Errors of LOCK TABLE if a table, or its schema, was dropped, renamed or replaced by another object
# with its name after it was listed.
CAME_AND_WENT = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.WrongObjectType,
    psycopg.errors.DeadlockDetected,
)


@dataclass(frozen=True, slots=True)
class LockedTable:
    """A table to lock: its OID, and its name as SQL in the database's encoding and for people."""

    oid: int
    sql: bytes
    label: str


class LockBudget:
    """The seconds that a backup can spend on locking, in all its attempts together."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._spent = 0.0
        self._since: float | None = None

    @property
    def left(self) -> float:
        """Seconds that remain; not above zero if none do."""
        running = 0.0 if self._since is None else time.monotonic() - self._since
        return self.seconds - self._spent - running

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time of a block."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._spent += time.monotonic() - self._since
            self._since = None


class TableLocker:
    """Repeated tries to lock all tables, within a budget."""

    def __init__(self, connection: Connection, budget: LockBudget) -> None:
        self._connection = connection
        self._budget = budget
        self._busy: list[int] = []  # OIDs of tables that were not free in an earlier try
        self._patience = 0.0
        self._began = 0.0

    def lock(self, listed: Sequence[LockedTable]) -> None:
        """Lock all tables in the current transaction.

        Tables that were busy before come first, so that few locks are held while they are waited
        for. All others are locked only if they are free.

        Raises:
            psycopg.errors.LockNotAvailable: a table is busy; roll back, and call `step_aside`.

        """
        self._began = time.monotonic()
        self._use_encoding_of_server()
        by_oid = {table.oid: table for table in listed}
        for oid in self._busy:
            if oid in by_oid:
                self._wait_for(by_oid[oid], self._patience - (time.monotonic() - self._began))
        for start in range(0, len(listed), LOCK_BATCH):
            names = b", ".join(b"ONLY " + table.sql for table in listed[start : start + LOCK_BATCH])
            self._connection.execute(b"LOCK TABLE " + names + b" IN ACCESS SHARE MODE NOWAIT")
        self._connection.execute("SET LOCAL client_encoding = 'UTF8'")

    def step_aside(self, listed: Sequence[LockedTable]) -> None:
        """Let others have their turn after a try has failed, and wait for the table it failed for.

        Raises:
            DumpFailed: the budget is spent; the message names the table and who holds it.

        """
        held = time.monotonic() - self._began
        by_oid = {table.oid: table for table in listed}
        found = _holder(self._connection, list(by_oid))
        if self._budget.left <= 0:
            raise self._failure(by_oid, found)
        # Longer than our locks were held, so that sessions that queued behind them can finish.
        pause = max(SHORTEST_WAIT, held) * random.uniform(1, 2)  # noqa: S311 - out of step
        time.sleep(min(pause, max(0.0, self._budget.left)))
        self._patience = min(LONGEST_WAIT, max(SHORTEST_WAIT, 2 * self._patience))
        if found is None:
            return
        if found.relation not in self._busy:
            self._busy.append(found.relation)
        self._wait_alone(by_oid, found.relation)

    def _wait_alone(self, by_oid: dict[int, LockedTable], oid: int) -> None:
        """Wait until a table can be locked, and release it: nobody waits for us meanwhile."""
        self._connection.execute("BEGIN READ ONLY")
        try:
            self._use_encoding_of_server()
            self._wait_for(by_oid[oid], self._budget.left)
        except CAME_AND_WENT:
            pass  # the next try lists the tables again
        except psycopg.errors.LockNotAvailable as error:
            self._connection.execute("ROLLBACK")
            raise self._failure(by_oid, _holder(self._connection, [oid])) from error
        self._connection.execute("ROLLBACK")

    def _wait_for(self, table: LockedTable, seconds: float) -> None:
        milliseconds = max(1, round(seconds * 1000))
        self._connection.execute(f"SET LOCAL lock_timeout = {milliseconds}".encode())
        self._connection.execute(b"LOCK TABLE ONLY " + table.sql + b" IN ACCESS SHARE MODE")
        self._connection.execute("SET LOCAL lock_timeout = 0")

    def _use_encoding_of_server(self) -> None:
        # Quoted names are bytes in the database's encoding; for these statements that is the
        # client's too. SHOW and SET take no snapshot either.
        row = self._connection.execute("SHOW server_encoding").fetchone()
        assert row is not None  # noqa: S101 - SHOW returns a row
        self._connection.execute(sql.SQL("SET LOCAL client_encoding = {}").format(row[0]))

    def _failure(self, by_oid: dict[int, LockedTable], found: "_Holder | None") -> e.DumpFailed:
        """Return an error with the table and the lock holder: LOCK TABLE reports neither."""
        waited = self._budget.seconds
        if found is None:
            return e.DumpFailed(f"could not lock all tables within {waited:g} s")
        return not_locked(f"table {by_oid[found.relation].label}", waited, *found.session)


@dataclass(frozen=True, slots=True)
class _Holder:
    relation: int
    session: tuple[int | None, str, str, str, str]  # process, user, application, state, age


def _holder(connection: Connection, oids: list[int]) -> _Holder | None:
    """Return which of the tables is locked exclusively, or requested so, and by whom."""
    row = connection.execute(
        """
        SELECT l.relation, l.pid, coalesce(a.usename, '?'), coalesce(a.application_name, '?'),
               coalesce(a.state, '?'),
               pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - a.xact_start)::text
        FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
        WHERE l.mode = 'AccessExclusiveLock' AND l.relation = ANY (%s)
          AND l.database = (SELECT oid FROM pg_catalog.pg_database
                            WHERE datname = pg_catalog.current_database())
        ORDER BY l.granted DESC, a.xact_start LIMIT 1
        """,
        [oids],
    ).fetchone()
    return None if row is None else _Holder(row[0], row[1:])


def not_locked(
    what: str, waited: float, pid: int | None, user: str, application: str, state: str, age: str
) -> e.DumpFailed:
    """Return an error that names what could not be locked, and who holds it."""
    if not pid:
        return e.DumpFailed(
            f"could not lock {what} within {waited:g} s: a prepared transaction holds it",
            hint="See pg_prepared_xacts; COMMIT PREPARED or ROLLBACK PREPARED ends it.",
        )
    return e.DumpFailed(
        f"could not lock {what} within {waited:g} s: process {pid} ({user},"
        f" {application}, {state}, transaction open for {age}) holds it exclusively or waits to",
        hint="Wait until that transaction ends, end it with pg_terminate_backend, or raise"
        " --lock-timeout.",
    )
