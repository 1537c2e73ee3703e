"""Rows alone, into tables with constraints that the rows of the backup violate: NOT VALID."""

import json
from pathlib import Path

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables

OBJECTS = """
create schema app;
create domain app.positive as int;
create table app.t (a int, p app.positive, constraint old check (a is not null));
create table app.parent (id int primary key);
create table app.child (id int);
create table app.parts (a int) partition by list (a);
create table app.parts_1 partition of app.parts for values in (-1);
insert into app.t values (-1, -1), (1, 1);
insert into app.child values (4711);
insert into app.parts values (-1);
alter table app.t add constraint "is; positive" check (a > 0) not valid;
comment on constraint "is; positive" on app.t is 'since 2026';
alter domain app.positive add constraint up check (value > 0) not valid;
comment on constraint up on domain app.positive is 'since 2025';
alter table app.child add constraint refers foreign key (id) references app.parent not valid;
alter table app.parts add constraint whole check (a > 0) not valid;
alter table app.parts_1 add constraint part check (a > 1) not valid;
"""
CONSTRAINTS = """
select conname, convalidated, pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint')
from pg_constraint where connamespace = 'app'::regnamespace order by 1, 2, 3
"""


def test_rows_are_loaded_as_they_were(
    server: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.10: the constraints are there afterwards, NOT VALID, and the plan names them."""
    name, target = database(server), database(server)
    servers.psql(server, name, input=OBJECTS)
    if servers.major_of(server) >= 18:
        servers.psql(
            server,
            name,
            input="create table app.n (a int); insert into app.n values (null);"
            " alter table app.n add constraint nn not null a not valid;",
        )
    artifact = invoke.backup(server, name, tmp_path)
    invoke.restore(server, artifact, target, "--in-place", "--schema-only", "--yes")
    rows = ("--data-only", "--yes")
    plan = json.loads(invoke.restore(server, artifact, target, *rows, "--dry-run", "--json"))
    for one in ("is; positive of app.t", "up of app.positive", "refers of app.child"):
        said = f"constraint {one} is NOT VALID, rows of the backup may violate it: they are loaded"
        assert any(warning.startswith(said) for warning in plan["warnings"]), plan["warnings"]
    invoke.restore(server, artifact, target, *rows)
    assert servers.sql(server, target, CONSTRAINTS) == servers.sql(server, name, CONSTRAINTS)
    assert_same_database(server, name, server, target)


def test_whoever_is_not_the_owner(pg17: Server, tmp_path: Path) -> None:
    """G6.10: the plan says that such rows are refused; the error names constraint and table."""
    with Disposables() as disposables:
        name, target = disposables.database(pg17), disposables.database(pg17)
        role = disposables.role(pg17)
        servers.psql(pg17, name, input="create table t (a int); insert into t values (-1);"
               " alter table t add constraint up check (a > 0) not valid;")  # fmt: skip
        artifact = invoke.backup(pg17, name, tmp_path)
        invoke.restore(pg17, artifact, target, "--in-place", "--schema-only", "--yes")
        servers.sql(pg17, target, f"grant all on t to {role}")
        env = invoke.environment(pg17, PGUSER=role)
        restore = ("restore", f"--backup={artifact}", f"--target-db={target}", "--data-only")
        err = invoke.run(*restore, "--yes", env=env, code=8)
        assert 'rows of public.t: new row for relation "t" violates check constraint "up"' in err
        plan = json.loads(invoke.run(*restore, "--dry-run", "--json", env=env))
        (warning,) = plan["warnings"]
        assert warning.startswith("constraint up of public.t is NOT VALID")
        assert warning.endswith("the role is not the owner, so such rows would be refused")
        servers.sql(pg17, target, f"drop owned by {role}")
