"""What happens between the list of tables, their locks and the snapshot, at that very moment."""

from collections.abc import Callable, Sequence

import pytest

from pgkeep.postgres import snapshot
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.moved_names import Names
from pgkeep.postgres.server import Server
from pgkeep.postgres.table_locks import LockBudget, LockedTable, TableLocker
from tests.conftest import DatabaseFactory
from tests.support import servers


@pytest.fixture
def around_locks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Have other sessions do something before and after the first try to lock all tables."""

    def place(server: Server, database: str, before: str, after: str = "select") -> list[int]:
        real, tries = TableLocker.lock, list[int]()

        def lock(locker: TableLocker, listed: Sequence[LockedTable]) -> None:
            tries.append(len(listed))
            if len(tries) == 1:
                servers.sql(server, database, before)
            real(locker, listed)
            if len(tries) == 1:
                servers.sql(server, database, after)

        monkeypatch.setattr(TableLocker, "lock", lock)
        return tries

    return place


def test_rows_that_move_and_leave_an_emptied_table(
    pg17: Server, database: DatabaseFactory, around_locks: Callable[..., list[int]]
) -> None:
    """D3: the snapshot is newer than the locks, or it would see neither the old nor the new row."""
    name = database(pg17)
    servers.sql(
        pg17, name, "create table a as select 1 v; create table b as select * from a where false"
    )
    around_locks(pg17, name, "begin; insert into b select * from a; truncate a; commit")
    with (
        Endpoint({**pg17.params, "dbname": name}).connect() as connection,
        snapshot.hold(connection, "utf-8", LockBudget(60)),
    ):
        rows = connection.execute("select * from public.a union all select * from public.b")
        assert rows.fetchall() == [(1,)]


def test_names_that_change_while_they_are_locked(
    pg17: Server, database: DatabaseFactory, around_locks: Callable[..., list[int]]
) -> None:
    """G2.1: a view has the name only meanwhile, so the table itself would not be locked."""
    name = database(pg17)
    schemas = "create schema a; create table a.t (); create schema b; create view b.t as select 1"
    servers.sql(pg17, name, schemas)
    tries = around_locks(
        pg17, name, "alter schema a rename to x; alter schema b rename to a",
        "alter schema a rename to b; alter schema x rename to a",
    )  # fmt: skip
    with (
        Endpoint({**pg17.params, "dbname": name}).connect() as connection,
        snapshot.hold(connection, "utf-8", LockBudget(60)) as held,
    ):
        (table,) = held.tables
        query = "select mode from pg_locks where relation = %(oid)s and granted"
        assert servers.sql(pg17, name, query, oid=table.oid) == [("AccessShareLock",)]
    assert tries == [1, 1]


def test_a_table_that_is_created_after_the_list(
    pg17: Server, database: DatabaseFactory, around_locks: Callable[..., list[int]]
) -> None:
    """D3, D7: the tables are listed again, or it would be missing without an error."""
    name = database(pg17)
    servers.sql(pg17, name, "create table a ()")
    tries = around_locks(pg17, name, "create table b ()")
    with (
        Endpoint({**pg17.params, "dbname": name}).connect() as connection,
        snapshot.hold(connection, "utf-8", LockBudget(60)) as held,
    ):
        assert [table.name for table in held.tables] == ["a", "b"]
    assert tries == [1, 2]


def test_the_coordinator_sees_what_the_others_see(pg17: Server, database: DatabaseFactory) -> None:
    """D1: it copies tables too, and describes the database."""
    name = database(pg17)
    servers.sql(pg17, name, "create table a as select 1 v")
    with (
        Endpoint({**pg17.params, "dbname": name}).connect() as connection,
        snapshot.hold(connection, "utf-8", LockBudget(60)),
    ):
        servers.sql(pg17, name, "insert into a values (2)")
        assert connection.execute("select * from public.a").fetchall() == [(1,)]


def test_a_name_has_moved_if_its_row_has_another_version() -> None:
    """G2.1: a schema that was renamed and renamed back has the same name, and another xmin."""
    before = Names({("schema", 1): ("10", "a"), ("function", 2): ("10", "a.f")})
    assert before.moved(before) == []
    renamed = Names({("schema", 1): ("12", "a"), ("function", 2): ("10", "a.f")})
    assert before.moved(renamed) == ["schema a"]
    # The tables of a schema that was dropped are not ours: those are locked.
    assert before.moved(Names({("function", 2): ("10", "a.f")})) == []
    assert before.moved(Names({("schema", 1): ("10", "a")})) == ["function a.f"]
