"""Which point a recovery goes to, and which commit that is: pure decisions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from .. import errors as e
from ..model.wal import Extent, Lsn, Path
from . import windows
from .base_manifest import BaseManifest
from .waldump import Commit, WalContents


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
    lsn: Lsn  # of the record at which recovery stops
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
    run = windows.run_of(base, runs)
    return None if run is None else run.last.end(base.segment_size)


SHOWN = 10  # commits before the target
# After so many commits that are later than a time, or one that is so much later, no earlier one is
# expected: a transaction takes its time before it writes its record.
_MARGIN = 100
_SKEW = timedelta(minutes=1)


def is_decided(target: Target, contents: WalContents, newest: Sequence[Commit]) -> bool:
    """Whether no later WAL can change the point; `newest` are the commits read last."""
    commits = contents.commits
    match target.kind:
        case TargetKind.TIME:
            assert target.time is not None  # noqa: S101 - each kind has its value
            if any(commit.time <= target.time for commit in newest):
                return False
            if any(commit.time > target.time + _SKEW for commit in commits):
                return True
            return sum(commit.time > target.time for commit in commits) > _MARGIN
        case TargetKind.XID:
            found = any(commit.xid == target.xid for commit in commits[:-1])
            return found or bool(contents.other_xids)
        case TargetKind.LSN:
            assert target.lsn is not None  # noqa: S101
            return any(commit.lsn > target.lsn for commit in commits)
    return False


def _index(target: Target, contents: WalContents) -> int | None:
    """Return which commit is the last one that is restored, -1 for none; None if not found."""
    commits = contents.commits
    match target.kind:
        case TargetKind.TIME:
            assert target.time is not None  # noqa: S101 - each kind has its value
            fits = [commit.time <= target.time for commit in commits]
        case TargetKind.XID:
            return next((n for n, commit in enumerate(commits) if commit.xid == target.xid), None)
        case TargetKind.LSN:
            assert target.lsn is not None  # noqa: S101
            fits = [commit.lsn <= target.lsn for commit in commits]
        case TargetKind.NAME:
            lsn = next((p.lsn for p in contents.restore_points if p.name == target.name), None)
            if lsn is None:
                return None
            fits = [commit.lsn <= lsn for commit in commits]
        case _:
            return len(commits) - 1
    return max((number for number, fit in enumerate(fits) if fit), default=-1)


def prune(target: Target, contents: WalContents) -> None:
    """Forget commits that cannot be shown: there can be millions."""
    commits, index = contents.commits, _index(target, contents)
    last = len(commits) - SHOWN - 1
    kept = set(range(max(0, last), len(commits)))
    if index is not None and index >= 0:
        kept |= set(range(max(0, index - SHOWN), min(index + 2, len(commits))))
    if target.kind is TargetKind.TIME:  # they are counted
        kept |= set(range(max(0, len(commits) - 2 * _MARGIN), len(commits)))
    contents.commits = [commits[number] for number in sorted(kept)]


def resolve(target: Target, base: BaseManifest, contents: WalContents) -> Point:
    """Return the point for a target, given what the WAL after a base backup contains.

    The server would stop at the first commit that is later than a time, and commits are not sorted
    by time: the last commit at or before the time is chosen here, and the server stops after it.

    Raises:
        Refused: the target is not in the WAL; the message has the nearest point.

    """
    own = replace(
        contents, commits=[commit for commit in contents.commits if commit.lsn >= base.stop_lsn]
    )
    points = [point for point in contents.restore_points if point.name == target.name]
    if target.kind is TargetKind.NAME and len(points) > 1:
        positions = ", ".join(str(point.lsn) for point in points)
        raise e.Refused(
            f"{target} exists {len(points)} times: at LSN {positions}",
            hint="Choose one of them with --to-lsn.",
        )
    commits, index = own.commits, _index(target, own)
    if index is None and target.xid is not None and target.xid in contents.other_xids:
        raise e.Refused(
            f"{target} is no commit: {contents.other_xids[target.xid]}",
            hint="Choose the commit before it, by its time or position.",
        )
    if index is None or (target.kind is TargetKind.TIME and index == len(commits) - 1 and (
        not commits or max(commit.time for commit in commits) < (target.time or base.stopped)
    )):  # fmt: skip
        raise beyond(target, base, commits)
    after = commits[index + 1] if index + 1 < len(commits) else None
    before = tuple(commits[max(0, index + 1 - SHOWN) : index + 1])
    if target.kind is TargetKind.NAME:
        return Point(("recovery_target_name", str(target.name)), points[0].lsn, before, after)
    if not before:
        return Point(("recovery_target", "immediate"), base.stop_lsn, (), after)
    return Point(("recovery_target_xid", str(before[-1].xid)), before[-1].lsn, before, after)


def beyond(
    target: Target, base: BaseManifest, commits: Sequence[Commit], missing: str | None = None
) -> e.Refused:
    """Return the error that a target is not in the WAL, with the nearest point.

    `missing` is the segment at which the WAL ends although later ones are archived.
    """
    last = max((commit.time for commit in commits), default=None)
    nearest = f"{base.stopped:%Y-%m-%d %H:%M:%S} UTC, the end of the base backup"
    if last is not None:
        nearest = f"{last:%Y-%m-%d %H:%M:%S.%f} UTC, the last archived commit"
    return outside(target, f"The nearest point is {nearest}.", missing)


def outside(target: Target, nearest: str, missing: str | None) -> e.Refused:
    """Return the error that a target is after the end of the WAL, or after a gap in it."""
    if missing is None:
        return e.Refused(
            f"{target} is not in the archived WAL", hint=f"{nearest} Restore it with --latest."
        )
    return e.Refused(
        f"{target} is not in the archived WAL: segment {missing} is missing", hint=nearest
    )
