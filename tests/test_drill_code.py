"""No code of a dump runs as superuser in a drill's temporary server, and none reaches outside."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep import drill, scratch, verify
from pgkeep.artifact import Artifact
from pgkeep.progress import Silent
from pgkeep.server import Server
from pgkeep.stores.local import LocalStore

from . import keep
from . import servers as s

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
EVERY = 17


@pytest.fixture(scope="module")
def attack(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    name = f"attacked_{os.getpid()}_{s.major_of(server)}"
    s.sql(server, "postgres", f"create database {name} template template0")
    s.sql(server, "postgres", "create role mallory login")
    try:
        s.sql(server, name, "create schema evil authorization mallory")
        mallory = "set session authorization mallory;"
        s.psql(server, name, input=mallory + ATTACK)
        s.psql(server, name, input=OF_SUPERUSERS)
        s.psql(server, name, input=mallory + CALLS_TRUSTED)
        yield keep.backup(server, name, tmp_path_factory.mktemp("backups"), "--verify")
    finally:
        s.sql(server, "postgres", "revoke postgres from mallory")
        s.drop(server, name)
        s.sql(server, "postgres", "drop role mallory")


def test_no_code_of_the_dump_runs_as_superuser(attack: Path) -> None:
    """G3.1: by checks, domains, generated columns, keys, bounds, indexes, views, triggers."""
    store = LocalStore(attack.parent)
    side = verify.side_files(store, attack.name)
    artifact = Artifact(store.open(attack.name))
    roles = verify.read_globals(store, attack.name, side)
    with scratch.throw_away(artifact.index, roles) as there:
        drill.restore(artifact.source, side, there, 2, Silent())
        data = Path(there.endpoint.params["host"]) / "data"
        assert sorted(path.name for path in data.glob("trace-*")) == []
