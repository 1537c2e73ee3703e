"""G4.2: generated columns and materialized views are computed by a restore, and then compared."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.artifact.file import Artifact
from pgkeep.catalog import side_files
from pgkeep.drill import examine
from pgkeep.model.manifest import Computed
from pgkeep.postgres import computed_values, snapshot
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.postgres.table_locks import LockBudget
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.conftest import DatabaseFactory
from tests.support import invoke
from tests.support.servers import Servers, connect, drop, major_of, psql, sql

# A function's own statements are read when it is called: no catalog shows what they depend on.
SOURCE = """
create schema extensions;
create extension citext schema extensions;
create schema app;
set search_path = app, extensions;
create function is_ann(mail citext) returns boolean immutable language plpgsql
    as $$ begin return mail = 'ANN'; end $$;
create table people (id int primary key, mail citext,
    ann boolean generated always as (is_ann(mail)) stored,
    "Twice, ""2x"" or so" int generated always as (id * 2) stored);
insert into people values (1, 'ann'), (2, 'bob');
create table fine (id int, "é" text generated always as (id || 'é') stored);
insert into fine select generate_series(1, 1000);
create type color as enum ('red', 'green', 'blue', 'white');
create table hashed (c color, n int generated always as (length('x' || 1)) stored)
    partition by hash (c);
create table hashed_0 partition of hashed for values with (modulus 2, remainder 0);
create table hashed_1 partition of hashed for values with (modulus 2, remainder 1);
insert into hashed select unnest(enum_range(null::color));
create materialized view by_path as select is_ann(mail) as ann, count(*) from people group by 1;
create materialized view "Fresh %I" as select * from fine;
create materialized view old as select count(*) from fine;
insert into fine values (1001);
create materialized view restless as select clock_timestamp() as now from fine;
create materialized view empty as select * from fine with no data;
create materialized view no_columns as select;
create view plain as select * from fine;
refresh materialized view "Fresh %I";
"""


@pytest.fixture(scope="module", params=[15, 18], ids="pg{}".format)
def pair(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str, Path]]:
    server = servers(request.param)
    name = f"computed_{os.getpid()}_{request.param}"
    sql(server, "postgres", f"create database {name} template template0")
    psql(server, name, input=SOURCE)
    sql(server, name, f"alter database {name} set search_path = app, extensions")
    yield server, name, invoke.backup(server, name, tmp_path_factory.mktemp("backups"), "--verify")
    drop(server, name)


def recorded(artifact: Path) -> dict[str, Computed]:
    meta = Artifact(LocalStore(artifact.parent).open(artifact.name)).index.meta
    return {one.relation: one for one in meta.computed}


def test_what_is_recorded(pair: tuple[Server, str, Path], tmp_path: Path) -> None:
    server, name, artifact = pair
    found = recorded(artifact)
    rows = {key: (one.columns, one.rows) for key, one in found.items()}
    assert rows == {
        "app.people": ('ann, "Twice, ""2x"" or so"', 2),
        "app.fine": ('"é"', 1001),
        "app.hashed": ("n", 4),
        "app.by_path": ("", 1 if major_of(server) >= 17 else 2),
        'app."Fresh %I"': ("", 1001),
        "app.old": ("", 1),
        "app.restless": ("", 1001),
        "app.no_columns": ("", 1),
    }
    # Nothing of it hangs on the order, everything on the values.
    assert len({one.digest for one in found.values()}) == len(found)
    again = recorded(invoke.backup(server, name, tmp_path))
    assert again == found


def test_hashes_can_be_left_out(pair: tuple[Server, str, Path], tmp_path: Path) -> None:
    """G4.2: they take time; a schema has none."""
    server, name, _ = pair
    if major_of(server) == 15:
        assert recorded(invoke.backup(server, name, tmp_path, "--no-computed-values")) == {}
        assert recorded(invoke.backup(server, name, tmp_path, "--schema-only")) == {}
    else:
        assert recorded(invoke.backup(server, name, tmp_path, BACKUP_COMPUTED_VALUES="false")) == {}


def test_other_values_are_red_and_old_ones_are_not(pair: tuple[Server, str, Path]) -> None:
    """G4.2: by the search path; not of views that were older than their tables, or never equal."""
    server, name, artifact = pair
    for option, expected in (("empty", 2 if major_of(server) < 17 else 1), ("database", 0)):
        target = f"{name}_{option}"
        invoke.restore(server, artifact, target, f"--search-path={option}")
        try:
            store = LocalStore(artifact.parent)
            found = examine.examine(
                Endpoint({**server.params, "dbname": target}), Artifact(store.open(artifact.name)),
                side_files.read(store, artifact.name).manifest,
                jobs=2, progress=Silent(),
            )  # fmt: skip
            findings = [finding.partition(" are not ")[0] for finding in found.findings]
            assert (
                findings
                == [
                    'table app.people: its generated columns (ann, "Twice, ""2x"" or so")',
                    "materialized view app.by_path: its 1 rows",
                ][:expected]
            )
            warned = [warning.partition(":")[0] for warning in found.warnings]
            assert warned == ["materialized view app.old", "materialized view app.restless"]
            ((check,),) = ([check for check in found.checks if check.name == "computed values"],)
            assert check.checked == 8
            # Nothing was refreshed for good.
            query = "select ann::text, count from app.by_path"
            left = sql(server, target, query)
            assert left == ([("false", 2)] if major_of(server) >= 17 or expected else
                            sql(server, name, query))  # fmt: skip
        finally:
            drop(server, target)


def test_what_may_not_be_read_is_a_warning(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G4.2: pg_dump needs no privilege on materialized views, so neither does a backup."""
    name = database(pg17)
    psql(
        pg17,
        name,
        input=f"""
        create role "{name}" login;
        create table t (id int, twice int generated always as (id * 2) stored);
        create materialized view mv as select 1 as a;
        create materialized view other as select 2 as a;
        grant select on t, other to "{name}";
    """,
    )
    try:
        artifact = invoke.backup(pg17, name, tmp_path, PGUSER=name)
        assert recorded(artifact).keys() == {"public.t", "public.other"}
        manifest = side_files.read(LocalStore(tmp_path), artifact.name).manifest
        assert manifest is not None
        (said,) = (warning for warning in manifest.warnings if "hash" in warning)
        assert said.startswith("hash of materialized view public.mv not recorded")
        assert "permission denied" in said
    finally:
        sql(pg17, name, f'drop owned by "{name}"; drop role "{name}"')


def test_a_refresh_is_not_waited_for(pg17: Server, database: DatabaseFactory) -> None:
    """G4.2: nor taken for the snapshot's rows, which are gone with it."""
    name = database(pg17)
    sql(pg17, name, "create table t as select 1 as a")
    for view in ("mv", "busy", "quick"):
        sql(pg17, name, f"create materialized view {view} as select * from t")
    endpoint = Endpoint({**pg17.params, "dbname": name})
    with endpoint.connect() as holder, endpoint.connect() as reader, connect(pg17, name) as other:
        with snapshot.hold(holder, "utf-8", LockBudget(10)) as held:
            computed_values.begin(reader, held.id, "UTF8")
            targets = computed_values.targets(reader, held.tables)
            other.execute("insert into t values (2); refresh materialized view mv")
            other.execute("begin; refresh materialized view busy")
            found, warnings = computed_values.read_all(reader, targets, "utf-8", lambda: None)
            other.execute("rollback")
        assert [one.relation for one in found] == ["public.quick"]
        assert [warning.partition(": ")[2] for warning in warnings] == [
            "refreshed meanwhile", "canceling statement due to lock timeout",
        ]  # fmt: skip
