"""Databases that swaps leave: kept for an undo, and forgotten."""

from datetime import UTC, datetime, timedelta

from pgkeep.doctor import kept_databases
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from tests.support import servers


def test_a_database_that_was_replaced_long_ago_is_reported(pg17: Server) -> None:
    """E12: it takes as much space as the one in use; not one that an undo can need."""
    now = datetime.now(UTC)
    names = [
        f"{start}_{now - timedelta(days=days):%Y%m%dT%H%M%SZ}"
        for start, days in (("Ap'p__old", 6), ("Ap'p__old", 8), ("app__restored", 9))
    ]
    odd = "app__old_20269999T000000Z"  # no time
    try:
        for name in (*names, odd):
            servers.sql(pg17, "postgres", f'create database "{name}"')
        with Endpoint({**pg17.params, "dbname": "postgres"}).connect() as connection:
            found = list(kept_databases.examine(connection, now))
    finally:
        for name in (*names, odd):
            servers.drop(pg17, name)
    assert [finding.remedy for finding in found] == [
        f'If you no longer need it, drop it: DROP DATABASE "{name}";' for name in names[1:]
    ]
    old, restored = (finding.message for finding in found)
    day = names[1].rpartition("_")[2]
    assert old.startswith(
        f"database {names[1]} was replaced by a restore on {day[:4]}-{day[4:6]}-{day[6:8]} and"
        " still exists ("
    )
    assert old.endswith(" MB)")
    assert " and still waits for a swap (" in restored
