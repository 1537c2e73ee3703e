"""What cannot be restored is refused before a download, and a preview reads few segments."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.model.wal import Lsn
from pgkeep.pitr import moment, wal_search
from pgkeep.pitr import target as pitr_target
from pgkeep.pitr.location import Location
from pgkeep.pitr.plan import RecoveryPlan, make_plan
from pgkeep.pitr.restore import RestoreOptions, preview, recovered
from pgkeep.pitr.target import Target, TargetKind
from pgkeep.postgres import programs
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.support.wal_source import WalSource, wal_source

LATEST = Target(TargetKind.LATEST)


class Watched(LocalStore):
    """A store that notes which files are opened."""

    def __init__(self, path: Path, opened: list[str]) -> None:
        super().__init__(path)
        self._opened = opened

    def open(self, name: str) -> Any:
        self._opened.append(name)
        return super().open(name)


@dataclass
class History:
    """A source with commits in 40 segments, and its location that notes what is opened."""

    source: WalSource
    location: Location
    opened: list[str]
    commits: list[tuple[int, datetime, Lsn]]

    def plan(self, target: Target) -> RecoveryPlan:
        self.opened.clear()
        return make_plan(self.location, target, Encryption())

    @property
    def contents(self) -> list[str]:
        """Which files with contents were opened: no manifests and histories."""
        return [name for name in self.opened if not name.endswith((".base.json", ".gz.history"))]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with wal_source(17) as source:
        source.base()
        source.connection.execute("create table t (i int)")
        commits = []
        for number in range(40):
            source.connection.execute("select pg_switch_wal()")
            if number % 4:  # some segments have no commit
                xid, now = source.run(f"insert into t values ({number})")
                commits.append((xid, now, Lsn.parse(source.row("select pg_current_wal_lsn()")[0])))
            else:
                source.connection.execute("checkpoint")
        source.ship()
        opened: list[str] = []
        own = Path(source.location.url) / "pitr" / source.facts.system_identifier
        location = replace(
            source.location, wal=Watched(own / "wal", opened), base=Watched(own / "base", opened)
        )
        yield History(source, location, opened, commits)


def test_few_segments_are_read(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preview of a time reads the segments around it, and leaves nothing behind."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setattr(wal_search, "_READ_AT_ONCE", 2 << 20)
        monkeypatch.setattr(pitr_target, "_MARGIN", 2)
        for index in (2, 15, 27):
            xid, now, _ = history.commits[index]
            for target in (
                Target(TargetKind.TIME, time=now), Target(TargetKind.XID, xid=xid),
                Target(TargetKind.LSN, lsn=history.commits[index][2]),
            ):  # fmt: skip
                plan = history.plan(target)
                narrowed, point = preview(plan, Encryption(), 1, Silent())
                assert point.before[-1].xid == xid
                assert point.after is not None
                assert point.after.xid == history.commits[index + 1][0]
                assert len(narrowed.segments) < len(plan.segments)
                assert len(set(history.contents)) <= 16, "of more than 40"
        assert list(Path(folder).iterdir()) == []


def test_nothing_is_downloaded_for_a_refusal(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A11, rule 17: a gap, no base backup, a directory in use, no space, no programs."""
    place = history.source.folder / "refused"
    place.mkdir(mode=0o755)
    wal = Path(history.location.wal.url_of("x")).parent
    names = sorted(path.name for path in wal.glob("*.gz"))
    missing, moved = names[20], place / "moved"
    shutil.move(wal / missing, moved)
    _, after, position = history.commits[-1]
    try:
        with pytest.raises(e.Refused, match=f"segment {missing[:24]} is missing") as refused:
            history.plan(Target(TargetKind.LSN, lsn=position))
        assert "without a gap ends at" in str(refused.value.hint)
        assert history.contents == []
        plan = history.plan(Target(TargetKind.TIME, time=after))
        with pytest.raises(e.Refused, match=f"segment {missing[:24]} is missing") as refused:
            preview(plan, Encryption(), 1, Silent())
        assert "the last archived commit" in str(refused.value.hint)
        assert len(history.contents) <= 2, "the last segments before the gap"
    finally:
        shutil.move(moved, wal / missing)
    early = Target(TargetKind.TIME, time=history.commits[0][1] - timedelta(days=1))
    with pytest.raises(e.Refused, match="no base backup on timeline 1 ended before"):
        history.plan(early)
    used = place / "used"
    used.mkdir()
    (used / "file").touch()
    plan = history.plan(LATEST)
    for directory, message, free in (
        (used, "is not an empty directory", 1 << 40), (place / "a" / "b", "does not exist", 0),
        (place / "new", "the restore needs", 1 << 20),
    ):  # fmt: skip
        usage = shutil.disk_usage(place)._replace(free=free)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
            with (
                pytest.raises(e.Refused, match=message),
                recovered(plan, directory, Encryption(), 1, Silent(), RestoreOptions()),
            ):
                pass
    with monkeypatch.context() as patch:
        patch.setattr(programs, "installations", list)
        with pytest.raises(e.UsageError, match="the programs of its server are not installed"):
            history.plan(LATEST)
    assert history.contents == []
    assert sorted(path.name for path in place.iterdir()) == ["used"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T13:07:12Z", "2026-11-22T13:07:12+00:00"),
        ("2026-11-22 14:07:12+01:00", "2026-11-22T13:07:12+00:00"),
        ("2026-11-22 14:07:12.5 Europe/Berlin", "2026-11-22T13:07:12.500000+00:00"),
        ("2026-11-22 13:07 UTC", "2026-11-22T13:07:00+00:00"),
        ("5 minutes ago", "2026-11-26T11:55:00+00:00"),
        ("2026-11-22 14:07:12", "which has no offset"),
        ("2026-11-26 12:00:01Z", "which is in the future"),
        ("2026-10-25 02:30 Europe/Berlin", "which happened twice in Europe/Berlin"),
        ("2026-03-29 02:30 Europe/Berlin", "which the clocks in Europe/Berlin skipped"),
        ("2026-03-29 02:30 Europe/Atlantis", "expected a time with an offset"),
        ("yesterday", "expected a time with an offset"),
        ("99999999999 days ago", "expected a time with an offset"),
    ],
)
def test_times(text: str, expected: str) -> None:
    """Rule 17: every time has an offset; none is guessed."""
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    try:
        found = moment.past(text, now).astimezone(UTC).isoformat()
    except ValueError as error:
        found = str(error)
    assert expected in found
