"""Recovery across promotions, and along one of two competing timelines."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.model.wal import Lsn
from pgkeep.pitr.plan import make_plan
from pgkeep.pitr.restore import RestoreOptions, recovered
from pgkeep.pitr.target import Point, Target, TargetKind
from pgkeep.pitr.wal_search import WalSearch
from pgkeep.progress import Silent
from tests.support.wal_source import WalSource, restored, wal_source

LATEST = Target(TargetKind.LATEST)


@contextlib.contextmanager
def promoted(source: WalSource, target: Target, timeline: int) -> Iterator[None]:
    """Recover and promote; inside, the source is this server, and its WAL goes to the archive."""
    plan = make_plan(source.location, target, Encryption(), timeline)
    options, former = RestoreOptions(keep=False), source.connection
    directory = source.folder / "branch"
    with recovered(plan, directory, Encryption(), 2, Silent(), options) as found:
        with found.server.endpoint.connect() as connection:
            connection.execute("alter system set wal_keep_size = '64MB'")
            connection.execute("select pg_reload_conf()")
        found.server.promote()
        with found.server.endpoint.connect(search_path="public") as source.connection:
            yield
        source.connection = former


def add(source: WalSource, *numbers: int) -> list[tuple[int, datetime]]:
    return [source.run(f"insert into ledger values ({number})") for number in numbers]


def test_promotions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A10: in and at the border of a segment; two competing timelines; a lost history."""
    with wal_source(17, settings={"checkpoint_timeout": "1h"}) as source:
        source.connection.execute("create table ledger (n int)")
        source.base()
        first = add(source, *range(10))
        (switch,) = source.row("select pg_current_wal_insert_lsn()::text")
        source.ship()
        with promoted(source, Target(TargetKind.XID, xid=first[4][0]), 1):
            add(source, 100, 101)
            source.ship()
        with monkeypatch.context() as patch:
            border = Point(("recovery_target_lsn", switch), Lsn.parse(switch), (), None)
            patch.setattr(WalSearch, "find", lambda _: border)
            with promoted(source, LATEST, 1):
                third = add(source, 200, 201)
                source.ship()
        archive = source.location.archive(Encryption())
        history = (archive.get("00000003.history") or b"").decode()
        position = Lsn.parse(history.split()[1])
        assert position % source.facts.segment_size == 0, "at the border"

        everything = [*range(10), 200, 201]
        found, rows = restored(source, LATEST)
        assert (rows, found.plan.path.timeline) == (everything, 3)
        assert found.plan.other_timelines == [2]
        cases = [
            (LATEST, 2, [*range(5), 100, 101]),
            (LATEST, 1, list(range(10))),
            (Target(TargetKind.TIME, time=first[6][1]), None, list(range(7))),
            (Target(TargetKind.XID, xid=third[0][0]), None, everything[:-1]),
        ]
        for target, timeline, expected in cases:
            assert restored(source, target, timeline)[1] == expected, target
        with promoted(source, LATEST, 3):
            add(source, 300)
            source.ship()
        wal = Path(source.location.wal.url_of("x")).parent
        (lost,) = wal.glob("00000003.history*")
        lost.unlink()
        found, rows = restored(source, LATEST)
        assert (rows, found.plan.path.timeline) == ([*everything, 300], 4)
        (lost,) = wal.glob("00000004.history*")
        lost.unlink()
        with pytest.raises(e.Refused, match="timeline 4 is missing in the archive: 00000004"):
            make_plan(source.location, LATEST, Encryption())
        with pytest.raises(e.Refused, match="timeline 7 is missing"):
            make_plan(source.location, LATEST, Encryption(), 7)
