"""Prove that the windows hold: recover to a random second and to the newest point, and check.

Each point is recovered in a temporary directory, by a server without network. `pg_amcheck` reads
every table and index of every database.
"""

import contextlib
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from .. import errors as e
from ..crypt.options import Encryption
from ..progress import Progress
from .base import run
from .location import Location
from .recovery import RecoveredServer
from .restore import Recovered, make_plan, recovered, working_folder
from .target import Target, TargetKind


class PointResult(msgspec.Struct, frozen=True, kw_only=True):
    """One recovered point."""

    target: str
    reached: datetime | None  # UTC; the last commit that was replayed
    lsn: str | None
    seconds: float  # until the server answered: the recovery time
    age: float | None  # seconds between the newest archived commit and now: what would be lost
    findings: list[str]


class PitrDrillResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a drill of a cluster."""

    system_identifier: str
    place: str
    began: datetime
    passed: bool
    points: list[PointResult]


def drill(
    location: Location, encryption: Encryption, folder: Path, jobs: int, progress: Progress,
    *, now: datetime, chance: random.Random,
) -> PitrDrillResult:  # fmt: skip
    """Recover the newest point, and a random second before it.

    Raises:
        Refused: nothing can be restored.

    """
    newest = _point(location, encryption, folder, jobs, progress, Target(TargetKind.LATEST), now)
    points = [newest]
    since = min((base.stopped for base in location.bases().read().values()), default=now)
    if newest.reached is not None and newest.reached > since:
        span = (newest.reached - since).total_seconds()
        moment = since + timedelta(seconds=chance.uniform(0, span))
        wanted = Target(TargetKind.TIME, time=moment)
        points.append(_point(location, encryption, folder, jobs, progress, wanted, now))
    return PitrDrillResult(
        system_identifier=location.facts.system_identifier,
        place=location.url,
        began=now,
        passed=not any(point.findings for point in points),
        points=points,
    )


def _point(
    location: Location, encryption: Encryption, folder: Path, jobs: int, progress: Progress,
    wanted: Target, now: datetime,
) -> PointResult:  # fmt: skip
    began = time.monotonic()
    reached, lsn, findings = None, None, []
    try:
        plan = make_plan(location, wanted, encryption)
        with contextlib.ExitStack() as stack:
            work = stack.enter_context(working_folder(folder))
            work.chmod(0o755)
            found = stack.enter_context(recovered(plan, work / "data", encryption, jobs, progress))
            seconds = time.monotonic() - began
            reached, lsn = found.proof.last_commit, str(found.proof.lsn)
            progress.step("checking tables and indexes")
            findings = _checked(plan.programs, found)
    except (e.VerificationFailed, e.RestoreFailed, e.StoreError, e.Refused) as error:
        seconds = time.monotonic() - began
        findings = [error.message]
    if reached is not None:
        reached = reached.astimezone(UTC)
    age = None
    if wanted.kind is TargetKind.LATEST and reached is not None:
        age = max(0.0, (now - reached).total_seconds())
    return PointResult(
        target=str(wanted), reached=reached, lsn=lsn, seconds=round(seconds, 2), age=age,
        findings=findings,
    )  # fmt: skip


def _checked(programs: Path, found: Recovered) -> list[str]:
    """Return what pg_amcheck finds; it needs the extension amcheck in each database.

    The server must not be in recovery for CREATE EXTENSION, so it is promoted: it is thrown away.
    """
    if not (programs / "pg_amcheck").is_file():
        return []
    found.server.promote()
    command = [
        str(programs / "pg_amcheck"), "--all", "--heapallindexed", "--install-missing",
        "--no-password", *_connection(found.server),
    ]  # fmt: skip
    try:
        output = run(command, {}, e.RestoreFailed)
    except e.RestoreFailed as error:
        return [error.message]
    return output.decode("utf-8", "replace").splitlines()[:20]


def _connection(server: RecoveredServer) -> Sequence[str]:
    params = server.endpoint.params
    return ["--host", params["host"], "--port", params["port"], "--username", params["user"]]
