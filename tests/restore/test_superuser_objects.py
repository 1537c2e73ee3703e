"""Kinds of objects that an ordinary role cannot create, and privileges that it cannot change."""

import json
from pathlib import Path

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.disposable import Disposables

OBJECTS = """
create table t as select 1 a;
create type "unfinished "" one";
create type empty as ();
create type pair as (a int, b text);
create type mood as enum ('a', 'b');
create aggregate ranks(variadic "any" order by variadic "any") (
    sfunc = ordered_set_transition_multi, stype = internal, finalfunc = rank_final,
    finalfunc_extra = true, hypothetical);
create aggregate total(int) (sfunc = int4pl, stype = int4);
create transform for int language sql (
    from sql with function prsd_lextype(internal), to sql with function int4recv(internal));
grant select (rolname) on pg_authid to public;
revoke execute on function pg_sleep(double precision) from public;
grant select on t to public;
"""


def test_superuser_objects_are_left_out(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.16: transforms, unfinished types, aggregates over internal, system objects' privileges."""
    with Disposables() as disposables:
        role = disposables.role(pg17)
        servers.sql(pg17, "postgres", f"alter role {role} createdb")
        name = database(pg17)
        servers.psql(pg17, name, input=OBJECTS)
        artifact = invoke.backup(pg17, name, tmp_path)
        env = invoke.environment(pg17, "postgres", PGUSER=role)
        target = disposables.name(pg17)
        command = ["restore", f"--backup={artifact}", f"--target-db={target}", "--portable"]
        plan = json.loads(invoke.run(*command, "--dry-run", "--json", env=env))
        left_out = [one for one in plan["warnings"] if "a superuser can" in one]
        assert sorted(one.split(": ", 1)[1].rpartition(" (")[0] for one in left_out) == [
            "acl pg_catalog.COLUMN pg_authid.rolname",
            "acl pg_catalog.FUNCTION pg_sleep(double precision)",
            'aggregate public.ranks("any")',
            "transform TRANSFORM FOR integer LANGUAGE sql",
            'type public.unfinished " one',
        ]
        invoke.run(*command, env=env)
        query = "select count(*) from pg_type where typname in ('empty', 'pair', 'mood')"
        assert servers.sql(pg17, target, query) == [(3,)]
        assert servers.sql(
            pg17, target, "select total(a), has_table_privilege('public', 't', 'select') from t"
        ) == [(1, True)]
