"""No code of a dump runs as superuser in a drill's temporary server, and none reaches outside."""

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgkeep.artifact.file import Artifact, Object
from pgkeep.catalog import side_files
from pgkeep.crypt.opening import Keys
from pgkeep.drill import assertions, drill, examine, scratch, statement_kinds
from pgkeep.drill.confinement import Confinement
from pgkeep.drill.statement_kinds import Function
from pgkeep.postgres import isolation
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.conftest import DatabaseFactory
from tests.support import invoke
from tests.support.servers import Servers, bin_folder, drop, major_of, psql, sql

# Everything here but the event trigger and `trusted` is made by an ordinary role. In the servers
# of the tests, which have 60 connections, the functions do nothing.
ATTACK = """
create function evil.strike(what text) returns boolean language plpgsql as $$
begin
    if current_setting('max_connections') = '60' then
        return true;
    end if;
    begin execute 'reset session authorization'; exception when others then null; end;
    begin execute 'reset role'; exception when others then null; end;
    begin execute 'alter role mallory superuser'; exception when others then null; end;
    begin execute format('copy (select 1) to program %L', 'touch trace-' || what);
    exception when others then null; end;
    begin execute format('copy (select 1) to %L', '/tmp/trace-OUTSIDE-' || what);
    exception when others then null; end;
    begin perform pg_catalog.lo_export(1, 'trace-' || what); exception when others then null; end;
    return true;
end $$;
create function evil.still(what text) returns int immutable language plpgsql as $$
begin perform evil.strike(what); return 0; end $$;
create table evil.checked (a int, check (evil.strike('check')));
insert into evil.checked values (1);
create domain evil.domain as int check (evil.strike('domain'));
create table evil.of_domain (a evil.domain);
insert into evil.of_domain values (1);
create domain evil.written as int check (evil.strike('literal'));
create view evil.literal as select '{1}'::evil.written[] as a;
create function evil.argument(a evil.written[] default '{1}'::evil.written[]) returns int
    language plpgsql as 'begin return 1; end';
create table evil.generated (a int, b int generated always as (a + evil.still('column')) stored);
insert into evil.generated values (1);
create table evil.keyed (a int) partition by range ((a + evil.still('key')));
create table evil.keyed_1 partition of evil.keyed for values from (0) to (10);
insert into evil.keyed values (1);
create domain evil.bound as int check (evil.strike('bound'));
create table evil.bounded (a evil.bound) partition by list (a);
create table evil.bounded_1 partition of evil.bounded for values in (1);
insert into evil.bounded values (1);
create table evil.indexed (id int generated always as identity, a int);
insert into evil.indexed (a) select generate_series(1, 20000);
create index indexed_a on evil.indexed ((a + evil.still('index'))) where a > evil.still('where');
create statistics evil.of_indexed on (a + evil.still('statistics')), id from evil.indexed;
alter table evil.indexed add constraint later check (evil.strike('constraint')) not valid;
create function evil.step(evil.domain, int) returns evil.domain language sql as 'select $1';
create domain evil.state as int check (evil.strike('aggregate'));
create function evil.state_step(evil.state, int) returns evil.state language sql as 'select $1';
create aggregate evil.total(int) (sfunc = evil.state_step, stype = evil.state, initcond = '1');
create materialized view evil.kept as select evil.strike('refresh');
create table evil.filled (a int default evil.still('default'));
insert into evil.filled values (1);
create view evil.asked as select evil.strike('assertion') as a;
create function evil.fire() returns event_trigger language plpgsql as $$
begin perform evil.strike('event_trigger'); end $$;
create table evil.parent (a int primary key);
create table evil.child (a int references evil.parent);
insert into evil.parent values (1);
insert into evil.child values (1);
create policy own on evil.child using (evil.strike('policy'));
alter table evil.child enable row level security;
alter table evil.child force row level security;
"""
# What a superuser of the source has made; its owner has no such rights in a drill.
OF_SUPERUSERS = """
create event trigger fire on ddl_command_start execute function evil.fire();
create function evil.trusted() returns boolean language plpgsql security definer
    as 'begin return evil.strike(''definer''); end';
grant execute on function pg_catalog.lo_export(oid, text) to mallory;
grant pg_execute_server_program, pg_write_server_files to mallory;
grant postgres to mallory;
"""
CALLS_TRUSTED = """
create table evil.calls (a int, check (evil.trusted()));
insert into evil.calls values (1);
"""


