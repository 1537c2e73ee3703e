"""Restore a backup into a scratch database, compare everything, and measure the time.

Everything that is wrong is collected before it is reported. A drill leaves nothing behind but its
result, which is recorded in the backup's manifest.
"""

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import psycopg

from .. import __version__
from .. import errors as e
from ..artifact import file, verify
from ..artifact.file import Artifact
from ..catalog import manifests, side_files
from ..crypt import opening
from ..crypt.opening import Keys
from ..model.manifest import Drill, Manifest
from ..model.naming import Cipher
from ..postgres import isolation
from ..postgres.connection import Endpoint
from ..postgres.messages import restore_error
from ..progress import Progress
from ..restore.plan import RestoreOptions
from ..restore.planning import make_plan
from ..restore.restore import execute
from ..restore.search_path import SearchPath
from ..stores.store import Source, Store
from . import assertions, examine, scratch
from .assertions import Assertion
from .checks import DrillCheck
from .confinement import Unproved
from .download import local_copy
from .phases import Phases
from .result import DrillResult

KEPT = 10  # results in a manifest
_PRELOADED = re.compile(r"extension (.+?): .* shared_preload_libraries", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillOptions:
    """How to drill."""

    jobs: int
    server: Endpoint | None = None  # instead of one of our own
    assertions: Sequence[Assertion] = ()
    timeout: float = 60.0  # of each assertion, in seconds
    settings: Mapping[str, str] = field(default_factory=dict)  # of a server of our own
    search_path: SearchPath = SearchPath.EMPTY
    keys: Keys = field(default_factory=Keys)


def run(store: Store, name: str, options: DrillOptions, progress: Progress) -> DrillResult:
    """Restore a backup into a scratch database, examine it, note the result in its manifest.

    Raises:
        UsageError: it is no artifact of pgkeep, or there is no server to restore it into.
        ConnectionFailed: the given server cannot be reached.
        StoreError: the backup cannot be read.

    """
    began = datetime.now(UTC).replace(microsecond=0)
    phases = Phases(progress)
    side = side_files.read(store, name)
    with contextlib.closing(store.open(name)) as original:
        cipher = side_files.cipher_of(original, name)
        if cipher is None:
            _check_index(original)
        drill = _Drill(store, name, side, options, phases)
        # What is downloaded is still encrypted.
        with isolation.secretive(), local_copy(original, options.jobs, phases) as local:
            drill.execute_encrypted(local, cipher) if cipher else drill.execute(local)
        result = drill.result(began, original)
    if side.manifest is None:
        return result
    problem = record(store, side.manifest, result)
    if problem is None:
        return result
    return msgspec.structs.replace(result, warnings=[*result.warnings, problem])


def _check_index(source: Source) -> None:
    if not file.is_artifact(source):
        raise e.UsageError(
            f"{source.name} is a plain dump without an index: it holds nothing to compare its"
            " restore with"
        )


class _Drill:
    def __init__(
        self,
        store: Store,
        name: str,
        side: verify.SideFiles,
        options: DrillOptions,
        phases: Phases,
    ) -> None:
        self._store = store
        self._name = name
        self._side = side
        self._options = options
        self._phases = phases
        self._artifact: Artifact | None = None
        self._version: str | None = None
        self._isolation: list[str] = []
        self._unproved: list[Unproved] = []
        self.damaged = False
        self.checks: list[DrillCheck] = []
        self.warnings: list[str] = []

    def execute(self, source: Source) -> None:
        """Restore and examine; whatever is wrong with the backup is a finding."""
        try:
            artifact = self._artifact = Artifact(source)
            self._phases.step("starting a server")
            with self._target(artifact) as target:
                self._version = target.version
                self._isolation = [*target.isolation]
                self.warnings += target.warnings
                self._prove(source, artifact, target)
                self._phases.step("cleaning up")
        except (e.VerificationFailed, e.RestoreFailed) as error:
            self._found(error)
        self._phases.stop()

    def execute_encrypted(self, stored: Source, cipher: Cipher) -> None:
        """Decrypt, restore and examine; a file that the key decrypts only in part is a finding.

        Raises:
            NoKey, OtherKey: the keys do not decrypt it, which says nothing about the backup.

        """
        try:
            source = opening.decrypted(stored, cipher, self._options.keys)
        except e.OtherKey:
            raise
        except e.VerificationFailed as error:
            self._found(error)
            return
        with contextlib.closing(source):
            _check_index(source)
            self.execute(source)

    def _target(self, artifact: Artifact) -> contextlib.AbstractContextManager[scratch.DrillTarget]:
        if self._options.server is not None:
            return scratch.on(self._options.server)
        roles = side_files.read_globals(self._store, self._name, self._side, self._options.keys)
        return scratch.temporary_server(artifact.index, roles, self._options.settings)

    def _prove(self, source: Source, artifact: Artifact, target: scratch.DrillTarget) -> None:
        try:
            try:
                self.warnings += restore(
                    source, self._side, target, self._options.jobs, self._phases,
                    self._options.search_path,
                )  # fmt: skip
            finally:
                if target.confinement is not None:
                    self._unproved = sorted(set(target.confinement.unproved))
            self.checks.append(DrillCheck(name="restore", checked=1))
            self._examine(artifact, target)
        except (
            e.VerificationFailed, e.RestoreFailed, e.Refused, e.ConnectionFailed, e.DumpFailed,
        ) as error:  # fmt: skip
            self._found(error)
        except psycopg.Error as error:
            self._found(restore_error(error, "examining the database"))

    def _found(self, error: e.PgkeepError) -> None:
        message = error.message
        self.damaged |= isinstance(error, e.VerificationFailed)
        if self._options.server is None and (match := _PRELOADED.match(message)):
            message += f"; --setting shared_preload_libraries={match[1]} loads it"
        self.checks.append(DrillCheck(name="drill", checked=1, findings=[message]))

    def _examine(self, artifact: Artifact, target: scratch.DrillTarget) -> None:
        examined = examine.examine(
            target.scratch, artifact, self._side.manifest, jobs=self._options.jobs,
            progress=self._phases,
            unproved=frozenset(unproved[:3] for unproved in self._unproved),
        )  # fmt: skip
        self.checks += examined.checks
        self.warnings += examined.warnings
        asked = self._options.assertions
        if asked:
            self._phases.step("asking assertions")
            self.checks.append(assertions.check(target.scratch, asked, self._options.timeout))

    def result(self, began: datetime, original: Source) -> DrillResult:
        """Sum up."""
        index = self._artifact.index if self._artifact is not None else None
        tables = index.table_rows() if index is not None else []
        findings = [finding for check in self.checks for finding in check.findings]
        manifest = self._side.manifest
        return DrillResult(
            passed=not findings,
            backup=original.name,
            database=index.meta.database.name if index is not None else None,
            taken=manifest.taken if manifest is not None else None,
            began=began,
            server=self._version,
            temporary=self._options.server is None,
            pgkeep=__version__,
            seconds=self._phases.seconds(),
            size=original.size,
            downloaded=original.size if original.remote else 0,
            raw_bytes=index.raw_bytes if index is not None else 0,
            tables=len(tables),
            rows=sum(table.rows for table in tables),
            checks=self.checks,
            findings=findings,
            damaged=self.damaged,
            unproved=[str(unproved) for unproved in self._unproved],
            isolation=self._isolation,
            warnings=self.warnings,
        )


def restore(
    source: Source,
    side: verify.SideFiles,
    target: scratch.DrillTarget,
    jobs: int,
    progress: Progress,
    search_path: SearchPath = SearchPath.EMPTY,
) -> list[str]:
    """Restore an artifact in a target for it; return warnings.

    Raises:
        Refused, RestoreFailed, VerificationFailed: as a restore does.

    """
    options = RestoreOptions(jobs=jobs, target=target.database, search_path=search_path)
    confinement = target.confinement
    if confinement is None:
        options = dataclasses.replace(options, closed=True)
        result = execute(make_plan(target.endpoint, source, options, side), progress)
    else:
        options = dataclasses.replace(options, at_once=True, session=confinement.session)
        with contextlib.closing(confinement):
            result = execute(make_plan(target.endpoint, source, options, side), progress)
    scratch.admit(target)
    return result.warnings


def record(store: Store, manifest: Manifest, result: DrillResult) -> str | None:
    """Note the result in a manifest, as it is now; return why that could not be done."""
    drill = Drill(
        when=result.began,
        passed=result.passed,
        seconds=result.seconds,
        findings=len(result.findings),
    )

    def noted(manifest: Manifest) -> Manifest:
        return msgspec.structs.replace(manifest, drills=[*manifest.drills, drill][-KEPT:])

    url = store.url_of(manifest.name.manifest)
    try:
        if manifests.change(store, manifest, noted) is None:
            return f"the result is not recorded: {url} no longer exists"
    except (e.StoreError, e.VerificationFailed) as error:
        return f"the result is not recorded in {url}: {error.message}"
    return None
