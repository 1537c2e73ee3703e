"""What is backed up under load is one moment of the database, whole; nothing waits for ever."""

import contextlib
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.backups import backup_of, finish, restored, start
from tests.support.concurrency import (
    SPARSE,
    SPARSE_ROWS,
    Gate,
    Later,
    contents,
    locks_of_backup,
    parts,
    repeated,
    snapshot_of_backup,
    until,
    waits,
)

FILL = f"select i, 100, repeat('x', 60) from generate_series(1, {SPARSE_ROWS}) i"
ACCOUNTS = f"""
create table a (id int primary key, amount int, pad text) {SPARSE};
create table b (id int primary key, amount int, pad text) {SPARSE};
create table fees (id int primary key, amount int);
create table transfers (id bigserial primary key);
insert into a {FILL};
insert into b {FILL};
insert into fees select i, 100 from generate_series(1, 10) i;
"""
# One transaction takes 3 from an account, gives 2 to another and 1 to the fees. The rows are far
# apart, so that they lie in other slices.
TRANSFER = """
do $$
declare
    one int := 1 + random() * 31998;
    other int := 1 + random() * 31998;
begin
    update {of} set amount = amount - 3 where id = one;
    update {to} set amount = amount + 2 where id = other;
    update fees set amount = amount + 1 where id = 1 + one % 10;
    insert into transfers default values;
end $$
"""


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    (row,) = connection.execute(query).fetchall()
    return row[0]


