"""What pgkeep pitr restore prints: the plan, the commits around the point, and what comes next."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..pitr.plan import RecoveryPlan
from ..pitr.recovery import Proof
from ..pitr.target import Point
from ..pitr.waldump import Commit
from ..progress import duration, size

_FORMAT = "%Y-%m-%d %H:%M:%S.%f"
_CONFIGURATION = (
    "Its postgresql.conf was written by pgkeep. The files of the source are next to it, as *.source"
    " and in pgkeep.source: copy what is needed, such as shared_preload_libraries and memory"
    " settings. archive_mode stays off until it has an archive of its own."
)


def document(plan: RecoveryPlan, point: Point, expected: float | None) -> dict[str, Any]:
    """Return the plan for --json."""
    return {
        "cluster": plan.location.facts.system_identifier,
        "store": plan.location.url,
        "target": str(plan.target),
        "time": None if plan.target.time is None else plan.target.time.isoformat(),
        "timeline": plan.path.timeline,
        "other_timelines": list(plan.other_timelines),
        "bases": [base.name for base in plan.chain],
        "segments": len(plan.names),
        "bytes": plan.base_bytes + plan.wal_bytes,
        "expected_seconds": expected,
        "recovery_target": dict([point.setting]),
        "commits": [_commit(found) for found in point.before],
        "next_commit": None if point.after is None else _commit(point.after),
    }


def proof_document(proof: Proof, directory: Path, owner: str, *, promoted: bool) -> dict[str, Any]:
    """Return what was proved, for --json."""
    commit = proof.last_commit
    return {
        "directory": str(directory),
        "owner": owner,
        "promoted": promoted,
        "reached": {
            "lsn": str(proof.lsn),
            "timeline": proof.timeline,
            "last_commit": None if commit is None else commit.astimezone(UTC).isoformat(),
            "stopped": proof.stopped,
        },
    }


def _commit(found: Commit) -> dict[str, Any]:
    return {"xid": found.xid, "time": found.time.isoformat(), "lsn": str(found.lsn)}


def lines(plan: RecoveryPlan, point: Point, expected: float | None) -> list[str]:
    """Return the plan, and the commits around the point."""
    zone = plan.base.timezone
    others = ", ".join(map(str, plan.other_timelines))
    wanted = "" if plan.target.time is None else f" = {times(plan.target.time, zone)}"
    found = [
        f"restore   cluster {plan.location.facts.system_identifier} from {plan.location.url}",
        f"to        {plan.target}{wanted}",
        f"timeline  {plan.path.timeline}"
        + (f" (not {others}, which the archive has too: --timeline)" if others else ""),
        f"base      {' + '.join(base.name for base in plan.chain)}, {size(plan.base_bytes)}",
        f"WAL       {len(plan.names)} segments, {size(plan.wal_bytes)}",
        f"stops     {point.setting[0]} = {point.setting[1]}",
    ]
    if expected is not None:
        found.append(f"expected  {duration(expected)}, as in the last drill")
    return [*found, *_around(point)]


def _around(point: Point) -> Iterator[str]:
    for commit in point.before:
        yield f"  commit  {commit.xid:>10}  {commit.time.astimezone():{_FORMAT}%z}"
    if point.after is not None:
        yield f"  not     {point.after.xid:>10}  {point.after.time.astimezone():{_FORMAT}%z}"


def times(moment: datetime, zone: str | None) -> str:
    """Return a time as here, in UTC, and as the log of the server has it."""
    found = [f"{moment.astimezone():{_FORMAT}%z}", f"{moment.astimezone(UTC):%H:%M:%S} UTC"]
    if zone is not None:
        # PostgreSQL knows more names.
        with contextlib.suppress(ZoneInfoNotFoundError, ValueError, OSError):
            found.append(f"{moment.astimezone(ZoneInfo(zone)):%H:%M:%S} {zone} (server)")
    return ", ".join(found)


def next_steps(plan: RecoveryPlan, directory: Path, owner: str, *, promoted: bool) -> list[str]:
    """Return how to go on with a restored directory."""
    control = f"{plan.programs / 'pg_ctl'} -D {directory}"
    found = [
        f"Start it as the user {owner}: {control} -l {directory}.log start",
        _CONFIGURATION,
    ]
    if not promoted:
        found.insert(1, f"It stays at the point, read-only, until: {control} promote")
    return found
