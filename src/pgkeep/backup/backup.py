"""Make one backup: lock, dump, check, publish. Files get their names only when all is complete."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

import msgspec

from .. import errors as e
from ..artifact import verify
from ..artifact.file import ArtifactWriter
from ..catalog import copies
from ..catalog.catalog import Catalog, several_clusters
from ..catalog.encryption import check_not_forgotten, encryption_facts
from ..catalog.live_copy import CopiedUpload, LiveCopy
from ..catalog.locks import GLANCE, backup_lock, copies_lock
from ..catalog.publication import manifest_of, publication
from ..crypt.options import UNENCRYPTED, Encryption
from ..model import drift, naming, retention
from ..model.manifest import FileFacts, Manifest
from ..postgres import advisory_locks, moved_names, role_names
from ..postgres.connection import SEVERAL_SERVERS, Connection, Endpoint
from ..postgres.facts import database_size, server_facts
from ..postgres.messages import translated
from ..postgres.roles import Roles, RolesDump
from ..postgres.table_locks import LockBudget
from ..progress import Progress
from ..stores import spool
from ..stores.hashed_upload import HashedUpload
from ..stores.local import LocalUpload
from ..stores.store import Store, Upload, locked
from . import dump, space
from .blocking import BlockedSessions
from .deadlines import Limits, Watch
from .dump import MIN_ATTEMPTS, DumpOptions, DumpResult

# Key of pg_try_advisory_lock: "pgkeep" as a number. The lock belongs to the database and ends with
# the connection, so it also excludes other hosts (traps B11, B12).
ADVISORY_LOCK = int.from_bytes(b"pgkeep")
# Seconds until the server notices that a run was killed and releases its lock: more than
# client_connection_check_interval.
LOCK_PATIENCE = 5.0


class PublishedBackup(NamedTuple):
    """A published backup, and why its copy is pending, if it is."""

    manifest: Manifest
    uncopied: e.PgkeepError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOptions:
    """Options of a backup; without a type, the tier that is due in the time zone is chosen."""

    type: naming.BackupType | None
    jobs: int
    zone: tzinfo = UTC
    policy: retention.Policy | None = None  # its tiers can be due; None: the default policy
    applied: retention.Policy | None = None  # to the backups afterwards; the manifest records it
    drift: float = 0.5  # relative decrease that causes a warning
    schema_only: bool = False
    verify: bool = False
    chosen: bool = False  # the database was named explicitly, for backups
    named: bool = False  # the database was named explicitly, to connect to
    lock_timeout: float = 300.0  # seconds
    yield_after: float | None = None  # seconds that another session can wait for the backup
    computed: bool = True  # hash the values that a restore computes, for drills to compare
    warnings: tuple[str, ...] = ()  # about earlier attempts of the same run
    limits: Limits = field(default_factory=Limits)
    cluster: str | None = None  # the name of the cluster, which the manifest records
    encryption: Encryption = UNENCRYPTED
    compression: naming.Compression = naming.Compression.GZIP


def backup(
    endpoint: Endpoint,
    store: Store,
    options: BackupOptions,
    progress: Progress,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    roles: Roles | None = None,
    copy: Store | None = None,
) -> PublishedBackup:
    """Back up the database of the endpoint; return what was published.

    Backups of one run can share the dump of the cluster's roles. A copy that fails is pending; it
    never fails the backup.

    Raises:
        AlreadyRunning, ConnectionFailed, DumpFailed, VerificationFailed, StoreError: nothing was
            published.

    """
    with (
        translated(),
        Watch(options.limits) as watch,
        watch.connected(endpoint.reading()) as (connection, pinned),
    ):
        database = connection.info.dbname
        with _alone(connection, store, database, watch):
            with watch.armed():
                identifier = server_facts(connection).system_identifier
                size = database_size(connection)
            store.sweep(lambda name: _is_of(database, name), identifier)
            existing = _earlier(store, database, options, copy)
            earlier, others = _by_cluster(existing, identifier)
            kind = options.type or retention.choose_type(
                earlier, now(), options.zone, options.policy, schema_only=options.schema_only
            )
            name = _free_name(store, database, kind, options, now)
            run = _Backup(
                endpoint=pinned,
                connection=connection,
                watch=watch,
                store=store,
                name=name,
                options=options,
                progress=progress,
                roles=roles or Roles(),
                identifier=identifier,
                earlier=earlier,
                others=others,
                copy=copy,
                budget=LockBudget(options.lock_timeout),
                blocked=BlockedSessions(),
                size=size,
                warnings=[
                    *options.warnings,
                    *space.check(store, earlier, size, schema_only=options.schema_only),
                ],
            )
            return _made(run)


def _by_cluster(
    existing: Iterable[Manifest], identifier: str
) -> tuple[list[Manifest], list[Manifest]]:
    """Return the backups of this cluster, and those of others."""
    found: tuple[list[Manifest], list[Manifest]] = ([], [])
    for manifest in existing:
        found[manifest.server.system_identifier != identifier].append(manifest)
    return found


def _made(run: "_Backup") -> PublishedBackup:
    """Make a backup; repeat it, within the lock timeout, while names change during the backup."""
    deadline = time.monotonic() + run.options.lock_timeout
    for attempt in itertools.count(1):
        try:
            return run.make()
        except moved_names.Moved as error:
            if attempt >= MIN_ATTEMPTS and time.monotonic() > deadline:
                raise moved_names.Moved(
                    f"each of {attempt} attempts failed: {error.message}"
                ) from error
    raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backup:
    """One backup that holds its locks and has its name."""

    endpoint: Endpoint
    connection: Connection
    watch: Watch
    store: Store
    name: naming.BackupName
    options: BackupOptions
    progress: Progress
    roles: Roles
    identifier: str  # of the cluster
    earlier: list[Manifest]
    others: list[Manifest]  # of databases with this name in other clusters
    copy: Store | None
    size: int  # of the database on the server's disk
    warnings: list[str]
    budget: LockBudget  # for the table locks of all attempts
    blocked: BlockedSessions  # by any attempt

    def make(self) -> PublishedBackup:
        """Write all files, then publish them under their names."""
        name = self.name
        encryption = self.options.encryption
        with (
            publication(self.store, name, owner=self.identifier, encryption=encryption) as files,
            ExitStack() as stack,
        ):
            copy = self._live_copy(stack, files.artifact)
            stored = HashedUpload(self._artifact(stack, files.artifact, copy))
            artifact = stack.enter_context(encryption.upload(stored))
            writer = ArtifactWriter(artifact, name.compression)
            self.watch.waits_for_store = lambda: writer.writing
            result = self._dump(writer)
            self.progress.step("writing to disk")
            artifact.seal()
            with self.watch.armed():
                roles = self._dump_roles(result)
            manifest = manifest_of(
                name,
                FileFacts(name.artifact, stored.size, stored.sha256),
                result.index,
                writer.index_sha256,
                encryption_facts(encryption),
            )
            manifest = msgspec.structs.replace(
                manifest,
                globals=files.write_roles(roles.sql),
                role_passwords=roles.passwords,
                database_size=self.size,
                warnings=self.warnings + result.warnings + roles.warnings,
                blocked=self.blocked.recorded(),
                pending=[self.copy.url] if self.copy is not None else [],
                policy=None if self.options.applied is None else str(self.options.applied),
                cluster=self.options.cluster,
            )
            if self.options.verify:
                side = verify.SideFiles(sha256=stored.sha256, index_sha256=writer.index_sha256)
                verified = files.read_back(side, self.options.jobs, self.progress)
                manifest = msgspec.structs.replace(
                    manifest, verified=verified.when, verified_level=verified.level
                )
            manifest = self._compared(manifest)
            files.publish(manifest)
            return self._finish_copy(manifest, copy)

    def _artifact(self, stack: ExitStack, upload: Upload, copy: LiveCopy | None) -> Upload:
        """Return where the artifact is written to: never directly to a slow store."""
        if copy is not None:
            return CopiedUpload(copy)
        if self.store.remote and spool.room() >= spool.SEGMENT:
            return stack.enter_context(spool.SpooledUpload(upload, self.name.artifact))
        return upload

    def _live_copy(self, stack: ExitStack, artifact: Upload) -> LiveCopy | None:
        """Start copying the artifact, if it is a local file and a copy is configured."""
        target = self.copy
        if target is None or not isinstance(artifact, LocalUpload):
            return None
        database = self.name.database

        def sweep() -> None:
            with self.store.lock(copies_lock(database)) as idle:
                if idle:  # otherwise another process is uploading
                    target.sweep(lambda name: _is_of(database, name), self.identifier)

        copy = LiveCopy(artifact, target, self.name.artifact, self.identifier, sweep)
        return stack.enter_context(copy)

    def _finish_copy(self, manifest: Manifest, copy: LiveCopy | None) -> PublishedBackup:
        """Finish the copy of a published backup; if that fails, the copy is pending."""
        if self.copy is None or copy is None:
            return PublishedBackup(manifest, None)
        self.progress.step(f"copying to {self.copy.url}")
        self.progress.total(manifest.artifact.size)
        try:
            copies.transfer(
                self.store,
                self.copy,
                manifest,
                artifact=copy.upload(manifest.artifact.sha256, self.progress.advance),
                read_back=self.options.verify,
            )
            return PublishedBackup(copies.mark_copied(self.store, manifest, self.copy), None)
        except Exception as error:  # noqa: BLE001 - the backup is published, whatever failed
            return PublishedBackup(manifest, copies.as_failure(error))

    def _dump_roles(self, result: DumpResult) -> RolesDump:
        """Dump the roles of the cluster; those that exist before and after it must be in it."""
        meta = result.index.meta
        before = role_names.names(self.connection)
        lost: list[str] = []
        for _ in range(2):  # the dump of an earlier database in the run lacks newer roles
            roles = self.roles.dump(
                self.endpoint, result.client, result.settings, meta.database.encoding,
                needed=[*meta.roles, *lost],
            )  # fmt: skip
            lost = role_names.missing(before & role_names.names(self.connection), roles.sql)
            if not lost:
                return roles
        raise e.DumpFailed(
            f"pg_dumpall reached a different server: role {min(lost)} is missing in its output",
            hint=SEVERAL_SERVERS,
        )

    def _dump(self, writer: ArtifactWriter) -> DumpResult:
        options = DumpOptions(
            jobs=self.options.jobs,
            schema_only=self.options.schema_only,
            budget=self.budget,
            blocked=self.blocked,
            yield_after=self.options.yield_after,
            chosen=self.options.chosen,
            named=self.options.named,
            computed=self.options.computed,
        )
        with self.watch.armed():
            return dump.dump(
                self.endpoint, self.connection, writer, options, self.progress, self.watch
            )

    def _compared(self, manifest: Manifest) -> Manifest:
        """Return the manifest with warnings that result from comparing with earlier backups."""
        warnings = list(manifest.warnings)
        if clusters := several_clusters([*self.earlier, *self.others, manifest]):
            warnings.append(
                f"{clusters} clusters have backups of a database {self.name.database} in"
                f" {self.store.url}: use a separate directory for each cluster"
            )
        good = [earlier for earlier in self.earlier if earlier.verified and earlier.full]
        found = drift.drift(good[-1], manifest, self.options.drift) if good else []
        return msgspec.structs.replace(manifest, warnings=warnings, drift=found)


@contextmanager
def _alone(connection: Connection, store: Store, database: str, watch: Watch) -> Iterator[None]:
    """Hold the locks of a run; both end with their holder.

    The lock file protects the partial files of the store from a second run on this host. The
    advisory lock protects the database from runs on other hosts.
    """
    with locked(store, backup_lock(database), GLANCE) as alone:
        if not alone:
            raise _already_running(database, store.url)
        deadline = time.monotonic() + LOCK_PATIENCE
        with watch.armed():
            while not advisory_locks.try_acquire(connection, ADVISORY_LOCK):
                if time.monotonic() > deadline or advisory_locks.holder_is_idle(
                    connection, ADVISORY_LOCK
                ):
                    raise _already_running(database, "another host or directory")
                time.sleep(0.1)
        yield


def _already_running(database: str, where: str) -> e.AlreadyRunning:
    return e.AlreadyRunning(
        f"a backup of database {database} is already running (lock held from {where})",
        hint="Wait until it ends. A killed run holds no lock.",
    )


def _is_of(database: str, file_name: str) -> bool:
    parsed = naming.parse(file_name)
    return parsed is not None and parsed.database == database


def _earlier(
    store: Store, database: str, options: BackupOptions, copy: Store | None
) -> list[Manifest]:
    """Return existing backups; an identity without read permission gets none."""
    catalog = Catalog(store)
    try:
        found = catalog.named(database)
        known = copy is not None and any(copy.url not in earlier.pending for earlier in found)
        check_not_forgotten(catalog, copy, options.encryption, known=known)
        return found
    except e.AccessDenied as error:
        if options.type is None:
            raise e.StoreError(
                f"cannot determine which tier is due: {error.message}",
                hint="Set it with --type, or allow the identity to list and read the bucket.",
            ) from error
        return []


def _free_name(
    store: Store,
    database: str,
    kind: naming.BackupType,
    options: BackupOptions,
    now: Callable[[], datetime],
) -> naming.BackupName:
    """Return a name that no file has; names have a resolution of one second."""
    recipients = options.encryption.recipients
    while True:
        name = naming.BackupName(
            database=database,
            type=kind,
            taken=now().replace(microsecond=0),
            schema_only=options.schema_only,
            compression=options.compression,
            cipher=None if recipients is None else recipients.cipher,
        )
        if not any(store.exists(file) for file in name.files):
            return name
        time.sleep(0.1)
