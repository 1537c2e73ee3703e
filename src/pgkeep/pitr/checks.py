"""What a server needs for point in time: every problem with the line that fixes it."""

from typing import Any, NamedTuple

import psycopg

from ..postgres.connection import Connection, Endpoint
from .slot import SlotState


class Problem(NamedTuple):
    """Something that prevents point in time, and how to fix it."""

    message: str
    remedy: str


def server_problems(connection: Connection, slot: SlotState | None) -> list[Problem]:
    """Return what prevents receiving WAL and taking base backups."""
    found: list[Problem] = []
    settings: dict[str, str] = dict(
        connection.execute(
            "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN"
            " ('wal_level', 'max_wal_senders', 'max_replication_slots', 'max_slot_wal_keep_size')"
        ).fetchall()
    )
    if settings["wal_level"] == "minimal":
        found.append(
            Problem("wal_level is minimal", "ALTER SYSTEM SET wal_level = 'replica'; restart.")
        )
    if int(settings["max_wal_senders"]) < 3:  # the receiver, and two of pg_basebackup
        found.append(
            Problem(
                f"max_wal_senders is {settings['max_wal_senders']}, expected 3 or more",
                "ALTER SYSTEM SET max_wal_senders = 10; restart.",
            )
        )
    (role, allowed) = _row(
        connection,
        "SELECT rolname, rolreplication OR rolsuper FROM pg_catalog.pg_roles"
        " WHERE rolname = current_user",
    )
    if not allowed:
        found.append(
            Problem(f"role {role} has no REPLICATION", f'ALTER ROLE "{role}" REPLICATION;')
        )
    (used,) = _row(connection, "SELECT count(*) FROM pg_catalog.pg_replication_slots")
    if slot is None and used >= int(settings["max_replication_slots"]):
        found.append(
            Problem(
                f"all {used} replication slots are in use",
                f"ALTER SYSTEM SET max_replication_slots = {used + 5}; restart.",
            )
        )
    return found


def unlimited_slot(connection: Connection) -> bool:
    """Whether a slot can fill the disk of the server: max_slot_wal_keep_size has no limit."""
    (value,) = _row(connection, "SHOW max_slot_wal_keep_size")
    return bool(value == "-1")


def replication_problem(endpoint: Endpoint) -> Problem | None:
    """Return why a replication connection is refused: pg_hba.conf needs a line of its own."""
    params: dict[str, Any] = {**endpoint.params, "replication": "true", "dbname": "replication"}
    try:
        psycopg.connect(**params, autocommit=True).close()
    except psycopg.OperationalError as error:
        text = str(error).strip().splitlines()[-1]
        user = endpoint.params.get("user", "ROLE")
        return Problem(
            f"replication connections are refused: {text}",
            f"Add to pg_hba.conf, with the address of this host, and reload:"
            f"\n  host replication {user} ADDRESS/32 scram-sha-256",
        )
    return None


def summarizes_wal(connection: Connection) -> bool:
    """Whether the server records which blocks change, for incremental base backups."""
    row: Any = connection.execute(
        "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'summarize_wal'"
    ).fetchone()
    return row is not None and row[0] == "on"


def timeline(connection: Connection) -> int:
    """Return the current timeline of a primary."""
    (name,) = _row(connection, "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())")
    return int(str(name)[:8], 16)


def checksums(connection: Connection) -> bool:
    """Whether the cluster has data checksums."""
    (value,) = _row(connection, "SHOW data_checksums")
    return bool(value == "on")


def _row(connection: Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None  # noqa: S101 - these queries return a row
    return row
