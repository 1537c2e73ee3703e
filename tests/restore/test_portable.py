"""Restores to where not everything can be had: an ordinary role, an older server."""

import json
from pathlib import Path

import pytest

from pgkeep.postgres import databases
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.sql import portability
from pgkeep.sql.portability import TargetServer
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables
from tests.support.invoke import outputs

OBJECTS = """
create schema app authorization {owner};
create table app.t (id int primary key, b text);
insert into app.t select i, 'b' || i from generate_series(1, 1000) i;
alter table app.t owner to {owner};
create table mine (a int);
insert into mine values (42);
create function backend() returns int language internal as 'pg_backend_pid';
create function backend(int) returns int language sql as 'select 1';
create function "Add"(a int, out total int, variadic text[]) language internal as 'int4abs';
create type tiny;
create function tiny_in(cstring) returns tiny language internal strict immutable as 'int4in';
create function tiny_out(tiny) returns cstring language internal strict immutable as 'int4out';
create type tiny (input = tiny_in, output = tiny_out, like = int);
comment on function backend() is 'left out';
comment on function "Add"(int, text[]) is 'left out';
comment on type tiny is 'left out';
comment on function backend(int) is 'kept';
revoke execute on function backend(), backend(int), "Add"(int, text[]) from public;
grant execute on function backend(), "Add"(int, text[]) to {owner};
grant usage on type tiny to {owner};
create function watch() returns event_trigger language plpgsql as 'begin end';
create event trigger watcher on ddl_command_start execute function watch();
comment on event trigger watcher is 'left out';
create publication everything for all tables;
comment on publication everything is 'left out';
alter default privileges for role {owner} grant select on tables to public;
grant select on app.t to {owner};
alter database {database} set log_min_duration_statement = '1s';
alter database {database} set search_path = app, public;
"""


