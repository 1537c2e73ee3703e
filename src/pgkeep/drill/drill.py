"""Prove that a backup can be restored: do it where it harms nobody, compare, and take the time.

Everything that is wrong is collected before it is told. A drill leaves nothing behind but its
result, which is noted in the backup's manifest.
"""

import contextlib
import dataclasses
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg

from .. import __version__
from .. import errors as e
from ..artifact import file, verify
from ..artifact.file import Artifact
from ..catalog import manifests, side_files
from ..model.manifest import Drill, Manifest
from ..postgres import isolation
from ..postgres.connection import Endpoint
from ..postgres.messages import restore_error
from ..progress import Progress
from ..restore.plan import RestoreOptions
from ..restore.planning import make_plan
from ..restore.restore import execute
from ..restore.search_path import SearchPath
from ..stores.local import LocalSource
from ..stores.store import Source, Store
from . import confined, examine, scratch
from .assertions import Assertion
from .rows import Check

PIECE = 8 << 20  # bytes that are fetched at once
KEPT = 10  # results in a manifest
_PRELOADED = re.compile(r"extension (.+?): .* shared_preload_libraries", re.DOTALL)

# What the steps of a restore and of an examination count as.
PHASES = {
    "downloading": "download",
    "starting a server": "start",
    "checking the file": "verify",
    "creating tables": "load",
    "loading rows": "load",
    "building indexes": "index",
    "analyzing": "analyze",
    "finishing": "load",
    "comparing rows": "check",
    "checking objects": "check",
    "comparing large objects": "check",
    "comparing computed values": "check",
    "asking assertions": "check",
    "cleaning up": "clean",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillOptions:
    """How to drill."""

    jobs: int
    server: Endpoint | None = None  # instead of one of our own
    assertions: Sequence[Assertion] = ()
    timeout: float = 60.0  # of each assertion, in seconds
    settings: Mapping[str, str] = field(default_factory=dict)  # of a server of our own
    search_path: SearchPath = SearchPath.EMPTY


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a drill has shown."""

    passed: bool
    backup: str
    database: str | None
    taken: datetime | None
    began: datetime
    server: str | None  # version of the one that it was restored into
    temporary: bool  # whether that was one of our own
    pgkeep: str
    seconds: dict[str, float]  # by phase, in their order
    size: int  # bytes of the artifact
    downloaded: int  # bytes
    raw_bytes: int  # of SQL
    tables: int
    rows: int
    checks: list[Check]
    findings: list[str]
    unproved: list[str] = []  # what only a superuser could restore
    isolation: list[str] = []  # of a server of our own: "user", "namespaces"
    warnings: list[str] = []


ISOLATION = {
    "user": "its own user",
    "namespaces": "only its own files, no network",
}


def isolation_of(outcome: Outcome) -> str:
    """Say in words what a server of our own was kept from."""
    return ", ".join(ISOLATION[one] for one in outcome.isolation) or "none"


class Clock:
    """Pass on what a drill tells, and take the time of its phases."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phase: str | None = None
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def step(self, text: str) -> None:
        """Begin a step, and perhaps a phase."""
        self.stop()
        self._phase = PHASES.get(text, "other")
        self._progress.step(text)

    def stop(self) -> None:
        """End the phase that is running."""
        now = time.monotonic()
        if self._phase is not None:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0) + now - self._since
        self._phase, self._since = None, now

    def seconds(self) -> dict[str, float]:
        """Return the time of each phase, in their order."""
        order = dict.fromkeys([*PHASES.values(), "other"])
        return {phase: round(self._seconds[phase], 3) for phase in order if phase in self._seconds}

    def total(self, size: int) -> None:
        """Take the size of the step."""
        self._progress.total(size)

    def advance(self, size: int) -> None:
        """Count what is done."""
        self._progress.advance(size)

    def wrote(self, raw: int, compressed: int) -> None:
        """Take how much has been written."""
        self._progress.wrote(raw, compressed)


