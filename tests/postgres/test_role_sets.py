"""Backups and restores without a superuser, by role sets like those of managed services (A4.5).

`tests/fixtures/roles` has the roles of each service, with what they cannot do.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgkeep.postgres.server import Server
from tests.support import invoke
from tests.support.backups import globals_of
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables
from tests.support.servers import Servers, major_of, programs_for, psql, sql

ROLES = Path(__file__).parents[1] / "fixtures" / "roles"
MAJORS = (15, 18)  # from 16 on, a role that creates roles administers only those
# What an application's administrator creates.
APPLICATION = """
create role {p}_owner nologin;
create role {p}_app login password 'secret' connection limit 7 valid until '2040-01-01';
create role {p}_reader noinherit createdb;
grant {p}_owner to {p}_admin;
grant {p}_reader to {p}_app;
comment on role {p}_app is 'the application';
alter role {p}_app set work_mem = '5MB';
create database {p}_db owner {p}_owner template template0;
revoke connect on database {p}_db from public;
grant connect on database {p}_db to {p}_app;
"""
OBJECTS = """
create table public.t (id int primary key generated always as identity, v text);
insert into public.t (v) select 'v' || n from generate_series(1, 500) n;
alter table public.t owner to {p}_owner;
create schema app authorization {p}_owner;
set role {p}_owner;
create table app.u as select n from generate_series(1, 100) n;
create view app.w as select * from app.u;
grant usage on schema app to {p}_reader;
grant select on public.t, app.u to {p}_reader;
alter default privileges grant select on tables to {p}_reader;
reset role;
"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Servers]:
    """Other servers, on which no role of the backups exists."""
    running = Servers()
    yield running
    running.close()


def create_roles(server: Server, service: str, disposables: Disposables) -> str:
    """Create the roles of a service, as the service does; return the login."""
    prefix = f"{service}_{major_of(server)}"
    admin, provider = f"{prefix}_admin", f"{prefix}_provider"
    for name in (admin, provider):
        disposables.made_role(server, name)
    variables = ["-v", f"admin={admin}", "-v", f"provider={provider}"]
    psql(server, "postgres", [*variables, "-f", str(ROLES / f"{service}.sql")])
    return admin


