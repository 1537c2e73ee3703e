"""Databases that know what they contain, and a session that changes them all the time.

Every transaction updates, together with the rows, a table that has the number and the sum of hashes
of the rows of every table. So each snapshot can be checked by itself. The fingerprint of each
state is also kept here, so that an old state, or one that never was, is found too.
"""

import functools
import random
import secrets
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from tests.support import servers

from pgkeep.postgres.server import Server

Connection = psycopg.Connection[tuple[Any, ...]]
SCHEMA = """
create schema ledger;
create table ledger.contents (
    name text primary key, relation text not null, count bigint not null, total numeric not null);
create table ledger.state (number bigint primary key, fingerprint text not null);
create schema sales;
create schema "Mixed Case";
create table sales.plain (
    id bigint primary key, v text, d int generated always as (length(v)) stored, unique (id, v));
create table sales.orders (
    id bigint primary key, v text, at timestamp default now(), check (id > 0));
create index on sales.orders (v);
create table "Mixed Case"."wide" (id bigint primary key, v text, a int[], j jsonb);
create table "Mixed Case".parts (id bigint primary key, v text) partition by hash (id);
create table "Mixed Case".parts_0 partition of "Mixed Case".parts
    for values with (modulus 2, remainder 0);
create table "Mixed Case".parts_1 partition of "Mixed Case".parts
    for values with (modulus 2, remainder 1);
"""
TABLES = {
    "plain": "sales.plain",
    "orders": "sales.orders",
    "wide": '"Mixed Case".wide',
    "parts": '"Mixed Case".parts',
}
LARGE_OBJECTS = "large objects"
FINGERPRINT = """
select md5(string_agg(concat_ws('|', name, relation, count, total::text), ',' order by name))
from ledger.contents
"""
# Relations of users that the ledger does not name.
UNKNOWN = """
select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where relkind in ('r', 'p', 'm', 'v') and not relispartition and nspname !~ '^pg_'
    and nspname not in ('information_schema', 'ledger')
    and not exists (select from ledger.contents where to_regclass(
        case name when 'large objects' then null else relation end) = c.oid)
"""
LOCK_TIMEOUT = "1s"
PAUSE = 0.08  # seconds between two transactions


@dataclass(frozen=True, slots=True)
class Commit:
    """When a state was committed, as the client saw it."""

    number: int
    sent: datetime
    acknowledged: datetime


class Ledger:
    """The states that a database has had."""

    def __init__(self, server: Server, database: str) -> None:
        self.server, self.database = server, database
        self.number = 0
        self.states: dict[int, set[str]] = {}
        self.commits: list[Commit] = []

    def create(self, rows: int) -> None:
        """Create the database and its first rows."""
        servers.create(self.server, self.database)
        with servers.connect(self.server, self.database) as connection:
            connection.execute(SCHEMA)
            names = sql.SQL("insert into ledger.contents values (%s, %s, 0, 0)")
            for name, relation in TABLES.items():
                connection.execute(names, [name, relation])
            connection.execute(names, [LARGE_OBJECTS, LARGE_OBJECTS])
            connection.execute("insert into ledger.state values (0, '')")
            for table in TABLES:
                self.change(connection, functools.partial(insert, connection, table, rows))
            self.change(connection, lambda: large_objects(connection, 3))

    def change(self, connection: Connection, work: Any) -> None:
        """Change the database in one transaction, and record the new state."""
        sent = datetime.now(UTC)
        with connection.transaction():
            connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
            work()
            (fingerprint,) = fetch(connection, FINGERPRINT)
            (number,) = fetch(
                connection,
                "update ledger.state set number = number + 1, fingerprint = %s returning number",
                fingerprint,
            )
            # Before the commit: its acknowledgement can be lost.
            self.states.setdefault(number, set()).add(fingerprint)
        self.number = number
        self.commits.append(Commit(number, sent, datetime.now(UTC)))

    def settle(self) -> int:
        """Read the state that the database has, where a commit may not have been acknowledged."""
        with servers.connect(self.server, self.database) as connection:
            number, fingerprint = fetch(connection, "select number, fingerprint from ledger.state")
        self.number = number
        self.states[number] = {fingerprint}
        for later in [later for later in self.states if later > number]:
            del self.states[later]
        return int(number)

    def between(self, moment: datetime) -> tuple[datetime, int] | None:
        """Return a time near a moment at which no commit was under way, and the state then."""
        place = bisect_right(self.commits, moment, key=lambda commit: commit.acknowledged)
        if not 0 < place < len(self.commits):
            return None
        before, after = self.commits[place - 1], self.commits[place]
        gap = after.sent - before.acknowledged
        if after.number != before.number + 1 or gap < timedelta(milliseconds=20):
            return None
        return before.acknowledged + gap / 2, before.number


