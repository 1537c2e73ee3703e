"""Backups of a standby: they hold what it has replayed, and say so."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, servers
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables
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
    replayed = "select pg_last_wal_replay_lsn() >= %(lsn)s::pg_lsn"

    def caught_up() -> bool:
        ((lsn,),) = servers.sql(pg17, "postgres", "select pg_current_wal_flush_lsn()::text")
        return servers.sql(standby, "postgres", replayed, lsn=lsn) == [(True,)]

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


def listed(directory: Path) -> list[dict[str, dict[str, float]]]:
    env = invoke.environment(BACKUP_DIR=str(directory))
    return [load["manifest"] for load in json.loads(invoke.run("list", "--json", env=env))]
