"""Which point a recovery goes to, and which commit that is: pure decisions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from .. import errors as e
from ..model.wal import Extent, Lsn, Path, segment_of
from .base_manifest import BaseManifest
from .waldump import Commit


class TargetKind(StrEnum):
    """How a point in time is given."""

    TIME = "time"
    LSN = "lsn"
    XID = "xid"
    NAME = "name"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Target:
    """A point in time, as it was asked for."""

    kind: TargetKind
    time: datetime | None = None
    lsn: Lsn | None = None
    xid: int | None = None
    name: str | None = None

    def __str__(self) -> str:
        match self.kind:
            case TargetKind.TIME:
                assert self.time is not None  # noqa: S101 - each kind has its value
                return f"{self.time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"
            case TargetKind.LSN:
                return f"LSN {self.lsn}"
            case TargetKind.XID:
                return f"transaction {self.xid}"
            case TargetKind.NAME:
                return f"restore point {self.name}"
            case _:
                return "the newest archived commit"


@dataclass(frozen=True, slots=True)
class Point:
    """The exact point to which the server recovers, and the commits around it."""

    setting: tuple[str, str]  # of recovery: recovery_target_...
    before: tuple[Commit, ...]  # the last commits that are restored, the last one last
    after: Commit | None  # the first one that is not, if it is known


def candidates(
    bases: Mapping[str, BaseManifest], target: Target, path: Path, reachable: Mapping[str, Lsn]
) -> list[BaseManifest]:
    """Return the base backups from which a target can be reached, the newest first.

    `reachable` has the end of the unbroken WAL after each base backup. A base backup must have
    ended before the target: until then its files are not consistent.

    Raises:
        Refused: there is none.

    """
    usable = [
        base
        for base in bases.values()
        if base.name in reachable
        and path.includes(base.timeline, base.stop_lsn)
        and reachable[base.name] >= base.stop_lsn
    ]
    if target.kind is TargetKind.TIME:
        assert target.time is not None  # noqa: S101 - the kind is time
        before = [base for base in usable if base.stopped <= target.time]
    elif target.kind is TargetKind.LSN:
        assert target.lsn is not None  # noqa: S101 - the kind is lsn
        before = [base for base in usable if base.stop_lsn <= target.lsn]
    else:
        before = usable
    if not before:
        first = min((base.stopped for base in usable), default=None)
        known = "" if first is None else f"; the first one ended at {first:%Y-%m-%d %H:%M:%S} UTC"
        raise e.Refused(
            f"no base backup on timeline {path.timeline} ended before {target}{known}",
            hint="pgkeep pitr windows lists what can be restored.",
        )
    return sorted(before, key=lambda base: base.stop_lsn, reverse=True)


def end_of_wal(base: BaseManifest, runs: Sequence[Extent]) -> Lsn | None:
    """Return the end of the unbroken WAL from the start of a base backup; None if it is missing."""
    first = segment_of(base.timeline, base.start_lsn, base.segment_size).number
    for run in runs:
        if run.first.number <= first <= run.last.number:
            return run.last.end(base.segment_size)
    return None


SHOWN = 10  # commits before the target


def resolve(
    target: Target, base: BaseManifest, commits: Sequence[Commit],
    restore_points: Sequence[tuple[str, Lsn]],
) -> Point:  # fmt: skip
    """Return the point for a target, given the commits after a base backup in their order.

    The server would stop at the first commit that is later than a time, and commits are not sorted
    by time: the last commit at or before the time is chosen here, and the server stops after it.

    Raises:
        Refused: the target is not in the WAL; the message has the nearest point.

    """
    own = [commit for commit in commits if commit.lsn >= base.stop_lsn]
    match target.kind:
        case TargetKind.TIME:
            assert target.time is not None  # noqa: S101 - the kind is time
            if not own or max(commit.time for commit in own) < target.time:
                raise _beyond(target, own, base)
            index = max((n for n, c in enumerate(own) if c.time <= target.time), default=-1)
        case TargetKind.XID:
            index = next((n for n, commit in enumerate(own) if commit.xid == target.xid), -2)
        case TargetKind.LSN:
            assert target.lsn is not None  # noqa: S101 - the kind is lsn
            index = max((n for n, c in enumerate(own) if c.lsn <= target.lsn), default=-1)
        case TargetKind.NAME:
            found = [lsn for name, lsn in restore_points if name == target.name]
            index = -2 if not found else max(
                (n for n, c in enumerate(own) if c.lsn <= found[-1]), default=-1
            )  # fmt: skip
        case _:
            index = len(own) - 1
    if index == -2:
        raise _beyond(target, own, base)
    after = own[index + 1] if index + 1 < len(own) else None
    before = tuple(own[max(0, index + 1 - SHOWN) : index + 1])
    if target.kind is TargetKind.NAME:
        return Point(("recovery_target_name", str(target.name)), before, after)
    if target.kind is TargetKind.LSN:
        return Point(("recovery_target_lsn", str(target.lsn)), before, after)
    if not before:
        return Point(("recovery_target", "immediate"), (), after)
    return Point(("recovery_target_xid", str(before[-1].xid)), before, after)


def _beyond(target: Target, own: Sequence[Commit], base: BaseManifest) -> e.Refused:
    last = max((commit.time for commit in own), default=None)
    nearest = f"{base.stopped:%Y-%m-%d %H:%M:%S} UTC, the end of the base backup"
    if last is not None:
        nearest = f"{last:%Y-%m-%d %H:%M:%S.%f} UTC, the last archived commit"
    return e.Refused(
        f"{target} is not in the archived WAL",
        hint=f"The nearest point is {nearest}. Restore it with --latest.",
    )
