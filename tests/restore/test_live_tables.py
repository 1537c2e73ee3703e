"""B4: tables are restored while others use them: locks at the end only, never across a question."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgkeep import errors as e
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.restore.tables import planning, restore
from pgkeep.restore.tables.plan import Conflict, TablesOptions, TablesResult
from pgkeep.restore.tables.row_merge import MergeCount
from pgkeep.stores.local import LocalSource
from tests.conftest import DatabaseFactory
from tests.support import concurrency, invoke, servers

SHOP = """
create table customers (id int primary key, name text);
create table orders (id int primary key, customer int references customers, previous int
    references orders, note text);
create index on orders (note);
create table lines (id int primary key, orders int references orders on delete cascade);
create table old_lines (orders int);
insert into customers select i, 'c' || i from generate_series(1, 9) i;
insert into orders select i, 1 + i % 9, nullif(i - 1, 0), 'note ' || i
    from generate_series(1, 99) i;
insert into lines select i, i from generate_series(1, 99) i;
insert into old_lines values (1000);
alter table old_lines add constraint not_checked foreign key (orders) references orders not valid;
"""
# Whoever has any of these keeps others from writing.
BLOCKING = """
select l.relation::regclass::text, l.mode from pg_locks l join pg_stat_activity a using (pid)
join pg_class c on c.oid = l.relation
where starts_with(a.application_name, 'pgkeep') and a.datname = current_database()
  and c.relnamespace = 'public'::regnamespace
  and l.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
