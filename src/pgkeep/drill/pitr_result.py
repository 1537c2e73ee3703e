"""The result of a drill of a cluster, and its file in a store.

The newest results are kept next to the WAL archive, so that every host can see when recovery was
proved last.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from .. import errors as e
from ..model.manifest import EARLIEST, LARGEST, LATEST, Moment
from ..model.retention import FUTURE_TOLERANCE
from ..model.unreadable import UNREADABLE
from ..stores.store import Store, load_opened, write_file
from .checks import DrillCheck

FORMAT = 1
SUFFIX = ".drill.json"
KEPT = 30  # results in a store
RECOVERY = ("fetch", "assemble", "recover")  # phases until the server answers queries
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z" + re.escape(SUFFIX))


class Engine(StrEnum):
    """Who made the base backups and archived the WAL."""

    PGKEEP = "pgkeep"
    PGBACKREST = "pgbackrest"


class PointResult(msgspec.Struct, frozen=True, kw_only=True):
    """One point in time to which a cluster was recovered."""

    target: str
    base: str | None = None  # the base backup at which recovery began
    reached: datetime | None = None  # UTC; the time of the last commit that was replayed
    lsn: str | None = None
    timeline: int | None = None
    stopped: str | None = None  # the line of the server's log
    seconds: dict[str, float] = {}  # by phase, in their order
    findings: list[str] = []

    @property
    def recovery_seconds(self) -> float:
        """The time until the server answered queries at the point."""
        return sum(self.seconds.get(phase, 0.0) for phase in RECOVERY)


class PitrDrillResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a drill of a cluster has shown."""

    format: int = FORMAT
    passed: bool
    engine: Engine
    system_identifier: str
    name: str | None  # of the cluster, or of the stanza
    place: str
    server: str | None  # its version
    began: Moment  # UTC
    pgkeep: str
    seed: int  # of the random second
    recovery_seconds: float | None  # of the slower point: the recovery time (RTO)
    # Seconds before `began` whose changes cannot be restored (RPO). From the newest commit, unless
    # the receiver runs on this host: an idle server has no newer commit.
    lost_seconds: float | None
    points: list[PointResult]
    checks: list[DrillCheck]
    findings: list[str]
    unproved: list[str] = []
    isolation: list[str] = []  # "user", "namespaces"
    warnings: list[str] = []


def name_of(result: PitrDrillResult) -> str:
    """Return the name of the file of a result; names sort by time."""
    return _name_at(result.began)


def _name_at(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y%m%dT%H%M%SZ}{SUFFIX}"


def decode(data: bytes, file: str) -> PitrDrillResult:
    """Read a result.

    Raises:
        VerificationFailed: it is no result of a drill, or has a newer format.

    """
    try:
        found = msgspec.json.decode(data, type=PitrDrillResult)
        if not EARLIEST <= found.began.year <= LATEST:  # others cannot be converted to UTC
            raise ValueError(f"its time is {found.began}")
    except UNREADABLE as error:
        raise e.VerificationFailed(f"{file} is not the result of a drill: {error}") from error
    if found.format > FORMAT:
        raise e.VerificationFailed(
            f"{file} has format {found.format}, this pgkeep reads up to {FORMAT}",
            hint="Use the version of pgkeep that wrote it, or a newer one.",
        )
    return found


class LastDrill(msgspec.Struct, frozen=True, kw_only=True):
    """What monitoring needs of the newest results."""

    when: datetime  # UTC
    passed: bool
    findings: int
    recovery_seconds: float | None
    lost_seconds: float | None
    last_passed: datetime | None  # UTC


def last(store: Store) -> LastDrill | None:
    """Return the newest result in the store of a cluster's drills, and when one passed last.

    Raises:
        StoreError: the store cannot be read.
        VerificationFailed: a result is damaged.

    """
    newest = None
    for name in reversed(_names(store)):
        found = decode(load_opened(store.open(name), LARGEST).data, store.url_of(name))
        newest = newest or found
        if found.passed:
            return _last(newest, found.began)
    return None if newest is None else _last(newest, None)


def _last(newest: PitrDrillResult, passed: datetime | None) -> LastDrill:
    return LastDrill(
        when=newest.began,
        passed=newest.passed,
        findings=len(newest.findings),
        recovery_seconds=newest.recovery_seconds,
        lost_seconds=newest.lost_seconds,
        last_passed=passed,
    )


def record(stores: Iterable[Store], result: PitrDrillResult) -> list[str]:
    """Write a result into every store, and remove the oldest ones there; return what failed."""
    data = msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
    problems = []
    for store in stores:
        try:
            write_file(store, name_of(result), data, owner=result.system_identifier)
            for name in _names(store)[:-KEPT]:
                store.delete(name)
        except e.StoreError as error:
            problems.append(f"the result is not recorded in {store.url}: {error.message}")
    return problems


def _names(store: Store) -> list[str]:
    """Return the results, oldest first, without those from the future: a clock was wrong."""
    latest = _name_at(datetime.now(UTC) + FUTURE_TOLERANCE)
    names = sorted(item.name for item in store.items() if _NAME.fullmatch(item.name))
    return names[: bisect_right(names, latest)]
