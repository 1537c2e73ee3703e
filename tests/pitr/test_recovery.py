"""Recovery to every kind of target, proved to the transaction by a ledger."""

import time
from datetime import datetime, timedelta

import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.model.wal import Lsn
from pgkeep.pitr.plan import make_plan
from pgkeep.pitr.restore import preview
from pgkeep.pitr.target import Target, TargetKind
from pgkeep.progress import Silent
from tests.support.wal_source import WalSource, restored, wal_source


def refused(source: WalSource, target: Target) -> e.Refused:
    plan = make_plan(source.location, target, Encryption())
    with pytest.raises(e.Refused) as caught:
        preview(plan, Encryption(), 2, Silent())
    return caught.value


@pytest.mark.parametrize("major", [15, 17, 18])
def test_every_kind_of_target(major: int) -> None:
    """A1: the ledger has exactly the rows that were committed up to the point."""
    with wal_source(major) as source:
        source.connection.execute("create table ledger (n int, filler text)")
        source.connection.execute("alter table ledger alter filler set storage external")
        full = source.base()
        ledger: list[tuple[int, Lsn, datetime]] = []
        for number in range(30):
            xid, now = source.run(
                f"insert into ledger select {number}, repeat(md5(random()::text), 3000)"
            )
            if number in (20, 25):
                name = "before the mistake" if number == 20 else "twice"
                source.connection.execute("select pg_create_restore_point(%s)", [name])
            (lsn,) = source.row("select pg_current_wal_lsn()::text")
            ledger.append((xid, Lsn.parse(lsn), now))
            time.sleep(0.002)
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
            found, rows = restored(source, asked)
            assert rows == list(range(expected)), (asked, found.proof)
        late = refused(source, Target(TargetKind.TIME, time=ledger[-1][2] + timedelta(seconds=60)))
        assert "is not in the archived WAL" in late.message
        assert "the last archived commit" in str(late.hint)
        for xid, reason in (
            (aborted, "was rolled back"), (aborted + 1, "was rolled back"),
            (prepared, "was prepared, and not committed"), (prepared + 9, "not in the archived"),
        ):  # fmt: skip
            assert reason in refused(source, Target(TargetKind.XID, xid=xid)).message
        assert "exists 2 times" in refused(source, Target(TargetKind.NAME, name="twice")).message
        early = Target(TargetKind.TIME, time=full.stopped - timedelta(seconds=1))
        with pytest.raises(e.Refused, match="no base backup on timeline 1 ended before"):
            make_plan(source.location, early, Encryption())