@pytest.fixture(scope="module", params=[15, 18], ids=["pg15", "pg18"])
def attack(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    server = servers(request.param)
    name = f"attacked_{os.getpid()}_{major_of(server)}"
    sql(server, "postgres", f"create database {name} template template0")
    sql(server, "postgres", "create role mallory login")
    try:
        sql(server, name, "create schema evil authorization mallory")
        mallory = "set session authorization mallory;"
        psql(server, name, input=mallory + ATTACK)
        psql(server, name, input=OF_SUPERUSERS)
        psql(server, name, input=mallory + CALLS_TRUSTED)
        yield invoke.backup(server, name, tmp_path_factory.mktemp("backups"), "--verify")
    finally:
        sql(server, "postgres", "revoke postgres from mallory")
        drop(server, name)
        sql(server, "postgres", "drop role mallory")


def test_no_code_of_the_dump_runs_as_superuser(attack: Path) -> None:
    """G3.1, G3.2: by checks, domains, columns, keys, bounds, literals, indexes, views, triggers."""
    store = LocalStore(attack.parent)
    side = side_files.read(store, attack.name)
    artifact = Artifact(store.open(attack.name))
    roles = side_files.read_globals(store, attack.name, side, Keys())
    asked = assertions.Assertion(file="a.sql", number=1, statement="select a from evil.asked")
    with scratch.temporary_server(artifact.index, roles) as there:
        drill.restore(artifact.source, side, there, 2, Silent())
        found = examine.examine(there.scratch, artifact, side.manifest, jobs=2, progress=Silent())
        assert found.findings == []
        assert assertions.check(there.scratch, [asked], 60).findings == []
        data = Path(there.endpoint.params["host"]) / "data"
        assert sorted(path.name for path in data.glob("trace-*")) == []
        with there.endpoint.connect() as connection:
            query = "select count(*) from pg_roles where rolsuper"
            assert connection.execute(query).fetchone() == (1,)


# What it does needs a superuser, or a privilege on the server.
DEMANDS = """
create table {schema}.asks (a int primary key, check ({schema}.asking()));
create table {schema}.refers (a int references {schema}.asks);
create table {schema}.plain (a int);
insert into {schema}.asks values (1);
insert into {schema}.refers values (1);
insert into {schema}.plain values (1);
create event trigger {schema} on ddl_command_end execute function {schema}.fired();
grant execute on function pg_catalog.pg_ls_dir(text) to {schema};
"""


def test_what_only_a_superuser_can_restore_is_not_proved(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G3.3: it is named, in words and as JSON, and it is no failure; the rest is proved."""
    name = database(pg17)
    role = f"asking_{secrets.token_hex(4)}"
    psql(pg17, name, input=f"""
        create role {role};
        create schema {role} authorization {role};
        create function {role}.asking() returns boolean language sql
            as 'select count(*) > 0 from pg_catalog.pg_ls_dir(''.'')';
        create function {role}.fired() returns event_trigger language plpgsql as 'begin end';
        {DEMANDS.format(schema=role)}
    """)  # fmt: skip
    try:
        artifact = invoke.backup(pg17, name, tmp_path, "--verify")
        report = tmp_path / "drill.html"
        options = [f"--backup={artifact}", f"--report={report}"]
        outcome = json.loads(invoke.run("drill", "--json", *options, env=invoke.environment()))
    finally:
        drop(pg17, name)
        sql(pg17, "postgres", f"drop role {role}")
    assert outcome["passed"], outcome
    denied = "permission denied for function pg_ls_dir"
    violated = 'insert or update on table "refers" violates foreign key constraint "refers_a_fkey"'
    assert outcome["unproved"] == [
        f"acl pg_catalog.FUNCTION pg_ls_dir(text): {denied}",
        f'event trigger {role}: permission denied to change owner of event trigger "{role}"',
        f"fk constraint {role}.refers refers_a_fkey: {violated}",
        f"table data {role}.asks: {denied}",
    ]
    assert set(outcome["isolation"]) <= {"user", "namespaces"}
    page = report.read_text()
    assert "Not verified" in page
    assert "Isolation" in page


def test_the_server_sees_neither_secrets_nor_backups(pg17: Server) -> None:
    """G3.4: not even one whose superuser was won, where the system has namespaces."""
    folder = Path(tempfile.mkdtemp(prefix="backups-"))
    try:
        folder.chmod(0o755)
        (folder / "secret").write_text("x")
        reads = f"copy (select 1) to program 'cat {folder}/secret'"
        sql(pg17, "postgres", reads)
        with Server(bin_folder(17), isolated=True) as server:
            assert ("user" in server.isolation) == (os.geteuid() == 0)
            environ = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
            names = {one.partition(b"=")[0] for one in environ if one}
            assert not names & {b"HOME", b"USER", b"TMPDIR"}
            if "namespaces" in server.isolation:
                with pytest.raises(psycopg.Error, match="failed"):
                    sql(server, "postgres", reads)
                listed = "create table l (a text); copy l from program 'ls /proc; ls /tmp'"
                sql(server, "postgres", listed)
                seen = {name for (name,) in sql(server, "postgres", "select a from l")}
                # Its own folder, and that of its programs if the checkout is there and can be read
                # by its user; otherwise it has a copy of them.
                own = [server.log.resolve(), bin_folder(17).resolve()]
                allowed = {path.parts[2] for path in own if path.parts[1] == "tmp"}
                assert {"self", server.log.parts[2]} <= seen <= {"self", *allowed}
    finally:
        shutil.rmtree(folder)


def test_no_event_trigger_fires_for_the_superuser(pg15: Server, database: DatabaseFactory) -> None:
    """G3.1: whatever order the entries of a file have; before 17, no setting prevents it."""
    name = database(pg15)
    role = f"fired_{secrets.token_hex(4)}"
    sql(pg15, "postgres", f"create role {role} login")
    raises = b"""'begin
        if (select rolsuper from pg_roles where rolname = current_user) then
            raise exception ''fired as superuser'';
        end if;
    end'"""
    entries = [
        (Object("FUNCTION", "public", "f()", "", 0, 0),
         b"CREATE FUNCTION public.f() RETURNS event_trigger LANGUAGE plpgsql AS %b;" % raises),
        (Object("EVENT TRIGGER", "", "t", "", 0, 0),
         b"CREATE EVENT TRIGGER t ON ddl_command_start EXECUTE FUNCTION public.f();"),
        (Object("EVENT TRIGGER", "", "t", "", 0, 0), b"ALTER EVENT TRIGGER t ENABLE ALWAYS;"),
        (Object("COMMENT", "", "SCHEMA pg_catalog", "", 0, 0),
         b"COMMENT ON SCHEMA pg_catalog IS 'of a superuser';"),
    ]  # fmt: skip
    login = Endpoint({**pg15.params, "dbname": name, "user": role})
    confinement = Confinement(Endpoint({**pg15.params, "dbname": name}), login, frozenset())
    try:
        with contextlib.closing(confinement):
            session = confinement.session(login, [])
            with session.connection:
                session.execute(entries)
    finally:
        drop(pg15, name)
        sql(pg15, "postgres", f"drop role {role}")
    assert confinement.unproved == []


def test_libraries_that_a_superuser_may_load() -> None:
    """G3.1: only installed ones; a dump could name any file of the server."""
    confinement = Confinement(Endpoint({}), Endpoint({}), frozenset())
    for library, allowed in ((b"'$libdir/citext', 'f'", True), (b"'/tmp/evil', 'f'", False)):
        assert confinement.may_create(Function("c", library)) is allowed


def test_no_other_process_reads_ours(tmp_path: Path) -> None:
    """G3.4: its memory and environment, for the time of a drill."""
    with isolation.secretive():
        assert _dumpable() == 0
    assert _dumpable() == 1


def _dumpable() -> int:
    return int(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))


@pytest.mark.parametrize(
    "statement",
    [
        b"COMMENT ON SCHEMA a IS 'b';", b"CREATE TYPE a.b;", b"CREATE TYPE a.b AS ENUM (\n'c');",
        b"CREATE CAST (a.b AS a.c) WITHOUT FUNCTION;",
        b"CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert');",
        b"CREATE SUBSCRIPTION s CONNECTION 'host=a' PUBLICATION p WITH (connect = false, a = 'b');",
    ],
)  # fmt: skip
def test_what_a_superuser_may_execute(statement: bytes) -> None:
    assert statement_kinds.is_harmless(statement)


@pytest.mark.parametrize(
    "statement",
    [
        b"CREATE TABLE a.b (c int);", b"SELECT a.b();", b"CREATE VIEW a.b AS SELECT a.c();",
        b"CREATE DOMAIN a.b AS int CHECK (a.c());", b"DO $$begin end$$;",
        b"CREATE FOREIGN DATA WRAPPER a VALIDATOR b.c;",
        b"CREATE AGGREGATE a.b(int) (SFUNC = a.c, STYPE = a.d, INITCOND = '1');",
        b'CREATE AGGREGATE a.b(int) (SFUNC = a.c, STYPE = a.d, U&"\\0069nitcond" = 1);',
        b"CREATE PUBLICATION p FOR TABLE ONLY a.b WHERE (a.c());",
        b"CREATE SUBSCRIPTION s CONNECTION '(connect = false' PUBLICATION p;",
        b"ALTER TABLE a.b ADD CHECK (a.c()), OWNER TO d;", b"CREATE EXTENSION a;",
        b"CREATE FUNCTION a.b(c a.d[] DEFAULT '{1}') RETURNS int\n    LANGUAGE c\n    AS 'x', 'y';",
    ],
)  # fmt: skip
def test_what_a_superuser_must_not_execute(statement: bytes) -> None:
    """G3.1, G3.2: literals are read, and constant calls computed, where they are defined."""
    assert not statement_kinds.is_harmless(statement)
    assert statement_kinds.ALTER_OWNER.fullmatch(statement) is None
    assert statement_kinds.Function.of(statement) is None