def fetch(connection: Connection, query: str, *values: object) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), values or None).fetchone()
    assert row is not None, query
    return row


def relation_of(connection: Connection, name: str) -> str:
    (relation,) = fetch(connection, "select relation from ledger.contents where name = %s", name)
    return str(relation)


def insert(connection: Connection, name: str, rows: int) -> None:
    """Insert rows; the values depend on their keys only."""
    relation = relation_of(connection, name)
    length = "600" if name == "wide" else "3"
    connection.execute(
        f"""
        with added as (
            insert into {relation} as t (id, v)
            select coalesce((select max(id) from {relation}), 0) + i,
                repeat(md5(i::text || random()::text),
                    case when i % 50 = 0 then {length} else 1 end)
            from generate_series(1, {rows}) i returning t::text
        ), sums as (select count(*), coalesce(sum(hashtextextended(t, 0)), 0) total from added)
        update ledger.contents c set count = c.count + s.count, total = c.total + s.total
        from sums s where name = '{name}'
        """.encode()
    )


def delete(connection: Connection, name: str, modulus: int) -> None:
    relation = relation_of(connection, name)
    connection.execute(
        f"""
        with gone as (delete from {relation} as t where id % {modulus} = 0 returning t::text),
        sums as (select count(*), coalesce(sum(hashtextextended(t, 0)), 0) total from gone)
        update ledger.contents c set count = c.count - s.count, total = c.total - s.total
        from sums s where name = '{name}'
        """.encode()
    )


def count_again(connection: Connection, name: str) -> None:
    relation = relation_of(connection, name)
    count, total = sums(connection, name, relation)
    connection.execute(
        "update ledger.contents set count = %s, total = %s where name = %s", [count, total, name]
    )


def large_objects(connection: Connection, count: int) -> None:
    connection.execute("select lo_unlink(oid) from pg_largeobject_metadata limit 1")
    query = "select lo_from_bytea(0, decode(repeat(md5(random()::text), 3000), 'hex'))"
    connection.execute(f"{query} from generate_series(1, {count})".encode())
    count_again(connection, LARGE_OBJECTS)


def sums(connection: Connection, name: str, relation: str) -> tuple[int, Any]:
    """Return the number of rows, and the sum of their hashes."""
    if name == LARGE_OBJECTS:
        query = "select lo_get(oid)::text t from pg_largeobject_metadata"
    else:
        query = f"select t::text t from {relation} t"
    count, total = fetch(
        connection,
        f"select count(*), coalesce(sum(hashtextextended(t, 0)), 0) from ({query}) rows",
    )
    return count, total


# What a writer does beside inserting and deleting: each is one transaction.
def rename_table(connection: Connection, name: str, number: int) -> None:
    relation = relation_of(connection, name)
    schema, _, _ = relation.rpartition(".")
    new = f"{name}_v{number % 3}"
    if relation != f"{schema}.{new}":
        connection.execute(f"alter table {relation} rename to {new}".encode())
        moved(connection, name, f"{schema}.{new}")


def rename_schema(connection: Connection, name: str, number: int) -> None:
    schema, _, _ = relation_of(connection, name).rpartition(".")
    base = "sales" if "sales" in schema else "Mixed Case"
    new = f'"{base} {number % 3}"'
    if schema == new:
        return
    connection.execute(f"alter schema {schema} rename to {new}".encode())
    connection.execute(
        "update ledger.contents set relation = %s || substr(relation, %s)"
        " where starts_with(relation, %s)",
        [new, len(schema) + 1, f"{schema}."],
    )


def moved(connection: Connection, name: str, relation: str) -> None:
    connection.execute("update ledger.contents set relation = %s where name = %s", [relation, name])


def truncate(connection: Connection, name: str, _: int) -> None:
    connection.execute(f"truncate {relation_of(connection, name)}".encode())
    connection.execute("update ledger.contents set count = 0, total = 0 where name = %s", [name])
    insert(connection, name, 100)


