"""Indexes and keys are built side by side: in an order that works, every time."""

import contextlib
import itertools
import json
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.artifact.file import Artifact, Object
from pgkeep.postgres.connection import Connection, Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.restore.load import rows
from pgkeep.restore.load.entries import without_owner
from pgkeep.restore.load.load import load
from pgkeep.restore.load.options import LoadOptions
from pgkeep.restore.load.session import BATCH_BYTES, Session
from pgkeep.stores.local import LocalStore
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.backups import backup_of
from tests.support.compare import assert_same_database

TABLES = [f"t{number}" for number in range(6)]
COLUMNS = ", ".join(f"{name}_id int" for name in TABLES)
# Every table refers to every other one, and to itself.
WEB = "".join(
    f"create table {name} (id int primary key, n int unique, {COLUMNS});\n"
    f"insert into {name} select {', '.join('i' * 8)} from generate_series(1, 200) i;\n"
    f"create index on {name} (n, id); create index on {name} ((n % 7));\n"
    for name in TABLES
) + "".join(
    f"alter table {of} add foreign key ({to}_id) references {to} ({column});\n"
    for of, to in itertools.product(TABLES, TABLES)
    for column in ("id", "n")
)
# Partitions that have keys of their own and refer to each other's siblings, in both directions:
# whoever locks a whole tree meets those who have locked leaves.
TREES = "".join(
    f"""
create table {tree} (id int, part int, other int, primary key (id, part)) partition by list (part);
create table {tree}_deep partition of {tree} for values in (3, 4) partition by list (part);
create table {tree}1 partition of {tree} for values in (1);
create table {tree}2 partition of {tree} for values in (2);
create table {tree}3 partition of {tree}_deep for values in (3);
create table {tree}4 partition of {tree}_deep for values in (4);
insert into {tree} select i, 1 + i % 4, i from generate_series(1, 400) i;
create index {tree}_other on {tree} (other);
create index {tree}1_own on {tree}1 (other, id);
alter table {tree}1 cluster on {tree}1_own;
create unique index {tree}4_unique on {tree}4 (id);
alter table {tree}4 alter id set not null, replica identity using index {tree}4_unique;
create table of_{tree} (id int, part int, leaf int,
    foreign key (id, part) references {tree}, foreign key (leaf) references {tree}4 (id));
insert into of_{tree} select id, part, null from {tree};
"""
    for tree in ("p", "q")
) + "".join(
    f"alter table {of} add foreign key (id, part) references {to};\n"
    for of, to in [
        ("p", "q"), ("q1", "p1"), ("q2", "p2"), ("p1", "q1"), ("p2", "q2"), ("q3", "p3"),
        ("q4", "p"), ("q", "q"),
    ]
)  # fmt: skip
DEPENDENT = """
create view grouped as select id, n, count(*) from t1 group by id;
create view on_it as select sum(count) as total from grouped;
create materialized view stored as select * from grouped;
create unique index stored_id on stored (id);
create function counted() returns bigint stable language sql
    begin atomic select count(*) from (select n from t2 group by id) x; end;
create function by_text() returns bigint stable language sql as 'select sum(id) from public.stored';
create materialized view over_function as select by_text() as a, counted() as b;
create materialized view over_view as select * from on_it, over_function;
create rule r as on update to grouped do instead update t1 set n = new.n where id = new.id;
create statistics st on n, t1_id from t1;
alter index t1_expr_idx alter column 1 set statistics 500;
create table deferred (id int primary key deferrable, x int, exclude using btree (x with =));
comment on constraint t1_t2_id_fkey on t1 is 'a key';
comment on index t1_expr_idx is 'an index';
"""


