"""A16: whatever the history, what the window needs is never removed."""

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.model.manifest import FileFacts
from pgkeep.model.wal import Lsn, Segment, Switch
from pgkeep.model.wal import Path as WalPath
from pgkeep.pitr import chains, expire, retention
from pgkeep.pitr.base_manifest import BaseManifest, Kind, base_name, encode
from pgkeep.pitr.location import ClusterFacts, Location
from pgkeep.stores.local import LocalStore
from pgkeep.stores.memory import MemoryStore
from pgkeep.stores.store import Item, Loaded, write_file

SIZE = 1 << 24
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def base(
    hour: int, parent: BaseManifest | None = None, *, timeline: int = 1, start: int | None = None,
    history: tuple[Switch, ...] = (),
) -> BaseManifest:  # fmt: skip
    """Return a base backup that was taken in an hour; a segment is written every hour."""
    first = hour * SIZE + 40 if start is None else start
    kind = Kind.FULL if parent is None else Kind.INCREMENTAL
    own = f"{base_name(BEGIN + hour * HOUR, kind)}.backup_manifest.gz"
    return BaseManifest(
        pgkeep="", system_identifier="1", version="17.0", version_num=170000, kind=kind,
        parent=None if parent is None else parent.name, timeline=timeline,
        start=str(Lsn(first)), stop=str(Lsn(first + 360)),
        started=BEGIN + hour * HOUR, stopped=BEGIN + hour * HOUR + timedelta(minutes=5),
        segment_size=SIZE, size=1, parts=[], backup_manifest=FileFacts(own, 1, ""),
        history=[(switch.parent, str(switch.position)) for switch in history],
    )  # fmt: skip


