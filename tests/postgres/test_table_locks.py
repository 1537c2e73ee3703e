"""What locking all tables does to other sessions: nobody waits while we wait (A6.2, D30)."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from pgkeep import errors as e
from pgkeep.postgres import snapshot
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.postgres.table_locks import LockBudget
from tests.conftest import DatabaseFactory
from tests.support import servers
from tests.support.concurrency import repeated, until


class Locking:
    """All tables of a database being locked, in a thread."""

    def __init__(self, server: Server, database: str, seconds: float) -> None:
        self.budget = LockBudget(seconds)
        self.seconds = 0.0
        self.error: e.DumpFailed | None = None
        self._connection = Endpoint({**server.params, "dbname": database}).connect()
        self.pid = self._connection.info.backend_pid
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        began = time.monotonic()
        try:
            with snapshot.hold(self._connection, "utf-8", self.budget):
                self.seconds = time.monotonic() - began
        except e.DumpFailed as error:
            self.seconds = time.monotonic() - began
            self.error = error

    def finish(self) -> None:
        self._thread.join(60)
        self._connection.close()


def locks(server: Server, locking: Locking, *, granted: bool) -> set[str]:
    rows = servers.sql(
        server,
        "postgres",
        f"select relation::text from pg_locks where pid = {locking.pid} and relation >= 16384"
        f" and granted = {granted}",
    )
    return {row[0] for row in rows}


@contextlib.contextmanager
def locked(server: Server, database: str, table: str) -> Iterator[psycopg.Connection[Any]]:
    with servers.connect(server, database) as connection:
        connection.execute(f"begin; lock table {table}")
        yield connection


TABLES = "create table a (v int); create table b (); create table c ()"


def test_nothing_is_held_while_a_table_is_waited_for(
    server: Server, database: DatabaseFactory
) -> None:
    """A6.2: an ALTER is open for long; others change and read the other tables meanwhile."""
    tables = database(server)
    servers.sql(server, tables, TABLES)
    with locked(server, tables, "c") as holder:
        locking = Locking(server, tables, 60)
        until(lambda: locks(server, locking, granted=False))
        assert locks(server, locking, granted=True) == set()
        with servers.connect(server, tables) as changer:
            changer.execute("set lock_timeout = '5s'")
            changer.execute("alter table a add w int; alter table b add w int")
        holder.execute("commit")
    locking.finish()
    assert locking.error is None
    assert locking.budget.left > 0


def test_the_budget_is_for_all_tables_and_all_attempts(
    pg17: Server, database: DatabaseFactory
) -> None:
    """A6.2: it was a timeout for each table, of which several can be busy one after the other."""
    tables = database(pg17)
    servers.sql(pg17, tables, TABLES)
    with locked(pg17, tables, "c") as first, locked(pg17, tables, "a"):
        locking = Locking(pg17, tables, 3)
        until(lambda: locks(pg17, locking, granted=False))
        time.sleep(2)
        first.execute("commit")
        locking.finish()
        assert locking.error is not None
        assert "could not lock table public.a within 3 s: process" in locking.error.message
        assert 3 < locking.seconds < 4.5
        again = Locking(pg17, tables, 0)
        again.finish()
    assert again.error is not None
    assert "table public.a within" in again.error.message
    assert again.seconds < 1


def test_tables_that_are_busy_all_the_time(pg17: Server, database: DatabaseFactory) -> None:
    """A6.2: two tables are hardly ever free at once, so one is held for a moment, not for long."""
    name = database(pg17)
    servers.sql(pg17, name, TABLES)
    busy = "begin; lock table {}; select pg_sleep(0.05); commit"
    longest = 0.0

    def reader() -> None:
        nonlocal longest
        with servers.connect(pg17, name) as connection:
            while not stop.is_set():
                began = time.monotonic()
                connection.execute("begin; lock table c; commit; select 1 from a")
                longest = max(longest, time.monotonic() - began)
                stop.wait(0.05)

    stop = threading.Event()
    thread = threading.Thread(target=reader)
    with (
        repeated(pg17, name, busy.format("a"), sessions=3),
        repeated(pg17, name, busy.format("b"), sessions=3),
    ):
        thread.start()
        locking = Locking(pg17, name, 60)
        locking.finish()
        stop.set()
        thread.join()
    assert locking.error is None
    assert longest < 3
