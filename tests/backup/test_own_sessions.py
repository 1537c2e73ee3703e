"""Sessions of a backup that wait: for others, or for each other (G2)."""

import threading
from pathlib import Path
from typing import Any

import pytest

from pgkeep import processes
from pgkeep.artifact import packer
from pgkeep.backup import assembly, backup, workers
from pgkeep.model import naming
from pgkeep.postgres import snapshot
from pgkeep.postgres.connection import Endpoint, application_name
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.conftest import DatabaseFactory
from tests.support import servers
from tests.support.concurrency import SPARSE, SPARSE_ROWS, Later, until, waits


def test_sessions_of_other_runs_are_not_ours(pg17: Server, app: str) -> None:
    """G2.5: who is called pgkeep and waits may be a restore, or the backup of another host."""
    endpoint = Endpoint({**pg17.params, "dbname": app})
    with endpoint.connect() as connection, servers.connect(pg17, app) as holder:
        holder.execute("begin; lock table t")
        waiting = {}
        for name in ("pgkeep", "pgkeep 00000000", application_name()):
            waiting[name] = Later(
                pg17, app, f"set application_name = '{name}'; lock table t in share mode"
            )
        until(lambda: all(waits(pg17, one.pid) for one in waiting.values()))
        assert snapshot.waiting(connection) == {waiting[application_name()].pid}
        holder.execute("rollback")
        for one in waiting.values():
            one.finish()


def test_a_worker_that_has_the_connection_waits_for_pg_dump(
    pg17: Server, database: DatabaseFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G2.5: the thread of pg_dump wants nothing of the connection by which a worker copies."""
    db = database(pg17)
    servers.psql(
        pg17,
        db,
        input=f"create table t (i int, a int, p text) {SPARSE}; insert into t"
        f" select g, g, repeat(md5(g::text), 3) from generate_series(1, {SPARSE_ROWS}) g",
    )
    monkeypatch.setattr(assembly, "PENDING_LIMIT", -1)
    monkeypatch.setattr(packer, "ROWS_SIZE", 1 << 16)
    monkeypatch.setattr(workers, "BLOCK", 1 << 16)
    queued: list[Later] = []
    copies = "select 1 from pg_stat_activity where datname = %(db)s and query like 'COPY%%'"

    class Child(processes.Child):
        """Lets an ALTER in before a worker can have its lock, and the worker before pg_dump."""

        def __init__(self, command: Any, *args: Any, **options: Any) -> None:
            name = Path(command[0]).name
            if name == "psql" and not queued:
                queued.append(Later(pg17, db, "alter table t add b int"))
                until(lambda: waits(pg17, queued[0].pid))
            super().__init__(command, *args, **options)
            if name == "pg_dump":
                until(lambda: servers.sql(pg17, db, copies, db=db))

    monkeypatch.setattr(processes, "Child", Child)
    endpoint = Endpoint({**pg17.params, "dbname": db})
    options = backup.BackupOptions(type=naming.BackupType.MANUAL, jobs=1)
    made: list[backup.PublishedBackup] = []

    def work() -> None:
        made.append(backup.backup(endpoint, LocalStore(tmp_path), options, Silent()))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    if thread.is_alive():  # for the next test
        servers.sql(
            pg17,
            "postgres",
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %(db)s",
            db=db,
        )
    assert made
    assert made[0].manifest.rows == SPARSE_ROWS
    queued[0].finish()
