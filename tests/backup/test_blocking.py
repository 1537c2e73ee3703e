"""Sessions that wait for a backup: logged, in the manifest, and yielded to on request (D30)."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgkeep import errors as e
from pgkeep.backup import backup, dump
from pgkeep.backup.blocking import BlockedSessions, LockWatch
from pgkeep.model import naming
from pgkeep.model.manifest import decode
from pgkeep.postgres.blocked import WaitingSession, behind
from pgkeep.postgres.connection import Connection, Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.backups import start
from tests.support.concurrency import Gate, Later, until, waits
from tests.support.disposable import Disposables


@pytest.mark.parametrize(
    ("blockers", "expected"),
    [
        ({}, []),
        ({5: {1}}, [5]),
        ({5: {7}}, []),  # waits for somebody else
        ({6: {5}, 5: {1}, 8: {6, 9}, 9: {10}}, [5, 6, 8]),  # a queue
        ({1: {5}, 5: {2}}, [5]),  # our worker waits behind what waits for our coordinator
        ({2: {5}, 5: {7}, 6: {2}}, [6]),
        ({5: {6}, 6: {5}}, []),
    ],
)
def test_who_waits_for_us(blockers: dict[int, set[int]], expected: list[int]) -> None:
    assert behind({1, 2}, blockers) == expected


def looked(server: Server, database: str, after: float) -> bool:
    """Whether the backup has begun another look for waiting sessions since a moment."""
    query = (
        "select 1 from pg_stat_activity where datname = %(db)s"
        " and query like '%%pg_blocking_pids%%' and starts_with(application_name, 'pgkeep')"
        " and query_start > to_timestamp(%(after)s) and state like 'idle%%'"
    )
    return bool(servers.sql(server, "postgres", query, db=database, after=after))


def now(server: Server) -> float:
    ((moment,),) = servers.sql(server, "postgres", "select extract(epoch from clock_timestamp())")
    return float(moment)


@contextmanager
def queue(server: Server, database: str) -> Iterator[list[Later]]:
    """An ALTER that waits for a backup, and a reader behind it."""
    with ExitStack() as stack:
        waiting: list[Later] = []
        for statement in ("alter table t add b int", "select 'a secret' from t"):
            later = Later(server, database, statement, application_name="app")
            stack.callback(later.finish)
            waiting.append(later)
            until(lambda: waits(server, waiting[-1].pid))
        yield waiting


def test_who_waits_is_logged_and_in_the_manifest(
    server: Server, database: DatabaseFactory, disposables: Disposables, tmp_path: Path
) -> None:
    """D30: also for a role that does not see what others do, and of the queue behind it."""
    db = database(server)
    servers.sql(server, db, "create table t (a int); insert into t values (1)")
    role = disposables.role(server, "in role pg_read_all_data")
    gate = Gate(tmp_path, server, "pg_dump")
    process = start(server, db, tmp_path, PGUSER=role, **gate.environment)
    gate.wait()
    with queue(server, db) as waiting:
        moment = now(server)
        until(lambda: looked(server, db, moment))
        gate.open()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    ((manifest,),) = [[*tmp_path.glob("*.json")]]
    found = decode(manifest.read_bytes(), manifest.name).blocked
    assert {(wait.pid, wait.user, wait.waits_for, wait.mode) for wait in found} >= {
        (waiting[0].pid, "postgres", "public.t", "AccessExclusiveLock"),
        (waiting[1].pid, "postgres", "public.t", "AccessShareLock"),
    }
    assert all(0 < wait.seconds < 60 for wait in found)
    for later in waiting:
        named = f"process {later.pid} (postgres, app) waits for "
        assert said.count(f"warning: blocked by the backup: {named}") == 1
        assert said.count("warning: no longer blocked by the backup, after ") >= 2
    assert "secret" not in said + manifest.read_text()


def test_the_coordinator_is_busy(pg17: Server, app: str) -> None:
    """D30: another connection looks then; a wait is recorded once, and ends with the backup."""
    endpoint = Endpoint({**pg17.params, "dbname": app})
    sessions = BlockedSessions()
    with endpoint.connect() as coordinator:
        coordinator.execute("begin; lock table public.t in access share mode")
        watch = LockWatch(endpoint, coordinator.info.backend_pid, sessions, None)
        with watch.watching():
            later = Later(pg17, app, "truncate t")
            until(lambda: waits(pg17, later.pid))
            watch.look(None)
            watch.look(None)
            assert sessions.recorded() == []
        ((wait,),) = [sessions.recorded()]
        assert (wait.pid, wait.waits_for, wait.command) == (later.pid, "public.t", "TRUNCATE")
        coordinator.execute("rollback")
    later.finish()


def test_the_longest_waits_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """D30: a manifest stays small, however many sessions queue."""
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    sessions = BlockedSessions()
    for pid in range(500):
        waiting = WaitingSession(
            pid, "u", "a", "public.t", "AccessShareLock", None, None, frozenset()
        )
        sessions.saw([waiting])
        clock += pid % 250
    sessions.released()
    found = [wait.seconds for wait in sessions.recorded()]
    assert found == sorted([*range(200, 250)] * 2, reverse=True)


@pytest.mark.parametrize("how", ["process", "busy"])
def test_a_backup_gives_way(
    server: Server,
    database: DatabaseFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """D30: --yield-after holds whatever the coordinator does; nothing is left of the backup."""
    db = database(server)
    servers.sql(server, db, "create table t (a int); insert into t values (1)")
    said: list[str] = []
    reached = threading.Event()

    def busy(connection: Connection) -> Any:
        reached.set()
        connection.execute("select pg_sleep(40)")
        raise AssertionError("not ended")

    def work() -> None:
        options = backup.BackupOptions(type=naming.BackupType.MANUAL, jobs=1, yield_after=1)
        endpoint = Endpoint({**server.params, "dbname": db})
        with pytest.raises(e.DumpFailed) as raised:
            backup.backup(endpoint, LocalStore(tmp_path), options, Silent())
        said.append(f"{raised.value.message}\nhint: {raised.value.hint}")

    thread = threading.Thread(target=work, daemon=True)
    if how == "busy":
        monkeypatch.setattr(dump, "extensions", busy)
        thread.start()
        assert reached.wait(30)
    else:
        gate = Gate(tmp_path, server, "pg_dump")
        process = start(server, db, tmp_path, "--yield-after=1", **gate.environment)
        gate.wait()
    began = time.monotonic()
    with queue(server, db):
        pass
    waited = time.monotonic() - began
    if how == "busy":
        thread.join(10)
    else:
        said.append(process.communicate(timeout=30)[1])
        assert process.returncode == 4
    assert waited < 6
    assert "gave up after 1 s of blocking another session: process" in said[0]
    assert "(postgres, app, ALTER) waits for AccessExclusiveLock on public.t" in said[0]
    assert "hint: Run the backup when no migration is running, or increase --yield-after" in said[0]
    left = invoke.left_over(tmp_path)
    assert [name for name in left if not name.startswith("gate")] == []
    sessions = (
        "select count(*) from pg_stat_activity where datname = %(db)s and pid <> pg_backend_pid()"
    )
    until(lambda: servers.sql(server, db, sessions, db=db) == [(0,)])
