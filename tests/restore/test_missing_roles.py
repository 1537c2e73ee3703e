"""Roles that the target does not have: named by policies and user mappings, or created."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from pgkeep.sql import named_roles
from tests.support import invoke, servers
from tests.support.backups import fails
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables
from tests.support.servers import Servers, psql, sql

GONE = "gone; role"  # needs quotes
OBJECTS = """
create schema app authorization {gone};
create table app.t (a int);
insert into app.t select generate_series(1, 10);
alter table app.t enable row level security;
create policy only_gone on app.t to {gone} using (true);
create policy two on app.t as restrictive for select to {gone}, pg_monitor using (a > 1);
create policy "every TO one" on app.t using (a > 2);
comment on policy only_gone on app.t is 'left out';
create extension postgres_fdw;
create server elsewhere foreign data wrapper postgres_fdw;
create user mapping for {gone} server elsewhere options (user 'x');
create user mapping for public server elsewhere;
create publication pub for table app.t;
alter publication pub owner to {gone};
create function watch() returns event_trigger language plpgsql as 'begin end';
create event trigger watcher on ddl_command_start execute function watch();
create subscription sub connection 'dbname=none' publication p with (connect = false);
alter default privileges for role {gone} grant select on tables to public;
alter default privileges grant select on tables to {gone};
grant select on app.t to {gone};
alter table app.t owner to {gone};
"""


@pytest.fixture(scope="module")
def artifact(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A backup whose role is gone from the server."""
    gone = servers.quoted(GONE)
    with Disposables() as disposables:
        name = disposables.database(pg17)
        servers.sql(pg17, "postgres", f"create role {gone} superuser")
        servers.psql(pg17, name, input=OBJECTS.format(gone=gone))
        made = invoke.backup(pg17, name, tmp_path_factory.mktemp("gone"))
        servers.drop(pg17, name)
        servers.sql(pg17, "postgres", f"drop role {gone}")
        yield made


def test_what_names_missing_roles_is_left_out(pg17: Server, artifact: Path) -> None:
    """G6.5: a policy keeps its other roles: without any it would be for everybody."""
    with Disposables() as disposables:
        target = disposables.name(pg17)
        err = fails(pg17, artifact, target, code=9)
        assert f"roles are missing on the server: {GONE}" in err
        assert "--create-roles" in err
        plain = ("--no-owner", "--no-privileges")
        plan = json.loads(invoke.restore(pg17, artifact, target, *plain, "--dry-run", "--json"))
        assert plan["problems"] == []
        assert f"skipped: policy app.t only_gone (role {GONE} is missing)" in plan["warnings"]
        assert any(one.startswith("skipped: user mapping USER MAPPING") for one in plan["warnings"])
        assert any(f"are restored without missing roles: {GONE}" in one for one in plan["warnings"])
        invoke.restore(pg17, artifact, target, *plain)
        query = "select polname, polroles::regrole[]::text, polpermissive from pg_policy order by 1"
        assert servers.sql(pg17, target, query) == [
            ("every TO one", "{-}", True),
            ("two", "{pg_monitor}", False),
        ]
        assert servers.sql(pg17, target, "select usename from pg_user_mappings") == [("public",)]
        query = "select count(*) from pg_subscription where subdbid = (select oid from pg_database"
        assert servers.sql(pg17, target, f"{query} where datname = current_database())") == [(1,)]


