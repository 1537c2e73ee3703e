"""Make one backup: lock, dump, check, publish. Nothing has a final name before all is well."""

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

import msgspec

from .. import __version__, interrupts
from .. import errors as e
from ..artifact import verify
from ..artifact.file import ArtifactWriter, compress
from ..catalog import copies
from ..catalog.catalog import Catalog, mixed
from ..model import drift, naming, retention
from ..model.manifest import FileFacts, Manifest, encode
from ..postgres import moved_names
from ..postgres.connection import Connection, Endpoint
from ..postgres.facts import server_facts
from ..postgres.messages import translated
from ..postgres.roles import Roles
from ..progress import Progress
from ..stores.local import LocalUpload
from ..stores.store import Store, Upload, all_or_none, locked
from . import dump, space
from .dump import MIN_ATTEMPTS, DumpOptions, DumpResult

# Of pg_try_advisory_lock: "pgkeep" as a number. Such a lock is the database's own and dies with the
# connection, so it holds between hosts too (traps B11, B12).
ADVISORY_LOCK = int.from_bytes(b"pgkeep")
# Seconds until the server has noticed that a run was killed, and lets go of its lock: more than
# client_connection_check_interval.
LOCK_PATIENCE = 5.0
GLANCE = 0.5  # seconds for which others hold a run's lock only to see whether there is a run


class Made(NamedTuple):
    """What was published, and why its copy is pending, if it is."""

    manifest: Manifest
    uncopied: e.PgkeepError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOptions:
    """What backup to make; without a type it is the tier that is due in the time zone."""

    type: naming.BackupType | None
    jobs: int
    zone: tzinfo = UTC
    policy: retention.Policy | None = None  # has the tiers that may be due; none: the default one
    drift: float = 0.5  # the share by which something may shrink without a warning
    schema_only: bool = False
    verify: bool = False
    chosen: bool = False  # the database by its name, for backups
    named: bool = False  # the database by its name, to connect to
    lock_timeout: float = 300.0  # seconds
    computed: bool = True  # hash what a restore computes, for drills to compare


def backup(
    endpoint: Endpoint,
    store: Store,
    options: BackupOptions,
    progress: Progress,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    roles: Roles | None = None,
    follows: retention.Policy | None = None,
    copy: Store | None = None,
) -> Made:
    """Back up the database that the endpoint leads to; return what was published.

    Several backups of one run may share the dump of the cluster's roles. The policy that retention
    follows afterwards, if it does, is noted in the manifest. A copy that fails is pending; it never
    fails the backup.

    Raises:
        AlreadyRunning, ConnectionFailed, DumpFailed, VerificationFailed, StoreError: and then
            nothing was published.

    """
    with translated(), endpoint.connect() as connection:
        database = connection.info.dbname
        with _alone(connection, store, database):
            identifier = server_facts(connection).system_identifier
            store.sweep(lambda name: _is_of(database, name), identifier)
            everything = _earlier(store, database, options)
            earlier = [one for one in everything if one.server.system_identifier == identifier]
            kind = options.type or retention.choose_type(
                earlier, now(), options.zone, options.policy, schema_only=options.schema_only
            )
            name = _free_name(store, database, kind, options, now)
            run = _Backup(
                endpoint=endpoint.pinned(connection),
                connection=connection,
                store=store,
                name=name,
                options=options,
                progress=progress,
                roles=roles or Roles(),
                identifier=identifier,
                earlier=earlier,
                others=[one for one in everything if one not in earlier],
                follows=follows,
                copy=copy,
                warnings=space.warnings(store, earlier[-1:]),
            )
            return _made(run)


