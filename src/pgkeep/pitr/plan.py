"""Which base backups and which WAL a restore to a point needs, from names and manifests alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import errors as e
from ..crypt.options import Encryption
from ..model import wal
from ..model.wal import PARTIAL, Lsn, Segment, segment_of
from . import bases, installation, target
from .archive import WalArchive, histories
from .base_manifest import BaseManifest
from .location import Location
from .target import Point, Target, TargetKind


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    """Everything that a restore to a point needs, decided before anything is changed."""

    location: Location
    target: Target
    chain: Sequence[BaseManifest]  # the full base backup first
    path: wal.Path
    segments: Sequence[Segment]  # that may be needed, without a gap
    partial: str | None  # the unfinished segment after them
    programs: Path
    known: Mapping[str, BaseManifest]  # all base backups
    candidates: Sequence[BaseManifest]  # before the same unbroken WAL, the newest first
    missing: str | None = None  # the segment after them, if later ones are archived
    other_timelines: Sequence[int] = ()  # that have WAL and are not on the way

    @property
    def base(self) -> BaseManifest:
        """The base backup at which recovery begins."""
        return self.chain[-1]

    @property
    def base_bytes(self) -> int:
        """Bytes that the base backups need on the disk."""
        return sum(base.size for base in self.chain) + (
            self.base.size if len(self.chain) > 1 else 0
        )

    @property
    def wal_bytes(self) -> int:
        """Bytes of WAL on the disk, at most."""
        return (len(self.segments) + (self.partial is not None)) * self.base.segment_size

    @property
    def names(self) -> list[str]:
        """The names of the segments, and of the unfinished one."""
        found = [segment.name(self.base.segment_size) for segment in self.segments]
        return found if self.partial is None else [*found, self.partial]

    def narrowed(self, point: Point) -> "RecoveryPlan":
        """Return the plan for a point: the newest base backup before it, the WAL up to it.

        The record at which recovery stops can continue in the next segment.
        """
        size = self.base.segment_size
        fits = [base for base in self.candidates if base.stop_lsn <= point.lsn]
        chosen = fits[0] if fits else self.candidates[-1]
        last = point.lsn // size + 1
        first = segment_of(chosen.timeline, chosen.start_lsn, size).number
        return replace(
            self,
            chain=bases.chain_of(chosen, self.known),
            segments=[segment for segment in self.segments if first <= segment.number <= last],
            partial=self.partial if self.segments[-1].number < last else None,
        )


def make_plan(
    location: Location, wanted: Target, encryption: Encryption, timeline: int | None = None
) -> RecoveryPlan:
    """Choose a base backup and the WAL for a target.

    Raises:
        Refused: the target cannot be reached: no base backup before it, a gap, a missing history.
        UsageError: the programs of the cluster's version are not installed.

    """
    return plan_of(
        location, location.archive(encryption), location.bases().read(), wanted, timeline
    )


def plan_of(
    location: Location, archive: WalArchive, known: Mapping[str, BaseManifest], wanted: Target,
    timeline: int | None = None,
) -> RecoveryPlan:  # fmt: skip
    """Choose from an archive and base backups that were listed before, as `make_plan` does."""
    size = archive.origin.segment_size
    present = archive.segments()
    path = _path(archive, present, timeline)
    runs = wal.extents(path, present, size)
    reachable = {
        name: end
        for name, base in known.items()
        if (end := target.end_of_wal(base, runs)) is not None
    }
    usable = target.candidates(known, wanted, path, reachable)
    end = reachable[usable[0].name]
    usable = [base for base in usable if reachable[base.name] == end]
    by_position = wanted.kind in (TargetKind.XID, TargetKind.NAME)  # the WAL tells which one fits
    chosen = usable[-1] if by_position else usable[0]
    last = end // size - 1
    partial = Segment(path.timeline, last + 1).name(size) + PARTIAL
    missing = None
    if runs and runs[-1].last.number > last:
        missing = path.segment(last + 1, size).name(size)
    plan = RecoveryPlan(
        location=location,
        target=wanted,
        chain=bases.chain_of(chosen, known),
        path=path,
        segments=[
            path.segment(number, size)
            for number in range(
                segment_of(chosen.timeline, chosen.start_lsn, size).number, last + 1
            )
        ],
        partial=partial if archive.files().get(partial) else None,
        programs=installation.folder_of(chosen.major, installation.FOR_RESTORE),
        known=known,
        candidates=usable,
        missing=missing,
        other_timelines=sorted(
            {segment.timeline for segment in present}
            - {path.timeline, *(switch.parent for switch in path.switches)}
        ),
    )
    _check_position(plan, wanted.lsn)
    return plan


def _check_position(plan: RecoveryPlan, wanted: Lsn | None) -> None:
    """Refuse a position after the end of the WAL, whose names tell it."""
    size = plan.base.segment_size
    end = plan.segments[-1].end(size) + (size if plan.partial is not None else 0)
    if wanted is not None and wanted > end:
        nearest = f"The WAL without a gap ends at {Lsn(end)}."
        raise target.outside(plan.target, nearest, plan.missing)


def _path(archive: WalArchive, present: Sequence[Segment], timeline: int | None) -> wal.Path:
    """Return the way to a timeline, by default to the newest one.

    Its history has all earlier switches: recovery reads no other one.

    Raises:
        Refused: the archive has no WAL, or the history is missing.

    """
    if not present:
        raise e.Refused("the archive has no WAL", hint="pgkeep pitr stream receives it.")
    found = histories(archive)
    timelines = {segment.timeline for segment in present}
    wanted = max(timelines | set(found)) if timeline is None else timeline
    if wanted > 1 and wanted not in found:
        raise e.Refused(
            f"the history of timeline {wanted} is missing in the archive: {wanted:08X}.history",
            hint="Without it, recovery would stop at the end of an older timeline. Choose another"
            " one with --timeline=N.",
        )
    path = wal.Path(wanted, tuple(found.get(wanted, ())))
    if wanted not in timelines and timeline is not None:
        known = ", ".join(str(number) for number in sorted(timelines))
        raise e.Refused(f"timeline {wanted} has no WAL in the archive (found: {known})")
    return path
