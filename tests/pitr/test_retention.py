"""A16: whatever the history, what the window needs is never removed."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep.model.manifest import FileFacts
from pgkeep.model.wal import Extent, Lsn, Path, Segment
from pgkeep.pitr import retention, windows
from pgkeep.pitr.base_manifest import BaseManifest, Kind, base_name

SIZE = 1 << 24
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def base(hour: int, parent: BaseManifest | None = None) -> BaseManifest:
    """Return a base backup that was taken in an hour; a segment is written every hour."""
    return BaseManifest(
        pgkeep="", system_identifier="1", version="17.0", version_num=170000,
        kind=Kind.FULL if parent is None else Kind.INCREMENTAL,
        parent=None if parent is None else parent.name, timeline=1,
        start=str(Lsn(hour * SIZE + 40)), stop=str(Lsn(hour * SIZE + 400)),
        started=BEGIN + hour * HOUR, stopped=BEGIN + hour * HOUR + timedelta(minutes=5),
        segment_size=SIZE, size=1, parts=[], backup_manifest=FileFacts("", 0, ""),
    )  # fmt: skip


@st.composite
def histories(draw: Any) -> dict[str, BaseManifest]:
    hours = sorted(draw(st.sets(st.integers(0, 400), max_size=12)))
    made: list[BaseManifest] = []
    for hour in hours:
        parent = made[-1] if made and draw(st.booleans()) else None
        made.append(base(hour, parent))
    lost = draw(st.sets(st.sampled_from(hours))) if hours and draw(st.booleans()) else set()
    return {one.name: one for one, hour in zip(made, hours, strict=True) if hour not in lost}


@settings(max_examples=500)
@given(histories(), st.integers(1, 400), st.integers(1, 300))
def test_the_window_stays(bases: dict[str, BaseManifest], hours: int, now_hour: int) -> None:
    now, window = BEGIN + now_hour * HOUR, hours * HOUR
    bases = {name: one for name, one in bases.items() if one.stopped <= now}
    segments = [Segment(1, number) for number in range(now_hour + 1)]
    found = retention.decide(bases, segments, window, now)
    kept = {one.base.name: one.base for one in found.bases if one.keep}
    left = sorted(set(segments) - set(found.segments))

    def restorable(known: dict[str, BaseManifest], wal: list[Segment], moment: datetime) -> bool:
        runs = [Extent(wal[0], wal[-1])] if wal else []
        found = windows.windows(known, Path(1, ()), runs)
        return any(window.since <= moment for window in found)

    for moment in [now - window, now - window / 2, now, *(one.stopped for one in bases.values())]:
        if moment >= now - window:
            assert restorable(kept, left, moment) == restorable(bases, segments, moment)
    for one in kept.values():
        assert one.parent not in bases or one.parent in kept, "a parent of a kept one is kept"
        assert Segment(1, one.start_lsn // SIZE) in left, "its WAL is kept"
    order = [one.base.stop_lsn for one in found.bases]
    assert order == sorted(order, reverse=True), "dependents are removed before their parents"


def test_reasons() -> None:
    full, second = base(10), base(100)
    child = base(110, second)
    last = base(200)
    known = {one.name: one for one in (full, second, child, last)}
    found = retention.decide(
        known, [Segment(1, n) for n in range(220)], 50 * HOUR, BEGIN + 210 * HOUR
    )
    assert [(one.base.name, one.keep, one.reason) for one in found.bases] == [
        (last.name, True, "in the window"),
        (child.name, True, "the window begins with it"),
        (second.name, True, f"{child.name} is based on it"),
        (full.name, False, "before the window"),
    ]
    assert found.first_kept == 100
    assert found.segments == [Segment(1, n) for n in range(100)]
    assert retention.decide({}, [Segment(1, 1)], HOUR, BEGIN).segments == []
    orphan = {child.name: child}
    assert all(one.keep for one in retention.decide(orphan, [], HOUR, BEGIN + 900 * HOUR).bases)
    assert base_name(BEGIN, Kind.FULL) == "20260101T000000Z_full"