def test_restored_ten_times(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """D21, D22: no deadlock ends a restore, and what is restored is the same each time."""
    db = database(pg17)
    servers.psql(pg17, db, input=WEB + TREES + DEPENDENT)
    artifact = backup_of(pg17, db, tmp_path)
    target = f"{db} again"
    logged = pg17.log.stat().st_size
    try:
        for _ in range(10):
            servers.drop(pg17, target)
            invoke.restore(pg17, artifact, target, "--no-analyze", BACKUP_JOBS="4")
        assert_same_database(pg17, db, pg17, target)
    finally:
        servers.drop(pg17, target)
    with pg17.log.open("rb") as log:
        log.seek(logged)
        assert log.read().count(b"deadlock detected") == 0


def test_rows_of_extensions_go_in_their_order(
    pg18: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """Their foreign keys are there before the rows."""
    source, target = database(pg18), f"{database(pg18)} back"
    servers.psql(pg18, source, input="""
        create schema probe;
        create extension pgkeep_probe;
        insert into probe.config select i, repeat('x', 8000) from generate_series(3, 3000) i;
        insert into probe.jobs (config) select generate_series(1, 3000);
    """)  # fmt: skip
    try:
        invoke.restore(pg18, backup_of(pg18, source, tmp_path), target, BACKUP_JOBS="4")
        assert_same_database(pg18, source, pg18, target)
    finally:
        servers.drop(pg18, target)


# As extensions bring them, which are there before the tables.
EVENT_TRIGGER = """
create schema watch;
create function watch.all_tables() returns event_trigger language plpgsql as $$
declare name regclass;
begin
    for name in select c.oid from pg_class c where relnamespace = 'public'::regnamespace
        and relkind = 'r' order by random()
    loop
        execute format('lock table %s in access exclusive mode', name);
    end loop;
end $$;
create event trigger watch on ddl_command_end execute function watch.all_tables();
"""


def test_event_triggers_may_lock_what_they_like(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """What is built side by side then ends in deadlocks, and is built one by one."""
    source, target = database(pg17), database(pg17)
    servers.psql(pg17, source, input=WEB)
    servers.psql(pg17, target, input=f"alter database {target} set deadlock_timeout = '20ms'")
    servers.psql(pg17, target, input=EVENT_TRIGGER)
    path = backup_of(pg17, source, tmp_path)
    artifact = Artifact(LocalStore(path.parent).open(path.name))
    there = Endpoint({**pg17.params, "dbname": target})
    load(there, artifact, LoadOptions(jobs=4), Silent())
    servers.psql(pg17, target, input="drop event trigger watch; drop schema watch cascade")
    assert_same_database(pg17, source, pg17, target, ignore_database=True)


PARTITIONED = """
create table whole (a int, b int) partition by list (a);
create table whole_1 partition of whole for values in (1);
create table whole_2 partition of whole for values in (2) partition by list (b);
create table whole_2_1 partition of whole_2 for values in (1);
create table plain (a int);
create foreign data wrapper none;
create server nowhere foreign data wrapper none;
create table mixed (a int) partition by list (a);
create foreign table mixed_0 partition of mixed for values in (0) server nowhere;
create table mixed_1 partition of mixed for values in (1);
insert into whole values (1, 1), (2, 1); insert into plain values (1);
insert into mixed values (1);
"""


def test_every_table_is_analyzed_once(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A5.22: partitions with their root, and by themselves where a part of it cannot be read."""
    db, target = database(pg17), database(pg17)
    servers.psql(pg17, db, input=PARTITIONED)
    servers.drop(pg17, target)
    result = json.loads(invoke.restore(pg17, backup_of(pg17, db, tmp_path), target, "--json"))
    assert result["warnings"] == [
        'ANALYZE public.mixed: foreign-data wrapper "none" has no handler'
    ]
    query = "select relname, analyze_count from pg_stat_user_tables where analyze_count > 0"
    once = {"whole", "whole_1", "whole_2", "whole_2_1", "plain", "mixed_1"}
    assert dict(servers.sql(pg17, target, query)) == dict.fromkeys(once, 1)


def test_the_commit_waits_for_the_disk(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """B1: until then nothing waits for it, for nothing of an unfinished restore can be lost."""
    db, target = database(pg17), database(pg17)
    servers.sql(pg17, db, "create table t as select 1 a")
    path = backup_of(pg17, db, tmp_path)
    seen: list[object] = []

    def look(connection: Connection) -> None:
        seen.extend(connection.execute("show synchronous_commit").fetchall())

    options = LoadOptions(jobs=1, one_transaction=True, check=look)
    with contextlib.closing(LocalStore(tmp_path).open(path.name)) as source:
        endpoint = Endpoint({**pg17.params, "dbname": target})
        load(endpoint, Artifact(source), options, Silent())
    assert seen == [("on",)]


def test_a_statement_that_pg_dump_does_not_write(pg17: Server, database: DatabaseFactory) -> None:
    """Whatever the index says, each statement is looked at before it is sent."""
    entry = Object(type="TABLE", schema="public", name="t", owner="", member=0, start=0)
    with Endpoint({**pg17.params, "dbname": database(pg17)}).connect() as connection:
        session = Session(connection, [])
        for statement in (b"DROP ROLE postgres;\n", b"COPY t FROM PROGRAM 'id';\n"):
            with pytest.raises(e.VerificationFailed):
                session.execute_one(entry, statement)


def test_rows_that_a_trigger_drops_are_not_counted(pg17: Server, database: DatabaseFactory) -> None:
    """A2.5: the server says how many it took, and a restore compares that with the backup."""
    name = database(pg17)
    servers.psql(
        pg17,
        name,
        input="create table t (a int); create function f() returns trigger language plpgsql as"
        " 'begin return null; end'; create trigger f before insert on t for each row"
        " execute function f();",
    )
    entry = Object(
        type="TABLE DATA", schema="public", name="t", owner="", member=0, start=0, rows=2
    )
    with Endpoint({**pg17.params, "dbname": name}).connect() as connection:
        taken = Session(connection, []).copy(
            entry, b"COPY public.t (a) FROM stdin", iter([b"1\n2\n"])
        )
    assert taken == 0


def test_large_objects_go_in_messages_of_whole_statements() -> None:
    """The client keeps all results of a message: of 100,000 statements they are a gigabyte."""
    text = b"SELECT pg_catalog.lo_close(0);\n" * 9000
    parts = [*rows._lines(text)]
    assert b"".join(parts) == text
    assert all(part.endswith(b";\n") for part in parts)
    assert max(map(len, parts)) < BATCH_BYTES + 100
    assert [*rows._lines(text[:-1])][-1] == parts[-1][:-1]
    assert [*rows._lines(b"")] == []


OWNER = b"ALTER TABLE app.t OWNER TO ann;\n"
METHOD = b'ALTER TABLE ONLY app.t SET ACCESS METHOD "heap 2";\n'


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (b"A;\n\n\n" + OWNER + b"\n", b"A;\n\n\n"),
        (b'A;\nALTER TYPE app."x;" OWNER TO "the ""owner";\n', b"A;\n"),
        (b"A;\n" + OWNER + b"\n" + METHOD, b"A;\n" + METHOD),
        (b"$$\n" + OWNER + b"$$;\n", b"$$\n" + OWNER + b"$$;\n"),  # of a function's body
    ],
)
def test_without_owner(text: bytes, left: bytes) -> None:
    assert without_owner(text) == left