def test_transfers_between_tables(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """D1: whatever is moved while backups run, each of them holds all of it, once."""
    db = database(pg17)
    servers.psql(pg17, db, input=ACCOUNTS)
    there, back = TRANSFER.format(of="a", to="b"), TRANSFER.format(of="b", to="a")
    artifacts = []
    deadlock = (psycopg.errors.DeadlockDetected,)
    with repeated(pg17, db, there, back, sessions=3, tolerated=deadlock) as count:
        for _ in range(3):
            before = count()
            artifacts.append(backup_of(pg17, db, tmp_path, BACKUP_JOBS="3"))
            assert count() > before + 10
    for artifact in artifacts:
        assert [len(parts(artifact, table)) for table in ("a", "b", "fees")] == [2, 2, 1]
        with restored(pg17, artifact) as copy:
            fees = one(copy, "select sum(amount) from fees")
            assert one(copy, "select count(*) from transfers") == fees - 1000 > 0
            assert one(copy, "select sum(amount) from a") != 100 * SPARSE_ROWS
            amounts = "select sum(amount) from (table a union all table b) x (i, amount)"
            assert one(copy, amounts) + fees == 200 * SPARSE_ROWS + 1000


@pytest.mark.parametrize(
    "change",
    ["truncate bbb", "alter table bbb alter v type bigint using v + 1"],
    ids=["truncated", "rewritten"],
)
def test_table_emptied_before_it_is_locked(
    pg17: Server, database: DatabaseFactory, tmp_path: Path, change: str
) -> None:
    """D3: dumped as it was or as it has become; plain pg_dump has neither."""
    db = database(pg17)
    servers.psql(
        pg17,
        db,
        input="create table aaa (); create table bbb (v int);"
        " insert into bbb select 1 from generate_series(1, 100); create table changes (what text)",
    )

    def waits_for_aaa() -> int:
        (row,) = servers.sql(
            pg17,
            db,
            "select count(*) from pg_locks where not granted and relation = 'aaa'::regclass",
        )
        return int(row[0])

    with ThreadPoolExecutor(1) as pool, servers.connect(pg17, db) as holder:
        holder.execute("begin; lock table aaa")
        plain = pool.submit(servers.dump, pg17, db)
        backup = start(pg17, db, tmp_path)
        until(lambda: waits_for_aaa() == 2)
        with servers.connect(pg17, db) as changer:
            changer.execute(f"begin; {change}; insert into changes values ('bbb'); commit")
        holder.execute("commit")
        artifact = finish(backup, tmp_path)
        lost = plain.result()
    assert b"COPY public.bbb (v) FROM stdin;\n\\.\n" in lost, "pg_dump sees what we guard against"
    assert b"COPY public.changes (what) FROM stdin;\n\\.\n" in lost
    expected = (0, None) if change.startswith("truncate") else (100, 200)
    with restored(pg17, artifact) as copy:
        assert one(copy, "select count(*) from changes") == 1
        assert copy.execute("select count(*), sum(v) from bbb").fetchall() == [expected]


def test_alter_waits_before_pg_dump_locks(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """D4, D7: the backup steps aside, and then holds the table as it has become."""
    db = database(pg17)
    servers.psql(pg17, db, input="create table t (a int); insert into t values (1)")
    gate = Gate(tmp_path, pg17, "pg_dump")
    backup = start(pg17, db, tmp_path, **gate.environment)
    gate.wait()
    alter = Later(pg17, db, "alter table t add b int default 7")
    until(lambda: waits(pg17, alter.pid))
    gate.open()
    artifact = finish(backup, tmp_path)
    alter.finish()
    with restored(pg17, artifact) as copy:
        assert copy.execute("select a, b from t").fetchall() == [(1, 7)]


def test_migration_waits_holding_a_view(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """D4, D5: pg_dump waits for the view's lock, its holder for us: the server sees no deadlock."""
    db = database(pg17)
    servers.psql(pg17, db, input="create table t (a int); create view v as select a from t")
    gate = Gate(tmp_path, pg17, "pg_dump")
    backup = start(pg17, db, tmp_path, **gate.environment)
    gate.wait()
    migration = Later(
        pg17,
        db,
        "begin; drop view v; alter table t alter a type bigint;"
        " create view v as select a, 1 as b from t; commit",
    )
    until(lambda: waits(pg17, migration.pid))
    gate.open()
    artifact = finish(backup, tmp_path)
    migration.finish()
    with restored(pg17, artifact) as copy:
        columns = "select string_agg(format_type(atttypid, -1), ' ') from pg_attribute"
        assert one(copy, f"{columns} where attrelid = 'v'::regclass") == "bigint integer"


def test_migration_drops_a_view_before_pg_dump_reads_it(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """D32: nobody can continue; the backup releases its locks at once, and starts again."""
    db = database(pg17)
    servers.psql(
        pg17,
        db,
        input="create table t (a int); create materialized view a_view as select 1 as a;"
        " create view z_view as select a from t",
    )
    with servers.connect(pg17, db) as holder:
        holder.execute("begin; refresh materialized view a_view")
        backup = start(pg17, db, tmp_path, BACKUP_LOCK_TIMEOUT="20")
        until(lambda: locks_of_backup(pg17, db, "a_view", granted=False))
        migration = Later(pg17, db, "begin; drop view z_view; alter table t add b int; commit")
        until(lambda: waits(pg17, migration.pid))
        holder.execute("commit")
        artifact = finish(backup, tmp_path)
    migration.finish()
    with restored(pg17, artifact) as copy:
        assert one(copy, "select count(*) from pg_class where relname = 'z_view'") == 0
        assert copy.execute("select a, b from t").fetchall() == []


def test_alter_waits_before_a_worker_locks(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """D4, A3.14: the connection that holds the lock copies the table, bytes as they are."""
    db = database(pg17, "encoding latin1 lc_collate 'C' lc_ctype 'C'")
    servers.psql(
        pg17,
        db,
        input=f"""
set client_encoding = 'utf8';
create table "tä ""b" ("ö" int, "é'" text, pad text) {SPARSE};
insert into "tä ""b"
select i, case i % 3 when 0 then 'é' || i when 1 then E'\\\\ü\n\t' end, repeat('x', 70)
from generate_series(1, {SPARSE_ROWS}) i;
""",
    )
    table = '"tä ""b"'
    gate = Gate(tmp_path, pg17, "psql")
    backup = start(pg17, db, tmp_path, BACKUP_JOBS="2", **gate.environment)
    gate.wait()
    until(lambda: locks_of_backup(pg17, db, table) == 2)  # the coordinator and pg_dump
    alter = Later(pg17, db, f"alter table {table} add b int")
    until(lambda: waits(pg17, alter.pid))
    logged = pg17.log.stat().st_size
    gate.open()
    artifact = finish(backup, tmp_path)
    alter.finish()
    with pg17.log.open("rb") as log:
        log.seek(logged)
        refused = re.findall(rb"ERROR:  could not obtain lock on relation", log.read())
    assert refused, "a worker was refused, so that the coordinator has copied it all"
    assert len(parts(artifact, 'tä "b')) == 1
    servers.sql(pg17, db, f"alter table {table} drop b")  # it got its turn
    with restored(pg17, artifact) as copy, servers.connect(pg17, db) as source:
        assert one(copy, "show server_encoding") == "LATIN1"
        assert contents(copy, f"only {table}") == contents(source, f"only {table}")
        assert one(copy, "select count(*) from " + table) == SPARSE_ROWS


CHURN = (
    ("create table c1 (a int)", "drop table c1"),
    ("create schema c2", "create table c2.t ()", "drop schema c2 cascade"),
    ("create function c3() returns int return 1", "drop function c3()"),
    ("create type c4 as enum ('a')", "drop type c4"),
    ("create view c5 as select * from t", "drop view c5"),
    ("create index c6 on t (a)", "drop index c6", "select pg_sleep(0.3)"),
)


def test_objects_come_and_go(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """D5, D6: what is made and dropped many times a second leaves the rest of the backup alone."""
    db = database(pg17)
    servers.psql(pg17, db, input="create table t (a int); insert into t values (42)")
    with contextlib.ExitStack() as stack:
        counts = [
            stack.enter_context(repeated(pg17, db, *statements, "select pg_sleep(0.01)"))
            for statements in CHURN
        ]
        artifacts = [backup_of(pg17, db, tmp_path) for _ in range(2)]
        until(lambda: min(count() for count in counts) > 2)
    for artifact in artifacts:
        with restored(pg17, artifact) as copy:
            assert one(copy, "table t") == 42


HARD_TABLES = f"""
create type mood as enum ('sad', 'ok', 'happy');
create table heavy (id int primary key, n int, pad text) {SPARSE};
insert into heavy select i, 0, 'x' from generate_series(1, 10) i;
analyze heavy;
insert into heavy select i, 0, repeat('x', 60) from generate_series(11, {SPARSE_ROWS}) i;
cluster heavy using heavy_pkey;

create table parent (id int, pad text) {SPARSE};
create table child (more int) inherits (parent) {SPARSE};
insert into parent {FILL.replace("100, ", "")};
insert into child select i, repeat('y', 60), 1 from generate_series(1, {SPARSE_ROWS}) i;

create table "odd ""tab""le" (
    gone int, "B b" int generated always as ("Å" * 2) stored, "Å" int,
    id int generated always as identity, f float8, i interval, d timestamptz, day date, b bytea
) {SPARSE};
alter table "odd ""tab""le" drop gone;
insert into "odd ""tab""le" ("Å", f, i, d, day, b)
select i, 1 / i::float8, make_interval(days => -i, secs => i), to_timestamp(i / 7.0),
       date '2000-02-29' + i, decode(md5(i::text), 'hex')
from generate_series(1, {SPARSE_ROWS}) i;

create table toasted (id int, data text storage external, pad text storage plain) {SPARSE};
insert into toasted
select i, md5(i::text) || repeat('z', 1000000), repeat('p', 600) from generate_series(1, 70) i;

create table moods (m mood, pad text) partition by hash (m);
create table moods_0 partition of moods for values with (modulus 2, remainder 0) {SPARSE};
create table moods_1 partition of moods for values with (modulus 2, remainder 1) {SPARSE};
insert into moods select (enum_range(null::mood))[1 + i % 3], repeat('m', 60)
from generate_series(1, 4 * {SPARSE_ROWS}) i;
create table nothing ();
insert into nothing default values;
"""


def test_sliced_tables_as_the_snapshot_saw_them(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A5.15, A5.25, D8-D10, D13, D15-D17: slices join to the table, whatever happens to it."""
    db = database(pg17)
    servers.psql(pg17, db, input=HARD_TABLES)
    for setting in (
        "datestyle = 'SQL, DMY'",
        "intervalstyle = sql_standard",
        "extra_float_digits = -10",
        "timezone = 'Asia/Kathmandu'",
        "bytea_output = escape",
        "search_path = nowhere",
        "quote_all_identifiers = on",
    ):
        servers.sql(pg17, db, f"alter database {servers.quoted(db)} set {setting}")
    odd, roots = '"odd ""tab""le"', ("moods",)
    tables = ("heavy", "parent", "child", odd, "toasted", "nothing")
    gate = Gate(tmp_path, pg17, "psql")
    backup = start(pg17, db, tmp_path, BACKUP_JOBS="3", **gate.environment)
    gate.wait()
    with snapshot_of_backup(pg17, db) as before:
        expected = {table: contents(before, f"only public.{table}") for table in tables}
        expected |= {table: contents(before, f"public.{table}") for table in roots}
    anywhere = "1 + random() * 31998"
    fiftieth = f"({anywhere})::int % 50"
    with (
        repeated(
            pg17,
            db,
            f"update public.heavy set n = n + 1, pad = repeat('u', 90) where id % 50 = {fiftieth}",
            "delete from public.heavy where id = " + anywhere,
            "insert into public.heavy select 0 - max(-id) + 1000000 + 1, 1, 'new' from public.heavy"
            " on conflict do nothing",
            "delete from public.toasted where id < 10",
        ) as changes,
        repeated(pg17, db, "vacuum public.heavy", "vacuum public.toasted"),
        repeated(
            pg17,
            db,
            "set lock_timeout = '30ms'",
            "cluster public.heavy using heavy_pkey",
            "vacuum full public.toasted",
            "select pg_sleep(0.1)",
            tolerated=(psycopg.errors.LockNotAvailable,),
        ) as attempts,
    ):
        until(lambda: changes() > 2 and attempts() > 1)
        gate.open()
        artifact = finish(backup, tmp_path)
    names = ("heavy", "parent", "child", 'odd "tab"le', "toasted")
    assert {name: len(parts(artifact, name)) > 1 for name in names} == dict.fromkeys(names, True)
    leaves = [len(parts(artifact, name)) for name in ("moods_0", "moods_1")]
    assert max(leaves) > 1
    with restored(pg17, artifact) as copy:
        found = {table: contents(copy, f"only public.{table}") for table in tables}
        found |= {table: contents(copy, f"public.{table}") for table in roots}
    assert found == expected
    assert {table: count for table, (count, _) in found.items()} == {
        **dict.fromkeys(["heavy", "parent", "child", odd], SPARSE_ROWS),
        "toasted": 70,
        "nothing": 1,
        "moods": 4 * SPARSE_ROWS,
    }


@pytest.mark.parametrize(
    "change",
    [
        "drop schema s cascade",
        "drop table changed; create sequence changed",
        "alter table large drop amount",
    ],
    ids=["dropped", "replaced", "altered"],
)
def test_a_migration_between_listing_and_locking(
    pg17: Server, database: DatabaseFactory, tmp_path: Path, change: str
) -> None:
    """D3, D7: what has changed since it was listed is listed again; what is gone is no failure."""
    db = database(pg17)
    servers.psql(
        pg17,
        db,
        input="create table aaa (); create schema s; create table s.t (); create table changed ();"
        f"create table large (id int, amount int, pad text) {SPARSE}; insert into large {FILL}",
    )
    with servers.connect(pg17, db) as holder:
        holder.execute("begin; lock table aaa")
        backup = start(pg17, db, tmp_path)
        until(lambda: locks_of_backup(pg17, db, "aaa", granted=False))
        servers.sql(pg17, db, change)
        holder.execute("commit")
    artifact = finish(backup, tmp_path)
    assert len(parts(artifact, "large")) == 2
    kinds = "select relname, relkind from pg_class where relname in ('aaa', 'changed', 't')"
    with restored(pg17, artifact) as copy, servers.connect(pg17, db) as source:
        assert sorted(copy.execute(kinds)) == sorted(source.execute(kinds))
        assert contents(copy, "large") == contents(source, "large")


def test_tables_that_are_made_all_the_time(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """D3: each attempt to lock all of them finds another one; that is said, not waited out."""
    db = database(pg17)
    create = "execute format('create table a%s ()', i)"
    servers.sql(pg17, db, f"do $$ begin for i in 1..2000 loop {create}; end loop; end $$")
    # They are not dropped: the last attempt could find one locked, and report that instead.
    servers.sql(pg17, db, "create sequence number")
    another = "do $$ begin execute format('create table c%s ()', nextval('number')); end $$"
    with repeated(pg17, db, another, "select pg_sleep(0.005)", sessions=3):
        backup = start(pg17, db, tmp_path, BACKUP_LOCK_TIMEOUT="3")
        _, said = backup.communicate(timeout=150)
    if backup.returncode == 0:  # a slow machine left it a gap; then the backup is a good one
        with restored(pg17, finish(backup, tmp_path)) as copy:
            assert one(copy, "select count(*) from pg_class where relname ~ '^a[0-9]'") == 2000
        return
    assert backup.returncode == 4, said
    assert "tables were created, altered or dropped during each of" in said
    assert "hint: Run the backup when no migration is running, or increase --lock-timeout." in said
    assert invoke.left_over(tmp_path) == []


def test_a_locked_table(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """A6.2: who holds it is named, and the wait has an end."""
    db = database(pg17)
    servers.sql(pg17, db, 'create schema "my shop"; create table "my shop"."order" ()')
    with servers.connect(pg17, db, application_name="nightly job") as holder:
        holder.execute('begin; lock table "my shop"."order"')
        env = invoke.environment(pg17, db, BACKUP_DIR=str(tmp_path))
        said = invoke.run("backup", "--lock-timeout=1", env=env, code=4, timeout=10)
        pid = holder.info.backend_pid
    assert (
        f"could not lock table my shop.order within 1 s: process {pid} (postgres, nightly" in said
    )
    assert "pg_terminate_backend" in said
    assert invoke.left_over(tmp_path) == []


def test_a_table_locked_by_a_prepared_transaction(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A6.2: which has no process, and needs another remedy."""
    db = database(pg17)
    servers.sql(pg17, db, "create table t ()")
    servers.sql(pg17, db, "begin; lock table t; prepare transaction 'forgotten'")
    try:
        env = invoke.environment(pg17, db, BACKUP_DIR=str(tmp_path))
        said = invoke.run("backup", "--lock-timeout=0.5", env=env, code=4, timeout=10)
    finally:
        servers.sql(pg17, db, "rollback prepared 'forgotten'")
    assert "could not lock table public.t within 0.5 s: a prepared transaction" in said
    assert "ROLLBACK PREPARED" in said


def test_a_locked_view(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """A6.2, D5: pg_dump has no timeout for what is not a table."""
    db = database(pg17)
    servers.sql(pg17, db, "create table t (); create materialized view mv as select 1 as a")
    with servers.connect(pg17, db) as holder:
        holder.execute("begin; refresh materialized view mv")
        env = invoke.environment(pg17, db, BACKUP_DIR=str(tmp_path))
        said = invoke.run("backup", "--lock-timeout=1", env=env, code=4, timeout=15)
        pid = holder.info.backend_pid
    assert f"public.mv within 2 s: process {pid} (postgres" in said
    assert invoke.left_over(tmp_path) == []


def test_timeouts_of_the_role(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """A6.1: they are for others; connections that only hold a snapshot live on."""
    db = database(pg17)
    servers.psql(
        pg17, db, input=f"create table t (i int, a int, p text) {SPARSE}; insert into t {FILL}"
    )
    role = f"hasty_{os.getpid()}"
    servers.sql(pg17, db, f"create role {role} superuser login")
    try:
        for setting in (
            "statement_timeout = '1ms'",
            "lock_timeout = '1ms'",
            "transaction_timeout = '300ms'",
            "idle_in_transaction_session_timeout = '300ms'",
            "idle_session_timeout = '100ms'",
        ):
            servers.sql(pg17, db, f"alter role {role} set {setting}")
        gate = Gate(tmp_path, pg17, "psql")
        env = {**gate.environment, "PGUSER": role}
        backup = start(pg17, db, tmp_path, "--verify", BACKUP_JOBS="2", **env)
        gate.wait()
        with pytest.raises(subprocess.TimeoutExpired):
            backup.wait(1)
        gate.open()
        artifact = finish(backup, tmp_path)
        assert len(parts(artifact, "t")) == 2
        invoke.restore(pg17, artifact, f"{db} again", PGUSER=role)
        assert servers.sql(pg17, f"{db} again", "select count(*) from t") == [(SPARSE_ROWS,)]
    finally:
        servers.drop(pg17, f"{db} again")
        servers.sql(pg17, "postgres", f"drop role {role}")


def test_the_snapshot_is_let_go_with_the_last_row(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A6.4: nothing holds back vacuum or a migration while roles are dumped."""
    db = database(pg17)
    servers.sql(pg17, db, "create table t (a int)")
    gate = Gate(tmp_path, pg17, "pg_dumpall")
    backup = start(pg17, db, tmp_path, **gate.environment)
    gate.wait()
    held = (
        "select backend_xmin from pg_stat_activity"
        " where starts_with(application_name, 'pgkeep') and datname = %(db)s"
    )
    assert servers.sql(pg17, db, held, db=db) == [(None,)]
    servers.sql(pg17, db, "set lock_timeout = '1s'; alter table t add b int")
    gate.open()
    finish(backup, tmp_path)


def test_too_few_connections(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """A6.10: said before anything is dumped, with what to do; as many as needed suffice."""
    db = database(pg17)
    servers.psql(
        pg17, db, input=f"create table t (i int, a int, p text) {SPARSE}; insert into t {FILL}"
    )
    role = f"modest_{os.getpid()}"
    servers.sql(pg17, db, f"create role {role} login connection limit 3 in role pg_read_all_data")
    try:
        env = invoke.environment(pg17, db, BACKUP_DIR=str(tmp_path), PGUSER=role)
        said = invoke.run("backup", "--jobs=3", env=env, code=4)
        assert f"role {role} can open 3 connections, the backup needs 5" in said
        assert f"ALTER ROLE {role} CONNECTION LIMIT 5;" in said
        assert invoke.left_over(tmp_path) == []
        artifact = backup_of(pg17, db, tmp_path, "--jobs=1", PGUSER=role)
        assert len(parts(artifact, "t")) == 2
    finally:
        servers.sql(pg17, "postgres", f"drop role {role}")


def test_two_at_once(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """B11: the second ends at once, from elsewhere too; another database is backed up."""
    db, other = database(pg17), database(pg17)
    gate = Gate(tmp_path, pg17, "pg_dump")
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    first = start(pg17, db, here, **gate.environment)
    gate.wait()
    partial = invoke.left_over(here)
    for directory in (here, elsewhere):
        env = invoke.environment(pg17, db, BACKUP_DIR=str(directory))
        said = invoke.run("backup", env=env, code=10, timeout=10)
        assert f"a backup of database {db} is already running" in said
    assert invoke.left_over(elsewhere) == []
    assert invoke.left_over(here) == partial
    assert backup_of(pg17, other, here).exists()
    gate.open()
    assert finish(first, here).exists()
