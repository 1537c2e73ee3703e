"""What the driver logs about a failure is not printed beside our own message."""

from pathlib import Path

from pgkeep.server import Server

from . import keep
from . import servers as s
from .conftest import DatabaseFactory


def test_a_failed_restore_prints_its_error_and_nothing_of_the_driver(
    pg15: Server, pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.14: psycopg logs an aborted pipeline; without a handler Python prints that."""
    source = database(pg15)
    s.sql(pg15, source, "create collation german (provider = icu, locale = 'de')")
    artifact = keep.backup(pg15, source, tmp_path)
    env = keep.environment(pg17)
    said = keep.run("restore", f"--backup={artifact}", "--target-db=not_made", env=env, code=8)
    assert "collation public.german: ICU is not supported in this build" in said
    assert "psycopg" not in said
    assert "pipeline" not in said
