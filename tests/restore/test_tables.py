"""One table, or some rows of one, from a backup of everything: what people need on a bad day."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pgkeep import errors as e
from pgkeep.artifact.contents import Contents
from pgkeep.artifact.file import Artifact
from pgkeep.postgres.server import Server
from pgkeep.sql import selection, statements
from pgkeep.stores.local import LocalSource
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.buckets import Buckets, keys
from tests.support.concurrency import repeated
from tests.support.disposable import Disposables
from tests.support.invoke import outputs
from tests.support.proxy import proxy

ODD = '"Odd Schema"."or ""d.er\'s"'


ODD_SEQUENCE = '"Odd Schema"."or ""d.er\'\'s_id_seq"'
LINE = 'app."new\nline"'


class Shop:
    """A database, its backup, and the way to restore from that."""

    def __init__(self, server: Server, name: str, directory: Path) -> None:
        self.server = server
        self.name = name
        self.directory = directory
        servers.psql(server, name, input=servers.SHOP)
        invoke.backup(server, name, directory)

    @property
    def environment(self) -> dict[str, str]:
        return invoke.environment(self.server, self.name, BACKUP_DIR=str(self.directory))

    def restore(self, *args: str, code: int = 0) -> str:
        return "".join(outputs("restore", "--latest", *args, env=self.environment, code=code))

    def sql(self, query: str, database: str | None = None) -> list[tuple[Any, ...]]:
        return servers.sql(self.server, database or self.name, query)

    def definition(self, table: str, database: str | None = None) -> str:
        return definition_of(self.server, database or self.name, table)


def definition_of(server: Server, database: str, table: str) -> str:
    """What pg_dump says of a table, rows included, without what differs in each dump."""
    text = servers.dump(server, database, f"--table={table}").decode()
    return re.sub(r"^(--|\\(un)?restrict|SET|SELECT pg_catalog.set_config).*\n", "", text,
                  flags=re.MULTILINE)  # fmt: skip


@pytest.fixture
def shop(server: Server, database: DatabaseFactory, tmp_path: Path) -> Shop:
    return Shop(server, database(server), tmp_path / "backups")


@pytest.fixture
def shop17(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> Shop:
    return Shop(pg17, database(pg17), tmp_path / "backups")


def test_a_dropped_table_comes_back_as_it_was(shop: Shop) -> None:
    """E: definition, rows, privileges, comments, trigger, policy, sequence; by one command."""
    tables = ("app.orders", "app.events_2", "app.child", ODD, "app.one", LINE, "app.nothing")
    before = {table: shop.definition(table) for table in tables}
    patterns = [f"--table={table}" for table in tables]
    shop.sql("drop table app.orders, app.events_2, app.child, app.one cascade")
    shop.sql(f"drop table {ODD}, {LINE}, app.nothing")
    out = shop.restore(*patterns)
    assert "done: database" in out
    gone = "view app.sums, fk constraint app.lines lines_orders_fkey, fk constraint app.two "
    assert f": {gone}" in out
    assert {table: shop.definition(table) for table in tables} == before
    ((value,),) = shop.sql("select nextval('app.orders_id_seq')")
    assert value == 5001
    assert shop.sql("select count(*) from app.events") == [(900,)]


DEPENDENT = """
create table a (id int primary key);
create table b (id int references a);
create table c (id int primary key);
create view "a's" as select * from a;
create materialized view "a ""x"" y" as select * from "a's";
create view lone as select * from c;
create function f(a) returns int language sql return 1;
create policy p on b using (exists (select from a));
create view a_b as select a.id from a join b using (id);
create view grouped as select id, count(*) from a group by id;
create view of_grouped as select * from grouped;
create table heir (b int) inherits (a);
create rule r as on insert to b do also delete from a where a.id = new.id;
create table parts (id int primary key) partition by list (id);
create table part_1 partition of parts for values in (1);
create table refers (id int references parts);
"""


def test_what_has_gone_with_a_table_is_told(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """E: it comes back alone; of other databases only what could be there with it."""
    name, other = database(pg17), database(pg17)
    servers.psql(pg17, name, input=DEPENDENT)
    invoke.backup(pg17, name, tmp_path)

    def told(*args: str, table: str = "a") -> set[str]:
        env = invoke.environment(pg17, name, BACKUP_DIR=str(tmp_path))
        out = "".join(
            outputs("restore", "--latest", f"--table={table}", "--dry-run", *args, env=env)
        )
        found = re.search(r"missing too, and not restored with \S+: (.*) \(pgkeep cat ", out)
        return set() if found is None else set(found[1].split(", "))

    assert told("--as=copy") == set()
    servers.sql(pg17, name, "drop table a, part_1 cascade")
    assert told(table="part_1") == {"fk constraint public.refers refers_id_fkey"}
    of_a = {"view public.a's", 'materialized view public.a "x" y', "function public.f"}
    of_a |= {"view public.grouped", "view public.of_grouped", "table public.heir"}
    of_both = {"view public.a_b", "fk constraint public.b b_id_fkey", "policy public.b p",
               "rule public.b r"}  # fmt: skip
    assert told() == of_a | of_both
    assert told(f"--target-db={other}") == of_a
    assert told("--as=copy") == set()
    servers.sql(
        pg17, name, 'create table a (id int primary key); create view "a\'s" as select from a'
    )
    outputs("restore", "--latest", "--table=a", "--drop-existing", "--dry-run", code=9,
        env=invoke.environment(pg17, name, BACKUP_DIR=str(tmp_path)))  # fmt: skip


HOSTILE = """
create table live (id int, st text, "x--y" int, "on public.other" int);
create table other (id int);
create index on live ("x--y");
create index "live--v" on live (id);
create statistics other on id, st from live;
comment on statistics other is 'why';
alter table live enable row level security;
create policy "Users can't see" on live for select using (st <> 'draft');
create function live(int) returns int language sql as 'select 1';
comment on function live(int) is 'of that name too';
create function f() returns trigger language plpgsql as 'begin return new; end';
create trigger "audit--live on public.other" before insert or update of "on public.other" on live
    for each row execute function f();
