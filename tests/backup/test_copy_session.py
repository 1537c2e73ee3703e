"""A session that copies tables proves which relation it has read."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from pgkeep.backup.copy_session import CopySession
from pgkeep.postgres import snapshot
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.moved_names import Moved
from pgkeep.postgres.server import Server
from pgkeep.postgres.snapshot import Table
from pgkeep.postgres.table_locks import LockBudget
from tests.conftest import DatabaseFactory
from tests.support import servers

Opened = tuple[CopySession, Table, Callable[[], object]]


@pytest.fixture
def opened(pg17: Server, database: DatabaseFactory) -> Iterator[Opened]:
    """A session, a table, and what gives the table's name to another one."""
    name = database(pg17)
    tables = "create schema a; create table a.t as select 1 v; create schema b;"
    servers.sql(
        pg17,
        name,
        f"{tables} create table b.t as select 2 v;"
        " create table a.heir () inherits (a.t); insert into a.heir values (3)",
    )
    endpoint = Endpoint({**pg17.params, "dbname": name})
    with ExitStack() as stack:
        connection = stack.enter_context(endpoint.connect())
        held = stack.enter_context(snapshot.hold(connection, "utf-8", LockBudget(60)))
        access = stack.enter_context(endpoint.child())
        session = CopySession(servers.programs_for(17), access, "UTF8", held.id)
        stack.enter_context(closing(session))
        session.wait_until_ready()
        renames = "alter schema a rename to x; alter schema b rename to a"
        yield session, held.tables[0], lambda: servers.sql(pg17, name, renames)


def test_another_table_is_locked(opened: Opened) -> None:
    """G2.1: at the lock. Afterwards the names can be as they were."""
    session, table, rename = opened
    rename()
    with pytest.raises(Moved, match=r"a\.t refers to a different table"):
        session.lock(table)


def test_another_table_is_read(opened: Opened) -> None:
    """G2.1: between the lock and COPY."""
    session, table, rename = opened
    assert session.lock(table)
    rename()
    with pytest.raises(Moved, match=r"a\.t refers to a different table"):
        list(session.copy(table, None, None))


def test_the_table_itself_is_read(opened: Opened) -> None:
    """D8: all of it and by pages, without the rows of tables that inherit from it."""
    session, table, _ = opened
    assert session.lock(table)
    assert b"".join(session.copy(table, None, None)) == b"1\n"
    assert session.plan(table, 0, None)
    assert b"".join(session.copy(table, 0, None)) == b"1\n"
