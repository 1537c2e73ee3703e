"""Recovery to every kind of target, proved to the transaction by a ledger."""

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.model.wal import Lsn
from pgkeep.pitr.plan import make_plan
from pgkeep.pitr.restore import preview
from pgkeep.pitr.target import Point, Target, TargetKind
from pgkeep.progress import Silent
from tests.support import servers
from tests.support.wal_source import WalSource, restored, wal_source

BUSY = 1000
BOTH = f"select n from public.ledger union all select {BUSY} from public.busy order by 1"


@contextlib.contextmanager
def load(source: WalSource) -> Iterator[None]:
    """Commit in two more sessions, so that commits follow each other closely."""
    over = threading.Event()

    def work() -> None:
        with servers.connect(source.server, "postgres") as connection:
            while not over.is_set():
                connection.execute("insert into busy values (1)")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def previewed(source: WalSource, time: datetime) -> Point:
    plan = make_plan(source.location, Target(TargetKind.TIME, time=time), Encryption())
    return preview(plan, Encryption(), 2, Silent())[1]


def refused(source: WalSource, target: Target) -> e.Refused:
    plan = make_plan(source.location, target, Encryption())
    with pytest.raises(e.Refused) as caught:
        preview(plan, Encryption(), 2, Silent())
    return caught.value


@pytest.mark.parametrize("major", [15, 17, 18])
def test_every_kind_of_target(major: int) -> None:
    """A1: the ledger has exactly the rows that were committed up to the point."""
    with wal_source(major, settings={"track_commit_timestamp": "on"}) as source:
        source.connection.execute("create table ledger (n int, filler text)")
        source.connection.execute("alter table ledger alter filler set storage external")
        source.connection.execute("create table busy (i int)")
        full = source.base()
        ledger: list[tuple[int, Lsn, datetime]] = []
        with load(source):
            for number in range(30):
                xid, now = source.run(
                    f"insert into ledger select {number}, repeat(md5(random()::text), 3000)"
                )
                if number in (20, 25):
                    name = "before the mistake" if number == 20 else "twice"
                    source.connection.execute("select pg_create_restore_point(%s)", [name])
                (lsn,) = source.row("select pg_current_wal_lsn()::text")
                ledger.append((xid, Lsn.parse(lsn), now))
                time.sleep(0.005)
        source.connection.execute("select pg_create_restore_point('twice')")
        source.connection.execute(
            "begin; insert into ledger values (90); savepoint s; insert into ledger values (91);"
            " release s"
        )
        (aborted,) = source.row("select pg_current_xact_id()::text::int8")
        source.connection.execute("rollback")
        source.connection.execute("begin; insert into ledger values (92)")
        (prepared,) = source.row("select pg_current_xact_id()::text::int8")
        source.connection.execute("prepare transaction 'open'")
        assert len(source.ship()) > 3
        cases = [
            (Target(TargetKind.TIME, time=ledger[9][2]), 10),
            (Target(TargetKind.LATEST), 30),
            (Target(TargetKind.XID, xid=ledger[14][0]), 15),
            (Target(TargetKind.LSN, lsn=ledger[17][1]), 18),
            (Target(TargetKind.NAME, name="before the mistake"), 21),
            (Target(TargetKind.TIME, time=full.stopped), 0),
        ]
        for asked, expected in cases if major == 17 else cases[:2]:
            found, rows = restored(source, asked, query=BOTH)
            others, rows = rows[expected:], rows[:expected]
            assert set(others) <= {BUSY}
            if asked.time is not None:
                (earlier,) = source.row(
                    "select count(*) from busy where pg_xact_commit_timestamp(xmin)"
                    f" <= '{asked.time.isoformat()}'"
                )
                assert earlier <= len(others) <= earlier + 2, "commits are not sorted by time"
            assert rows == list(range(expected)), (asked, found.proof)
            assert found.point.before == () or (
                found.proof.last_commit == found.point.before[-1].time
            )
        for index in (12, 29):
            (exact,) = source.row(f"select pg_xact_commit_timestamp('{ledger[index][0]}')")
            point = previewed(source, exact)
            assert point.before[-1].xid == ledger[index][0], "a time includes the commit at it"
            if index == 12:
                before = previewed(source, exact - timedelta(microseconds=1))
                assert before.after is not None
                assert before.after.time == exact
        late = refused(source, Target(TargetKind.TIME, time=ledger[-1][2] + timedelta(seconds=60)))
        assert "is not in the archived WAL" in late.message
        assert "the last archived commit" in str(late.hint)
        for xid, reason in (
            (aborted, "was rolled back"), (aborted + 1, "was rolled back"),
            (prepared, "was prepared, and not committed"), (1 << 31, "not in the archived"),
        ):  # fmt: skip
            assert reason in refused(source, Target(TargetKind.XID, xid=xid)).message
        assert "exists 2 times" in refused(source, Target(TargetKind.NAME, name="twice")).message
        early = Target(TargetKind.TIME, time=full.stopped - timedelta(seconds=1))
        with pytest.raises(e.Refused, match="no base backup on timeline 1 ended before"):
            make_plan(source.location, early, Encryption())


def test_no_session_is_possible_at_the_target() -> None:
    """With many subtransactions open, PostgreSQL cannot pause at the target, and promotes."""
    with wal_source(17) as source, servers.connect(source.server, "postgres") as other:
        source.connection.execute("create table ledger (n int)")
        other.execute("begin")
        for number in range(70):
            other.execute(f"savepoint s{number}")
            other.execute("insert into ledger values (-1)")
        source.base()
        xid, _ = source.run("insert into ledger values (0)")
        source.run("insert into ledger values (1)")
        source.ship()
        found, rows = restored(source, Target(TargetKind.XID, xid=xid))
        assert rows == [0]
        assert found.proof.promoted