grant select ("on public.other") on live to pg_monitor;
grant select on live to {granter} with grant option;
set session authorization {granter};
grant select on live to pg_read_all_stats;
reset session authorization;
insert into live values (1, 'a', 2, 3);
create table r (id int primary key) partition by list (id);
create table r1 partition of r for values in (1);
create trigger t before insert on r for each row execute function f();
alter table r1 disable trigger t;
"""


def test_whatever_it_is_called_nothing_reaches_another_table(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """E: names that look like comments, literals or other tables; grants of others; defaults."""
    granter, name = disposables.role(pg17), disposables.database(pg17)
    servers.psql(pg17, name, input=HOSTILE.format(granter=granter))
    env = invoke.environment(pg17, name, BACKUP_DIR=str(tmp_path))
    invoke.backup(pg17, name, tmp_path)

    def definition(table: str) -> str:
        return definition_of(pg17, name, table)

    before = {table: definition(table) for table in ("live", "other", "r", "r1")}
    outputs("restore", "--latest", "--table=live", "--as=copied", env=env)
    copied = definition("copied")
    assert definition("live") == before["live"]
    assert "Users can't see" in copied
    assert "audit--live on public.other" in copied
    commented = "select count(*) from pg_description where classoid = 'pg_statistic_ext'::regclass"
    assert servers.sql(pg17, name, commented) == [(2,)]
    assert copied.count("GRANT ") == before["live"].count("GRANT ") > 2
    assert copied.count("CREATE INDEX ") == 2
    servers.sql(pg17, name, "alter default privileges grant all on tables to pg_monitor")
    servers.sql(pg17, name, "drop table live; drop table r cascade")
    outputs("restore", "--latest", "--table=live", "--table=r", env=env)
    outputs("restore", "--latest", "--table=r1", "--as=r1_copy", env=env)
    assert {table: definition(table) for table in before} == before
    assert servers.sql(pg17, name, commented) == [(2,)]


def test_sequences_are_found_however_names_are_quoted(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A5: a copy that takes its numbers from the table beside it would hold that fast."""
    name = database(pg17)
    servers.sql(pg17, "postgres", f"alter database {name} set quote_all_identifiers = on")
    servers.sql(pg17, name, "create table numbered (id serial primary key)")
    invoke.backup(pg17, name, tmp_path)
    env = invoke.environment(pg17, name, BACKUP_DIR=str(tmp_path))
    outputs("restore", "--latest", "--table=numbered", "--as=copied", env=env)
    servers.sql(pg17, name, "drop table numbered")
    servers.sql(pg17, name, "insert into copied default values")


def test_a_partitioned_table_brings_its_partitions(shop17: Shop) -> None:
    before = shop17.definition("app.events*")
    shop17.sql("drop table app.events")
    shop17.restore("--table=app.events")
    assert shop17.definition("app.events*") == before


