"""G4: rows go into tables that exist by sessions like any other; triggers are named."""

from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers

# The trigger names a table and an operator as the application does: without schemas.
SOURCE = """
create schema extensions;
create extension citext schema extensions;
create schema app;
set search_path = app, extensions;
create table people (id int primary key, mail citext);
insert into people values (1, 'Ann@x.org'), (2, 'bob@x.org');
create table log (entry text);
insert into log values ('one'), ('two');
create function audit() returns trigger language plpgsql as $$ begin
    insert into log select new.id where new.mail is distinct from 'BOB@X.ORG'; return new; end $$;
"""
TRIGGER = (
    "create trigger audit after insert on app.people for each row execute function app.audit()"
)


@pytest.fixture
def people(server: Server, database: DatabaseFactory) -> str:
    name = database(server)
    servers.psql(server, name, input=SOURCE)
    servers.sql(server, name, f'alter database "{name}" set search_path = app, extensions')
    return name


def count(server: Server, database: str, table: str) -> int:
    ((found,),) = servers.sql(server, database, f"select count(*) from app.{table}")
    return int(found)


@pytest.mark.parametrize("server", [15, 18], ids="pg{}".format, indirect=True)
def test_a_condition_means_what_it_means_in_the_database(
    server: Server, people: str, tmp_path: Path
) -> None:
    """G4.3: citext, a trigger without schemas, a check at the end of the transaction."""
    artifact = invoke.backup(server, people, tmp_path)
    servers.sql(server, people, f"{TRIGGER}; delete from app.people")
    env = invoke.environment(server)
    args = ["restore", f"--backup={artifact}", "--table=app.people", "--yes"]
    invoke.run(*args, "--where=mail = 'ann@x.org'", env=env)
    assert servers.sql(server, people, "select id from app.people") == [(1,)]
    assert count(server, people, "log") == 3
    assert "triggers of app.people fire" in invoke.run(*args, "--where=true", "--dry-run", env=env)
    invoke.run(*args, "--where=mail = 'BOB@X.org'", "--disable-triggers", env=env)
    assert (count(server, people, "people"), count(server, people, "log")) == (2, 3)
    said = invoke.run(*args, "--where=true", "--disable-triggers", "--dry-run", env=env)
    assert "triggers" not in said
    invoke.run(*args, "--where=mail is not distinct from 'BOB@x.org'", "--on-conflict=update",
             env=env)  # fmt: skip


# PostgreSQL looks into pg_catalog last where the path says so.
SHADOWS = """
create schema shadow;
create function shadow.never(text, text) returns boolean immutable language sql
    as 'select false';
create operator shadow.= (leftarg = text, rightarg = text, function = shadow.never);
create function shadow.never(name, name) returns boolean immutable language sql as 'select false';
create operator shadow.= (leftarg = name, rightarg = name, function = shadow.never);
create function shadow.never(oid, oid) returns boolean immutable language sql as 'select false';
create operator shadow.= (leftarg = oid, rightarg = oid, function = shadow.never);
create function shadow.count(text) returns bigint immutable language sql as 'select 7::bigint';
create function shadow.concat_ws(text, text, text) returns text immutable language sql
    as 'select ''''';
"""


@pytest.mark.parametrize("server", [18], ids="pg{}".format, indirect=True)
def test_our_own_statements_do_not_depend_on_it(
    server: Server, people: str, tmp_path: Path
) -> None:
    """G4.3: operators before pg_catalog change what the condition means, and nothing else."""
    servers.sql(server, people, "alter table app.people drop constraint people_pkey")
    artifact = invoke.backup(server, people, tmp_path)
    servers.psql(server, people, input=SHADOWS)
    path = "shadow, app, extensions, pg_catalog"
    servers.sql(server, people, f'alter database "{people}" set search_path = {path}')
    servers.sql(server, people, "delete from app.people where id operator(pg_catalog.=) 2")
    env = invoke.environment(server)
    args = ["restore", f"--backup={artifact}", "--table=app.people", "--yes"]
    invoke.run(*args, "--where=true", env=env)
    assert count(server, people, "people") == 2
    servers.sql(server, people, "truncate app.people, app.log")
    servers.sql(server, people, TRIGGER + "; alter table app.people disable trigger audit")
    servers.sql(server, people, "alter table app.people enable always trigger audit")
    command = ["restore", f"--backup={artifact}", "--data-only", "--yes"]
    said = invoke.run(*command, env=env, code=8)
    assert "table app.log has 3 rows after loading, the backup has 2" in said
    servers.sql(server, people, "drop trigger audit on app.people")
    invoke.run(*command, env=env)
    assert (count(server, people, "people"), count(server, people, "log")) == (2, 2)


@pytest.mark.parametrize("server", [15], ids="pg{}".format, indirect=True)
def test_rows_that_a_trigger_adds_are_no_success(
    server: Server, people: str, tmp_path: Path
) -> None:
    """G4.4: the trigger is named before, and the counts are compared before the commit."""
    artifact = invoke.backup(server, people, tmp_path)
    servers.sql(server, people, f"{TRIGGER}; truncate app.people, app.log")
    env = invoke.environment(server)
    command = ["restore", f"--backup={artifact}", "--data-only", "--yes"]
    warning = "triggers fire, and may change rows: audit of app.people"
    assert warning in invoke.run(*command, "--dry-run", env=env)
    said = invoke.run(*command, env=env, code=8)
    assert "table app.log has 3 rows after loading, the backup has 2: a trigger has added" in said
    assert "hint: Use --disable-triggers" in said
    assert (count(server, people, "people"), count(server, people, "log")) == (0, 0)
    assert "triggers" not in invoke.run(*command, "--disable-triggers", "--dry-run", env=env)
    invoke.run(*command, "--disable-triggers", env=env)
    assert (count(server, people, "people"), count(server, people, "log")) == (2, 2)


@pytest.mark.parametrize("server", [17], ids="pg{}".format, indirect=True)
def test_deferred_triggers_count_too(server: Server, people: str, tmp_path: Path) -> None:
    """G4.4: a constraint trigger that fires at the end, on a partition, for replicas too."""
    servers.psql(
        server,
        people,
        input="""
        create table app.parts (id int) partition by range (id);
        create table app.part partition of app.parts for values from (0) to (10);
        insert into app.parts values (1), (2);
    """,
    )
    artifact = invoke.backup(server, people, tmp_path)
    servers.psql(
        server,
        people,
        input="""
        create function app.more() returns trigger language plpgsql as $$ begin
            insert into log values ('more'); return null; end $$;
        create constraint trigger late after insert on app.part initially deferred
            for each row execute function app.more();
        alter table app.part enable always trigger late;
        truncate app.parts, app.people, app.log;
    """,
    )
    command = ["restore", f"--backup={artifact}", "--data-only", "--yes", "--disable-triggers"]
    env = invoke.environment(server)
    assert "late of app.part" in invoke.run(*command, "--dry-run", env=env)
    said = invoke.run(*command, env=env, code=8)
    assert "table app.log has 4 rows after loading, the backup has 2" in said
