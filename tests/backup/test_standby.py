"""Backups of a standby: they hold what it has replayed, and say so."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, servers
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables
from tests.support.faults import Run
from tests.support.invoke import run_python


class Standby(Server):
    """A server that follows another one."""

    def __init__(self, primary: Server) -> None:
        super().__init__(servers.bin_folder(17))
        self._primary = primary

    def _create(self) -> None:
        program = servers.bin_folder(17) / "pg_basebackup"
        subprocess.run(
            [program, "-D", self._data, "-R", "-X", "stream", "-c", "fast"],
            env=invoke.environment(self._primary), check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        self._account.own(self._data)


class Cascaded(Standby):
    """A server that follows a standby; made of its primary, which writes no full pages."""

    def __init__(self, primary: Server, upstream: Server) -> None:
        super().__init__(primary)
        self._upstream = upstream

    def _create(self) -> None:
        super()._create()
        with (self._data / "postgresql.auto.conf").open("a") as file:
            params = make_conninfo("", **self._upstream.params).replace("'", "''")
            file.write(f"primary_conninfo = '{params}'\n")


@pytest.fixture
def standby(pg17: Server) -> Iterator[Standby]:
    with Standby(pg17) as running:
        yield running


def test_a_backup_is_as_old_as_what_the_standby_has_replayed(
    pg17: Server, standby: Standby, database: DatabaseFactory, tmp_path: Path
) -> None:
    """D27: an idle primary is no lag; a standby that does not replay is, and its backup is old."""
    app = database(pg17)
    servers.sql(pg17, app, "create table t as select generate_series(1, 1000) a")

    def caught_up() -> bool:
        ((lsn,),) = servers.sql(pg17, "postgres", "select pg_current_wal_flush_lsn()::text")
        return servers.sql(standby, "postgres", REPLAYED, lsn=lsn) == [(True,)]

    faults.eventually(caught_up, "the standby")
    artifact = invoke.backup(standby, app, tmp_path / "idle", "--verify")
    with Disposables() as disposables:
        target = disposables.name(pg17)
        invoke.restore(pg17, artifact, target)
        assert_same_database(pg17, app, pg17, target)
    (idle,) = listed(tmp_path / "idle")
    assert (idle["server"]["in_recovery"], idle["server"]["replay_lag"]) == (True, 0)

    servers.sql(standby, "postgres", "select pg_wal_replay_pause()")
    servers.sql(pg17, app, "insert into t values (0)")
    inserted = datetime.now(UTC)
    faults.eventually(
        lambda: servers.sql(standby, "postgres", "select pg_last_wal_receive_lsn()"
                      " > pg_last_wal_replay_lsn()") == [(True,)],
        "what is not replayed",
    )  # fmt: skip
    env = invoke.environment(standby, app, BACKUP_DIR=str(tmp_path / "late"))
    done = run_python("import pgkeep.backup.dump as d; d.BEHIND = 0.001", "backup", env=env)
    assert done.returncode == 0, done.stderr
    assert "the standby, and so the backup, is " in done.stderr
    (late,) = listed(tmp_path / "late")
    assert late["server"]["replay_lag"] > 0
    said = json.loads(invoke.run("status", "--json", env=env))["databases"]
    (shown,) = [one for one in said if one["database"] == app]
    assert datetime.fromisoformat(shown["snapshot"]) < inserted


def test_a_cascaded_standby_does_not_know_what_it_is_not_sent(
    pg17: Server, standby: Standby, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A6.6: where its upstream is cut off, it has replayed all that it gets and is behind.

    LSN and timeline are those of the snapshot, also of a role that may not read pg_control.
    """
    app = database(pg17)
    servers.sql(pg17, app, "create table t (a int)")
    with Cascaded(pg17, standby) as cascaded:
        env = invoke.environment(cascaded, app, BACKUP_DIR=str(tmp_path))

        def caught_up() -> bool:
            ((sent,),) = servers.sql(standby, "postgres", "select pg_last_wal_replay_lsn()::text")
            return servers.sql(cascaded, "postgres", REPLAYED, lsn=sent) == [(True,)]

        def written() -> bool:
            ((lsn,),) = servers.sql(pg17, "postgres", "select pg_current_wal_flush_lsn()::text")
            return servers.sql(standby, "postgres", REPLAYED, lsn=lsn) == [(True,)]

        faults.eventually(written, "the standby")
        faults.eventually(caught_up, "the cascaded standby")
        servers.sql(standby, "postgres", "alter system set primary_conninfo = ''")
        servers.sql(standby, "postgres", "select pg_reload_conf()")
        receiver = "select count(*) from pg_stat_wal_receiver"
        faults.eventually(lambda: servers.sql(standby, "postgres", receiver) == [(0,)], "the cut")
        servers.sql(pg17, app, "insert into t values (1)")
        faults.eventually(caught_up, "the cascaded standby")
        assert servers.sql(cascaded, "postgres", receiver) == [(1,)]
        done = run_python("import pgkeep.postgres.wal as w; w.SILENCE = 0", "backup", env=env)
        assert done.returncode == 0, done.stderr
        assert "it is unknown how far the standby, and so the backup, is behind" in done.stderr
        (manifest,) = listed(tmp_path)
        assert manifest["server"]["in_recovery"] is True
        assert "replay_lag" not in manifest["server"]
        ((lsn,),) = servers.sql(cascaded, "postgres", "select pg_last_wal_replay_lsn()::text")
        assert (manifest["server"]["lsn"], manifest["server"]["timeline"]) == (lsn, 1)
        said = invoke.run("show", f"{manifest['artifact']['name']}", env=env)
        assert f", LSN {lsn}, timeline 1" in said
        said = " ".join(invoke.run("status", env=env).split())
        assert "verified, lag of the standby unknown" in said