def test_missing_roles_are_created(pg17: Server, artifact: Path) -> None:
    """G6.6: without login, and listed in the plan; those of a failed restore are dropped."""
    query = f"select rolcanlogin, rolsuper from pg_roles where rolname = '{GONE}'"
    with Disposables() as disposables:
        target = disposables.name(pg17)
        plan = json.loads(
            invoke.restore(pg17, artifact, target, "--create-roles", "--dry-run", "--json")
        )
        assert f"create roles without login: {GONE}" in plan["steps"]
        assert servers.sql(pg17, "postgres", query) == []
        fails(
            pg17, artifact, target, "--create-roles", "--skip=EXTENSION:postgres_fdw",
            "--skip=FUNCTION:public.watch()", "--in-place", "--yes", code=9,
        )  # fmt: skip
        assert servers.sql(pg17, "postgres", query) == []
        disposables.made_role(pg17, GONE)
        invoke.restore(pg17, artifact, target, "--create-roles")
        assert servers.sql(pg17, "postgres", query) == [(False, False)]
        query = "select polroles::regrole[]::text from pg_policy where polname = 'only_gone'"
        assert servers.sql(pg17, target, query) == [(f'{{"\\"{GONE}\\""}}',)]
        query = "select tableowner from pg_tables where tablename = 't'"
        assert servers.sql(pg17, target, query) == [(GONE,)]
        again = disposables.name(pg17)
        invoke.restore(pg17, artifact, again)
        assert_same_database(pg17, target, pg17, again)


@pytest.mark.parametrize("major", [15, 17, 18])
def test_an_ordinary_role_creates_roles(major: int, servers: Servers, tmp_path: Path) -> None:
    """G6.6, A4.8: it becomes a member, for otherwise it could give them nothing.

    The database belongs to the new role from the beginning, or nothing in schema public could.
    """
    server = servers(major)
    with Disposables() as disposables:
        name, target = disposables.database(server), disposables.name(server)
        sql(server, "postgres", f"create role spare_gone_{major}")
        psql(
            server,
            name,
            input=f"create schema app authorization spare_gone_{major};"
            f" create table app.t as select 1 a; alter table app.t owner to spare_gone_{major};"
            f" create table public.t as table app.t; alter table t owner to spare_gone_{major};"
            f" alter database {name} owner to spare_gone_{major};",
        )
        artifact = invoke.backup(server, name, tmp_path)
        role = disposables.role(server, "createdb")
        sql(server, name, f"alter database {name} owner to {role}")
        sql(server, name, "drop schema app cascade; drop table t")
        sql(server, "postgres", f"drop role spare_gone_{major}")
        env = invoke.environment(server, "postgres", PGUSER=role)
        restore = ("restore", f"--backup={artifact}", f"--target-db={target}", "--create-roles")
        err = invoke.run(*restore, "--portable", env=env, code=9)
        assert "is not allowed to create roles" in err
        sql(server, "postgres", f"alter role {role} createrole")
        disposables.made_role(server, f"spare_gone_{major}")
        invoke.run(*restore, "--portable", env=env)
        query = "select tableowner from pg_tables where tablename = 't'"
        assert sql(server, target, query) == [(f"spare_gone_{major}",)] * 2


@pytest.mark.parametrize(
    ("kind", "text", "roles", "left"),
    [
        ("POLICY", b"CREATE POLICY p ON a.t TO x, y USING ((a = 1));", ["x", "y"],
         b'CREATE POLICY p ON a.t TO "y" USING ((a = 1));'),
        ("POLICY", b'CREATE POLICY "p ON q TO x" ON a.t USING (true);', [], None),
        ("POLICY", b'CREATE POLICY p ON a.t AS RESTRICTIVE TO "a "" b", x WITH CHECK (true);',
         ['a " b', "x"],
         b'CREATE POLICY p ON a.t AS RESTRICTIVE TO "a "" b" WITH CHECK (true);'),
        ("USER MAPPING", b"CREATE USER MAPPING FOR x SERVER s;", ["x"], None),
        ("USER MAPPING", b'CREATE USER MAPPING FOR "public" SERVER s;', ["public"],
         b'CREATE USER MAPPING FOR "public" SERVER s;'),
        ("USER MAPPING", b"CREATE USER MAPPING FOR public SERVER s;", [], None),
        ("TABLE", b"CREATE POLICY p ON a.t TO x;", [], None),
    ],
)  # fmt: skip
def test_roles_in_statements(kind: str, text: bytes, roles: list[str], left: bytes | None) -> None:
    """G6.5: names may be quoted, and look like statements."""
    assert named_roles.named(kind, text, "utf-8") == roles
    assert named_roles.without(kind, text, {"x"}, "utf-8") == left
