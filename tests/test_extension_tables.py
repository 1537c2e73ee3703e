"""Configuration tables of extensions have rows of their own, as spatial_ref_sys of PostGIS has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.server import Server

from . import keep
from . import servers as s
from .compare import assert_same_database
from .conftest import DatabaseFactory
from .spare import Spare

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
    with Spare() as spare:
        name = spare.database(pg18)
        s.psql(pg18, name, input=OBJECTS)
        yield keep.backup(pg18, name, tmp_path_factory.mktemp("probe"))


def test_rows_after_definitions(pg18: Server, database: DatabaseFactory, artifact: Path) -> None:
    """G6.11: rows that the extension itself has made do not make its table "not empty"."""
    target = database(pg18)
    keep.restore(pg18, artifact, target, "--in-place", "--schema-only", "--yes")
    keep.restore(pg18, artifact, target, "--data-only", "--yes")
    assert s.sql(pg18, target, ROWS) == [([1, 2, 3, 4], 10)]
    env = keep.environment(pg18)
    restore = ("restore", f"--backup={artifact}", f"--target-db={target}", "--data-only", "--yes")
    err = keep.run(*restore, env=env, code=9)
    assert "table probe.config is not empty" in err


def test_one_of_them_alone(pg18: Server, database: DatabaseFactory, artifact: Path) -> None:
    """G6.12: --table takes its rows, though the backup does not define it."""
    target = database(pg18)
    env = keep.environment(pg18)
    restore = ("restore", f"--backup={artifact}", f"--target-db={target}")
    table = "--table=probe.config"
    assert "probe.config does not exist" in keep.run(*restore, table, env=env, code=9)
    s.sql(pg18, target, "create extension pgkeep_probe")
    s.sql(pg18, target, "grant update on probe.config to pg_monitor")
    keep.run(*restore, table, env=env)
    query = "select array_agg(id order by id) from probe.config"
    assert s.sql(pg18, target, query) == [([1, 2, 3, 4],)]
    query = "select has_table_privilege('pg_monitor', 'probe.config', 'update')"
    assert s.sql(pg18, target, query) == [(True,)]
    assert "rows that are not the extension's own" in keep.run(*restore, table, env=env, code=9)
    assert "--as" in keep.run(*restore, table, "--as=probe.x", env=env, code=2)
    s.sql(pg18, target, "update probe.config set setting = 'changed'")
    s.sql(pg18, target, "insert into probe.config values (5, 'later')")
    keep.run(*restore, table, "--drop-existing", "--yes", env=env)
    query = "select array_agg(setting order by id) from probe.config"
    assert s.sql(pg18, target, query) == [(["changed", "changed", "mine", "mine too"],)]
    s.sql(pg18, target, "delete from probe.config where id = 4")
    keep.run(*restore, table, "--where=id = 4", "--yes", env=env)
    assert s.sql(pg18, target, "select count(*) from probe.config") == [(4,)]


def test_with_sequence_and_key(pg18: Server, database: DatabaseFactory, artifact: Path) -> None:
    """G6.12: its sequence goes on after the rows; keys of others are checked again."""
    target = database(pg18)
    s.sql(pg18, target, "create extension pgkeep_probe")
    restore = ("--table=probe.*", "--table=t")
    keep.restore(pg18, artifact, target, *restore)
    s.sql(pg18, target, "insert into probe.jobs (job) values ('hourly')")
    query = "select array_agg(id order by id) from probe.jobs"
    assert s.sql(pg18, target, query) == [([1, 2, 3],)]
    keep.restore(pg18, artifact, target, *restore, "--drop-existing", "--yes")
    assert s.sql(pg18, target, ROWS) == [([1, 2, 3, 4], 10)]
    assert s.sql(pg18, target, query) == [([1, 2],)]
    keep.restore(pg18, artifact, target, "--table=probe.config", "--drop-existing", "--yes")
    with Spare() as spare:
        whole = spare.name(pg18)
        keep.restore(pg18, artifact, whole)
        s.sql(pg18, target, "grant select on probe.config to pg_monitor")
        assert_same_database(pg18, whole, pg18, target)
