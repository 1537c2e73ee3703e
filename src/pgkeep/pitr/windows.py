"""In which intervals every second can be restored."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

import msgspec

from ..model import wal
from ..model.wal import Extent, Lsn, Path, Segment
from . import target
from .base_manifest import BaseManifest


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """An interval without a gap: from the end of a base backup to the end of the WAL after it."""

    timeline: int
    since: datetime  # UTC; the end of the first base backup in it
    start: str  # LSN
    end: str  # LSN up to which the WAL has no gap
    bases: list[str]  # base backups in it, oldest first


def windows(bases: Mapping[str, BaseManifest], path: Path, runs: Sequence[Extent]) -> list[Window]:
    """Return the windows along the way to a timeline, oldest first."""
    found: dict[int, list[BaseManifest]] = {}
    for base in sorted(bases.values(), key=lambda base: base.stop_lsn):
        if not path.includes(base.timeline, base.stop_lsn) or not _has_chain(base, bases):
            continue
        end = target.end_of_wal(base, runs)
        if end is not None and end >= base.stop_lsn:
            found.setdefault(int(end), []).append(base)
    return [
        Window(
            timeline=path.timeline,
            since=min(base.stopped for base in own),
            start=own[0].stop,
            end=str(Lsn(end)),
            bases=[base.name for base in own],
        )
        for end, own in sorted(found.items())
    ]


def _has_chain(base: BaseManifest, known: Mapping[str, BaseManifest]) -> bool:
    seen: set[str] = set()
    while base.parent is not None:
        if base.parent not in known or base.parent in seen:
            return False
        seen.add(base.parent)
        base = known[base.parent]
    return True


def gaps(path: Path, runs: Sequence[Extent], size: int) -> list[tuple[str, str]]:
    """Return the first and the last missing segment of each gap."""
    found = []
    for former, later in pairwise(runs):
        numbers = (former.last.number + 1, later.first.number - 1)
        found.append(
            tuple(
                Segment(path.timeline_at_segment(number, size), number).name(size)
                for number in numbers
            )
        )
    return [(first, last) for first, last in found]


def newest_path(
    histories: Mapping[int, Sequence[wal.Switch]], segments: Sequence[Segment]
) -> Path | None:
    """Return the way to the newest timeline that has WAL; None without WAL."""
    timelines = {segment.timeline for segment in segments} | set(histories)
    known = wal.paths({timeline: tuple(found) for timeline, found in histories.items()}, timelines)
    return known[max(known)] if known else None
