"""How much of the server's lock table a backup takes, and whether enough is left for others.

All sessions of a server share one lock table. If it is full, the next session that needs a lock
fails with "out of shared memory", whichever session filled the table (trap A5.20).
"""

import math
from dataclasses import dataclass

from .connection import Connection

WARN = 0.5  # share of the lock table
# A fifth is left: other sessions can need more locks later than when a backup starts.
REFUSE = 0.8
# Locks on system catalogs and their indexes. Measured for pg_dump 15 and 18: 155.
CATALOGS = 160
# A worker locks its table, and the indexes of the slice that it copies.
WORKER = 20
STEP = 64  # suggested values are multiples of it

# NLOCKENTS in lock.c: max_locks_per_transaction for each process that the server can have. The
# number of workers for autovacuum is a setting of its own since PostgreSQL 18. Two more processes
# are special workers.
_LOCK_TABLE = """
SELECT pg_catalog.current_setting('max_locks_per_transaction')::pg_catalog.int8,
       (SELECT sum(setting::pg_catalog.int8) FROM pg_catalog.pg_settings WHERE name IN (
            'max_connections', 'max_prepared_transactions', 'max_worker_processes',
            'max_wal_senders', 'autovacuum_worker_slots')
          OR name = 'autovacuum_max_workers' AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_settings WHERE name = 'autovacuum_worker_slots'))
       ::pg_catalog.int8,
       (SELECT greatest(
            count(DISTINCT (locktype, database, relation, page, tuple, virtualxid,
                            transactionid::pg_catalog.text, classid, objid, objsubid)),
            count(*) / 2)
        FROM pg_catalog.pg_locks WHERE NOT fastpath)::pg_catalog.int8,
       (SELECT count(*) FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('v', 'm', 'S', 'f') AND c.relpersistence <> 't'
          AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')::pg_catalog.int8
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockTable:
    """The server's lock table; it has room for twice as many pairs of an object and a session."""

    per_process: int  # max_locks_per_transaction
    processes: int  # that the server can have, and prepared transactions
    used: int  # objects that are locked now, or half of the pairs if that is more


@dataclass(frozen=True, slots=True, kw_only=True)
class LockForecast:
    """What a backup needs of the lock table."""

    size: int  # objects for which the table has room
    used: int
    needed: int
    workers: int  # that the lock table allows
    suggested: int  # max_locks_per_transaction with which the share is at most a half

    @property
    def share(self) -> float:
        """The share of the lock table that will be in use."""
        return (self.used + self.needed) / self.size


def forecast(connection: Connection, tables: int, workers: int) -> LockForecast:
    """Return what a backup of the connected database needs."""
    row = connection.execute(_LOCK_TABLE).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns a row
    per_process, processes, used, others = row
    table = LockTable(per_process=per_process, processes=processes, used=used)
    return needed_of(table, tables, others, workers)


def needed_of(table: LockTable, tables: int, others: int, workers: int) -> LockForecast:
    """Return what a backup requires, with fewer workers if the lock table has no room for all.

    The coordinator and pg_dump lock the same tables: each is one object and two pairs. pg_dump also
    locks views and sequences.
    """
    size = table.per_process * table.processes
    objects = tables + others + CATALOGS
    pairs = 2 * tables + others + 2 * CATALOGS
    rest = max(objects, math.ceil(pairs / 2))
    room = size * REFUSE - table.used - rest
    allowed = max(1, min(workers, int(room // WORKER)))
    needed = rest + allowed * WORKER
    suggested = math.ceil((table.used + needed) / WARN / table.processes / STEP) * STEP
    return LockForecast(
        size=size, used=table.used, needed=needed, workers=allowed, suggested=suggested
    )