class History:
    """What happened to a cluster: an hour is a step, and most steps write a segment or two."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.bases: dict[str, BaseManifest] = {}
        self.segments: set[Segment] = set()
        self.paths = {1: WalPath(1, ())}
        self.moments: list[tuple[datetime, int, int]] = []  # with timeline and position
        self.timeline, self.position = 1, SIZE
        for hour in range(chance.randint(1, 30)):
            self.step(hour)
        if chance.random() < 0.5 and self.bases:
            del self.bases[chance.choice(list(self.bases))]
        if chance.random() < 0.5:
            lost = chance.sample(sorted(self.segments), min(len(self.segments), 2))
            self.segments -= set(lost)

    def step(self, hour: int) -> None:
        event = self.chance.choice("wwwwwbbbirp")
        if event in "bi":
            own = [found for found in self.bases.values() if found.timeline == self.timeline]
            parent = max(own, key=lambda found: found.stopped, default=None)
            made = base(
                hour, parent if event == "i" else None, timeline=self.timeline,
                start=self.position + 40, history=self.paths[self.timeline].switches,
            )  # fmt: skip
            self.bases[made.name] = made
            self.position += 1000
        elif event in "rp":
            if event == "r" and self.moments:  # an earlier point is restored, and goes on from it
                _, self.timeline, self.position = self.chance.choice(self.moments)
            former = self.paths[self.timeline]
            self.timeline = max(self.paths) + 1
            switch = Switch(former.timeline, Lsn(self.position))
            self.paths[self.timeline] = WalPath(self.timeline, (*former.switches, switch))
        self.moments.append((BEGIN + (hour + 0.5) * HOUR, self.timeline, self.position))
        number, written = self.position // SIZE, self.chance.choice((0, 1, 1, 2))
        self.segments |= {Segment(self.timeline, number + n) for n in range(written)}
        self.position += written * SIZE if written else 5000

    def restorable(
        self, bases: dict[str, BaseManifest], segments: set[Segment], since: datetime
    ) -> list[tuple[datetime, int, int]]:
        """Return the moments that a base backup and all WAL after it lead to."""

        def reaches(found: BaseManifest, timeline: int, position: int) -> bool:
            path = self.paths[timeline]
            return (
                found.stop_lsn <= position
                and path.includes(found.timeline, found.stop_lsn)
                and chains.find(found, bases) is not None
                and all(
                    path.segment(number, SIZE) in segments
                    for number in range(found.start_lsn // SIZE, position // SIZE + 1)
                )
            )

        return [
            moment
            for moment in self.moments
            if moment[0] >= since and any(reaches(found, *moment[1:]) for found in bases.values())
        ]


def test_the_window_stays() -> None:
    """A16: with promotions, restored earlier points, lost segments and lost base backups."""
    removed = 0
    for seed in range(1000):
        chance = random.Random(seed)  # noqa: S311
        made = History(chance)
        now, window = BEGIN + chance.randint(0, 35) * HOUR, chance.randint(1, 30) * HOUR
        expected = made.restorable(made.bases, made.segments, now - window)
        bases = made.bases
        late = (
            set(sorted(made.segments)[-chance.randint(1, 9) :]) if chance.random() < 0.3 else set()
        )
        segments = made.segments - late  # they are stored after retention
        for _ in range(2):  # the second run sees what the first one left
            found = retention.decide(bases, segments, window, now)
            kept = {decision.base.name: decision.base for decision in found.bases if decision.keep}
            removed += len(bases) - len(kept) + len(found.segments)
            gone: set[str] = set()
            for expired in found.removed:
                dependents = {name for name, other in bases.items() if other.parent == expired.name}
                assert dependents <= gone, f"{seed}: dependents are removed before their parents"
                gone.add(expired.name)
            bases, segments = kept, segments - set(found.segments)
            assert made.restorable(bases, segments | late, now - window) == expected, seed
            assert bases or not made.bases, seed
    assert removed > 1500


def test_reasons() -> None:
    full, second = base(10), base(100)
    child = base(110, second)
    last = base(200)
    known = {found.name: found for found in (full, second, child, last)}
    wal = [Segment(1, n) for n in range(220)]
    found = retention.decide(known, wal, 50 * HOUR, BEGIN + 210 * HOUR)
    assert [(each.base.name, each.keep, each.reason) for each in found.bases] == [
        (last.name, True, "in the window"),
        (child.name, True, "the window begins with it"),
        (second.name, True, f"{child.name} is based on it"),
        (full.name, False, "before the window"),
    ]
    assert found.first_kept == 100
    assert found.segments == [Segment(1, n) for n in range(100)]
    late = retention.decide(known, wal, 50 * HOUR, BEGIN + 9000 * HOUR)
    assert late == found, "the age is that of the newest base backup: clocks can be wrong"
    assert retention.decide({}, [Segment(1, 1)], HOUR, BEGIN).segments == []
    orphan = {child.name: child}
    assert all(each.keep for each in retention.decide(orphan, [], HOUR, BEGIN + 900 * HOUR).bases)
    assert base_name(BEGIN, Kind.FULL) == "20260101T000000Z_full"


def test_timelines() -> None:
    """A timeline that was left after the window began is kept; one that was left before is not."""
    old, first, last = base(10), base(30), base(40)
    switch = Switch(1, Lsn(20 * SIZE))  # the point of hour 20 was restored in hour 45
    new = base(50, timeline=2, start=25 * SIZE, history=(switch,))
    known = {found.name: found for found in (old, first, last, new)}
    wal = [Segment(1, n) for n in range(45)] + [Segment(2, n) for n in range(20, 30)]

    def kept(hours: int, *more: BaseManifest, timelines: tuple[int, ...] = ()) -> set[str]:
        all_known = known | {found.name: found for found in more}
        found = retention.decide(all_known, wal, hours * HOUR, BEGIN + 60 * HOUR, timelines)
        return {each.base.name for each in found.bases if each.keep}

    # The seconds of hours 35 to 45 are on timeline 1, those after it on timeline 2, from `old` on.
    assert kept(15) == set(known)
    assert kept(9) == {old.name, last.name, new.name}
    later = base(58, timeline=2, start=28 * SIZE, history=(switch,))
    assert kept(5, later) == {new.name, later.name}
    assert kept(5, later, timelines=(3,)) == set(known) | {later.name}, "where did 3 begin?"


class Locked(MemoryStore):
    """A bucket with Object Lock: some files cannot be removed yet."""

    def __init__(self) -> None:
        super().__init__()
        self.retained: tuple[str, ...] = ()

    def delete(self, name: str) -> None:
        if name.startswith(self.retained):
            raise e.Retained(f"{name} is retained until 2030-01-02 03:04 UTC")
        super().delete(name)


def test_object_lock() -> None:
    """A15: what is retained is told, and what it needs stays; nothing fails."""
    stores = Locked(), Locked()
    facts = ClusterFacts(system_identifier="1", segment_size=SIZE, version_num=170000)
    location = Location("memory", facts, wal=stores[0], base=stores[1])
    first = base(10)
    bases = first, base(12, first), base(20), base(40), base(60)
    for found in bases:
        write_file(stores[1], found.files[0], encode(found))
        write_file(stores[1], found.files[1], b"x")
    for number in range(42):
        write_file(stores[0], f"{Segment(1, number).name(SIZE)}-{'0' * 32}.gz", b"x")
    label = f"{Segment(1, 3).name(SIZE)}.00000028.backup-{'0' * 32}.gz"
    for name in ("00000001.history", label.removesuffix(f"-{'0' * 32}.gz")):
        write_file(stores[0], f"{name}-{'0' * 32}.gz", b"x")

    def run() -> expire.Expired:
        decided = expire.plan(location, Encryption(), HOUR, BEGIN + 100 * HOUR)
        return expire.execute(decided)

    stores[1].retained = (bases[1].name,)
    stores[0].retained = tuple(Segment(1, number).name(SIZE) for number in (5, 6))
    done = run()
    assert done.bases == [bases[2].name], "neither the retained one nor its parent"
    assert done.segments == 10 - 2 + 1
    assert done.messages[1] == (
        f"{bases[1].files[0]} is retained until 2030-01-02 03:04 UTC, and 2 more files"
    )
    assert sorted(stores[1].files) == sorted(
        file for found in (*bases[:2], *bases[3:]) for file in found.files
    )
    # Its parts can be retained longer than its manifest: they are left over, and go later.
    stores[1].retained = (bases[1].files[1],)
    assert run().bases == [bases[1].name, bases[0].name]
    stores[0].retained = stores[1].retained = ()
    done = run()
    assert (done.leftovers, done.segments, done.retained) == (1, 2, [])
    assert sorted(stores[1].files) == sorted(bases[3].files + bases[4].files)
    assert min(name for name in stores[0].files if "history" not in name).startswith(
        "000000010000000000000028"
    )
    assert any(name.startswith("00000001.history") for name in stores[0].files)
    assert run() == expire.Expired("memory")


def test_damage_stops_nothing() -> None:
    """A damaged manifest, and one of another cluster, are told, kept, and do not stop retention."""
    stores = MemoryStore(), MemoryStore()
    facts = ClusterFacts(system_identifier="1", segment_size=SIZE, version_num=170000)
    location = Location("memory", facts, wal=stores[0], base=stores[1])

    def write(found: BaseManifest, *, damaged: bool = False) -> None:
        data = encode(found)
        write_file(stores[1], found.files[0], data.replace(b"17.0", b"17.1") if damaged else data)
        write_file(stores[1], found.files[1], b"x")

    write(base(10))
    write(base(20), damaged=True)
    write(msgspec.structs.replace(base(30), system_identifier="2"))
    write(base(40))
    for number in range(42):
        stored = f"{Segment(1, number).name(SIZE)}-{'0' * 32}.gz"
        write_file(stores[0], stored, b"x")
    for hour, part in ((5, "part00001"), (41, "part00001")):
        write_file(stores[1], f"{base(hour).name}.{part}.tar.gz", b"x")
    now = BEGIN + 100 * HOUR

    def run() -> expire.Expired:
        decided = expire.plan(location, Encryption(), HOUR, now, dead=[base(41).name])
        return expire.execute(decided)

    assert run().bases == [], "one that ended before the window is needed"
    write(base(60))
    decided = expire.plan(location, Encryption(), HOUR, now)
    assert decided.first_kept == "0000000000000028"
    done = expire.execute(decided)
    assert done.bases == [base(10).name]
    assert done.segments == 30, "the first 10 were removed before"
    assert len(done.damaged) == 2
    assert "is kept, and takes no part in retention" in done.messages[0]
    left = {item.name for item in stores[1].items()}
    assert {f"{base(hour).name}.base.json" for hour in (20, 30, 40)} <= left
    assert not any(name.startswith((base(5).name, base(41).name)) for name in left)


def test_a_slow_base_backup_keeps_its_parts(tmp_path: Path) -> None:
    """A16: another host may be writing what began days ago; its age is that of its newest file."""
    facts = ClusterFacts(system_identifier="1", segment_size=SIZE, version_num=170000)
    store = LocalStore(tmp_path)
    location = Location("", facts, wal=MemoryStore(), base=store)
    now = BEGIN + 100 * HOUR
    name = base(5).name
    parts = [f"{name}.part{number:05}.tar.gz" for number in (1, 2)]
    growing = f".{name}.part00003.tar.gz.partial-00000000"
    for file in (*parts, growing):
        (tmp_path / file).touch()

    def left(*ages: int) -> set[str]:
        """Return what retention leaves of parts that were written some hours ago."""
        for part, age in zip(parts, ages, strict=True):
            written = (now - age * HOUR).timestamp()
            os.utime(tmp_path / part, (written, written))
        expire.execute(expire.plan(location, Encryption(), HOUR, now))
        return {path.name for path in tmp_path.iterdir()}

    assert left(90, 40) == {*parts, growing}
    assert left(90, 50) == set()


@pytest.mark.parametrize("newer", [False, True])
def test_nothing_is_removed_while_a_manifest_cannot_be_read(
    newer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A16: a store that fails for a moment, or another version's manifest, costs no WAL."""
    stores = MemoryStore(), MemoryStore()
    facts = ClusterFacts(system_identifier="1", segment_size=SIZE, version_num=170000)
    location = Location("memory", facts, wal=stores[0], base=stores[1])
    for hour in (10, 80):
        data = encode(base(hour))
        if newer and hour == 10:
            data = data.replace(b'"pgkeep"', b'"format": 99, "pgkeep"', 1)
        write_file(stores[1], base(hour).files[0], data)
        write_file(stores[1], base(hour).files[1], b"x")
    for number in range(90):
        write_file(stores[0], f"{Segment(1, number).name(SIZE)}-{'0' * 32}.gz", b"x")
    load = MemoryStore.load

    def fails(store: MemoryStore, item: Item, limit: int) -> Loaded:
        if item.name == base(10).files[0]:
            raise e.StoreError("no answer")
        return load(store, item, limit)

    if not newer:
        monkeypatch.setattr(MemoryStore, "load", fails)
    decided = expire.plan(location, Encryption(), 2 * HOUR, BEGIN + 100 * HOUR)
    assert [(found.keep, found.reason) for found in decided.expiry.bases] == [
        (True, "another base backup cannot be read now")
    ]
    done = expire.execute(decided)
    assert (done.bases, done.segments) == ([], 0)
    assert len(done.damaged) == 1
    assert len(stores[0].files) == 90
