"""Slices of tables: the planner locks indexes, and settings must not change the plan (D11, D31)."""

from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.backup.slices import CopiedSlice, rows_after
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import servers
from tests.support.backups import backup_of, finish, restored, start
from tests.support.concurrency import (
    SPARSE,
    SPARSE_ROWS,
    Gate,
    Later,
    contents,
    parts,
    until,
    waits,
)

LARGE = f"""
create table t (i int primary key, p text) {SPARSE};
insert into t select g, repeat('x', 100) from generate_series(1, {SPARSE_ROWS}) g;
create index t_p on t (p);
"""


@pytest.mark.parametrize("width", [1, 3, 100])
@pytest.mark.parametrize(
    ("copied", "expected"),
    [
        ([], b"a\nbb\nccc\n\ndd\n"),
        ([(1, 2)], b"bb\nccc\n\ndd\n"),
        ([(1, 2), (0, 0), (2, 7)], b"\ndd\n"),
        ([(5, 13)], b""),
    ],
)
def test_rows_after_slices(copied: list[tuple[int, int]], expected: bytes, width: int) -> None:
    data = b"a\nbb\nccc\n\ndd\n"
    blocks = [data[start : start + width] for start in range(0, len(data), width)]
    slices = [CopiedSlice(*found) for found in copied]
    assert b"".join(rows_after(blocks, slices, "t")) == expected


@pytest.mark.parametrize("copied", [(1, 3), (2, 2), (5, 14), (1, 4)])
def test_other_rows_than_those_of_the_slices(copied: tuple[int, int]) -> None:
    """A wrong number of bytes or rows fails the backup."""
    with pytest.raises(e.DumpFailed, match="differs from its slices"):
        list(rows_after([b"a\nbb\nccc\n\ndd\n"], [CopiedSlice(*copied)], "t"))


def test_an_open_reindex(server: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """D31: pg_dump does not need indexes, and neither does a backup."""
    db = database(server)
    servers.psql(server, db, input=LARGE)
    with servers.connect(server, db) as other:
        other.execute("begin; reindex index t_p")
        artifact = backup_of(server, db, tmp_path, "--lock-timeout=2", BACKUP_JOBS="2")
        other.execute("rollback")
    assert len(parts(artifact, "t")) == 1
    with restored(server, artifact) as copy, servers.connect(server, db) as source:
        assert contents(copy, "only t") == contents(source, "only t")


def test_a_reindex_that_begins_between_slices(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """D31: REINDEX has its turn after a slice; the rest is copied as a whole, no row twice."""
    db = database(pg17)
    servers.psql(pg17, db, input=LARGE)
    servers.psql(pg17, db, input=f"insert into t select g + {SPARSE_ROWS}, 'y' from"
                 f" generate_series(1, 3 * {SPARSE_ROWS}) g")  # fmt: skip
    locks = "select count(*) from pg_locks where relation = 't_p'::regclass and pid <> %(pid)s"
    whole = (
        "select 1 from pg_stat_activity where state = 'active' and query like 'COPY public.t (%'"
    )
    env = {"BACKUP_JOBS": "1", "BACKUP_RATE_LIMIT": "2MB"}
    backup = start(pg17, db, tmp_path, **env)
    with servers.connect(pg17, db) as other:
        until(lambda: servers.sql(pg17, db, locks, pid=other.info.backend_pid) != [(0,)])
        other.execute("set lock_timeout = '20s'")
        other.execute("begin; reindex index t_p")
        assert until(lambda: servers.sql(pg17, db, whole)) == [(1,)]
        artifact = finish(backup, tmp_path)
        other.execute("commit")
    assert len(parts(artifact, "t")) in (2, 3)
    with restored(pg17, artifact) as copy, servers.connect(pg17, db) as source:
        assert contents(copy, "only t") == contents(source, "only t")


def test_reindex_concurrently_waits_and_is_recorded(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """D31: it waits for the snapshot, as beside pg_dump, and blocks nobody."""
    db = database(pg17)
    servers.psql(pg17, db, input=LARGE)
    gate = Gate(tmp_path, pg17, "pg_dump")
    backup = start(pg17, db, tmp_path, BACKUP_JOBS="2", **gate.environment)
    gate.wait()
    reindex = Later(pg17, db, "reindex index concurrently t_p")
    until(lambda: waits(pg17, reindex.pid))
    servers.sql(pg17, db, "set lock_timeout = '1s'; insert into t values (0, 'z')")
    gate.open()
    artifact = finish(backup, tmp_path)
    reindex.finish()
    with restored(pg17, artifact) as copy:
        assert copy.execute("select count(*) from t").fetchone() == (SPARSE_ROWS,)


HOSTILE = {
    "enable_tidscan": "off",
    "random_page_cost": "1e9",
    "seq_page_cost": "0",
    "max_parallel_workers_per_gather": "8",
    "parallel_setup_cost": "0",
    "parallel_tuple_cost": "0",
    "min_parallel_table_scan_size": "0",
}


def test_settings_that_would_read_the_table_for_each_slice(
    server: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """D11: a database that turns TID scans off is read once, not once for each slice."""
    db = database(server)
    servers.psql(server, db, input=LARGE)
    for name, value in HOSTILE.items():
        servers.sql(server, "postgres", f"alter database \"{db}\" set {name} = '{value}'")
    servers.sql(server, db, "select pg_stat_reset()")
    artifact = backup_of(server, db, tmp_path, "--no-computed-values", BACKUP_JOBS="2")
    assert len(parts(artifact, "t")) == 2
    scans = "select seq_scan + coalesce(idx_scan, 0) from pg_stat_user_tables where relname = 't'"
    assert until(lambda: servers.sql(server, db, scans)) == [(0,)]  # a TID range scan is neither
    with restored(server, artifact) as copy, servers.connect(server, db) as source:
        assert contents(copy, "only t") == contents(source, "only t")
