"""What a restore creates has the privileges of the backup, whatever the target gives by default."""

import json
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.disposable import Disposables

OBJECTS = """
create extension pg_trgm schema public;
create schema app;
create table app.t (id serial primary key, secret text);
insert into app.t (secret) select 's' || i from generate_series(1, 10) i;
create table public.t (id serial primary key);
create view app.v as select id from app.t;
create materialized view app.m as select id from app.t;
create function app.reveal() returns text language sql security definer
    as 'select secret from app.t limit 1';
revoke execute on function app.reveal() from public;
create function public.open() returns int language sql as 'select 1';
create procedure app.p() language sql as 'select 1';
create type app.mood as enum ('sad');
create domain public.positive as int check (value > 0);
grant select on app.t to pg_monitor;
select lo_create(4711);
select lo_create(4712);
grant select on large object 4712 to pg_monitor;
"""

# Globally and in a schema; what is taken away by default is as wrong as what is given.
DEFAULTS = """
alter default privileges grant all on tables to public;
alter default privileges grant all on sequences to {other} with grant option;
alter default privileges revoke execute on functions from public;
alter default privileges grant execute on functions to {other};
alter default privileges revoke usage on types from public;
alter default privileges grant usage on schemas to public;
alter default privileges in schema public grant update on tables to {other};
alter default privileges in schema public grant execute on functions to pg_monitor;
"""
LARGE_OBJECTS = "alter default privileges grant select on large objects to public;"

# What every object allows to whom; an empty ACL is the built-in default.
ACLS = """
select kind, name, grantee::regrole::text, privilege_type, is_grantable from (
    select 'relation', oid::regclass::text, coalesce(relacl,
        acldefault((case relkind when 'S' then 's' else 'r' end)::"char", relowner))
    from pg_class where relkind in ('r', 'v', 'm', 'S') and oid >= 16384
    union all select 'routine', oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner))
    from pg_proc where oid >= 16384
    union all select 'type', oid::regtype::text, coalesce(typacl, acldefault('T', typowner))
    from pg_type where oid >= 16384
    union all select 'schema', nspname, coalesce(nspacl, acldefault('n', nspowner))
    from pg_namespace where nspname !~ '^pg_'
    union all select 'large object', oid::text, coalesce(lomacl, acldefault('L', lomowner))
    from pg_largeobject_metadata
) o(kind, name, acl), aclexplode(acl) order by 1, 2, 3, 4, 5
"""
RULES = """
select coalesce(n.nspname, ''), defaclobjtype, a.grantee::regrole::text, a.privilege_type,
    a.is_grantable
from pg_default_acl d left join pg_namespace n on n.oid = defaclnamespace, aclexplode(defaclacl) a
where defaclrole = current_user::regrole order by 1, 2, 3, 4, 5
"""


@pytest.mark.parametrize("options", [("--schema-only",), ("--portable",)])
def test_in_place(
    server: Server, database: DatabaseFactory, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """G6.1: default privileges of the target add nothing, take nothing away, and stay."""
    with Disposables() as disposables:
        other = disposables.role(server)
        name, target = database(server), database(server)
        servers.psql(server, name, input=OBJECTS)
        if options == ("--schema-only",):
            servers.sql(server, name, "select lo_unlink(4711), lo_unlink(4712)")
        artifact = invoke.backup(server, name, tmp_path)
        large = LARGE_OBJECTS if servers.major_of(server) >= 18 else ""
        servers.psql(server, target, input=DEFAULTS.format(other=other) + large)
        before = servers.sql(server, target, RULES)
        invoke.restore(server, artifact, target, "--in-place", "--yes", *options)
        assert servers.sql(server, target, ACLS) == servers.sql(server, name, ACLS)
        assert servers.sql(server, target, RULES) == before
        servers.sql(server, target, f"drop owned by {other}")


def test_large_objects_of_rows_alone(
    pg18: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.1: --data-only creates large objects too."""
    name, target = database(pg18), database(pg18)
    servers.psql(pg18, name, input=OBJECTS)
    artifact = invoke.backup(pg18, name, tmp_path)
    invoke.restore(pg18, artifact, target, "--in-place", "--schema-only", "--yes")
    servers.psql(pg18, target, input=LARGE_OBJECTS)
    invoke.restore(pg18, artifact, target, "--data-only", "--yes")
    assert servers.sql(pg18, target, ACLS) == servers.sql(pg18, name, ACLS)
    assert servers.sql(pg18, target, RULES) == [("", "L", "-", "SELECT", False)] + [
        ("", "L", "postgres", one, False) for one in ("SELECT", "UPDATE")
    ]


def test_both_have_default_privileges(
    server: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.1: those of the backup apply to nothing of the backup, and join those of the target."""
    name, target, copy = database(server), database(server), database(server)
    servers.psql(server, name, input=OBJECTS)
    servers.psql(server, name, input="alter default privileges grant select on tables to public;")
    artifact = invoke.backup(server, name, tmp_path)
    servers.psql(server, target, input="alter default privileges grant insert on tables to public;")
    invoke.restore(server, artifact, target, "--in-place", "--yes")
    assert servers.sql(server, target, ACLS) == servers.sql(server, name, ACLS)
    rules = {row[2:4] for row in servers.sql(server, target, RULES)}
    assert {("-", "SELECT"), ("-", "INSERT")} <= rules
    servers.sql(server, "postgres", f"drop database {servers.quoted(copy)}")
    invoke.restore(server, artifact, copy)
    assert servers.sql(server, copy, ACLS) == servers.sql(server, name, ACLS)


def test_without_privileges_they_apply_and_the_plan_says_so(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.1: --no-privileges leaves the decision to the target, with a warning."""
    name, target = database(pg17), database(pg17)
    servers.psql(pg17, name, input=OBJECTS)
    artifact = invoke.backup(pg17, name, tmp_path)
    servers.psql(pg17, target, input="alter default privileges grant select on tables to public;")
    restore = ("--in-place", "--no-privileges", "--no-owner")
    warnings = json.loads(invoke.restore(pg17, artifact, target, *restore, "--dry-run", "--json"))[
        "warnings"
    ]
    said = f"default privileges of {target} apply to new objects: SELECT on tables to PUBLIC"
    assert said in warnings
    invoke.restore(pg17, artifact, target, *restore, "--yes")
    query = "select has_table_privilege('pg_monitor', 'app.t', 'select')"
    assert servers.sql(pg17, target, query) == [(True,)]


def test_tables_and_the_schema_that_is_made_for_them(
    server: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.1: the schema of a table that was restored alone was open by default."""
    name, target = database(server), database(server)
    servers.psql(server, name, input=OBJECTS)
    artifact = invoke.backup(server, name, tmp_path)
    servers.psql(server, target, input=DEFAULTS.format(other="pg_monitor"))
    invoke.restore(server, artifact, target, "--table=app.t")
    ours = [
        row for row in servers.sql(server, name, ACLS) if row[1] in ("app", "app.t", "app.t_id_seq")
    ]
    theirs = [
        row
        for row in servers.sql(server, target, ACLS)
        if row[1] in ("app", "app.t", "app.t_id_seq")
    ]
    assert theirs == ours
    warnings = json.loads(
        invoke.restore(
            server, artifact, target, "--table=public.t", "--no-privileges", "--dry-run", "--json"
        )
    )["warnings"]
    assert any("UPDATE on tables in schema public to pg_monitor" in warning for warning in warnings)
