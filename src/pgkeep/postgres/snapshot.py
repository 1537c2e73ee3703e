"""A consistent state of a database: lock every table first, then export one snapshot.

TRUNCATE and table rewrites are not MVCC-safe (manual, section 13.6, "Caveats"): a table that is
truncated between the snapshot and its lock is dumped empty without an error. LOCK TABLE does not
take a snapshot, so locking first closes that gap (trap D3).
"""

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg import sql

from .. import errors as e
from ..sql.encodings import shared_text
from . import moved_names, wal
from .connection import Connection, application_name

MIN_ATTEMPTS = 10
LOCK_BATCH = 1000  # tables in one LOCK statement

# Errors of LOCK TABLE if a table, or its schema, was dropped, renamed or replaced by another object
# with its name after it was listed.
CAME_AND_WENT = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.WrongObjectType,
    psycopg.errors.DeadlockDetected,
)


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
def hold(connection: Connection, codec: str, lock_timeout: float) -> Iterator[Snapshot]:
    """Lock every table, export a snapshot, keep both until the context is left.

    Raises:
        DumpFailed: a table could not be locked within `lock_timeout` seconds, or tables were
            created and dropped all the time.

    """
    snapshot = _take(connection, codec, lock_timeout)
    try:
        yield snapshot
    finally:
        # Nothing was written. A connection that is broken or busy says so here only because of
        # what has happened to it before, and that is what is to be told.
        with suppress(psycopg.Error):
            connection.execute("ROLLBACK")


def _take(connection: Connection, codec: str, lock_timeout: float) -> Snapshot:
    deadline = time.monotonic() + lock_timeout
    for attempt in itertools.count(1):
        listed = tables(connection, codec)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            _lock(connection, listed, lock_timeout)
            snapshot = _export(connection, listed, codec)
            if tables(connection, codec) == listed and _are_locked(connection, listed):
                return snapshot
        except CAME_AND_WENT:
            pass  # another attempt lists the tables again
        except psycopg.errors.LockNotAvailable as error:
            connection.execute("ROLLBACK")
            raise _not_locked(connection, listed, lock_timeout) from error
        except psycopg.errors.OutOfMemory as error:
            raise _too_many_locks(connection, len(listed)) from error
        connection.execute("ROLLBACK")
        if attempt >= MIN_ATTEMPTS and time.monotonic() > deadline:
            break
        time.sleep(random.uniform(0, 0.1 * min(attempt, 10)))  # noqa: S311 - out of step with them
    raise e.DumpFailed(
        f"tables were created, altered or dropped during each of {attempt} attempts to lock them"
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


def _lock(connection: Connection, listed: Sequence[Table], lock_timeout: float) -> None:
    connection.execute(f"SET LOCAL lock_timeout = {max(1, round(lock_timeout * 1000))}".encode())
    # Quoted names are bytes in the database's encoding; for these statements that is the client's
    # too. SHOW and SET take no snapshot either.
    row = connection.execute("SHOW server_encoding").fetchone()
    assert row is not None  # noqa: S101 - SHOW returns a row
    connection.execute(sql.SQL("SET LOCAL client_encoding = {}").format(row[0]))
    for start in range(0, len(listed), LOCK_BATCH):
        names = b", ".join(b"ONLY " + table.sql for table in listed[start : start + LOCK_BATCH])
        connection.execute(b"LOCK TABLE " + names + b" IN ACCESS SHARE MODE")
    connection.execute("SET LOCAL client_encoding = 'UTF8'")
    connection.execute("SET LOCAL lock_timeout = 0")


def _not_locked(
    connection: Connection, listed: Sequence[Table], lock_timeout: float
) -> e.DumpFailed:
    """Return an error with the table and the lock holder: LOCK TABLE reports neither."""
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
        [[table.oid for table in listed]],
    ).fetchone()
    if row is None:
        return e.DumpFailed(f"could not lock all tables within {lock_timeout:g} s")
    oid, *holder = row
    table = next(f"{item.schema}.{item.name}" for item in listed if item.oid == oid)
    return _locked(f"table {table}", lock_timeout, *holder)


def _locked(
    what: str, waited: float, pid: int | None, user: str, application: str, state: str, age: str
) -> e.DumpFailed:
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
    return None if row is None else _locked(row[0], waited, *row[1:])


def _too_many_locks(connection: Connection, count: int) -> e.DumpFailed:
    connection.execute("ROLLBACK")
    setting = connection.execute("SHOW max_locks_per_transaction").fetchone()
    return e.DumpFailed(
        f"the server has not enough memory for locks on {count} tables"
        f" (max_locks_per_transaction = {setting[0] if setting else '?'})",
        hint="Run ALTER SYSTEM SET max_locks_per_transaction = 1024; and restart the server.",
    )