"""
KEYS = """
select conrelid::regclass::text, conname, convalidated, pg_get_constraintdef(oid)
from pg_constraint where contype = 'f' order by 1, 2
"""


class Watched(Silent):
    """Progress that does something at each step."""

    def __init__(self, at: Callable[[str], None]) -> None:
        self._at = at

    def step(self, text: str) -> None:
        self._at(text)


@pytest.fixture
def shop(server: Server, database: DatabaseFactory) -> str:
    name = database(server)
    servers.psql(server, name, input=SHOP)
    return name


def execute(
    server: Server, database: str, artifact: Path, at: Callable[[str], None] = lambda _: None,
    confirm: Callable[[MergeCount], bool] = lambda _: True, **options: Any,
) -> TablesResult:  # fmt: skip
    endpoint = Endpoint({**server.params, "dbname": database})
    chosen = TablesOptions(patterns=["orders"], **options)
    plan = planning.make_plan(endpoint, LocalSource(artifact), chosen)
    return restore.execute(plan, Watched(at), confirm)


def test_a_table_is_replaced_beside_its_use(server: Server, shop: str, tmp_path: Path) -> None:
    """B4: nothing is locked before the last step; keys are validated after it."""
    artifact = invoke.backup(server, shop, tmp_path)
    before = servers.sql(server, shop, KEYS)
    rows = servers.sql(server, shop, "select * from orders order by id")
    seen = []
    with servers.connect(server, shop) as user:
        user.execute("set lock_timeout = '10s'")

        def at(step: str) -> None:
            seen.append(step)
            if step == "committing":
                return
            assert user.execute(BLOCKING).fetchall() == []
            number = 1000 + len(seen)
            user.execute("insert into customers values (%s)", [number])
            user.execute("update orders set note = 'live' where id < 9")
            user.execute("insert into lines select %s, min(id) from orders", [number])
            if step == "validating foreign keys":
                assert len(user.execute(f"{KEYS} limit 99").fetchall()) == len(before)

        result = execute(server, shop, artifact, at, replace=True)
    assert seen[-3:] == ["waiting for locks", "committing", "validating foreign keys"]
    assert (result.rows, result.warnings) == (99, [])
    assert servers.sql(server, shop, KEYS) == before
    query = "select * from orders where note <> 'live' order by id"
    assert servers.sql(server, shop, query) == rows[8:]
    assert not servers.sql(server, shop, "select from pg_namespace where nspname ~ '^pgkeep_'")

    def insert(step: str) -> None:
        if step == "waiting for locks":
            servers.sql(server, shop, "insert into orders values (500, 1);"
                        " insert into lines values (500, 500)")  # fmt: skip

    result = execute(server, shop, artifact, insert, replace=True)
    (warning,) = result.warnings
    key = "fk constraint public.lines lines_orders_fkey"
    assert warning == f"{key} is NOT VALID: rows refer to others that are gone"
    servers.psql(
        server,
        shop,
        input="delete from lines where orders = 500; insert into orders values (501, 1);"
        " insert into lines values (501, 501); alter table lines validate constraint"
        " lines_orders_fkey",
    )
    with pytest.raises(e.RestoreFailed, match="violates foreign key constraint lines_orders_fkey"):
        execute(server, shop, artifact, replace=True)


def test_who_holds_a_lock_is_named(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """B4: the wait ends, others are not kept waiting, and nothing has changed; then it succeeds."""
    name = database(pg17)
    servers.psql(pg17, name, input=SHOP)
    artifact = invoke.backup(pg17, name, tmp_path)
    servers.sql(pg17, name, "update orders set note = 'live'")
    env = invoke.environment(pg17, name)
    command = ["restore", f"--backup={artifact}", "--table=orders", "--yes"]
    with servers.connect(pg17, name, application_name="reader") as holder:
        pid = holder.info.backend_pid
        with holder.transaction():
            holder.execute("select from orders")
            said = invoke.run(*command, "--drop-existing", "--lock-timeout=1", env=env, code=8)
            assert (
                "error: locks were not available within 1 s; nothing was changed; locked:" in said
            )
            assert f"orders by process {pid} of postgres (reader, idle in transaction)" in said
            assert (
                "hint: End the transactions of these sessions, or increase --lock-timeout." in said
            )
            found = servers.sql(pg17, name, "select count(*) from orders where note = 'live'")
            assert found == [(99,)]
        with holder.transaction():
            # What refers to a table waits for those who write to it.
            holder.execute("insert into customers values (100)")
            said = invoke.run(*command, "--as=copied", "--lock-timeout=1", env=env, code=8)
            assert f"locked: public.customers by process {pid}" in said

        holder.execute("begin")
        holder.execute("select from orders")
        steps = []

        def at(step: str) -> None:
            steps.append(step)
            if step == "committing":
                assert holder.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

        def release() -> None:
            concurrency.until(
                lambda: concurrency.locks_of_backup(pg17, name, "orders", granted=False)
            )
            holder.execute("rollback")

        releasing = concurrency.Background(release)
        assert execute(pg17, name, artifact, at, replace=True).warnings == []
        releasing.finish()
    assert "committing" in steps
    assert not servers.sql(pg17, name, "select from orders where note = 'live'")
    assert not servers.sql(pg17, name, "select from pg_namespace where nspname ~ '^pgkeep_'")


def test_nothing_is_open_while_somebody_is_asked(server: Server, shop: str, tmp_path: Path) -> None:
    """B4: rows are counted first; more than were confirmed are not written."""
    artifact = invoke.backup(server, shop, tmp_path)
    servers.sql(server, shop, "delete from lines; delete from orders where id = 99;"
                " update orders set note = 'live' where id = 98")  # fmt: skip
    asked = []
    open_sessions = (
        "select a.state from pg_stat_activity a where starts_with(a.application_name, 'pgkeep')"
        " and datname = current_database() and (a.xact_start is not null or exists (select from"
        " pg_locks l where l.pid = a.pid and l.locktype <> 'virtualxid'))"
    )

    def confirm(count: MergeCount) -> bool:
        asked.append((count.chosen, count.existing, count.written))
        assert servers.sql(server, shop, open_sessions) == []
        return len(asked) > 1

    merge: dict[str, Any] = {"where": "id in (97, 98, 99)", "confirm": confirm}
    with pytest.raises(e.Refused, match="cancelled: nothing was changed"):
        execute(server, shop, artifact, conflict=Conflict.UPDATE, **merge)
    assert servers.sql(server, shop, "select count(*) from orders where note = 'live'") == [(1,)]
    result = execute(server, shop, artifact, **merge)
    assert (result.rows, result.written) == (3, 1)
    result = execute(server, shop, artifact, conflict=Conflict.UPDATE, **merge)
    assert (result.rows, result.written) == (3, 3)
    assert asked == [(3, 2, 3), (3, 2, 1), (3, 3, 3)]
    assert servers.sql(server, shop, "select count(*) from orders where note = 'live'") == [(0,)]

    def delete(_: MergeCount) -> bool:
        servers.sql(server, shop, "delete from orders where id = 99")
        return True

    with pytest.raises(e.RestoreFailed, match="1 rows would be written, expected 0: the table has"):
        execute(server, shop, artifact, where="id in (98, 99)", confirm=delete)
    assert servers.sql(server, shop, "select count(*) from orders") == [(98,)]
    with servers.connect(server, shop) as holder, holder.transaction():
        holder.execute("update orders set note = 'open' where id = 97")
        with pytest.raises(
            e.RestoreFailed, match=f"locked: orders by process {holder.info.backend_pid}"
        ):
            execute(server, shop, artifact, conflict=Conflict.UPDATE, lock_timeout=0.0,
                    where="id > 90")  # fmt: skip
