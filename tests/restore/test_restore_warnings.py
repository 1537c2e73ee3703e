"""Warnings of a plan come before anything is done: they often explain why it fails."""

import json
from pathlib import Path

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers

REFUSING = """
create function refuse() returns trigger language plpgsql as
    $$begin if new.a > {limit} then raise 'not now'; end if; return new; end$$;
create trigger checks before insert on t for each row execute function refuse();
"""
FIRE = "warning: triggers fire, and may change rows: checks of public.t"


def test_warnings_come_before_the_failure_that_they_explain(
    pg17: Server, app: str, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.17: --data-only, where a trigger refuses a row; once, where none does."""
    servers.sql(pg17, app, REFUSING.format(limit=5))
    artifact = invoke.backup(pg17, app, tmp_path)
    target = database(pg17)
    invoke.restore(pg17, artifact, target, "--in-place", "--schema-only", "--yes")
    env = invoke.environment(pg17)
    command = ["restore", f"--backup={artifact}", f"--target-db={target}", "--data-only", "--yes"]
    said = invoke.run(*command, env=env, code=8)
    assert said.count(FIRE) == 1
    assert said.index(FIRE) < said.index("error: rows of public.t: not now")
    failure = json.loads(invoke.outputs(*command, "--json", env=env, code=8)[0])
    assert failure["error"] == "rows of public.t: not now"
    assert failure["warnings"] == [FIRE.removeprefix("warning: ")]
    servers.sql(pg17, target, "drop trigger checks on t; drop function refuse")
    servers.sql(pg17, target, REFUSING.format(limit=5_000))
    _, said = invoke.outputs(*command, env=env)
    assert said.count(FIRE) == 1


def test_warnings_of_single_tables_too(
    pg17: Server, app: str, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.17: --where, where a trigger refuses a row."""
    artifact = invoke.backup(pg17, app, tmp_path)
    servers.sql(pg17, app, "delete from t where a > 100")
    servers.sql(pg17, app, REFUSING.format(limit=5))
    env = invoke.environment(pg17)
    command = ["restore", f"--backup={artifact}", "--table=t", "--where=a > 500", "--yes"]
    said = invoke.run(*command, env=env, code=8)
    assert said.count("warning: triggers of public.t fire, and may change rows: checks") == 1