def test_beside_the_one_that_is_there(shop: Shop) -> None:
    """E: nothing of the live table is touched, nothing is left over, every name is free."""
    before = shop.definition("app.orders")
    shop.sql("delete from app.lines")
    shop.sql("update app.orders set note = 'changed' where id < 100")
    live = shop.definition("app.orders")
    shop.restore("--table=app.orders", "--as=app.orders_restored")
    assert shop.definition("app.orders") == live
    copy = shop.definition("app.orders_restored")
    assert copy.count("note 99\t") == 0
    assert copy.count("\tnote 98\t") == before.count("\tnote 98\t") == 1
    # PostgreSQL 18 names what is NOT NULL, and tells the name where it is not after the table's.
    same = re.sub(r"CONSTRAINT \w+_not_null ", "", copy)
    same = same.replace("orders_restored", "orders").replace("stat_orders", "orders_stat")
    assert sorted(same.splitlines()) == sorted(before.splitlines())
    assert not shop.sql("select from pg_namespace where nspname ~ '^pgkeep_'")
    ((value,),) = shop.sql('select last_value from "Odd Schema"."or ""d.er\'s_id_seq"')
    shop.sql(f"select setval('{ODD_SEQUENCE}', 500)")
    shop.restore(f"--table={ODD}", "--as=copy")
    assert shop.sql(f"select last_value from {ODD_SEQUENCE.replace(chr(39) * 2, chr(39))}") == [
        (500,)
    ]
    assert shop.sql('select last_value from "Odd Schema".copy_id_seq') == [(value,)]
    shop.restore(f"--table={LINE}", "--as=app.old")
    assert shop.sql("select count(*), max(t) from app.old") == [(7, "n7")]
    assert not shop.sql("select from pg_namespace where nspname ~ '^pgkeep_'")
    shop.restore("--table=app.orders", '--as="Odd Schema"."app.orders"')
    ((count,),) = shop.sql('select count(*) from "Odd Schema"."app.orders"')
    assert count == 5000


def test_into_another_database(shop17: Shop, database: DatabaseFactory) -> None:
    """What it needs and the other one lacks is listed before anything happens."""
    other = database(shop17.server)
    into = ("--table=app.orders", f"--target-db={other}")
    said = shop17.restore(*into, code=9)
    for need in ("type app.mood", "function app.stamp", "table app.customers"):
        assert need in said
    assert not shop17.sql("select from pg_namespace where nspname = 'app'", other)
    shop17.sql("create schema app; create type app.mood as enum ('sad', 'ok')", other)
    shop17.sql("create function app.stamp() returns trigger language plpgsql as"
               " $$begin return new; end$$", other)  # fmt: skip
    shop17.restore("--table=app.customers", f"--target-db={other}")
    shop17.restore(*into)
    assert shop17.definition("app.orders", other) == shop17.definition("app.orders")


def test_replaced_in_one_transaction(shop17: Shop) -> None:
    """Keys of other tables are made again; a view, or a row that refers to nothing, forbids it."""
    said = shop17.restore("--table=app.orders", "--drop-existing", "--yes", code=9)
    assert "view app.sums depends on a table that would be dropped" in said
    shop17.sql("drop view app.sums")
    before = shop17.definition("app.*")
    shop17.sql(
        "update app.orders set note = 'wrong'; alter table app.orders drop column total cascade"
    )
    said = shop17.restore("--table=app.orders", "--drop-existing", code=9)
    assert "Use --yes" in said
    shop17.restore("--table=app.orders", "--drop-existing", "--yes")
    assert shop17.definition("app.*") == before
    shop17.sql("insert into app.orders (id) values (9000); insert into app.lines values (9000)")
    after = shop17.definition("app.*")
    said = shop17.restore("--table=app.orders", "--drop-existing", "--yes", code=8)
    assert "violates foreign key constraint" in said
    assert shop17.definition("app.*") == after


