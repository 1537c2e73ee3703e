"""A table that is replaced: the plan knows everything that would keep it from being dropped."""

import json
from pathlib import Path

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers

TABLE = """
create schema app;
create table app.t (id int primary key, a int default 1, serial serial);
insert into app.t select i from generate_series(1, 10) i;
create table app.other (id int references app.t, note text);
"""

DEPENDENTS = {
    "view app.v": "create view app.v as select id from app.t",
    "materialized view app.m": "create materialized view app.m as select id from app.v",
    "function app.f()": "create function app.f() returns bigint begin atomic"
    " select count(*) from app.t; end",
    "function app.takes(app.t)": "create function app.takes(app.t) returns int language sql"
    " as 'select 1'",
    "table column app.composite.c": "create table app.composite (a int, c app.t)",
    "view app.of_composite": "create view app.of_composite as select c from app.composite",
    "policy p on app.other": "create policy p on app.other using"
    " (id in (select id from app.t where a > 0))",
    "rule r on app.other": "create rule r as on insert to app.other do also update app.t set a = 2",
    "default value for app.uses.a": "create table app.uses (a int default"
    " nextval('app.t_serial_seq'))",
    "trigger tr on app.other": "create trigger tr before insert on app.other for each row when"
    " (new is distinct from null) execute function suppress_redundant_updates_trigger()",
}
NOT_DEPENDING = {"trigger tr on app.other"}


def test_whatever_depends_on_it(server: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """G6.13: functions, columns, policies, rules, defaults: all are in the plan."""
    name = database(server)
    servers.psql(server, name, input=TABLE)
    artifact = invoke.backup(server, name, tmp_path)
    for statement in DEPENDENTS.values():
        servers.sql(server, name, statement)
    env = invoke.environment(server)
    restore = ("restore", f"--backup={artifact}", f"--target-db={name}", "--table=app.t")
    replace = (*restore, "--drop-existing", "--yes")
    err = invoke.run(*replace, "--dry-run", env=env, code=9)
    found = {one for one in DEPENDENTS if f"{one} depends on a table that would be dropped" in err}
    assert found == DEPENDENTS.keys() - NOT_DEPENDING
    assert err.count("depends on a table") == len(found)
    for one in ("view app.of_composite", "materialized view app.m", "view app.v"):
        servers.sql(server, name, f"drop {one}")
    servers.sql(
        server, name,
        "drop function app.f(), app.takes(app.t); drop table app.composite, app.uses;"
        " drop policy p on app.other; drop rule r on app.other",
    )  # fmt: skip
    plan = json.loads(invoke.run(*replace, "--dry-run", "--json", env=env))
    assert plan["problems"] == []
    servers.sql(server, name, "update app.t set a = 7")
    invoke.run(*replace, env=env)
    assert servers.sql(server, name, "select min(a), count(*) from app.t") == [(1, 10)]
    query = "select count(*) from pg_constraint where contype = 'f' and conrelid = 'app.other'::"
    assert servers.sql(server, name, f"{query}regclass") == [(1,)]