def run(store: Store, name: str, options: DrillOptions, progress: Progress) -> Outcome:
    """Restore a backup into a scratch database, examine it, note the result in its manifest.

    Raises:
        UsageError: it is no artifact of pgkeep, or there is no server to restore it into.
        ConnectionFailed: the given server cannot be reached.
        StoreError: the backup cannot be read.

    """
    began = datetime.now(UTC).replace(microsecond=0)
    clock = Clock(progress)
    side = side_files.read(store, name)
    with contextlib.closing(store.open(name)) as original:
        if not file.is_artifact(original):
            raise e.UsageError(
                f"{original.name} is a plain dump without an index: it holds nothing to compare"
                " its restore with"
            )
        drill = _Drill(store, name, side, options, clock)
        with isolation.secretive(), _local(original, options.jobs, clock) as source:
            drill.execute(source)
        outcome = drill.outcome(began, original)
    if side.manifest is None:
        return outcome
    problem = record(store, side.manifest, outcome)
    if problem is None:
        return outcome
    return msgspec.structs.replace(outcome, warnings=[*outcome.warnings, problem])


class _Drill:
    def __init__(
        self,
        store: Store,
        name: str,
        side: verify.SideFiles,
        options: DrillOptions,
        clock: Clock,
    ) -> None:
        self._store = store
        self._name = name
        self._side = side
        self._options = options
        self._clock = clock
        self._artifact: Artifact | None = None
        self._version: str | None = None
        self._isolation: list[str] = []
        self._unproved: list[confined.Unproved] = []
        self.checks: list[Check] = []
        self.warnings: list[str] = []

    def execute(self, source: Source) -> None:
        """Restore and examine; whatever is wrong with the backup is a finding."""
        try:
            artifact = self._artifact = Artifact(source)
            self._clock.step("starting a server")
            with self._place(artifact) as place:
                self._version = place.version
                self._isolation = [*place.isolation]
                self.warnings += place.warnings
                self._prove(source, artifact, place)
                self._clock.step("cleaning up")
        except (e.VerificationFailed, e.RestoreFailed) as error:
            self._found(error)
        self._clock.stop()

    def _place(self, artifact: Artifact) -> contextlib.AbstractContextManager[scratch.Place]:
        if self._options.server is not None:
            return scratch.on(self._options.server)
        roles = side_files.read_globals(self._store, self._name, self._side)
        return scratch.temporary_server(artifact.index, roles, self._options.settings)

    def _prove(self, source: Source, artifact: Artifact, place: scratch.Place) -> None:
        try:
            try:
                self.warnings += restore(
                    source, self._side, place, self._options.jobs, self._clock,
                    self._options.search_path,
                )  # fmt: skip
            finally:
                if place.confinement is not None:
                    self._unproved = sorted(set(place.confinement.unproved))
            self.checks.append(Check(name="restore", checked=1))
            self._examine(artifact, place)
        except (
            e.VerificationFailed, e.RestoreFailed, e.Refused, e.ConnectionFailed, e.DumpFailed,
        ) as error:  # fmt: skip
            self._found(error)
        except psycopg.Error as error:
            self._found(restore_error(error, "examining the database"))

    def _found(self, error: e.PgkeepError) -> None:
        message = error.message
        if self._options.server is None and (match := _PRELOADED.match(message)):
            message += f"; --setting shared_preload_libraries={match[1]} has it loaded"
        self.checks.append(Check(name="drill", checked=1, findings=[message]))

    def _examine(self, artifact: Artifact, place: scratch.Place) -> None:
        examined = examine.examine(
            place.scratch, artifact, self._side.manifest, self._options.assertions,
            jobs=self._options.jobs, timeout=self._options.timeout, progress=self._clock,
            unproved=frozenset(one[:3] for one in self._unproved),
        )  # fmt: skip
        self.checks += examined.checks
        self.warnings += examined.warnings

    def outcome(self, began: datetime, original: Source) -> Outcome:
        """Sum up."""
        index = self._artifact.index if self._artifact is not None else None
        tables = index.table_rows() if index is not None else []
        findings = [finding for check in self.checks for finding in check.findings]
        manifest = self._side.manifest
        return Outcome(
            passed=not findings,
            backup=original.name,
            database=index.meta.database.name if index is not None else None,
            taken=manifest.taken if manifest is not None else None,
            began=began,
            server=self._version,
            temporary=self._options.server is None,
            pgkeep=__version__,
            seconds=self._clock.seconds(),
            size=original.size,
            downloaded=original.size if original.remote else 0,
            raw_bytes=index.raw_bytes if index is not None else 0,
            tables=len(tables),
            rows=sum(table.rows for table in tables),
            checks=self.checks,
            findings=findings,
            unproved=[str(one) for one in self._unproved],
            isolation=self._isolation,
            warnings=self.warnings,
        )