def test_deleted_rows_come_back(shop17: Shop) -> None:
    """E: only those that are missing; how many is said before it is committed."""
    before = shop17.sql("select * from app.orders order by id")
    shop17.sql("delete from app.lines where orders in (4999, 5000)")
    shop17.sql("update app.orders set note = 'newer' where id = 7")
    shop17.sql("delete from app.orders where id in (5000, 4999)")
    where = ("--table=app.orders", "--where=id in (7, 4999, 5000)")
    said = shop17.restore(*where, code=9)
    assert "3 rows of the backup match, of which 2 are written" in said
    assert shop17.sql("select count(*) from app.orders") == [(4998,)]
    shop17.restore(*where, "--yes")
    after = shop17.sql("select * from app.orders order by id")
    assert [row for row in after if row[0] != 7] == [row for row in before if row[0] != 7]
    assert "newer" in str(after[6])
    said = shop17.restore(*where, "--on-conflict=fail", "--yes", code=8)
    assert "duplicate key" in said
    document = json.loads(
        outputs("restore", "--latest", *where, "--on-conflict=update", "--yes", "--json",
            env=shop17.environment)[0]
    )  # fmt: skip
    assert (document["rows"], document["written"]) == (3, 3)
    assert shop17.sql("select * from app.orders order by id") == before


def test_triggers_that_may_change_rows_are_named(shop17: Shop) -> None:
    """Before anything is written, and with the outcome; those that do not fire are not."""
    shop17.sql("create function app.louder() returns trigger language plpgsql as"
               " $$begin new.note := upper(new.note); return new; end$$")  # fmt: skip
    for name, event in (("loud", "insert"), ("quiet", "update"), ("off", "insert")):
        shop17.sql(f"create trigger {name} before {event} on app.orders for each row"
                   " execute function app.louder()")  # fmt: skip
    shop17.sql("alter table app.orders disable trigger off")
    shop17.sql("delete from app.lines where orders = 5000; delete from app.orders where id = 5000")
    where = ["--table=app.orders", "--where=id = 5000"]
    said = "warning: triggers of app.orders fire, and may change rows: loud"
    assert said in outputs("restore", "--latest", *where, "--dry-run", env=shop17.environment)[0]
    assert said in outputs("restore", "--latest", *where, "--yes", env=shop17.environment)[1]
    # One partition has a root too.
    shop17.sql("delete from app.events_1")
    shop17.restore("--table=app.events_1", "--where=true", "--yes")


def test_a_partition_that_has_partitions(shop17: Shop) -> None:
    """Between root and leaves: it comes back with those below it, attached where it was."""
    before = shop17.definition("app.deep*")
    shop17.sql("drop table app.deep_1")
    shop17.restore("--table=app.deep_1", "--table=app.deep_1_1")
    assert shop17.sql("select tableoid::regclass::text, a, b from app.deep") == [
        ("app.deep_1_1", 1, 1)
    ]
    assert shop17.definition("app.deep*") == before


def test_rows_of_tables_without_a_key_and_with_partitions(shop17: Shop) -> None:
    """What is missing is told by all columns; always the same number however often it is done."""
    shop17.sql("delete from app.events where at = '2026-02-03'")
    shop17.sql(f"delete from only app.parent where a < 4; delete from {ODD} where id = 7")
    for _ in range(2):
        shop17.restore("--table=app.events", "--where=at between '2026-02-01' and '2026-02-09'",
                       "--yes")  # fmt: skip
        shop17.restore("--table=app.parent", "--where=true", "--yes")
        shop17.restore(f"--table={ODD}", "--where=\"B b\" = 'x7'", "--yes")
        assert shop17.sql("select count(*) from app.events") == [(900,)]
        assert shop17.sql("select count(*) from only app.parent") == [(10,)]
    assert shop17.sql(f"select count(*) from {ODD}") == [(100,)]


DEFERRABLE = """
create table keyed (id int primary key deferrable, note text);
create table beside (id int primary key, n int unique deferrable initially deferred, note text);
create table keyless (n int unique deferrable, note text);
insert into keyed select n, 'old' from generate_series(1, 9) n;
insert into beside select n, n, 'old' from generate_series(1, 9) n;
insert into keyless select n, 'old' from generate_series(1, 9) n;
"""