def recreate(connection: Connection, name: str, _: int) -> None:
    relation = relation_of(connection, name)
    if name == "parts":
        return truncate(connection, name, 0)
    fresh = f"copy_{secrets.token_hex(4)}"  # its indexes keep this name
    connection.execute(f"create table ledger.{fresh} (like {relation} including all)".encode())
    connection.execute(f"drop table {relation}".encode())
    schema, own = relation.rsplit(".", 1)
    connection.execute(f"alter table ledger.{fresh} rename to {own}".encode())
    connection.execute(f"alter table ledger.{own} set schema {schema}".encode())
    connection.execute("update ledger.contents set count = 0, total = 0 where name = %s", [name])
    return insert(connection, name, 100)


def add_column(connection: Connection, name: str, number: int) -> None:
    relation = relation_of(connection, name)
    column = f"extra_{number % 4}"
    connection.execute(f"alter table {relation} drop column if exists {column}".encode())
    connection.execute(f"alter table {relation} add column {column} int default 7".encode())
    count_again(connection, name)


CHANGES = {
    "truncate": truncate,
    "renamed tables": rename_table,
    "renamed schemas": rename_schema,
    "drop and create": recreate,
    "new columns": add_column,
}


class Writer(threading.Thread):
    """A session that changes a database until it is stopped."""

    def __init__(self, ledger: Ledger, kind: str, seed: str) -> None:
        super().__init__(daemon=True)
        self._ledger, self._kind = ledger, kind
        self._chance = random.Random(seed)
        self._ended = threading.Event()
        self.error = ""

    def end(self) -> None:
        self._ended.set()
        self.join(60)

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                with servers.connect(self._ledger.server, self._ledger.database) as connection:
                    self._ledger.settle()
                    while not self._ended.wait(PAUSE):
                        self._change(connection)
            except psycopg.OperationalError:
                self._ended.wait(0.2)  # the server is down, or the session was terminated
            except (psycopg.Error, AssertionError) as error:
                self.error = f"{type(error).__name__}: {error}"
                return

    def _change(self, connection: Connection) -> None:
        name = self._chance.choice(list(TABLES))
        draw = self._chance.random()
        number = self._chance.randrange(100)
        try:
            if draw < 0.3 and self._kind in CHANGES:
                change = CHANGES[self._kind]
                self._ledger.change(connection, lambda: change(connection, name, number))
            elif draw < 0.2 and self._kind == "vacuum full":
                connection.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
                connection.execute(f"vacuum full {relation_of(connection, name)}".encode())
            elif draw < 0.35:
                large = 1 if draw < 0.31 else 0
                self._ledger.change(
                    connection,
                    lambda: large_objects(connection, 1) if large
                    else delete(connection, name, 2 + number % 5),
                )  # fmt: skip
            else:
                self._ledger.change(connection, lambda: insert(connection, name, 20))
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            pass  # a backup has the table, or another session


@contextmanager
def writers(ledgers: list[Ledger], kind: str, seed: str) -> Iterator[list[Writer]]:
    """Change databases for a with block."""
    running = [Writer(ledger, kind, f"{seed}/{ledger.database}") for ledger in ledgers]
    if kind == "idle":
        yield []
        return
    for writer in running:
        writer.start()
    try:
        yield running
    finally:
        for writer in running:
            writer.end()


@dataclass(frozen=True, slots=True)
class Found:
    """What a restored database contains."""

    number: int
    fingerprint: str
    contents: dict[str, tuple[str, int, Any]]
    problems: list[str]


def examine(connection: Connection, *, large: bool = True) -> Found:
    """Compare a restored database with its own record of its contents."""
    problems = []
    contents = {}
    query = "select name, relation, count, total from ledger.contents order by name"
    for name, relation, count, total in connection.execute(query).fetchall():
        contents[name] = (relation, count, total)
        if name == LARGE_OBJECTS and not large:
            continue
        try:
            found = sums(connection, name, relation)
        except psycopg.Error as error:
            problems.append(f"{relation}: {error}")
            connection.rollback()
            continue
        if found != (count, total):
            problems.append(f"{relation} has {found}, expected {(count, total)}")
    problems += [f"{row[0]} is not in the ledger" for row in connection.execute(UNKNOWN)]
    number, fingerprint = fetch(connection, "select number, fingerprint from ledger.state")
    if fetch(connection, FINGERPRINT) != (fingerprint,):
        problems.append("the fingerprint differs from the ledger")
    return Found(number, fingerprint, contents, problems)