def test_what_an_ordinary_role_cannot_have(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A4.6, A4.10, A4.12: listed before anything happens; left out only when that is asked for."""
    with Disposables() as disposables:
        owner, role = disposables.role(pg17), disposables.role(pg17)
        servers.sql(pg17, "postgres", f"alter role {role} createdb")
        name = database(pg17)
        servers.psql(pg17, name, input=OBJECTS.format(owner=owner, database=name))
        artifact = invoke.backup(pg17, name, tmp_path)
        env = invoke.environment(pg17, "postgres", PGUSER=role)
        target = disposables.name(pg17)
        restore = ("restore", f"--backup={artifact}", f"--target-db={target}")
        err = outputs(*restore, env=env, code=9)[1]
        left_out = (
            "function public.backend() (only a superuser can create it)",
            "type public.tiny (only a superuser can create it)",
            "event trigger watcher (only a superuser can create it)",
            "publication everything (only a superuser can create it)",
            f"(the role is not a member of {owner})",
            f"what belongs to {owner} (not a member of it)",
        )
        assert left_out[0] in err
        assert " and more" in err
        assert "skip them with --portable" in err
        plan = json.loads(outputs(*restore, "--portable", "--dry-run", "--json", env=env)[0])
        assert all(any(one in warning for warning in plan["warnings"]) for one in left_out)
        err = outputs(*restore, "--portable", env=env)[1]
        for one in left_out:
            assert f"warning: skipped: {one}" in err or one in err
        assert "a setting (permission denied to set parameter" in err
        query = "select (select count(*) from app.t), (select max(id) from app.t), (table mine)"
        assert servers.sql(pg17, target, query) == [(1000, 1000, 42)]
        assert servers.sql(
            pg17, target, "select tableowner from pg_tables where schemaname = 'app'"
        ) == [(role,)]
        assert servers.sql(pg17, target, "show search_path") == [("app, public",)]
        assert servers.sql(
            pg17, target, "select count(*) from pg_publication, pg_event_trigger"
        ) == [(0,)]
        query = "select obj_description(oid), proacl::text from pg_proc where proname = 'backend'"
        assert servers.sql(pg17, target, query) == [("kept", f"{{{role}=X/{role}}}")]
        servers.sql(pg17, "postgres", f"drop database {servers.quoted(target)}")
        servers.sql(pg17, name, f"drop owned by {owner}")


def test_a_member_may_give_what_it_restores(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """Nothing is left out that can be had, nor what belongs to whoever owns the database.

    A3.6: where the database is there already, it gets its settings too.
    """
    with Disposables() as disposables:
        owner = disposables.role(pg17)
        servers.sql(pg17, "postgres", f"alter role {owner} createdb")
        name = database(pg17, f"owner {owner}")
        servers.psql(pg17, name, input=f"""
            set role {owner};
            create schema app;
            create table app.t as select i from generate_series(1, 100) i;
            comment on database {name} is 'ours';
            alter database {name} set work_mem = '5MB';
            revoke temporary on database {name} from public;
        """)  # fmt: skip
        env = invoke.environment(pg17, "postgres", PGUSER=owner)
        others = disposables.database(pg17)
        servers.sql(pg17, others, f"grant create on database {others} to {owner}")
        restore = ("restore", f"--backup={invoke.backup(pg17, name, tmp_path)}")
        err = outputs(*restore, f"--target-db={others}", "--in-place", "--yes", env=env)[1]
        reason = f"(the role is not the owner of database {others})"
        assert f'skipped: ALTER DATABASE "{others}" SET "work_mem" {reason}' in err
        assert f'skipped: COMMENT ON DATABASE "{others}" {reason}' in err
        assert f'skipped: GRANT CONNECT ON DATABASE "{others}" TO PUBLIC {reason}' in err
        servers.psql(pg17, name, input=f"""
            set role {owner};
            grant create on schema public to public;
            comment on schema public is 'ours';
        """)  # fmt: skip
        restore = ("restore", f"--backup={invoke.backup(pg17, name, tmp_path)}")
        target = disposables.name(pg17)
        outputs(*restore, f"--target-db={target}", env=env)
        assert_same_database(pg17, name, pg17, target)
        there = disposables.database(pg17, f"owner {owner}")
        outputs(*restore, f"--target-db={there}", "--in-place", "--yes", env=env)
        assert_same_database(pg17, name, pg17, there)
        servers.sql(pg17, name, f"alter database {name} set log_min_duration_statement = '9s'")
        restore = ("restore", f"--backup={invoke.backup(pg17, name, tmp_path)}")
        there = disposables.database(pg17, f"owner {owner}")
        err = outputs(*restore, f"--target-db={there}", "--in-place", "--yes", env=env)[1]
        assert f'skipped: ALTER DATABASE "{there}" SET "log_min_duration_statement" (' in err
        servers.drop(pg17, target)
        servers.drop(pg17, name)


def test_into_an_older_server(
    pg15: Server, pg18: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A1.2, A1.3: refused; with --portable as far as the statements are known there."""
    name = database(pg18)
    servers.psql(pg18, name, input="""
        create table t (id int generated always as identity primary key, b text);
        insert into t (b) select 'b' || i from generate_series(1, 1000) i;
        create index on t (b);
        analyze t;
    """)  # fmt: skip
    artifact = invoke.backup(pg18, name, tmp_path)
    env = invoke.environment(pg15, "postgres")
    restore = ("restore", f"--backup={artifact}", f"--target-db={name}")
    err = outputs(*restore, env=env, code=9)[1]
    assert "the server is PostgreSQL 15, the backup comes from 18" in err
    assert "try it with --portable" in err
    try:
        outputs(*restore, "--portable", env=env)
        query = "select count(*), max(id), min(b) from t"
        assert servers.sql(pg15, name, query) == servers.sql(pg18, name, query)
        servers.drop(pg15, name)
        servers.psql(
            pg18, name, input="create table v (a int, b int generated always as (a * 2) virtual)"
        )
        artifact = invoke.backup(pg18, name, tmp_path)
        again = ("restore", f"--backup={artifact}", f"--target-db={name}", "--portable")
        assert "table public.v: syntax error" in outputs(*again, env=env, code=8)[1]
        assert not servers.sql(
            pg15, "postgres", f"select from pg_database where datname ~ '^{name}'"
        )
    finally:
        servers.drop(pg15, name)


def test_a_failure_leaves_no_database_that_a_subscription_holds(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A4.11, D24: DROP DATABASE refuses where there is one."""
    name = database(pg17)
    servers.psql(pg17, name, input="""
        set test.divisor = '1';
        create materialized view fragile as
            select 1 / coalesce(current_setting('test.divisor', true), '0')::int;
        create subscription s connection 'host=nowhere' publication p with (connect = false);
    """)  # fmt: skip
    try:
        artifact = invoke.backup(pg17, name, tmp_path)
        env = invoke.environment(pg17, "postgres")
        err = outputs("restore", f"--backup={artifact}", "--target-db=broken", env=env, code=8)[1]
        assert "division by zero" in err
        assert not servers.sql(
            pg17, "postgres", "select from pg_database where datname ~ '^broken'"
        )
    finally:
        databases.drop_subscriptions(Endpoint(pg17.params | {"dbname": name}))


@pytest.mark.parametrize(
    ("kind", "name", "about", "expected"),
    [
        ("FUNCTION", "f()", "FUNCTION f()", True),
        ("FUNCTION", "f()", "FUNCTION f(OUT a integer, OUT b text)", True),
        ("FUNCTION", "f()", "FUNCTION f(integer)", False),
        ("FUNCTION", "f()", "FUNCTION f(a integer)", False),
        ("FUNCTION", "f(text)", "FUNCTION f(a text, OUT b integer)", True),
        ("FUNCTION", "f(text)", "FUNCTION f(OUT b integer, text)", True),
        ("FUNCTION", "f(text)", "FUNCTION f(OUT b text)", False),
        ("FUNCTION", "f(text)", "FUNCTION f(VARIADIC a text[])", False),
        ("FUNCTION", "f(text[])", "FUNCTION f(VARIADIC a text[])", True),
        ("FUNCTION", "f(text)", "FUNCTION f(text, text)", False),
        ("FUNCTION", "f(text, text)", "FUNCTION f(text)", False),
        ("FUNCTION", "f(text)", "FUNCTION g(text)", False),
        ("FUNCTION", 'F"(integer)', 'FUNCTION "F"""(INOUT "A b" integer)', True),
        ("PROCEDURE", "f()", "FUNCTION f()", False),
        ("PROCEDURAL LANGUAGE", "L", 'LANGUAGE "L"', True),
        ("OPERATOR CLASS", "o", "OPERATOR CLASS o USING btree", True),
        ("CAST", "CAST (a AS b)", "CAST (a AS b)", True),
        ("TYPE", "t", "TYPE t", True),
        ("TYPE", "t", "TYPE tt", False),
    ],
)
def test_what_is_said_about_what(kind: str, name: str, about: str, expected: bool) -> None:
    assert bool(portability.followers(kind, name).fullmatch(about)) == expected


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("FUNCTION", b"CREATE FUNCTION f() RETURNS int\n    LANGUAGE c\n    AS 'x', 'y';", "super"),
        ("FUNCTION", b"CREATE FUNCTION f() RETURNS int\n    LANGUAGE sql LEAKPROOF\n", "super"),
        ("FUNCTION", b"CREATE FUNCTION f() RETURNS int\n    LANGUAGE sql\n    AS $$ c $$;", None),
        ("CAST", b"CREATE CAST (a AS b) WITHOUT FUNCTION;", "super"),
        ("CAST", b"CREATE CAST (a AS b) WITH FUNCTION f(a);", None),
        ("TYPE", b"CREATE TYPE t (\n    INTERNALLENGTH = 4,\n    INPUT = i,\n", "super"),
        ("TYPE", b"CREATE TYPE t AS ENUM (\n    'INPUT = '\n);", None),
        ("PUBLICATION", b"CREATE PUBLICATION p WITH (publish = 'insert');", None),
        ("EXTENSION", b"CREATE EXTENSION IF NOT EXISTS good WITH SCHEMA public;", None),
        ("EXTENSION", b'CREATE EXTENSION IF NOT EXISTS "ba-d" WITH SCHEMA public;', "super"),
        ("COMMENT", b"COMMENT ON EXTENSION \"ba-d\" IS 'x';", "super"),
        ("COMMENT", b"COMMENT ON TABLE t IS 'COMMENT ON EXTENSION bad IS';", None),
        ("SUBSCRIPTION", b"CREATE SUBSCRIPTION s ...", "pg_create_subscription"),
        ("STATISTICS DATA", b"SELECT * FROM pg_restore_relation_stats(", "PostgreSQL 18"),
    ],
)
def test_what_needs_what(kind: str, text: bytes, reason: str | None) -> None:
    target = TargetServer(version_num=170000, superuser=False, extensions=frozenset({"good"}))
    found = portability.obstacle(kind, text, target, "utf-8")
    assert (found is None) if reason is None else (found is not None and reason in found)
    mighty = TargetServer(version_num=180000, superuser=True)
    assert portability.obstacle(kind, text, mighty, "utf-8") is None