def test_rows_of_tables_whose_keys_are_deferrable(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """ON CONFLICT refuses these: a row that is there is found by its key all the same."""
    name = database(pg17)
    servers.psql(pg17, name, input=DEFERRABLE)
    invoke.backup(pg17, name, tmp_path)
    env = invoke.environment(pg17, name, BACKUP_DIR=str(tmp_path))

    def restore(*args: str, code: int = 0) -> str:
        return invoke.run("restore", "--latest", "--where=true", "--yes", *args, env=env, code=code)

    for table, key in (("keyed", "id"), ("beside", "id"), ("keyless", "n")):
        servers.sql(pg17, name, f"delete from {table} where {key} > 3")
        if key == "id":
            servers.sql(pg17, name, f"update {table} set note = 'new' where id = 2")
        restore(f"--table={table}")
        query = f"select count(*), count(*) filter (where note = 'new') from {table}"
        assert servers.sql(pg17, name, query) == [(9, 1 if key == "id" else 0)]
    said = restore("--table=keyed", "--on-conflict=update", code=9)
    assert "the primary key of public.keyed is deferrable" in said
    restore("--table=beside", "--on-conflict=update")
    assert servers.sql(pg17, name, "select count(*) from beside where note = 'old'") == [(9,)]
    assert "duplicate key" in restore("--table=keyless", "--on-conflict=fail", code=8)


def test_three_rows_while_others_work(shop17: Shop) -> None:
    """Under load: nobody has to wait for long, and nothing of theirs is lost."""
    shop17.sql("delete from app.lines where orders in (10, 20, 30)")
    shop17.sql("update app.orders set previous = null where previous in (10, 20, 30)")
    shop17.sql("delete from app.orders where id in (10, 20, 30)")
    with repeated(
        shop17.server,
        shop17.name,
        "update app.orders set total = total + 1 where id = 1 + random() * 4 or id = 5",
        "insert into app.orders (total) values (1)",
        "select count(*) from app.orders where id < 100",
        sessions=2,
    ) as count:
        before = count()
        shop17.restore("--table=app.orders", "--where=id in (10, 20, 30)", "--yes")
        assert count() > before
    assert shop17.sql("select total from app.orders where id in (10, 20, 30) order by id") == [
        (10,), (20,), (30,),
    ]  # fmt: skip


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "unknown": (["--table=app.absent"], 9, "no table of"),
    "dots": (["--table=a.b.c"], 2, "expected NAME or SCHEMA.NAME"),
    "quote": (['--table="a'], 2, "unclosed double quote"),
    "there": (["--table=app.orders"], 9, "already in the target database: app.orders"),
    "several": (["--table=app.o*", "--table=app.lines", "--as=x"], 2, "are for one table"),
    "partitions": (["--table=app.events", "--as=x"], 2, "has 2 partitions"),
    "middle": (["--table=app.deep_1", "--as=x"], 2, "app.deep_1 has 1 partition:"),
    "leaves": (["--table=app.events_*", "--as=x"], 2, "are for one table, 2 are selected"),
    "as": (["--table=app.orders", "--as=a.b.c"], 2, "expected NAME or SCHEMA.NAME"),
    "alone": (["--where=true"], 2, "--where requires --table"),
    "both": (["--table=app.orders", "--as=x", "--where=true"], 2, "cannot be used together"),
    "skip": (["--table=app.orders", "--skip=table:app.u"], 2, "cannot be used together"),
    "condition": (["--table=app.orders", "--where=nonsense > 1", "--yes"], 2, "does not exist"),
    "key": (["--table=app.parent", "--where=true", "--on-conflict=update"], 9, "no primary key"),
    "database": (["--table=app.orders", "--target-db=none"], 3, '"none" does not exist'),
}


def test_mistakes(shop17: Shop) -> None:
    before = shop17.definition("*")
    for name, (args, code, said) in MISTAKES.items():
        assert said in shop17.restore(*args, code=code), name
    assert shop17.definition("*") == before


