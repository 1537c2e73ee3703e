"""Decide which base backups and segments can be removed: a pure function, with reasons.

Every second of the window stays restorable, along every timeline that was in use in the window: the
newest base backup that ended before the window is kept, with its parents and all WAL from its start
on. Histories are never removed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..model.wal import Lsn, Path, Segment, Switch
from . import chains
from .base_manifest import BaseManifest
from .chains import Bases


@dataclass(frozen=True, slots=True)
class BaseDecision:
    """Whether a base backup is kept, and why."""

    base: BaseManifest
    keep: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Expiry:
    """What a retention run removes."""

    bases: list[BaseDecision]  # newest first
    segments: list[Segment]  # that no kept base backup needs
    first_kept: int | None  # the number of the first segment that is needed; None: all are

    @property
    def removed(self) -> list[BaseManifest]:
        """The base backups to remove, dependents before their parents, whatever the clocks."""
        known = {decision.base.name: decision.base for decision in self.bases}
        expired = [decision.base for decision in self.bases if not decision.keep]
        return sorted(expired, key=lambda base: -len(chains.ancestors(base, known)))


def decide(
    bases: Bases,
    segments: Iterable[Segment],
    window: timedelta,
    now: datetime,
    timelines: Iterable[int] = (),
) -> Expiry:
    """Return what can be removed so that every second of the window stays restorable.

    `timelines` has those of other archived files: unfinished segments and histories. Only a base
    backup whose WAL is stored takes the place of an earlier one. Without a base backup nothing is
    removed: the WAL can belong to one that is being taken. Ages are measured from the newest base
    backup, so nothing expires while none is made, or because a clock is wrong.
    """
    archived = set(segments)
    newest_first = sorted(bases.values(), key=lambda base: base.stopped, reverse=True)
    begin = min([now, *(base.stopped for base in newest_first[:1])]) - window
    reasons = {base.name: "in the window" for base in newest_first if base.stopped >= begin}
    known = paths(bases.values())
    used = {base.timeline for base in newest_first} | {segment.timeline for segment in archived}
    for timeline in sorted(used | set(timelines), reverse=True):
        if timeline not in known and any(other < timeline for other in known):
            # It has no base backup that tells where it began. It can have left any other one.
            reason = f"timeline {timeline} has no base backup yet"
            reasons |= {name: reason for name in bases if name not in reasons}
        elif timeline in known:
            _keep_along(known[timeline], bases, archived, begin, reasons)
        if _began_before(timeline, bases, archived, begin):
            break  # earlier timelines were not in use in the window
    for name in list(reasons):
        for parent in chains.ancestors(bases[name], bases):
            reasons.setdefault(parent.name, f"{name} is based on it")
    decisions = [
        BaseDecision(base, base.name in reasons, reasons.get(base.name, "before the window"))
        for base in newest_first
    ]
    first = first_needed(decision.base for decision in decisions if decision.keep)
    expired = sorted(s for s in archived if first is not None and s.number < first)
    return Expiry(decisions, expired, first)


def keep_all(bases: Iterable[BaseManifest], reason: str) -> Expiry:
    """Return that nothing is removed."""
    newest_first = sorted(bases, key=lambda base: base.stopped, reverse=True)
    return Expiry([BaseDecision(base, True, reason) for base in newest_first], [], None)


def first_needed(kept: Iterable[BaseManifest]) -> int | None:
    """Return the number of the first segment that base backups need; None if there are none.

    Numbers continue across timelines, so one number divides all of them.
    """
    return min((base.start_lsn // base.segment_size for base in kept), default=None)


def paths(bases: Iterable[BaseManifest]) -> dict[int, Path]:
    """Return the way to each timeline of a base backup.

    Base backups record it, so that a host without the private key knows it: histories in the
    archive can be encrypted.
    """
    return {
        base.timeline: Path(
            base.timeline, tuple(Switch(parent, Lsn.parse(end)) for parent, end in base.history)
        )
        for base in bases
    }


def _keep_along(
    path: Path, bases: Bases, archived: set[Segment], begin: datetime, reasons: dict[str, str]
) -> None:
    """Add what must be kept so that the window can be restored along the way to a timeline."""
    own = [base for base in bases.values() if path.includes(base.timeline, base.stop_lsn)]
    own.sort(key=lambda base: base.stop_lsn, reverse=True)
    before = [base for base in own if base.stopped < begin and _usable(base, path, bases, archived)]
    if not before:
        # Whatever is wrong, nothing is removed that could be repaired.
        for base in own:
            reasons.setdefault(base.name, "no earlier one is complete")
        return
    reasons.setdefault(before[0].name, "the window begins with it")
    for base in own:  # one that is newer and not usable yet can become so when its WAL is stored
        if base.stop_lsn > before[0].stop_lsn:
            reasons.setdefault(base.name, "its WAL is not stored yet")


def _began_before(timeline: int, bases: Bases, archived: set[Segment], begin: datetime) -> bool:
    """Whether a timeline was in use before the window: the server had left all lower ones then."""
    known = paths(base for base in bases.values() if base.timeline == timeline)
    return any(
        base.stopped < begin and _usable(base, known[timeline], bases, archived)
        for base in bases.values()
        if base.timeline == timeline
    )


def _usable(base: BaseManifest, path: Path, bases: Bases, archived: set[Segment]) -> bool:
    """Whether the WAL that makes a base backup consistent is stored, and its parents exist."""
    first = base.start_lsn // base.segment_size
    last = (base.stop_lsn - 1) // base.segment_size
    return chains.find(base, bases) is not None and all(
        path.segment(number, base.segment_size) in archived for number in range(first, last + 1)
    )
