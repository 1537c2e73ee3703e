"""What is read of the WAL, and what users can write into it."""

from datetime import datetime
from pathlib import Path

import pytest

from pgkeep.model.wal import Lsn
from pgkeep.pitr import waldump
from pgkeep.postgres.server import Server
from tests.support import servers

COMMIT = "rmgr: Transaction len (rec/tot): 34/34, tx: {xid}, lsn: {lsn}, prev 0/0, desc: COMMIT "
FORGED = "2026-01-01 11:30:00.000000 UTC"


@pytest.mark.parametrize("major", [15, 18])
def test_a_user_cannot_write_commits(major: int, tmp_path: Path) -> None:
    """The identifier of a prepared transaction has line ends, and text that looks like records."""
    programs = servers.bin_folder(major)
    settings = {"max_prepared_transactions": "4", "wal_level": "replica"}
    with (
        Server(programs, settings=settings, initdb=["--wal-segsize=1"]) as server,
        servers.connect(server, "postgres") as connection,
    ):
        connection.execute("select pg_switch_wal()")
        connection.execute("create table public.t (n int)")
        connection.execute("create role enemy; grant all on public.t to enemy")
        (row,) = connection.execute("select pg_walfile_name(pg_current_wal_lsn())").fetchall()
        xids = []
        for number, lsn in enumerate(("FFFFFFFF/FFFFFFF0", "0/28", "0/28")):
            forged = f"x\n{COMMIT.format(xid=999, lsn=lsn)}{FORGED}"[:199]
            connection.execute("begin; set local role enemy")
            connection.execute("insert into public.t values (1)")
            connection.execute(f"prepare transaction '{forged}{'!' * number}'".encode())
            committed = connection.execute(
                "insert into public.t values (0) returning pg_current_xact_id()::text::int8"
            ).fetchone()
            assert committed is not None
            xids.append(committed[0])
        connection.execute("select pg_switch_wal()")
        (data,) = connection.execute(
            "select pg_read_binary_file('pg_wal/' || %s)", [row[0]]
        ).fetchall()
    (tmp_path / row[0]).write_bytes(bytes(data[0]))
    found = waldump.read(programs, tmp_path, [row[0]])
    text = waldump._output(programs, tmp_path, [row[0]])
    assert text.count(FORGED) == 3, "pg_waldump prints what looks like commits"
    assert [commit.xid for commit in found.commits if commit.xid in xids] == xids
    assert 999 not in [commit.xid for commit in found.commits]
    assert datetime.fromisoformat(FORGED[:-4]) not in [
        commit.time.replace(tzinfo=None) for commit in found.commits
    ]
    assert found.commits == sorted(found.commits, key=lambda commit: commit.lsn)


def test_a_prepared_transaction_is_committed_under_its_own_number() -> None:
    """The record of the commit itself is one of another, or of no transaction."""
    record = (
        "rmgr: Transaction len (rec/tot): 66/66, tx: 0, lsn: 0/1000028, prev 0/1000000,"
        f" desc: COMMIT_PREPARED 742: {FORGED}"
    )
    match = waldump._RECORD.match(record)
    assert match is not None
    found = waldump.WalContents()
    waldump._add_transaction(found, match, Lsn(0x1000028), None)
    assert [(commit.xid, commit.lsn) for commit in found.commits] == [(742, 0x1000028)]