def replay(server: Server, artifact: Path, role: str) -> list[str]:
    """`zcat NAME.globals.sql.gz | psql -X -d postgres`; return warnings and errors."""
    done = subprocess.run(
        [programs_for(major_of(server)).program("psql"), "-X", "-q", "-d", "postgres"],
        input=globals_of(artifact), env=invoke.environment(server, PGUSER=role),
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr.decode().splitlines()


ATTRIBUTES = """
select a.rolname, a.rolcanlogin, a.rolinherit, a.rolcreatedb, a.rolconnlimit,
       a.rolvaliduntil is not null, a.rolreplication, a.rolbypassrls, a.rolpassword is not null,
       shobj_description(a.oid, 'pg_authid'),
       (select setconfig::text from pg_db_role_setting where setrole = a.oid and setdatabase = 0),
       array(select m.roleid::regrole::text from pg_auth_members m where m.member = a.oid
             order by 1)
from pg_authid a where rolname ~ %(prefix)s and rolname !~ '(admin|provider)$' order by 1
"""


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("service", ["rds", "azure"])
def test_a_role_that_creates_databases_and_roles(
    elsewhere: Servers, tmp_path: Path, service: str, major: int, servers: Servers
) -> None:
    """A3.1, A3.4, A4.6, A4.8: the roles, then the database with its owners, on another server."""
    source, target = servers(major), elsewhere(major)
    p = f"{service}_{major}"
    with Disposables() as there, Disposables() as here:
        for server, disposables in ((source, here), (target, there)):
            disposables.name(server, f"{p}_db")
            for name in ("reader", "app", "owner", "replica"):
                disposables.made_role(server, f"{p}_{name}")
            create_roles(server, service, disposables)
        admin: dict[str, Any] = {"PGUSER": f"{p}_admin"}
        for database, script in (("postgres", APPLICATION), (f"{p}_db", OBJECTS)):
            _psql(source, database, f"{p}_admin", script.format(p=p))
        sql(source, "postgres", f"create role {p}_replica login replication bypassrls noinherit")
        artifact = invoke.backup(source, f"{p}_db", tmp_path, "--verify", **admin)

        # 1. The roles: created with everything that their creator may set, all else is reported.
        ours = [line for line in replay(target, artifact, f"{p}_admin") if p in line]
        assert [line for line in ours if "ERROR" in line] == []
        for attribute in ("REPLICATION", "BYPASSRLS"):
            assert any(f"WARNING:  ROLE {p}_replica {attribute}: " in line for line in ours), ours
        assert len([line for line in ours if f"ROLE {p}_" in line]) == 2, ours
        found = sql(target, "postgres", ATTRIBUTES, prefix=f"^{p}_")
        hashes = service == "rds"  # pg_read_all_data includes pg_authid
        assert [row[:-1] for row in found] == [
            (f"{p}_app", True, True, False, 7, True, False, False, hashes, "the application",
             "{work_mem=5MB}"),
            (f"{p}_owner", False, True, False, -1, False, False, False, False, None, None),
            (f"{p}_reader", False, False, True, -1, False, False, False, False, None, None),
            (f"{p}_replica", True, False, False, -1, False, False, False, False, None, None),
        ]  # fmt: skip
        assert found[0][-1] == [f"{p}_reader"]
        assert [line for line in replay(target, artifact, f"{p}_admin") if p in line] == []
        assert sql(target, "postgres", ATTRIBUTES, prefix=f"^{p}_") == found

        # 2. The database, with all owners; then once more, in place of it.
        invoke.restore(target, artifact, f"{p}_db", **admin)
        assert_same_database(source, f"{p}_db", target, f"{p}_db")
        invoke.restore(
            target, artifact, f"{p}_db", "--drop-existing", "--discard-old", "--yes", **admin
        )
        assert_same_database(source, f"{p}_db", target, f"{p}_db")

        # 3. A member that lacks what a restore needs learns it from the plan, with the statement.
        options = major >= 16
        partial = there.role(target, "createdb" if options else "createdb noinherit")
        without = " with set false" if options else ""
        sql(target, "postgres", f"grant {p}_owner to {partial}{without}")
        command = ("restore", f"--backup={artifact}", f"--target-db={p}_copy")
        env = invoke.environment(target, PGUSER=partial)
        said = invoke.run(*command, env=env, code=9)
        assert "without INHERIT and SET" in invoke.run(*command, "--dry-run", env=env, code=9)
        assert f"what belongs to {p}_owner (a member of it, but without INHERIT and SET)" in said
        assert f'Run GRANT "{p}_owner" TO the role (since PostgreSQL 16: WITH INHERIT' in said
        complete = " with inherit true, set true" if options else ""
        sql(target, "postgres", f"alter role {partial} inherit")
        sql(target, "postgres", f"grant {p}_owner to {partial}{complete}")
        invoke.run(*command, "--dry-run", env=env)


@pytest.mark.parametrize("major", MAJORS)
def test_the_owner_of_one_database(
    elsewhere: Servers, tmp_path: Path, major: int, servers: Servers
) -> None:
    """A4.6: it backs up and restores its database, into an empty one that another role created."""
    source, target = servers(major), elsewhere(major)
    with Disposables() as there, Disposables() as here:
        admin = create_roles(source, "cnpg", here)
        name = here.database(source, f"owner {admin}")
        script = "create table t as select generate_series(1, 100) n; create schema s;"
        _psql(source, name, admin, script + "create view s.v as table t")
        artifact = invoke.backup(source, name, tmp_path, "--verify", PGUSER=admin)
        create_roles(target, "cnpg", there)
        command = ("restore", f"--backup={artifact}", f"--target-db={name}")
        env = invoke.environment(target, PGUSER=admin)
        err = invoke.run(*command, env=env, code=9)
        assert "the role is not allowed to create databases" in err
        assert "restore into an empty database with --in-place" in err
        # No role comes into being, and nobody can believe it.
        assert "ERROR:  permission denied to create role" in replay(target, artifact, admin)
        there.database(target, f"owner {admin}", name=name)
        invoke.run(*command, "--in-place", "--yes", env=env)
        assert_same_database(source, name, target, name)


def _psql(server: Server, database: str, role: str, script: str) -> None:
    with psycopg.connect(
        host=server.host, port=server.port, user=role, dbname=database, autocommit=True
    ) as connection:
        for statement in filter(str.strip, script.split(";")):
            connection.execute(statement.encode())
