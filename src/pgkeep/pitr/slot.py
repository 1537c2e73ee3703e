"""The replication slot, which makes the server keep the WAL that was not received."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from .. import errors as e
from ..model.wal import Lsn, Switch, decode_history
from ..postgres.connection import Connection, Endpoint


@dataclass(frozen=True, slots=True)
class SlotState:
    """What the server says of a slot (manual, 54.19 "pg_replication_slots")."""

    restart: Lsn | None  # from here on, the server keeps the WAL
    status: str | None  # reserved, extended, unreserved, lost
    safe_size: int | None  # bytes that can be written before it may get lost; None: no limit
    active: bool

    @property
    def lost(self) -> bool:
        """Whether the server has removed WAL that was not received."""
        return self.status == "lost" or (self.restart is None and self.status is not None)


def create(connection: Connection, name: str) -> None:
    """Create a slot that keeps WAL from now on.

    `pg_receivewal --create-slot` would keep nothing before it connects.

    Raises:
        Refused: the server does not allow it.

    """
    try:
        connection.execute(
            "SELECT pg_catalog.pg_create_physical_replication_slot(%s, true)", [name]
        )
    except psycopg.Error as error:
        raise e.Refused(
            f"could not create replication slot {name}: {error.diag.message_primary}",
            hint="The role needs REPLICATION, and max_replication_slots a free slot.",
        ) from error


def state(connection: Connection, name: str) -> SlotState | None:
    """Return the state of a slot; None if it does not exist."""
    row: Any = connection.execute(
        "SELECT restart_lsn::pg_catalog.text, wal_status, safe_wal_size, active"
        " FROM pg_catalog.pg_replication_slots WHERE slot_name = %s",
        [name],
    ).fetchone()
    if row is None:
        return None
    return SlotState(None if row[0] is None else Lsn.parse(row[0]), row[1], row[2], row[3])


@dataclass(frozen=True, slots=True)
class Look:
    """What the server says of itself and of the slot, at one time."""

    at: datetime  # UTC, on our clock; not later than the position
    system_identifier: str
    position: Lsn  # where the server writes, or up to where a standby has received
    timeline: int
    slot: SlotState | None


def look(connection: Connection, name: str) -> Look:
    """Ask a server for all that a receiver has to know."""
    at = datetime.now(UTC)
    row: Any = connection.execute(
        "SELECT system_identifier::pg_catalog.text, CASE WHEN pg_catalog.pg_is_in_recovery()"
        " THEN coalesce(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())"
        " ELSE pg_catalog.pg_current_wal_lsn() END::pg_catalog.text,"
        " CASE WHEN pg_catalog.pg_is_in_recovery()"
        " THEN (SELECT greatest(timeline_id, min_recovery_end_timeline)"
        " FROM pg_catalog.pg_control_checkpoint(), pg_catalog.pg_control_recovery())"
        " ELSE ('x' || pg_catalog.left(pg_catalog.pg_walfile_name("
        "pg_catalog.pg_current_wal_lsn()), 8))::pg_catalog.bit(32)::pg_catalog.int4 END"
        " FROM pg_catalog.pg_control_system()"
    ).fetchone()
    identifier, position, timeline = row
    return Look(at, identifier, Lsn.parse(position), timeline, state(connection, name))


def history(endpoint: Endpoint, timeline: int) -> tuple[Switch, ...]:
    """Return the switches before a timeline of the server; the endpoint is a pinned one.

    Raises:
        VerificationFailed: the server sends something else.

    """
    params: dict[str, Any] = {**endpoint.params, "replication": "true"}
    with psycopg.connect(**params, autocommit=True) as connection:
        row: Any = connection.execute(f"TIMELINE_HISTORY {timeline:d}".encode()).fetchone()
    content = row[1]
    text = content if isinstance(content, str) else bytes(content).decode("ascii", "replace")
    return decode_history(text, f"{timeline:08X}.history")


def drop(connection: Connection, name: str) -> bool:
    """Drop a slot; return whether it existed.

    Raises:
        Refused: it is in use.

    """
    if state(connection, name) is None:
        return False
    try:
        connection.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", [name])
    except psycopg.Error as error:
        raise e.Refused(
            f"could not drop replication slot {name}: {error.diag.message_primary}",
            hint="Stop pgkeep pitr stream first.",
        ) from error
    return True


def slot_name(system_identifier: str) -> str:
    """Return the name of pgkeep's slot."""
    return f"pgkeep_{system_identifier[-8:]}"
