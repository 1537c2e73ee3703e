"""Decide which base backups and segments can be removed: a pure function, with reasons.

Every second of the window stays restorable: the newest base backup that ended before the window is
kept, with its parents and all WAL from its start on. Histories are never removed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..model.wal import Segment
from .base_manifest import BaseManifest


@dataclass(frozen=True, slots=True)
class BaseDecision:
    """Whether a base backup is kept, and why."""

    base: BaseManifest
    keep: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Expiry:
    """What a retention run removes."""

    bases: list[BaseDecision]  # newest first: dependents before their parents
    segments: list[Segment]  # that no kept base backup needs
    first_kept: int | None  # the number of the first segment that is needed; None: all are


def decide(
    bases: Mapping[str, BaseManifest],
    segments: Iterable[Segment],
    window: timedelta,
    now: datetime,
) -> Expiry:
    """Return what can be removed so that every second of the window stays restorable.

    Only a base backup whose WAL is stored takes the place of an earlier one. Without a base backup
    nothing is removed: the WAL can belong to one that is being taken.
    """
    begin = now - window
    archived = set(segments)
    usable = {name for name, base in bases.items() if _has_wal(base, archived)}
    usable = {name for name in usable if _has_chain(bases[name], bases)}
    ordered = sorted(bases.values(), key=lambda base: base.stop_lsn, reverse=True)
    reasons: dict[str, str] = {}
    for base in ordered:
        if base.stopped >= begin:
            reasons[base.name] = "in the window"
    before = [base for base in ordered if base.stopped < begin and base.name in usable]
    if before:
        reasons[before[0].name] = "the window begins with it"
        # One that is newer and not usable yet can become so when its WAL is stored.
        newer = [base for base in ordered if before[0].stop_lsn < base.stop_lsn]
        reasons |= {base.name: "its WAL is not stored yet" for base in newer
                    if base.name not in reasons}  # fmt: skip
    else:
        # Whatever is wrong, nothing is removed that could be repaired.
        reasons |= {name: "no earlier one is complete" for name in bases if name not in reasons}
    for name in list(reasons):
        _keep_parents(bases[name], bases, reasons)
    decisions = [
        BaseDecision(base, base.name in reasons, reasons.get(base.name, "before the window"))
        for base in ordered
    ]
    kept = [decision.base for decision in decisions if decision.keep]
    if not kept:
        return Expiry(decisions, [], None)
    # Numbers continue across timelines, so one number divides all of them.
    first = min(base.start_lsn // base.segment_size for base in kept)
    expired = sorted(segment for segment in archived if segment.number < first)
    return Expiry(decisions, expired, first)


def _has_wal(base: BaseManifest, archived: set[Segment]) -> bool:
    """Whether the WAL that makes a base backup consistent is stored."""
    first = base.start_lsn // base.segment_size
    last = (base.stop_lsn - 1) // base.segment_size
    return all(Segment(base.timeline, number) in archived for number in range(first, last + 1))


def _has_chain(base: BaseManifest, known: Mapping[str, BaseManifest]) -> bool:
    seen: set[str] = set()
    while base.parent is not None:
        if base.parent not in known or base.parent in seen:
            return False
        seen.add(base.parent)
        base = known[base.parent]
    return True


def _keep_parents(
    base: BaseManifest, known: Mapping[str, BaseManifest], reasons: dict[str, str]
) -> None:
    seen = {base.name}
    while base.parent is not None and base.parent in known and base.parent not in seen:
        reasons.setdefault(base.parent, f"{base.name} is based on it")
        base = known[base.parent]
        seen.add(base.name)