def restore(
    source: Source,
    side: verify.SideFiles,
    place: scratch.Place,
    jobs: int,
    progress: Progress,
    search_path: SearchPath = SearchPath.EMPTY,
) -> list[str]:
    """Restore an artifact in a place for it; return warnings.

    Raises:
        Refused, RestoreFailed, VerificationFailed: as a restore does.

    """
    options = RestoreOptions(jobs=jobs, target=place.database, search_path=search_path)
    confinement = place.confinement
    if confinement is None:
        options = dataclasses.replace(options, closed=True)
        result = execute(make_plan(place.endpoint, source, options, side), progress)
    else:
        options = dataclasses.replace(options, at_once=True, session=confinement.session)
        with contextlib.closing(confinement):
            result = execute(make_plan(place.endpoint, source, options, side), progress)
    scratch.admit(place)
    return result.warnings


class _Fetched(LocalSource):
    """A remote file's contents in a local one that has no name any more."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path)
        self._name = name

    @property
    def name(self) -> str:
        """Where it came from."""
        return self._name


@contextlib.contextmanager
def _local(original: Source, jobs: int, clock: Clock) -> Iterator[Source]:
    """Give a file that can be read twice: a remote one is fetched, which is timed for itself."""
    if not original.remote:
        yield original
        return
    clock.step("downloading")
    clock.total(original.size)
    handle, name = tempfile.mkstemp(prefix="pgkeep-drill-")
    try:
        try:
            _fetch(original, handle, jobs, clock.advance)
            fetched = _Fetched(Path(name), original.name)
        finally:
            # No kill -9 leaves it behind from here on.
            os.unlink(name)  # noqa: PTH108
            os.close(handle)
    except OSError as error:
        raise e.StoreError(
            f"could not fetch {original.name} into {name}: {error.strerror}",
            hint="Set TMPDIR to a directory with room for it.",
        ) from error
    clock.stop()
    with contextlib.closing(fetched):
        yield fetched


def _fetch(original: Source, handle: int, jobs: int, done: Callable[[int], None]) -> None:
    def piece(start: int) -> None:
        data = memoryview(original.read(start, min(PIECE, original.size - start)))
        done(len(data))
        while data:
            written = os.pwrite(handle, data, start)
            start, data = start + written, data[written:]

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for _ in pool.map(piece, range(0, original.size, PIECE)):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def record(store: Store, manifest: Manifest, outcome: Outcome) -> str | None:
    """Note the result in a manifest, as it is now; return why that could not be done."""
    drill = Drill(
        when=outcome.began,
        passed=outcome.passed,
        seconds=outcome.seconds,
        findings=len(outcome.findings),
    )

    def noted(manifest: Manifest) -> Manifest:
        return msgspec.structs.replace(manifest, drills=[*manifest.drills, drill][-KEPT:])

    url = store.url_of(manifest.name.manifest)
    try:
        if manifests.change(store, manifest, noted) is None:
            return f"the result is not noted: {url} is gone"
    except (e.StoreError, e.VerificationFailed) as error:
        return f"the result is not noted in {url}: {error.message}"
    return None