def _made(run: "_Backup") -> Made:
    """Make a backup, anew as long as names move while it is made; within the time for locks."""
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
    store: Store
    name: naming.BackupName
    options: BackupOptions
    progress: Progress
    roles: Roles
    identifier: str  # of the cluster
    earlier: list[Manifest]
    others: list[Manifest]  # of other clusters, which have a database of this name
    follows: retention.Policy | None
    copy: Store | None
    warnings: list[str]

    def make(self) -> Made:
        """Write all files, then give them their names."""
        name = self.name
        with contextlib.ExitStack() as stack:
            uploads = {
                file: stack.enter_context(self.store.create(file, owner=self.identifier))
                for file in name.files
            }
            artifact = uploads[name.artifact]
            follower = self._follow(artifact)
            if follower is not None:
                artifact = stack.enter_context(follower)
            writer = ArtifactWriter(artifact)
            result = self._dump(writer)
            self.progress.step("writing to disk")
            artifact.seal()
            meta = result.index.meta
            roles = self.roles.dump(
                self.endpoint, result.client, result.settings, meta.database.encoding,
                needed=meta.roles,
            )  # fmt: skip
            facts = put(uploads[name.globals], name.globals, compress(roles.sql))
            digest = writer.sha256
            put(uploads[name.checksum], name.checksum, f"{digest}  {name.artifact}\n".encode())
            verified = None
            if self.options.verify:
                side = verify.SideFiles(sha256=digest, index_sha256=writer.index_sha256)
                read_back(artifact, side, self.options.jobs, self.progress)
                verified = datetime.now(UTC)
            manifest = Manifest(
                pgkeep=__version__,
                database=result.index.meta.database,
                server=result.index.meta.server,
                client_version=result.index.meta.client_version,
                type=name.type,
                schema_only=name.schema_only,
                taken=name.taken,
                snapshot=result.snapshot,
                finished=datetime.now(UTC),
                artifact=FileFacts(name.artifact, writer.size, digest),
                raw_bytes=result.index.raw_bytes,
                index_sha256=writer.index_sha256,
                globals=facts,
                role_passwords=roles.passwords,
                tables=result.index.table_rows(),
                extensions=result.index.meta.extensions,
                roles=result.index.meta.roles,
                warnings=self.warnings + result.warnings + roles.warnings,
                verified=verified,
                pending=[self.copy.url] if self.copy is not None else [],
                policy=None if self.follows is None else str(self.follows),
            )
            manifest = self._compared(manifest)
            put(uploads[name.manifest], name.manifest, encode(manifest))
            # Everything is on the disk by now, so that only four renames are left; the manifest's
            # is the last, and makes the others a backup.
            publish(self.store, uploads, name)
            return self._copy(manifest, follower)

    def _follow(self, artifact: Upload) -> copies.Follower | None:
        copy = self.copy
        if copy is None or not isinstance(artifact, LocalUpload):
            return None
        database = self.name.database

        def sweep() -> None:
            with self.store.lock(copies.copies_lock(database)) as idle:
                if idle:  # else there is an upload that somebody is at
                    copy.sweep(lambda name: _is_of(database, name), self.identifier)

        return copies.Follower(artifact, copy, self.name.artifact, self.identifier, sweep)

    def _copy(self, manifest: Manifest, follower: copies.Follower | None) -> Made:
        """Finish the copy of a backup that is published; what fails now is only pending."""
        if self.copy is None or follower is None:
            return Made(manifest, None)
        self.progress.step(f"copying to {self.copy.url}")
        self.progress.total(manifest.artifact.size)
        try:
            copies.transfer(
                self.store,
                self.copy,
                manifest,
                artifact=follower.copy(manifest.artifact.sha256, self.progress.advance),
                read_back=self.options.verify,
            )
            return Made(copies.mark_copied(self.store, manifest, self.copy), None)
        except Exception as error:  # noqa: BLE001 - of whatever kind, the backup is there
            return Made(manifest, copies.as_failure(error))

    def _dump(self, writer: ArtifactWriter) -> DumpResult:
        options = DumpOptions(
            jobs=self.options.jobs,
            schema_only=self.options.schema_only,
            lock_timeout=self.options.lock_timeout,
            chosen=self.options.chosen,
            named=self.options.named,
            computed=self.options.computed,
        )
        return dump.dump(self.endpoint, self.connection, writer, options, self.progress)

    def _compared(self, manifest: Manifest) -> Manifest:
        """Return the manifest with what only the earlier backups show."""
        warnings = list(manifest.warnings)
        if clusters := mixed([*self.earlier, *self.others, manifest]):
            warnings.append(
                f"{clusters} clusters have backups of a database {self.name.database} in"
                f" {self.store.url}: let each have a directory of its own"
            )
        good = [one for one in self.earlier if one.verified and one.full]
        found = drift.drift(good[-1], manifest, self.options.drift) if good else []
        return msgspec.structs.replace(manifest, warnings=warnings, drift=found)


