"""Where a server is in the write-ahead log, and how far a standby is behind."""

from dataclasses import dataclass
from typing import Any

from .connection import Connection, first_row

# Without WAL for so long, a standby that has replayed everything knows nothing of its primary. An
# idle primary writes none. A standby in between whose own connection is down sends none either, and
# both answer (trap A6.6). A primary that works writes WAL at least every 15 seconds.
SILENCE = 60  # seconds

# Seconds that a standby is behind, as a column of the statement that takes the snapshot. NULL on a
# primary, and if it is unknown. Only some roles see more of pg_stat_wal_receiver than its pid.
REPLAY_LAG = """
CASE
    WHEN NOT pg_catalog.pg_is_in_recovery() THEN NULL
    WHEN pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn()
        AND EXISTS (SELECT pid FROM pg_catalog.pg_stat_wal_receiver)
    THEN CASE WHEN pg_catalog.clock_timestamp() - coalesce(
            (SELECT max(latest_end_time) FROM pg_catalog.pg_stat_wal_receiver),
            pg_catalog.pg_last_xact_replay_timestamp()
        ) <= pg_catalog.make_interval(secs => %(silence)s) THEN 0 END
    ELSE extract(epoch FROM pg_catalog.clock_timestamp()
                 - pg_catalog.pg_last_xact_replay_timestamp())
END::pg_catalog.float8
"""


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the write-ahead log; None if the role may not read it."""

    lsn: str | None
    timeline: int | None


def position(connection: Connection) -> Position:
    """Return up to where a server has written, or a standby has replayed.

    Right after a snapshot was taken: everything that the snapshot sees is before it.
    """
    (recovery,) = first_row(connection, "SELECT pg_catalog.pg_is_in_recovery()")
    function = "pg_last_wal_replay_lsn" if recovery else "pg_current_wal_lsn"
    lsn = _of(connection, f"pg_catalog.{function}()", f"pg_catalog.{function}()::pg_catalog.text")
    return Position(lsn, _timeline(connection, in_recovery=recovery))


def waits_for_queries(connection: Connection) -> bool:
    """Whether replay on a standby waits for queries without a limit."""
    (delay,) = first_row(connection, "SHOW max_standby_streaming_delay")
    return bool(delay == "-1")


def replay_lag(connection: Connection) -> float | None:
    """Return how many seconds a standby is behind now; None if it is unknown."""
    row = connection.execute(f"SELECT {REPLAY_LAG}".encode(), {"silence": SILENCE}).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns a row
    return None if row[0] is None else float(row[0])


def _timeline(connection: Connection, *, in_recovery: bool) -> int | None:
    """Return the timeline; that of the last restartpoint of a standby can be an older one."""
    if not in_recovery:
        current = "pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())"
        name = _of(connection, "pg_catalog.pg_walfile_name(pg_lsn)", current)
        return None if name is None else int(str(name)[:8], 16)
    (received,) = first_row(
        connection, "SELECT max(received_tli) FROM pg_catalog.pg_stat_wal_receiver"
    )
    if received is not None:
        return int(received)
    control = "pg_catalog.pg_control_checkpoint()"
    found = _of(connection, control, f"(SELECT timeline_id::pg_catalog.text FROM {control})")
    return None if found is None else int(found)


def _of(connection: Connection, function: str, expression: str) -> Any:
    """Return a value if the role may call the function: an error would end the transaction."""
    (allowed,) = first_row(
        connection, f"SELECT pg_catalog.has_function_privilege('{function}', 'EXECUTE')"
    )
    if not allowed:
        return None
    (value,) = first_row(connection, f"SELECT {expression}")
    return value
