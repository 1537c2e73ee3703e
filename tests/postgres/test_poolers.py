"""Behind a transaction pooler nothing is begun, and nothing is left set in its sessions (G2)."""

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.pooler import pooled

IGNORING = {"ignore_startup_parameters": "extra_float_digits, options"}


@pytest.mark.parametrize("settings", [{}, IGNORING], ids=["default", "options-ignored"])
def test_refused_before_anything_is_set(
    pg17: Server, database: DatabaseFactory, tmp_path: Path, settings: dict[str, str]
) -> None:
    """G2.3: the session of the pooler is the next client's, with all that was set in it."""
    db = database(pg17)
    servers.sql(pg17, db, "create table t as select 1 a")
    path = invoke.backup(pg17, db, tmp_path)
    with pooled(pg17, tmp_path, **settings) as params:

        def query(text: str) -> list[tuple[object, ...]]:
            with psycopg.connect(make_conninfo("", **params, dbname=db), autocommit=True) as client:
                return client.execute(text).fetchall()

        # PgBouncer itself sets the name of the application.
        changed = (
            "select name from pg_settings where source = 'session'"
            " and name <> 'application_name' order by 1"
        )
        before = query(changed), query("select pg_backend_pid()")
        assert query("select a from t") == [(1,)]
        env = invoke.environment(pg17, db, BACKUP_DIR=str(tmp_path / "new"))
        env |= {"PGHOST": params["host"], "PGPORT": params["port"]}
        for command in (
            ["backup"],
            ["doctor"],
            ["restore", f"--backup={path}", f"--target-db={db}_new"],
            ["restore", f"--backup={path}", f"--target-db={db}", "--table=public.t"],
            ["restore", f"--backup={path}", f"--target-db={db}", "--drop-existing", "--yes"],
        ):
            said = invoke.run(*command, env=env, code=3)
            assert "the connection goes through a pooler such as PgBouncer" in said
            assert "Connect to PostgreSQL itself" in said
        assert query("select a from t") == [(1,)]
        assert (query(changed), query("select pg_backend_pid()")) == before
    names = servers.sql(
        pg17, "postgres", f"select datname from pg_database where datname ~ '^{db}'"
    )
    assert names == [(db,)]