def put(upload: Upload, name: str, data: bytes) -> FileFacts:
    """Write a small file, which is not published yet; return what the manifest says of it."""
    upload.write(data)
    upload.seal()
    return FileFacts(name, len(data), hashlib.sha256(data).hexdigest())


def publish(store: Store, uploads: Mapping[str, Upload], name: naming.BackupName) -> None:
    """Give all files their names, the manifest last, or none.

    A signal waits for renamings; it does not wait for a bucket, which may not answer.
    """
    with contextlib.nullcontext() if store.remote else interrupts.held():
        with all_or_none(store, list(uploads)):
            for file in uploads:
                uploads[file].publish()
        interrupts.completed(f"backup {name.stem} is published")


def read_back(upload: Upload, side: verify.SideFiles, jobs: int, progress: Progress) -> None:
    """Read an artifact to its end before it is published.

    Raises:
        VerificationFailed: it does not read back as it was written.

    """
    progress.step("verifying")
    source = upload.source()
    try:
        progress.total(source.size)
        verify.verify_source(source, jobs=jobs, progress=progress.advance, side=side)
    finally:
        source.close()


@contextlib.contextmanager
def _alone(connection: Connection, store: Store, database: str) -> Iterator[None]:
    """Hold the locks of a run; both die with their holder.

    The file guards the store's partial files from a second run here, the advisory lock the database
    from runs elsewhere.
    """
    with locked(store, copies.backup_lock(database), GLANCE) as alone:
        if not alone:
            raise _already_running(database, store.url)
        deadline = time.monotonic() + LOCK_PATIENCE
        while not _try_advisory_lock(connection):
            if time.monotonic() > deadline or _holder_waits_for_its_client(connection):
                raise _already_running(database, "another host or directory")
            time.sleep(0.1)
        yield


def _try_advisory_lock(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT pg_catalog.pg_try_advisory_lock(%s)", [ADVISORY_LOCK]
    ).fetchone()
    return row is not None and row[0]


def _holder_waits_for_its_client(connection: Connection) -> bool:
    """Whether the lock's holder is idle: the death of its client it would have noticed at once."""
    row = connection.execute(
        """
        SELECT a.state LIKE 'idle%%' FROM pg_catalog.pg_locks l
        JOIN pg_catalog.pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND a.datname = pg_catalog.current_database()
          AND l.database = a.datid AND l.objsubid = 1
          AND (l.classid::pg_catalog.int8 << 32 | l.objid::pg_catalog.int8) = %s
        """,
        [ADVISORY_LOCK],
    ).fetchone()
    return row is not None and bool(row[0])


def _already_running(database: str, where: str) -> e.AlreadyRunning:
    return e.AlreadyRunning(
        f"a backup of database {database} is already running (lock held from {where})",
        hint="Wait for it to end; a run that was killed holds no lock.",
    )


def _is_of(database: str, file_name: str) -> bool:
    parsed = naming.parse(file_name)
    return parsed is not None and parsed.database == database


def _earlier(store: Store, database: str, options: BackupOptions) -> list[Manifest]:
    """Return the backups that there are; an identity that may only write sees none."""
    try:
        return Catalog(store).named(database)
    except e.AccessDenied as error:
        if options.type is None:
            raise e.StoreError(
                f"cannot tell which tier is due: {error.message}",
                hint="Name it with --type, or let the identity list and read the bucket.",
            ) from error
        return []


def _free_name(
    store: Store,
    database: str,
    kind: naming.BackupType,
    options: BackupOptions,
    now: Callable[[], datetime],
) -> naming.BackupName:
    """Return a name that no file has; names are unique to the second."""
    while True:
        name = naming.BackupName(
            database=database,
            type=kind,
            taken=now().replace(microsecond=0),
            schema_only=options.schema_only,
        )
        if not any(store.exists(file) for file in name.files):
            return name
        time.sleep(0.1)
