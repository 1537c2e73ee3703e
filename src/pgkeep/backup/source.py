"""What all sessions of one dump share: how they connect, and what they read."""

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from .. import errors as e
from ..model.manifest import DatabaseFacts, ServerFacts
from ..postgres import programs
from ..postgres.connection import ChildAccess, Connection, Endpoint
from ..postgres.messages import LOCK_TABLE_HINT, is_lock_table_full, one_line
from ..postgres.snapshot import Table
from .blocking import LockWatch
from .deadlines import Watch

RECOVERY_HINT = (
    "Increase max_standby_streaming_delay on the standby, turn on hot_standby_feedback, or back up"
    " the primary."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpSource:
    """The database to dump, and how sessions and programs connect to it."""

    connection: Connection  # of the coordinator, which holds the locks and the snapshot
    endpoint: Endpoint
    access: ChildAccess
    client: programs.Installation
    server: ServerFacts
    database: DatabaseFacts
    codec: str
    settings: Mapping[str, str]  # of every session that reads data
    workers: int
    schema_only: bool
    lock_timeout: float  # seconds
    lock_watch: LockWatch  # looks for sessions that wait for us
    lc_monetary: str | None = None  # where the database can contain money
    watch: Watch


def lost_snapshot(error: psycopg.Error) -> e.DumpFailed:
    """Return the error for the end of the session that holds locks and snapshot."""
    hint = RECOVERY_HINT if "conflict with recovery" in str(error) else None
    return e.DumpFailed(
        f"lost the connection that holds the snapshot: {one_line(error)}", hint=hint
    )


def program_error(
    error: e.ProgramFailed, database: str, table: Table | None = None
) -> e.DumpFailed:
    """Return a program's failure as a failure of the dump, with a hint for known causes."""
    stderr = " ".join(error.said)
    hint = None
    if "invalid memory alloc request size" in stderr or "Cannot enlarge string buffer" in stderr:
        hint = "A row is larger than 1 GB as text, which COPY does not support. Reduce its size."
    elif is_lock_table_full(stderr):
        hint = LOCK_TABLE_HINT
    elif "conflict with recovery" in stderr:
        hint = RECOVERY_HINT
    of = f", table {table.schema}.{table.name}" if table is not None else ""
    return e.DumpFailed(f"database {database}{of}: {error.message}", hint=hint)
