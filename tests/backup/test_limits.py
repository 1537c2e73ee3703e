"""Large rows, large tables, many tables, few locks: what memory and servers have little of."""

import re
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pgkeep.postgres import lock_table
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.backups import backup_of, finish, restored
from tests.support.concurrency import contents, parts, repeated, resident, until

MIB = 1 << 20


class Peak:
    """The most memory that a process and all below it have had, in MiB."""

    def __init__(self, pid: int) -> None:
        self.whole = 0
        self.of: dict[str, int] = {}
        self._pid = pid
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def finish(self) -> None:
        self._thread.join()

    def _watch(self) -> None:
        while found := resident(self._pid):
            self.whole = max(self.whole, sum(found.values()))
            for name, size in found.items():
                self.of[name] = max(self.of.get(name, 0), size)
            time.sleep(0.02)


def start(
    server: Server, db: str, directory: Path, *args: str, **extra: str
) -> "subprocess.Popen[str]":
    """Start the installed command: a fork shares memory with others."""
    env = invoke.environment(server, db, BACKUP_DIR=str(directory), **extra)
    return invoke.start("backup", *args, env=env)


def test_memory_does_not_grow_with_the_table(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """B21, D13: 180 MB that hardly compress, by three workers, verified and restored."""
    db = database(pg17)
    servers.psql(
        pg17,
        db,
        input="create unlogged table t (id int, data bytea);"
        " alter table t alter data set storage plain;"
        " insert into t select i, (select string_agg(sha512((i * 40 + j)::text::bytea), '')"
        " from generate_series(1, 30) j) from generate_series(1, 45000) i",
    )
    backup = start(pg17, db, tmp_path, "--verify", BACKUP_JOBS="3")
    peak = Peak(backup.pid)
    artifact = finish(backup, tmp_path)
    peak.finish()
    assert len(parts(artifact, "t")) > 5
    assert artifact.stat().st_size > 80 * MIB
    assert 40 < peak.whole < 200, peak.of
    name = f"{db} again"
    try:
        env = invoke.environment(pg17, BACKUP_JOBS="3")
        restore = invoke.start("restore", f"--backup={artifact}", f"--target-db={name}", env=env)
        peak = Peak(restore.pid)
        _, said = restore.communicate(timeout=60)
        assert restore.returncode == 0, said
        peak.finish()
        assert 30 < peak.whole < 200, peak.of
        assert servers.sql(pg17, name, "select count(*) from t") == [(45_000,)]
    finally:
        servers.drop(pg17, name)


def test_rows_of_sixty_four_megabytes(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """B21: pgkeep itself holds no row, only what a row is compressed to."""
    db = database(pg17)
    servers.psql(
        pg17,
        db,
        input="create table t (id int, data text storage external);"
        " insert into t select i, repeat(md5(i::text), 2 << 20) from generate_series(1, 2) i",
    )
    backup = start(pg17, db, tmp_path, "--verify", BACKUP_JOBS="2")
    peak = Peak(backup.pid)
    artifact = finish(backup, tmp_path)
    peak.finish()
    assert len(parts(artifact, "t")) > 1
    assert peak.of["pgkeep"] < 120, peak.of
    with servers.connect(pg17, db) as source, restored(pg17, artifact) as copy:
        assert contents(copy, "t") == contents(source, "t")


def test_a_row_that_copy_cannot_express(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A5.21: the table is named, and what to do; nothing is published."""
    db = database(pg17)
    servers.psql(
        pg17,
        db,
        input='create table "too big" (a bytea, b text);'
        ' alter table "too big" alter b set storage plain;'
        """ insert into "too big" values (convert_to(repeat('x', 530 << 20), 'utf8'))""",
    )
    # By pg_dump, and, when the table is large, by a worker.
    for rows in (0, 12_000):
        insert = "insert into \"too big\" select '', repeat('x', 1900) from generate_series(1, %d)"
        servers.sql(pg17, db, insert % rows)
        backup = start(pg17, db, tmp_path)
        peak = Peak(backup.pid)
        _, said = backup.communicate(timeout=60)
        peak.finish()
        assert backup.returncode == 4, said
        assert "too big" in said
        assert "hint: A row is larger than 1 GB as text" in said
        assert "Traceback" not in said
        assert invoke.left_over(tmp_path) == []
        assert peak.whole < 200, peak.of


def test_many_tables(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """B30: pg_dump's messages fill no pipe; each table is there once."""
    db = database(pg17)
    # Not more in one transaction than there are locks; in all, messages for three and more pipes.
    for first in range(0, 900, 300):
        servers.sql(
            pg17,
            db,
            f"do $$ begin for i in {first}..{first + 299} loop execute format('create table %I"
            " (a int)', 'a table whose name is rather long ' || i); end loop; end $$",
        )
    artifact = backup_of(pg17, db, tmp_path, "--verify")
    with restored(pg17, artifact) as copy:
        query = "select count(*) from pg_class where relkind = 'r' and relname like 'a table %'"
        assert copy.execute(query).fetchone() == (900,)


@pytest.mark.parametrize("major", [15, 18], ids="pg{}".format)
def test_little_room_for_locks(major: int, tmp_path: Path) -> None:
    """A5.20: the application's transactions do not fail, whether there is room for a backup or not.

    The message has the value that suffices.
    """
    settings = {"max_locks_per_transaction": "12", "max_connections": "10", "autovacuum": "off"}
    tables = [f"create table app{number} (a serial primary key, b text)" for number in range(4)]
    drops = [f"drop table app{number}" for number in range(4)]
    work = ("; ".join(["begin", *tables, *drops, "commit"]), "select pg_sleep(0.02)")
    with Server(servers.bin_folder(major), settings=settings) as small:
        with Endpoint({**small.params, "dbname": "postgres"}).connect() as connection:
            size = lock_table.forecast(connection, 0, 1).size
            for number in range(int(size * 0.72) - 200):
                connection.execute(f"create table public.t{number} ()".encode())
        env = invoke.environment(small, "postgres", BACKUP_DIR=str(tmp_path))
        with repeated(small, "postgres", *work) as count:
            _, said = invoke.outputs("backup", "--jobs=3", env=env)
            until(lambda: count() > 2)
        assert f"the lock table of the server has room for {size} locks" in said
        before = invoke.left_over(tmp_path)
        with servers.connect(small, "postgres") as other:
            for number in range(int(size * 0.5)):
                other.execute(f"create table public.u{number} ()")
        with repeated(small, "postgres", *work):
            said = invoke.run("backup", "--jobs=3", env=env, code=4)
        assert "with --jobs=1: other sessions would run out of shared memory" in said
        found = re.search(r"ALTER SYSTEM SET max_locks_per_transaction = (\d+);", said)
        assert found is not None
        assert invoke.left_over(tmp_path) == before