def test_a_conflict_with_recovery(
    pg17: Server, standby: Standby, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A6.5: the backup is repeated, with the hint; where replay waits instead, that is told."""
    app = database(pg17)
    servers.sql(pg17, app, "create table t as select generate_series(1, 1000) a")
    gate = tmp_path / "gate"
    path = faults.path_with(tmp_path / "bin", pg17, {"pg_dump": faults.gate(gate)})

    def set_delay(delay: int) -> None:
        servers.sql(standby, "postgres", f"alter system set max_standby_streaming_delay = {delay}")
        servers.sql(standby, "postgres", "select pg_reload_conf()")

    def exists() -> bool:
        query = "select 1 from pg_database where datname = %(app)s"
        return servers.sql(standby, "postgres", query, app=app) != []

    faults.eventually(exists, "the database on the standby")
    set_delay(100)
    env = {"BACKUP_DIR": str(tmp_path / "b"), "PATH": path}
    with Run(standby, app, "backup", env=env) as run:
        faults.eventually(lambda: faults.waiting_at(gate), "the start of pg_dump")
        servers.sql(pg17, app, "truncate t")  # replay needs the lock that the backup holds
        faults.eventually(
            lambda: not faults.sessions(standby, app, "xact_start is not null"), "the conflict"
        )
        shutil.rmtree(gate)
        said = run.ends(0, 60)
    assert "repeating the backup: " in said
    (first,) = listed(tmp_path / "b")
    warning = str(first["warnings"])
    assert "attempt 1 failed: " in warning
    assert "conflict with recovery" in warning
    assert "turn on hot_standby_feedback" in warning

    set_delay(-1)
    invoke.backup(standby, app, tmp_path / "waits")
    (second,) = listed(tmp_path / "waits")
    assert re.search(
        "max_standby_streaming_delay is -1: .* it was [0-9]+ s behind", str(second["warnings"])
    )


REPLAYED = "select pg_last_wal_replay_lsn() >= %(lsn)s::pg_lsn"


def listed(directory: Path) -> list[dict[str, Any]]:
    env = invoke.environment(BACKUP_DIR=str(directory))
    return [load["manifest"] for load in json.loads(invoke.run("list", "--json", env=env))]


def test_lsn_and_timeline_where_the_role_may_read_them(
    server: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """C3: every backup says where its server was; a role without the right does not fail."""
    name, reader = disposables.database(server), disposables.role(server)
    before = servers.sql(server, name, "create table t (a int); select pg_current_wal_lsn()")
    servers.sql(server, name, f"grant select on t to {reader}")
    invoke.backup(server, name, tmp_path / "all")
    revoked = "execute on function pg_walfile_name(pg_lsn), pg_current_wal_lsn()"
    servers.sql(server, name, f"revoke {revoked} from public")  # in this database only
    invoke.backup(server, name, tmp_path / "less", PGUSER=reader)
    (full,), (less,) = listed(tmp_path / "all"), listed(tmp_path / "less")
    assert full["server"]["timeline"] == 1
    ((later,),) = servers.sql(
        server, name, f"select '{full['server']['lsn']}'::pg_lsn >= '{before[0][0]}'::pg_lsn"
    )
    assert later
    assert "lsn" not in less["server"]
    assert "timeline" not in less["server"]


def test_a_swap_on_the_primary_says_what_its_replicas_go_on_reading(
    pg17: Server, standby: Standby, database: DatabaseFactory
) -> None:
    """G3.10: the primary cannot end them; the statement that does is in the output."""
    app = database(pg17)
    copy = database(pg17, name=f"{app}_copy")
    env = invoke.environment(pg17, "postgres")
    exists = "select 1 from pg_database where datname = %(name)s"
    faults.eventually(lambda: servers.sql(standby, "postgres", exists, name=copy), "the databases")
    with servers.connect(standby, app) as reader, Disposables() as disposables:
        plan = json.loads(invoke.run("swap", app, f"--from={copy}", "--dry-run", "--json", env=env))
        assert [finding["kind"] for finding in plan["findings"]] == ["replica"]
        args = ("swap", app, f"--from={copy}", "--yes", "--json")
        result = json.loads(invoke.run(*args, env=env))
        old = disposables.name(pg17, result["old_database"])
        faults.eventually(lambda: servers.sql(standby, "postgres", exists, name=old), "the swap")
        assert reader.execute("select 1").fetchall() == [(1,)]  # in the old database
        (statement,) = re.findall("SELECT pg_catalog.pg_terminate_backend.*;", *result["warnings"])
        servers.sql(standby, "postgres", statement)
        with pytest.raises(psycopg.OperationalError):
            reader.execute("select 1")
