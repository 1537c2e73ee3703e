"""Configuration tables of extensions have rows of their own, as spatial_ref_sys of PostGIS has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables

OBJECTS = """
create extension pgkeep_probe;
insert into probe.config values (3, 'mine'), (4, 'mine too');
insert into probe.jobs (job, config) values ('nightly', 3), ('weekly', 1);
create table t as select generate_series(1, 10) a;
grant select on probe.config to pg_monitor;
"""
ROWS = "select (select array_agg(id order by id) from probe.config), (select count(*) from t)"


@pytest.fixture(scope="module")
def artifact(pg18: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with Disposables() as disposables:
        name = disposables.database(pg18)
        servers.psql(pg18, name, input=OBJECTS)
        yield invoke.backup(pg18, name, tmp_path_factory.mktemp("probe"))


def test_rows_after_definitions(pg18: Server, database: DatabaseFactory, artifact: Path) -> None:
    """G6.11: rows that the extension itself has made do not make its table "not empty"."""
    target = database(pg18)
    invoke.restore(pg18, artifact, target, "--in-place", "--schema-only", "--yes")
    invoke.restore(pg18, artifact, target, "--data-only", "--yes")
    assert servers.sql(pg18, target, ROWS) == [([1, 2, 3, 4], 10)]
    env = invoke.environment(pg18)
    restore = ("restore", f"--backup={artifact}", f"--target-db={target}", "--data-only", "--yes")
    err = invoke.run(*restore, env=env, code=9)
    assert "table probe.config is not empty" in err


def test_one_of_them_alone(pg18: Server, database: DatabaseFactory, artifact: Path) -> None:
    """G6.12: --table takes its rows, though the backup does not define it."""
    target = database(pg18)
    env = invoke.environment(pg18)
    restore = ("restore", f"--backup={artifact}", f"--target-db={target}")
    table = "--table=probe.config"
    assert "probe.config does not exist" in invoke.run(*restore, table, env=env, code=9)
    servers.sql(pg18, target, "create extension pgkeep_probe")
    servers.sql(pg18, target, "grant update on probe.config to pg_monitor")
    invoke.run(*restore, table, env=env)
    query = "select array_agg(id order by id) from probe.config"
    assert servers.sql(pg18, target, query) == [([1, 2, 3, 4],)]
    query = "select has_table_privilege('pg_monitor', 'probe.config', 'update')"
    assert servers.sql(pg18, target, query) == [(True,)]
    assert "rows that are not the extension's own" in invoke.run(*restore, table, env=env, code=9)
    assert "--as" in invoke.run(*restore, table, "--as=probe.x", env=env, code=2)
    servers.sql(pg18, target, "update probe.config set setting = 'changed'")
    servers.sql(pg18, target, "insert into probe.config values (5, 'later')")
    invoke.run(*restore, table, "--drop-existing", "--yes", env=env)
    query = "select array_agg(setting order by id) from probe.config"
    assert servers.sql(pg18, target, query) == [(["changed", "changed", "mine", "mine too"],)]
    servers.sql(pg18, target, "delete from probe.config where id = 4")
    invoke.run(*restore, table, "--where=id = 4", "--yes", env=env)
    assert servers.sql(pg18, target, "select count(*) from probe.config") == [(4,)]


def test_with_sequence_and_key(pg18: Server, database: DatabaseFactory, artifact: Path) -> None:
    """G6.12: its sequence goes on after the rows; keys of others are checked again."""
    target = database(pg18)
    servers.sql(pg18, target, "create extension pgkeep_probe")
    restore = ("--table=probe.*", "--table=t")
    invoke.restore(pg18, artifact, target, *restore)
    servers.sql(pg18, target, "insert into probe.jobs (job) values ('hourly')")
    query = "select array_agg(id order by id) from probe.jobs"
    assert servers.sql(pg18, target, query) == [([1, 2, 3],)]
    invoke.restore(pg18, artifact, target, *restore, "--drop-existing", "--yes")
    assert servers.sql(pg18, target, ROWS) == [([1, 2, 3, 4], 10)]
    assert servers.sql(pg18, target, query) == [([1, 2],)]
    invoke.restore(pg18, artifact, target, "--table=probe.config", "--drop-existing", "--yes")
    with Disposables() as disposables:
        whole = disposables.name(pg18)
        invoke.restore(pg18, artifact, whole)
        servers.sql(pg18, target, "grant select on probe.config to pg_monitor")
        assert_same_database(pg18, whole, pg18, target)
