"""Materialized views are filled with the rows, and not without them."""

from pathlib import Path

import psycopg
import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers


def test_views_are_filled_with_the_rows(
    pg17: Server, app: str, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G1.8: after --schema-only they are not populated, after --data-only they have their rows."""
    servers.sql(
        pg17, app,
        "create materialized view one as select count(*) from t;"
        "create materialized view two as select count from one;"
        "create materialized view never as select 1 a with no data",
    )  # fmt: skip
    artifact = invoke.backup(pg17, app, tmp_path)
    target = database(pg17)
    invoke.restore(pg17, artifact, target, "--in-place", "--schema-only", "--yes")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not been populated"):
        servers.sql(pg17, target, "select * from one")
    invoke.restore(pg17, artifact, target, "--data-only", "--yes")
    assert servers.sql(pg17, target, "select count from two") == [(1000,)]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not been populated"):
        servers.sql(pg17, target, "select * from never")
    sql = invoke.run("cat", "--schema-only", str(artifact), env=invoke.environment())
    assert "CREATE MATERIALIZED VIEW public.two" in sql
    assert "REFRESH" not in sql
    assert sql.rstrip().splitlines()[-1].startswith(("--", "\\unrestrict"))
