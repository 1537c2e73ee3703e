"""In which intervals every second can be restored: pure decisions from names and manifests."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise

import msgspec

from ..model import wal
from ..model.wal import Extent, Lsn, Path, Segment
from . import chains
from .base_manifest import BaseManifest

StoredAt = Callable[[Segment], datetime | None]  # when a segment was stored


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """An interval without a gap: from the end of a base backup to the end of the WAL after it."""

    timeline: int
    since: datetime  # UTC; the end of the first base backup in it
    until: datetime | None = None  # UTC; see `complete`
    # Whether everything that the server had written at `until` can be restored. Otherwise `until`
    # is when the newest WAL file was stored, and changes shortly before can be missing.
    complete: bool = False
    start: str  # LSN
    end: str  # LSN up to which complete segments have no gap
    partial: bool = False  # whether the unfinished segment after them is stored too
    bases: list[str]  # base backups in it, oldest first
    newest_base: datetime  # UTC; the end of the last one
    chain: int  # base backups that a restore from the last one needs: 1 for a full one

    @property
    def seconds(self) -> float:
        """How long it is."""
        return 0.0 if self.until is None else max(0.0, (self.until - self.since).total_seconds())


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Segments that are missing between others; names as PostgreSQL has them."""

    first: str
    last: str
    segments: int
    since: datetime | None  # UTC; when the last WAL file before it was stored
    until: datetime | None  # UTC; the beginning of the next window


def run_of(base: BaseManifest, runs: Sequence[Extent]) -> Extent | None:
    """Return the unbroken WAL that contains the start of a base backup; None if it is missing."""
    first = base.start_lsn // base.segment_size
    index = bisect_right(runs, first, key=lambda run: run.first.number) - 1
    return runs[index] if index >= 0 and first <= runs[index].last.number else None


def windows(
    bases: Mapping[str, BaseManifest], path: Path, runs: Sequence[Extent],
    stored_at: StoredAt = lambda _: None,
) -> list[Window]:  # fmt: skip
    """Return the windows along the way to a timeline, oldest first."""
    found: dict[Extent, list[BaseManifest]] = {}
    for base in sorted(bases.values(), key=lambda base: base.stop_lsn):
        run = run_of(base, runs)
        if run is None or run.last.end(base.segment_size) < base.stop_lsn:
            continue
        if path.includes(base.timeline, base.stop_lsn) and chains.find(base, bases) is not None:
            found.setdefault(run, []).append(base)
    return [
        _window(path.timeline, run, own, bases, stored_at)
        for run, own in sorted(found.items(), key=lambda item: item[0].last.number)
    ]


def _window(
    timeline: int, run: Extent, own: Sequence[BaseManifest], bases: Mapping[str, BaseManifest],
    stored_at: StoredAt,
) -> Window:  # fmt: skip
    return Window(
        timeline=timeline,
        since=min(base.stopped for base in own),
        until=stored_at(run.last),
        start=own[0].stop,
        end=str(run.last.end(own[0].segment_size)),
        bases=[base.name for base in own],
        newest_base=own[-1].stopped,
        chain=len(chains.find(own[-1], bases) or ()),
    )


def gaps(
    path: Path, runs: Sequence[Extent], size: int, found: Sequence[Window],
    stored_at: StoredAt = lambda _: None,
) -> list[Gap]:  # fmt: skip
    """Return the gaps after the beginning of the first window, oldest first."""
    if not found:
        return []
    begin = min(Lsn.parse(window.start) for window in found)
    starts = [(Lsn.parse(window.start), window.since) for window in found]
    gaps = []
    for former, later in pairwise(runs):
        first, last = former.last.number + 1, later.first.number - 1
        if first * size < begin:
            continue
        names = [path.segment(number, size).name(size) for number in (first, last)]
        index = bisect_right(starts, last * size, key=lambda start: start[0])
        until = starts[index][1] if index < len(starts) else None
        gaps.append(
            Gap(
                first=names[0],
                last=names[1],
                segments=last - first + 1,
                since=stored_at(former.last),
                until=until,
            )
        )
    return gaps


def newest_path(
    histories: Mapping[int, Sequence[wal.Switch]], segments: Sequence[Segment]
) -> Path | None:
    """Return the way to the newest timeline that has WAL; None without WAL."""
    timelines = {segment.timeline for segment in segments} | set(histories)
    known = wal.paths({timeline: tuple(found) for timeline, found in histories.items()}, timelines)
    return known[max(known)] if known else None


def fork(path: Path, other: Path) -> Lsn | None:
    """Return the position after which two ways differ; None if they are the same."""
    before = Lsn(0)
    for own, others in zip(_steps(path), _steps(other), strict=False):
        if own[0] != others[0]:
            return before
        if own[1] != others[1]:
            return min(end for end in (own[1], others[1]) if end is not None)
        before = own[1] or before
    return None


def _steps(path: Path) -> list[tuple[int, Lsn | None]]:
    """Return the timelines of a way, each with its end."""
    return [(switch.parent, switch.position) for switch in path.switches] + [(path.timeline, None)]


def other_windows(
    bases: Mapping[str, BaseManifest], paths: Iterable[Path], newest: Path,
    segments: Sequence[Segment], size: int, stored_at: StoredAt = lambda _: None,
) -> list[Window]:  # fmt: skip
    """Return the windows of timelines that go on where the newest one has left them."""
    found = []
    for path in paths:
        left = fork(path, newest)
        if left is None:
            continue
        runs = wal.extents(path, segments, size)
        for window in windows(bases, path, runs, stored_at):
            end = Lsn.parse(window.end)
            last = path.segment(end // size - 1, size)
            if end > left and last.timeline == path.timeline:
                found.append(window)
    return found


def switches_from_names(
    segments: Iterable[Segment], size: int
) -> dict[int, tuple[wal.Switch, ...]]:
    """Return where timelines began, from names only: their histories cannot be decrypted here.

    A timeline begins in the segment in which the former one ended, so a base backup that ended in
    this segment is left out.
    """
    first: dict[int, int] = {}
    for segment in segments:
        first[segment.timeline] = min(segment.number, first.get(segment.timeline, segment.number))
    found: dict[int, tuple[wal.Switch, ...]] = {}
    for timeline in sorted(first)[1:]:
        parents = [known for known in first if known < timeline and first[known] <= first[timeline]]
        if not parents:
            continue
        parent = max(parents)
        start = Lsn(first[timeline] * size)
        found[timeline] = (*found.get(parent, ()), wal.Switch(parent, start))
    return found