def test_no_table_of_a_dump_of_inserts(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """It is whole, but its rows are no table's: refused in words, and they are not read."""
    name = database(pg17)
    servers.psql(pg17, name, input="create table t (id int primary key); insert into t values (1);"
           ' create table "new\nline" (id int); insert into "new\nline" values (1);')  # fmt: skip
    dump = tmp_path / f"{name}.sql"
    dump.write_bytes(servers.dump(pg17, name, "--inserts"))
    env = invoke.environment(pg17, name, BACKUP_DIR=str(tmp_path))
    index = json.loads(invoke.run("index", str(dump), f"--database={name}", "--json", env=env))
    artifact = tmp_path / index["artifact"]["name"]
    for args in (["--table=t", "--as=x"], ["--table=t", "--where=true"], ["--table=new*"]):
        said = invoke.run("restore", f"--backup={artifact}", *args, env=env, code=9)
        assert " are INSERT statements: no table can be restored alone" in said
        assert "hint: Restore the whole database under another name" in said
    types = {entry.one.type for entry in Contents(Artifact(LocalSource(artifact))).entries}
    assert "TABLE" in types
    assert "TABLE DATA" not in types


def test_what_cannot_come_back_beside_others_is_said(shop17: Shop) -> None:
    """Rows refer to what is gone: the key is there, not validated, and a warning says so."""
    shop17.sql("drop view app.sums; alter table app.orders drop constraint orders_customer_fkey")
    shop17.sql("delete from app.customers where id = 3")
    said = shop17.restore("--table=app.orders", "--as=app.old")
    assert "is NOT VALID: rows refer to others that are gone" in said
    query = "select count(*) from pg_constraint where conrelid = 'app.old'::regclass and {}"
    assert shop17.sql(query.format("contype = 'f' and not convalidated")) == [(1,)]
    assert shop17.sql("select count(*) from app.old") == [(5000,)]


def test_the_plan_says_what_is_read(shop17: Shop) -> None:
    args = ("restore", "--latest", "--table=app.o*", "--dry-run")
    said = outputs(*args, env=shop17.environment, code=9)[0]
    assert re.search(r"app.orders +5,000 rows +\d+", said)
    assert "problem: already in the target database: app.o" in said
    document = json.loads(outputs(*args, "--json", env=shop17.environment, code=9)[0])
    assert [one["name"] for one in document["tables"]] == ["one", "orders"]


@pytest.fixture
def wide(pg17: Server, database: DatabaseFactory) -> str:
    """Several large tables."""
    name = database(pg17)
    servers.psql(pg17, name, input="".join(
        f"create table t{n} as select i, md5((i * {n + 1})::text) || md5((i + {n})::text) as b"
        " from generate_series(1, 150000) i;\n"
        for n in range(5)
    ))  # fmt: skip
    return name


def test_only_its_members_are_read_from_a_bucket(
    pg17: Server, wide: str, buckets: Buckets, tmp_path: Path
) -> None:
    """A range of bytes each; the other tables cost nothing."""
    bucket = buckets.bucket()
    env = invoke.environment(pg17, wide, BACKUP_DIR=str(tmp_path), **buckets.environment(bucket))
    outputs("backup", env=env)
    (key,) = [key for key in keys(buckets.client(), bucket) if key.endswith("Z.sql.gz")]
    whole = buckets.client().head_object(Bucket=bucket, Key=key)["ContentLength"]
    servers.sql(pg17, wide, "drop table t3")
    with proxy(buckets.port) as counted:
        env["BACKUP_S3_ENDPOINT"] = counted.endpoint
        outputs("restore", f"--backup=s3://{bucket}/{key}", "--table=t3", env=env)
        assert 0.15 * whole < counted.sent < 0.25 * whole + 100_000
    query = "select count(*), min(b), max(b) from t3"
    assert servers.sql(pg17, wide, query)[0][0] == 150_000


@pytest.mark.parametrize(
    ("text", "schema", "name", "expected"),
    [
        ("orders", "app", "orders", True),
        ("ORDERS", "app", "orders", True),
        ("app.o*s", "app", "orders", True),
        ("app.order?", "app", "orders", True),
        ("app.order", "app", "orders", False),
        ("ap?.orders", "apps", "orders", False),
        ('"App"."A*"', "App", "A*", True),
        ('"App"."A*"', "App", "AB", False),
        ('"a.b"', "public", "a.b", True),
        ("*.*", "x", "y\nz", True),
    ],
)
def test_patterns(text: str, schema: str, name: str, expected: bool) -> None:
    assert selection.pattern(text).matches(schema, name) == expected


def test_a_bad_pattern_is_an_error() -> None:
    with pytest.raises(e.UsageError, match="expected NAME"):
        selection.pattern("a.")


def test_names_in_statements_are_moved_and_nothing_else() -> None:
    text = (
        b"CREATE TABLE app.t (a int DEFAULT nextval('app.t_a_seq'::regclass), b text DEFAULT"
        b" 'app.t is', c int REFERENCES app.t(a), d app.t2, CHECK (t.a > 0)); -- app.t\n"
        b'CREATE FUNCTION x() AS $$ app.t $$; SELECT "app"."t", "app.t".x, xapp.t, app.t.a;'
    )
    moved = statements.moved(text, {("app", "t"): "N", ("app", "t_a_seq"): "N"}, "utf-8")
    assert moved == (
        b'CREATE TABLE "N".t (a int DEFAULT nextval(\'"N".t_a_seq\'::regclass), b text DEFAULT'
        b" 'app.t is', c int REFERENCES \"N\".t(a), d app.t2, CHECK (t.a > 0)); -- app.t\n"
        b'CREATE FUNCTION x() AS $$ app.t $$; SELECT "N"."t", "app.t".x, xapp.t, "N".t.a;'
    )
