"""A consistent state of a database: lock every table first, then export one snapshot.

TRUNCATE and table rewrites are not MVCC-safe (manual, section 13.6, "Caveats"): a table that is
truncated between the snapshot and its lock is dumped empty without an error. LOCK TABLE does not
take a snapshot, so locking first closes that gap (trap D3).
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from .. import errors as e
from ..sql.encodings import shared_text
from . import lock_table, moved_names, wal
from .connection import Connection, application_name
from .table_locks import CAME_AND_WENT, LockBudget, LockedTable, TableLocker, not_locked

MIN_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A plain table whose rows a dump contains; SQL in the database's own encoding.

    `target` differs from `sql` if rows must be loaded through the partitioned root: rows of hash
    partitions over an enum can belong to another leaf elsewhere (trap A5.15).
    """

    oid: int
    schema: str
    name: str
    owner: str
    sql: bytes
    target: bytes
    columns: bytes  # those that COPY takes, separated by commas
    kind: str  # pg_class.relkind
    heap: bool
    logged: bool
    extension: bool  # belongs to an extension; pg_dump decides what to dump of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The snapshot that all connections of a dump share."""

    id: str
    taken: datetime
    replay_lag: float | None  # seconds, of a standby; None: unknown
    position: wal.Position
    tables: Sequence[Table]
    names: moved_names.Names  # by which the tables were found


_STRUCTURE = """
SELECT c.oid,
       pg_catalog.convert_to(n.nspname, e.name), pg_catalog.convert_to(c.relname, e.name),
       pg_catalog.convert_to(pg_catalog.pg_get_userbyid(c.relowner), e.name),
       pg_catalog.convert_to(pg_catalog.format('%I.%I', n.nspname, c.relname), e.name),
       pg_catalog.convert_to(coalesce(
           (SELECT pg_catalog.format('%I.%I', rn.nspname, r.relname)
            FROM pg_catalog.pg_class r JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
            WHERE c.relispartition AND r.oid = pg_catalog.pg_partition_root(c.oid)
              AND EXISTS (
                SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) a
                JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = a.relid
                JOIN pg_catalog.pg_opclass o ON o.oid = ANY (p.partclass)
                JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod
                WHERE o.opcname = 'enum_ops' AND m.amname = 'hash')),
           pg_catalog.format('%I.%I', n.nspname, c.relname)), e.name),
       pg_catalog.convert_to(coalesce(k.columns, ''), e.name),
       c.relkind::pg_catalog.text, am.amname IS NOT DISTINCT FROM 'heap',
       c.relpersistence <> 'u', x.objid IS NOT NULL
FROM pg_catalog.pg_class c
CROSS JOIN pg_catalog.getdatabaseencoding() AS e(name)
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
LEFT JOIN (
    SELECT attrelid,
           pg_catalog.string_agg(pg_catalog.quote_ident(attname), ', ' ORDER BY attnum) AS columns
    FROM pg_catalog.pg_attribute
    WHERE attnum > 0 AND NOT attisdropped AND attgenerated = ''
    GROUP BY attrelid) k ON k.attrelid = c.oid
LEFT JOIN (
    SELECT objid FROM pg_catalog.pg_depend
    WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND deptype = 'e'
      AND refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass) x ON x.objid = c.oid
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND (x.objid IS NULL
       OR EXISTS (SELECT FROM pg_catalog.pg_extension WHERE c.oid = ANY (extconfig)))
ORDER BY c.oid
"""


def tables(connection: Connection, codec: str) -> list[Table]:
    """List the tables that a dump must lock, as currently visible."""

    def text(value: bytes) -> str:
        return value.decode(codec, "backslashreplace")

    return [
        Table(
            oid=oid, schema=text(schema), name=text(name), owner=shared_text(owner, codec),
            sql=quoted, target=target, columns=columns, kind=kind, heap=heap, logged=logged,
            extension=extension,
        )
        for oid, schema, name, owner, quoted, target, columns, kind, heap, logged, extension
        in connection.execute(_STRUCTURE)
    ]  # fmt: skip


def sizes(connection: Connection, listed: Sequence[Table]) -> dict[int, tuple[int, int]]:
    """Return for each plain table the bytes of its main fork, and of all its data with TOAST.

    Only for locked tables: asking for the size of another one can wait for its lock.
    """
    return {
        oid: (main, main + toast)
        for oid, main, toast in connection.execute(
            """
            SELECT c.oid, pg_catalog.pg_relation_size(c.oid),
                   CASE c.reltoastrelid WHEN 0 THEN 0
                   ELSE pg_catalog.pg_relation_size(c.reltoastrelid) END
            FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.oid = ANY (%s)
            """,
            [[table.oid for table in listed]],
        )
        if main is not None and toast is not None  # dropped meanwhile
    }