def test_tables_of_an_access_method_that_is_left_out(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A5.24: their rows do not depend on it."""
    with Disposables() as disposables:
        role, name = disposables.role(pg17), database(pg17)
        servers.sql(pg17, "postgres", f"alter role {role} createdb")
        servers.psql(pg17, name, input="""
            create access method "heap 2" type table handler heap_tableam_handler;
            create table stored (a int) using "heap 2";
            insert into stored select generate_series(1, 10);
            create table parted (a int) partition by list (a) using "heap 2";
            create table part partition of parted for values in (1);
            insert into parted values (1);
            create materialized view viewed using "heap 2" as select * from stored;
            create table plain (a int);
        """)  # fmt: skip
        artifact = invoke.backup(pg17, name, tmp_path)
        target = disposables.name(pg17)
        command = (
            "restore", f"--backup={artifact}", f"--target-db={target}", "--portable", "--no-owner",
            "--no-privileges", "--json",
        )  # fmt: skip
        out, _ = outputs(*command, env=invoke.environment(pg17, "postgres", PGUSER=role))
        assert json.loads(out)["warnings"] == [
            "skipped: access method heap 2 (only a superuser can create it)",
            "tables of access method heap 2 are created with heap",
        ]
        query = "select (select count(*) from stored), (select count(*) from viewed), a from parted"
        assert servers.sql(pg17, target, query) == [(10, 10, 1)]
