"""Databases that are being restored: closed to others, renamed in the end or kept, or never."""

import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgkeep import errors as e
from pgkeep.drill import scratch
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.restore import restore
from pgkeep.restore.plan import RestoreOptions
from pgkeep.restore.planning import make_plan
from pgkeep.stores.local import LocalSource
from tests.conftest import DatabaseFactory
from tests.support import invoke
from tests.support.faults import eventually, leaves_no_session
from tests.support.servers import Servers, connect, drop, psql, sql

# Refreshing waits for a role that the test creates.
WAITS = """
create table t as select generate_series(1, 100) as a;
create function waits() returns int language plpgsql as $$ begin
    while not exists (select from pg_catalog.pg_roles where rolname = '{go}') loop
        perform pg_catalog.pg_sleep(0.02);
    end loop;
    return 1;
end $$;
create materialized view m as select waits() as a;
"""


class Waiting:
    """A backup whose restore waits until it is let go."""

    def __init__(self, server: Server, name: str, directory: Path) -> None:
        self.server = server
        self._go = f"go_{secrets.token_hex(4)}"
        self.outsider = f"outsider_{secrets.token_hex(4)}"
        self._run(f"create role {self._go}; create role {self.outsider} login")
        psql(server, name, input=WAITS.format(go=self._go))
        self.artifact = invoke.backup(server, name, directory, "--verify")
        self._run(f"drop role {self._go}")

    def _run(self, statement: str) -> None:
        sql(self.server, "postgres", statement)

    @contextlib.contextmanager
    def restoring(self, target: str, *args: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
        """Give the process of a restore that waits, and the database that it is loading."""
        process = invoke.start(
            "restore", f"--backup={self.artifact}", f"--target-db={target}", *args,
            env=invoke.environment(self.server),
        )  # fmt: skip
        try:
            yield process, str(eventually(lambda: self._loading(target), "a restore that waits"))
        finally:
            process.kill()
            process.communicate()

    def _loading(self, target: str) -> str | None:
        rows = sql(
            self.server, "postgres",
            "select datname from pg_stat_activity where datname ^@ %(name)s"
            " and query ~ 'REFRESH MATERIALIZED VIEW'",
            name=target,
        )  # fmt: skip
        return rows[0][0] if rows else None

    def go(self) -> None:
        self._run(f"create role {self._go}")

    def close(self) -> None:
        self._run(f"drop role if exists {self._go}; drop role {self.outsider}")

    def may_enter(self, database: str) -> bool:
        """Whether a role without privileges can connect."""
        params = {**self.server.params, "user": self.outsider, "dbname": database}
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(make_conninfo("", **params)).close()
            return True
        return False


@pytest.fixture
def waiting(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> Iterator[Waiting]:
    one = Waiting(pg17, database(pg17), tmp_path)
    yield one
    one.close()


@pytest.fixture
def target(pg17: Server) -> Iterator[str]:
    name = f"restored_{secrets.token_hex(4)}"
    yield name
    query = "select datname from pg_database where datname ^@ %(name)s"
    for (found,) in sql(pg17, "postgres", query, name=name):
        drop(pg17, found)


def end(process: "subprocess.Popen[str]", code: int = 0) -> str:
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    return said


def test_nobody_else_enters_what_is_being_restored(waiting: Waiting, target: str) -> None:
    """G3.5: also not by PUBLIC's CONNECT, until the backup's own privileges are there."""
    with waiting.restoring(target) as (process, temporary):
        assert not waiting.may_enter(temporary)
        waiting.go()
        end(process)
    assert waiting.may_enter(target)


def test_a_session_that_stays_does_not_spoil_a_restore(waiting: Waiting, target: str) -> None:
    """G3.6: one of a superuser, whom no privilege keeps out, is ended before the renaming."""
    with (
        waiting.restoring(target) as (process, temporary),
        connect(waiting.server, temporary) as visitor,
    ):
        waiting.go()
        end(process)
        with pytest.raises(psycopg.OperationalError):
            visitor.execute("select 1")
    assert sql(waiting.server, target, "select count(*) from t") == [(100,)]


def test_what_cannot_be_renamed_is_kept(waiting: Waiting, target: str) -> None:
    """G3.6: what was loaded stays, also when the next restore looks for leftovers."""
    server = waiting.server
    with waiting.restoring(target) as (process, _):
        sql(server, "postgres", f"create database {target}")
        waiting.go()
        said = end(process, 8)
    assert f"is complete, but could not be renamed to {target}" in said
    (command,) = re.findall("pgkeep (swap .*)", said)
    drop(server, target)
    invoke.restore(server, waiting.artifact, target)
    drop(server, target)
    invoke.run(*shlex.split(command), "--yes", env=invoke.environment(server))
    assert sql(server, target, "select count(*) from t") == [(100,)]


def test_a_database_that_somebody_created_meanwhile_is_kept(
    pg17: Server, app: str, target: str, tmp_path: Path
) -> None:
    """D24: without a temporary name, a restore that cannot create its database drops none."""
    source = LocalSource(invoke.backup(pg17, app, tmp_path, "--verify"))
    endpoint = Endpoint({**pg17.params, "dbname": "postgres"})
    plan = make_plan(endpoint, source, RestoreOptions(jobs=1, target=target, at_once=True))
    sql(pg17, "postgres", f"create database {target}")
    sql(pg17, target, "create table theirs as select 7 as a")
    with pytest.raises(e.RestoreFailed, match="already exists"):
        restore.execute(plan, Silent())
    assert sql(pg17, target, "select a from theirs") == [(7,)]


@pytest.mark.parametrize("server", [15, 18], ids=["pg15", "pg18"], indirect=True)
def test_privileges_of_a_restored_database_are_those_of_the_backup(
    server: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A3.6: the default ones too, which later backups take for what they are."""
    name = database(server)
    first = invoke.backup(server, name, tmp_path)
    again = f"{name}_again"
    try:
        invoke.restore(server, first, again)
        query = (
            "select coalesce(datacl, acldefault('d', datdba))::text from pg_database"
            " where datname = %(name)s"
        )
        acls = [sorted(sql(server, "postgres", query, name=one)[0][0]) for one in (name, again)]
        assert acls[0] == acls[1]
        invoke.backup(server, again, tmp_path / "again")
        (path,) = (tmp_path / "again").glob("*.manifest.json")
        assert json.loads(path.read_text())["database"].get("grants") is None
    finally:
        drop(server, again)


@pytest.fixture
def named(pg18: Server, database: DatabaseFactory, tmp_path: Path) -> tuple[Server, str, Path]:
    name = database(pg18, name=f"named_{os.getpid()}")
    sql(pg18, name, "create extension pgkeep_named; create table t as select 1 as a")
    return pg18, name, invoke.backup(pg18, name, tmp_path, "--verify")


def test_an_extension_of_one_database(named: tuple[Server, str, Path], servers: Servers) -> None:
    """C3, G3.7: like pg_cron's; restored under its own name, or in place, with the reason."""
    server, name, artifact = named
    said = invoke.run(
        "restore", f"--backup={artifact}", "--drop-existing", "--yes",
        env=invoke.environment(server), code=8,
    )  # fmt: skip
    assert "can only create extension in database named" in said
    assert f"Rename database {name}, create an empty one of that name" in said
    assert "named = " not in said
    sql(server, "postgres", f"drop database {name}")
    report = json.loads(
        invoke.run("restore", f"--backup={artifact}", "--json", env=invoke.environment(server))
    )
    assert any("loaded under its own name at once" in one for one in report["warnings"])
    assert sql(server, name, "select a from t") == [(1,)]
    said = invoke.run(
        "restore", f"--backup={artifact}", "--target-db=other", env=invoke.environment(server),
        code=8,
    )  # fmt: skip
    assert "It cannot be created in database other" in said
    setting = f"--setting=extension_control_path=$system:{servers.extension()}"
    drill = ["drill", f"--backup={artifact}", "--json", setting]
    assert json.loads(invoke.run(*drill, env=invoke.environment()))["passed"]
    assert not sql(server, "postgres", "select from pg_database where datname ~ '^other'")


@pytest.mark.parametrize("kind", ["check", "view"])
def test_what_depends_on_the_name(
    kind: str, pg17: Server, database: DatabaseFactory, tmp_path: Path, target: str
) -> None:
    """C3, G3.7: a view would have kept the temporary name, a check refuses the rows."""
    name = database(pg17)
    sql(
        pg17, name,
        "create table t (a text check (a = current_database()));"
        " insert into t values (current_database())"
        if kind == "check"
        else "create materialized view t as select current_catalog::text as a",
    )  # fmt: skip
    artifact = invoke.backup(pg17, name, tmp_path, "--verify")
    said = invoke.run(
        "restore", f"--backup={artifact}", "--drop-existing", "--yes",
        env=invoke.environment(pg17), code=9,
    )  # fmt: skip
    assert "depends on the name of the database" in said
    drop(pg17, name)
    invoke.run("restore", f"--backup={artifact}", env=invoke.environment(pg17))
    assert sql(pg17, name, "select a from t") == [(name,)]
    found = json.loads(
        invoke.run("drill", f"--backup={artifact}", "--json", env=invoke.environment())
    )
    assert found["passed"], found


def test_what_a_killed_drill_leaves(pg17: Server, app: str, tmp_path: Path) -> None:
    """G3.5, G3.8: doctor says it, the next drill drops it; one at work keeps its own, closed."""
    outsider = f"outsider_{secrets.token_hex(4)}"
    sql(pg17, "postgres", f"create role {outsider} login")
    artifact = invoke.backup(pg17, app, tmp_path, "--verify")
    questions = tmp_path / "slow.sql"
    questions.write_text("select pg_sleep(600) is null")
    dsn = make_conninfo("", **pg17.params)
    command = ["drill", f"--backup={artifact}", f"--server={dsn}", "--check-timeout=600"]
    process = invoke.start(*command, f"--check={questions}", env=invoke.environment())
    assert process.stderr is not None
    try:
        assert any("asking assertions" in line for line in process.stderr)
        (name,) = scratch_databases(pg17)
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(make_conninfo("", **{**pg17.params, "user": outsider, "dbname": name}))
        assert json.loads(invoke.run(*command[:3], "--json", env=invoke.environment()))["passed"]
        assert scratch_databases(pg17) == [name]
        process.send_signal(signal.SIGKILL)
    finally:
        sql(pg17, "postgres", f"drop role {outsider}")
        process.kill()
        process.communicate()
    leaves_no_session(pg17, name)
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path))
    assert name in json.dumps(json.loads(invoke.run("doctor", "--json", env=env))["findings"])
    outcome = json.loads(invoke.run(*command[:3], "--json", env=invoke.environment()))
    assert outcome["warnings"] == [f"database {name}, left by an interrupted drill, is dropped"]
    assert scratch_databases(pg17) == []


def scratch_databases(server: Server) -> list[str]:
    query = "select datname from pg_database where datname ^@ %(prefix)s order by 1"
    return [row[0] for row in sql(server, "postgres", query, prefix=scratch.PREFIX)]
