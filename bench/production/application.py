"""The application: eight sessions that never stop, and what each of them met."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo

from pgkeep.postgres.server import Server

ACCOUNTS = 20_000
BALANCE = 100  # of every account at the start: transfers do not change the sum

SCHEMA = f"""
create table accounts (
    id int primary key, balance bigint not null, note text not null default repeat('x', 200));
insert into accounts select i, {BALANCE} from generate_series(1, {ACCOUNTS}) i;
create table transfers (
    id bigint generated always as identity primary key,
    source int not null references accounts, target int not null references accounts,
    amount bigint not null, made timestamptz not null default clock_timestamp());
create table history (id bigint primary key, body text not null);
insert into history
    select i, repeat(md5(i::text), 8) from generate_series(1, {{rows}}) i;
create index history_body on history (substr(body, 1, 32));
create table prices (item int primary key, price numeric not null, valid boolean not null);
insert into prices select i, i / 7.0, true from generate_series(1, 50000) i;
create table orders (
    id bigint generated always as identity primary key, item int not null references prices);
insert into orders (item) select 1 + i % 50000 from generate_series(1, 20000) i;
create table scratch (a int);
create publication everything for table accounts, transfers;
"""

TRANSFER = """
with moved as (
    update accounts set balance = balance + case id when %(source)s then -%(amount)s
                                                    else %(amount)s end
    where id in (%(source)s, %(target)s) returning id)
insert into transfers (source, target, amount)
    select %(source)s, %(target)s, %(amount)s where exists (select from moved)
"""
# Rows are locked in one order, so that the application has no deadlocks of its own.
LOCK_ROWS = (
    "select from accounts where id in (%(source)s, %(target)s) order by id for no key update"
)


@dataclass(kw_only=True)
class Session:
    """What one session did; times are in seconds."""

    name: str
    transactions: int = 0
    longest: float = 0.0
    failures: list[str] = field(default_factory=list)


class Application:
    """The sessions of a with block."""

    def __init__(self, server: Server, database: str) -> None:
        self._conninfo = make_conninfo("", **server.params, dbname=database)
        self._stop = threading.Event()
        works: list[tuple[str, Callable[[psycopg.Connection[Any]], None], float]] = [
            *((f"transfers {number}", _transfer, 0.0) for number in range(1, 4)),
            ("readers", _read, 0.0),
            ("orders", _order, 0.01),
            ("DDL", _ddl, 1.0),
            ("REINDEX", _reindex, 1.0),
            ("long transactions", _long, 0.5),
        ]
        self.sessions = [Session(name=name) for name, *_ in works]
        self._threads = [
            threading.Thread(target=self._repeat, args=(session, work, pause))
            for session, (_, work, pause) in zip(self.sessions, works, strict=True)
        ]

    def _repeat(
        self, session: Session, work: Callable[[psycopg.Connection[Any]], None], pause: float
    ) -> None:
        name = session.name
        with psycopg.connect(self._conninfo, autocommit=True, application_name=name) as connection:
            while not self._stop.wait(pause):
                started = time.monotonic()
                try:
                    work(connection)
                except psycopg.Error as error:
                    session.failures.append(str(error).partition("\n")[0])
                session.transactions += 1
                session.longest = max(session.longest, time.monotonic() - started)

    def reset(self) -> None:
        """Forget what happened until now: another phase begins."""
        for session in self.sessions:
            session.transactions, session.longest = 0, 0.0
            session.failures = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _transfer(connection: psycopg.Connection[Any]) -> None:
    source, target = random.sample(range(1, ACCOUNTS + 1), 2)
    values = {"source": source, "target": target, "amount": random.randint(1, 50)}
    with connection.transaction():
        connection.execute(LOCK_ROWS, values)
        connection.execute(TRANSFER, values)


def _read(connection: psycopg.Connection[Any]) -> None:
    connection.execute("select sum(balance) from accounts")
    connection.execute("select count(*) from history where id < 1000")


def _order(connection: psycopg.Connection[Any]) -> None:
    connection.execute("insert into orders (item) values (%s)", [random.randint(1, 50_000)])
    connection.execute(
        "select price from prices where item = %s", [random.randint(1, 50_000)]
    ).fetchone()


def _ddl(connection: psycopg.Connection[Any]) -> None:
    name = f"c{random.getrandbits(32):x}"
    statements = [
        f"alter table accounts add column {name} int",
        f"alter table accounts drop column {name}",
        f"create table temporary_{name} (a int)",
        f"drop table temporary_{name}",
        "truncate scratch",
        f"create index {name} on transfers (made)",
        f"drop index {name}",
    ]
    for statement in statements:
        connection.execute(statement)


def _reindex(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        random.choice(
            [
                "reindex table history",
                "reindex index concurrently history_body",
                "reindex table transfers",
            ]
        )
    )


def _long(connection: psycopg.Connection[Any]) -> None:
    """Hold row locks and a snapshot for two seconds."""
    with connection.transaction():
        connection.execute("update history set body = body where id = 1")
        connection.execute("select pg_sleep(2)")