@contextmanager
def hold(connection: Connection, codec: str, budget: LockBudget) -> Iterator[Snapshot]:
    """Lock every table, export a snapshot, keep both until the context is left.

    Raises:
        DumpFailed: a table could not be locked within the budget, or tables were created and
            dropped all the time.

    """
    with budget.spending():
        snapshot = _take(connection, codec, budget)
    try:
        yield snapshot
    finally:
        # Nothing was written. A connection that is broken or busy says so here only because of
        # what has happened to it before, and that is what is to be told.
        with suppress(psycopg.Error):
            connection.execute("ROLLBACK")


def _take(connection: Connection, codec: str, budget: LockBudget) -> Snapshot:
    locker = TableLocker(connection, budget)
    changed = 0
    while True:
        listed = tables(connection, codec)
        wanted = [
            LockedTable(table.oid, table.sql, f"{table.schema}.{table.name}") for table in listed
        ]
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            locker.lock(wanted)
            snapshot = _export(connection, listed, codec)
            if tables(connection, codec) == listed and _are_locked(connection, listed):
                return snapshot
        except CAME_AND_WENT:
            pass  # another attempt lists the tables again
        except psycopg.errors.LockNotAvailable:
            connection.execute("ROLLBACK")
            locker.step_aside(wanted)
            continue
        except psycopg.errors.OutOfMemory as error:
            raise _too_many_locks(connection, len(listed)) from error
        connection.execute("ROLLBACK")
        changed += 1
        if changed >= MIN_ATTEMPTS and budget.left <= 0:
            break
        time.sleep(random.uniform(0, 0.1 * min(changed, 10)))  # noqa: S311 - out of step with them
    raise e.DumpFailed(
        f"tables were created, altered or dropped during each of {changed} attempts to lock them"
        " all",
        hint="Run the backup when no migration is running, or increase --lock-timeout.",
    )


def _export(connection: Connection, listed: Sequence[Table], codec: str) -> Snapshot:
    # The lag is asked for in the statement that takes the snapshot: a standby goes on replaying,
    # or falls further behind, while locks are waited for.
    query = (
        f"SELECT pg_catalog.pg_export_snapshot(), pg_catalog.clock_timestamp(), {wal.REPLAY_LAG}"
    )
    row = connection.execute(query.encode(), {"silence": wal.SILENCE}).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns a row
    identifier, taken, lag = row
    return Snapshot(
        position=wal.position(connection),
        id=identifier,
        taken=taken.astimezone(UTC),
        replay_lag=lag,
        tables=listed,
        names=moved_names.read(connection, codec),
    )


def _are_locked(connection: Connection, listed: Sequence[Table]) -> bool:
    """Whether the listed tables are locked: names can have changed for a moment."""
    rows = connection.execute(
        "SELECT relation FROM pg_catalog.pg_locks"
        " WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted"
    )
    return {table.oid for table in listed} <= {row[0] for row in rows}


def waiting(connection: Connection) -> set[int]:
    """Return the sessions of this run in this database that wait for a lock."""
    # Otherwise this transaction would always see the same sessions.
    connection.execute("SELECT pg_catalog.pg_stat_clear_snapshot()")
    rows = connection.execute(
        """
        SELECT pid FROM pg_catalog.pg_stat_activity
        WHERE application_name = %s AND datname = pg_catalog.current_database()
          AND wait_event_type = 'Lock'
        """,
        [application_name()],
    )
    return {row[0] for row in rows}


def waits_too_long(connection: Connection, pid: int, waited: float) -> e.DumpFailed | None:
    """Return an error with the lock and its holder; None if the session no longer waits."""
    row = connection.execute(
        """
        SELECT coalesce(l.relation::pg_catalog.regclass::pg_catalog.text, l.locktype), b.pid,
               coalesce(a.usename, '?'), coalesce(a.application_name, '?'), coalesce(a.state, '?'),
               pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - a.xact_start)::text
        FROM pg_catalog.pg_locks l
        CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(l.pid)) AS b(pid)
        LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
        WHERE l.pid = %s AND NOT l.granted LIMIT 1
        """,
        [pid],
    ).fetchone()
    return None if row is None else not_locked(row[0], waited, *row[1:])


def _too_many_locks(connection: Connection, count: int) -> e.DumpFailed:
    connection.execute("ROLLBACK")
    forecast = lock_table.forecast(connection, count, 1)
    return e.DumpFailed(
        f"the server has not enough memory for locks on {count} tables: its lock table has room for"
        f" {forecast.size} locks, {forecast.used} are in use",
        hint=f"Run ALTER SYSTEM SET max_locks_per_transaction = {forecast.suggested}; and restart"
        " the server.",
    )
