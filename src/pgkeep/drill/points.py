"""Prove that a cluster can be restored to a point in time: recover, check, measure.

Two points are recovered: the newest one, and a random second before it. Each is recovered into a
temporary directory, by a server that is thrown away.
"""

import contextlib
import dataclasses
import random
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from .. import __version__
from .. import errors as e
from ..pitr.recovery import Proof, RecoveredServer
from ..pitr.target import Target, TargetKind
from ..pitr.target_directory import working_folder
from ..progress import Progress
from ..progress import size as shown
from . import recovered_checks
from .checks import DrillCheck
from .phases import Phases
from .pitr_result import Engine, PitrDrillResult, PointResult
from .recovered_checks import Checked, Wanted


class Facts(NamedTuple):
    """Of which cluster the base backups and the WAL are."""

    engine: Engine
    system_identifier: str
    name: str | None
    place: str


@dataclass(slots=True)
class Window:
    """What the names of the stored files show, before anything is recovered."""

    since: datetime | None = None  # the first second that can be restored
    needed: int = 0  # bytes in the temporary directory
    findings: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredPoint:
    """A cluster that was recovered to a point; its server runs."""

    server: RecoveredServer
    proof: Proof
    programs: Path
    base: str
    version: str  # of PostgreSQL


class PointSource(Protocol):
    """Base backups and archived WAL of one cluster."""

    @property
    def facts(self) -> Facts:
        """Of which cluster they are."""

    def window(self) -> Window:
        """Return what can be restored.

        Raises:
            UsageError: a program is missing.
            StoreError: the files cannot be listed.

        """

    def recovered(
        self, target: Target, directory: Path, jobs: int, progress: Progress
    ) -> contextlib.AbstractContextManager[RecoveredPoint]:
        """Recover the cluster in a new directory; the server runs inside the block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointOptions:
    """How to drill."""

    wanted: Wanted
    seed: int
    complete_until: datetime | None = None  # as the receiver on this host knows


def run(source: PointSource, options: PointOptions, progress: Progress) -> PitrDrillResult:
    """Recover a cluster to its newest point, and to a random second; check both.

    Whatever is wrong with the stored files is a finding.

    Raises:
        Refused: the temporary directory has not enough space.
        UsageError: a program, or a private key, is missing.

    """
    return _Drill(source, options, progress).run()


class _Drill:
    def __init__(self, source: PointSource, options: PointOptions, progress: Progress) -> None:
        self._source = source
        self._options = options
        self._progress = progress
        self._folder = Path(tempfile.gettempdir())
        self._began = datetime.now(UTC).replace(microsecond=0)
        self._version: str | None = None
        self._isolation: list[str] = []
        self._checked: list[Checked] = []

    def run(self) -> PitrDrillResult:
        """Recover both points, and sum up."""
        self._progress.step("listing")
        window = self._source.window()
        free = shutil.disk_usage(self._folder).free
        if free < window.needed:
            raise e.NoSpace(
                f"{self._folder} has {shown(free)} free, the drill requires {shown(window.needed)}",
                hint="Set TMPDIR to a directory with room for the cluster and its WAL.",
            )
        newest = self._point(Target(TargetKind.LATEST))
        points = [newest]
        if (moment := self._random_second(window.since, newest.reached)) is not None:
            points.append(self._point(Target(TargetKind.TIME, time=moment)))
        else:
            window.warnings.append("no random second: the window has no commit after its beginning")
        return self._result(window, points)

    def _random_second(self, since: datetime | None, until: datetime | None) -> datetime | None:
        """Return a second of the window that is followed by a commit, if one exists."""
        if since is None or until is None or until <= since:
            return None
        chance = random.Random(self._options.seed)  # noqa: S311 - it can be repeated
        return since + timedelta(seconds=chance.uniform(0, (until - since).total_seconds()))

    def _point(self, target: Target) -> PointResult:
        """Recover one point and check it; damage of the stored files is a finding."""
        phases, wanted = Phases(self._progress), self._options.wanted
        if target.kind is not TargetKind.LATEST:
            # The user's queries describe the database as it is now, such as the age of a row.
            wanted = dataclasses.replace(wanted, assertions=())
        point = PointResult(target=str(target))
        try:
            with (
                working_folder(self._folder) as work,
                self._source.recovered(target, work / "data", wanted.jobs, phases) as found,
            ):
                point = _reached(point, found)
                phases.step("checking tables and indexes")
                server = found.server
                server.promote()
                self._isolation = list(server.isolation)
                checked = recovered_checks.check(server.endpoint, found.programs, wanted)
                self._checked.append(checked)
                self._version = found.version
                findings = [text for check in checked.checks for text in check.findings]
                phases.step("cleaning up")
        except (e.OtherKey, e.NoSpace):
            raise
        except (
            e.VerificationFailed, e.RestoreFailed, e.StoreError, e.Refused, e.ConnectionFailed,
        ) as error:  # fmt: skip
            findings = [error.message]
        phases.stop()
        return msgspec.structs.replace(point, findings=findings, seconds=phases.seconds())

    def _result(self, window: Window, points: list[PointResult]) -> PitrDrillResult:
        facts = self._source.facts
        findings = [*window.findings, *(text for point in points for text in point.findings)]
        # A gap prevents recovery, too, and would be reported twice.
        findings = list(dict.fromkeys(findings))
        until = self._options.complete_until or points[0].reached
        recovery = [point.recovery_seconds for point in points if point.reached is not None]
        return PitrDrillResult(
            passed=not findings,
            engine=facts.engine,
            system_identifier=facts.system_identifier,
            name=facts.name,
            place=facts.place,
            server=self._version,
            began=self._began,
            pgkeep=__version__,
            seed=self._options.seed,
            recovery_seconds=max(recovery, default=None),
            lost_seconds=None if until is None else max(0.0, (self._began - until).total_seconds()),
            points=points,
            checks=_summed(self._checked),
            findings=findings,
            unproved=list(dict.fromkeys(text for c in self._checked for text in c.unproved)),
            isolation=self._isolation,
            warnings=window.warnings,
        )


def _reached(point: PointResult, found: RecoveredPoint) -> PointResult:
    proof = found.proof
    commit = proof.last_commit
    return msgspec.structs.replace(
        point,
        base=found.base,
        reached=None if commit is None else commit.astimezone(UTC),
        lsn=str(proof.lsn),
        timeline=proof.timeline,
        stopped=proof.stopped,
    )


def _summed(points: Iterable[Checked]) -> list[DrillCheck]:
    """Return each kind of check once, for all points together."""
    found: dict[str, DrillCheck] = {}
    for check in (check for checked in points for check in checked.checks):
        former = found.get(check.name, DrillCheck(name=check.name, checked=0))
        found[check.name] = DrillCheck(
            name=check.name,
            checked=former.checked + check.checked,
            findings=[*former.findings, *check.findings],
        )
    return list(found.values())
