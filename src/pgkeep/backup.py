"""Make one backup: lock, dump, check, publish. Nothing has a final name before all is well."""

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple, Protocol

import msgspec

from . import __version__, copies, drift, naming, programs, retention, verify
from . import artifact as a
from . import dump as d
from . import errors as e
from . import manifest as m
from .catalog import Catalog, mixed
from .crew import Crew
from .database import ChildAccess, Endpoint, server_facts, session_settings
from .snapshot import Connection
from .stores import Store, Upload, all_or_none
from .stores.local import LocalUpload

# Of pg_try_advisory_lock: "pgkeep" as a number. Such a lock is the database's own and dies with the
# connection, so it holds between hosts too (traps B11, B12).
ADVISORY_LOCK = int.from_bytes(b"pgkeep")
# Seconds until the server has noticed that a run was killed, and lets go of its lock: more than
# client_connection_check_interval.
LOCK_PATIENCE = 5.0

_GLOBALS_END = b"\n-- PostgreSQL database cluster dump complete\n--"
# What looks the same inside of a quoted name or a comment on a role is passed over.
_CREATE_ROLE = re.compile(
    rb'^(?P<create>CREATE ROLE (?P<role>"(?:[^"]|"")*"|[^";\s]+);'
    rb"(?:\nALTER ROLE (?P=role) WITH (?:[^\n';]|'[^']*')*;)?)$"
    rb"""|--[^\n]*|'[^']*'|"[^"]*\"""",
    re.MULTILINE,
)


class Made(NamedTuple):
    """What was published, and why its copy is owed, if it is."""

    manifest: m.Manifest
    uncopied: e.PgkeepError | None


class Progress(d.Progress, Protocol):
    """What a backup tells while it works."""

    def verifying(self, size: int) -> None:
        """Say that reading back begins, of so many bytes."""

    def verified(self, size: int) -> None:
        """Say that so many of them are read."""


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
    chosen: bool = False  # the database by its name, and not because it is the default
    lock_timeout: float = 300.0  # seconds


def backup(
    endpoint: Endpoint,
    store: Store,
    options: BackupOptions,
    progress: Progress,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    roles: "Roles | None" = None,
    follows: retention.Policy | None = None,
    copy: Store | None = None,
) -> Made:
    """Back up the database that the endpoint leads to; return what was published.

    Several backups of one run may share the dump of the cluster's roles. The policy that retention
    follows afterwards, if it does, is noted in the manifest. A copy that fails is owed; it never
    fails the backup.

    Raises:
        AlreadyRunning, ConnectionFailed, DumpFailed, VerificationFailed, StoreError: and then
            nothing was published.

    """
    with endpoint.connect() as connection:
        database = connection.info.dbname
        with _alone(connection, store, database):
            identifier = server_facts(connection).system_identifier
            store.sweep(lambda name: _is_of(database, name), identifier)
            everything = _earlier(store, database, options)
            earlier = [one for one in everything if one.server.system_identifier == identifier]
            kind = options.type or retention.choose_type(
                earlier, now(), options.zone, options.policy
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
            )
            return run.make()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backup:
    """One backup that holds its locks and has its name."""

    endpoint: Endpoint
    connection: Connection
    store: Store
    name: naming.BackupName
    options: BackupOptions
    progress: Progress
    roles: "Roles"
    identifier: str  # of the cluster
    earlier: list[m.Manifest]
    others: list[m.Manifest]  # of other clusters, which have a database of this name
    follows: retention.Policy | None
    copy: Store | None

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
            writer = a.ArtifactWriter(artifact)
            result = self._dump(writer)
            self.progress.step("writing to disk")
            artifact.seal()
            meta = result.index.meta
            roles = self.roles.dump(
                self.endpoint, result.client, meta.server.version_num, meta.database.encoding
            )
            facts = put(uploads[name.globals], name.globals, a.compress(roles.sql))
            digest = writer.sha256
            put(uploads[name.checksum], name.checksum, f"{digest}  {name.artifact}\n".encode())
            verified = None
            if self.options.verify:
                side = verify.SideFiles(sha256=digest, index_sha256=writer.index_sha256)
                read_back(artifact, side, self.options.jobs, self.progress)
                verified = datetime.now(UTC)
            manifest = m.Manifest(
                pgkeep=__version__,
                database=result.index.meta.database,
                server=result.index.meta.server,
                client_version=result.index.meta.client_version,
                type=name.type,
                schema_only=name.schema_only,
                taken=name.taken,
                snapshot=result.snapshot,
                finished=datetime.now(UTC),
                artifact=m.FileFacts(name.artifact, writer.size, digest),
                raw_bytes=result.index.raw_bytes,
                index_sha256=writer.index_sha256,
                globals=facts,
                role_passwords=roles.passwords,
                tables=result.index.table_rows(),
                extensions=result.index.meta.extensions,
                roles=result.index.meta.roles,
                warnings=result.warnings + roles.warnings,
                verified=verified,
                pending=[self.copy.url] if self.copy is not None else [],
                policy=None if self.follows is None else str(self.follows),
            )
            manifest = self._compared(manifest)
            put(uploads[name.manifest], name.manifest, m.encode(manifest))
            # Everything is on the disk by now, so that only four renames are left; the manifest's
            # is the last, and makes the others a backup.
            with all_or_none(self.store, name.files):
                for file in name.files:
                    uploads[file].publish()
            return self._copy(manifest, follower)

    def _follow(self, artifact: Upload) -> copies.Follower | None:
        copy = self.copy
        if copy is None or not isinstance(artifact, LocalUpload):
            return None
        database = self.name.database

        def sweep() -> None:
            copy.sweep(lambda name: _is_of(database, name), self.identifier)

        return copies.Follower(artifact, copy, self.name.artifact, self.identifier, sweep)

    def _copy(self, manifest: m.Manifest, follower: copies.Follower | None) -> Made:
        """Finish the copy of a backup that is published; what fails now is only owed."""
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
            return Made(copies.settle(self.store, manifest, self.copy), None)
        except e.PgkeepError as error:
            return Made(manifest, error)

    def _dump(self, writer: a.ArtifactWriter) -> d.DumpResult:
        options = d.DumpOptions(
            jobs=self.options.jobs,
            schema_only=self.options.schema_only,
            lock_timeout=self.options.lock_timeout,
            chosen=self.options.chosen,
        )
        return d.dump(self.endpoint, self.connection, writer, options, self.progress)

    def _compared(self, manifest: m.Manifest) -> m.Manifest:
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


def put(upload: Upload, name: str, data: bytes) -> m.FileFacts:
    """Write a small file, which is not published yet; return what the manifest says of it."""
    upload.write(data)
    upload.seal()
    return m.FileFacts(name, len(data), hashlib.sha256(data).hexdigest())


def read_back(upload: Upload, side: verify.SideFiles, jobs: int, progress: Progress) -> None:
    """Read an artifact to its end before it is published.

    Raises:
        VerificationFailed: it does not read back as it was written.

    """
    progress.step("verifying")
    source = upload.source()
    try:
        progress.verifying(source.size)
        verify.verify_source(source, jobs=jobs, progress=progress.verified, side=side)
    finally:
        source.close()


class RolesDump(msgspec.Struct, frozen=True):
    """The cluster's roles and tablespaces as SQL."""

    sql: bytes
    passwords: bool
    warnings: list[str]


class Roles:
    """The dump of the cluster's roles, made once in a run."""

    def __init__(self) -> None:
        self._dump: RolesDump | None = None

    def dump(
        self, endpoint: Endpoint, client: programs.Installation, version: int, encoding: str
    ) -> RolesDump:
        """Return it, made when it is first asked for."""
        if self._dump is None:
            self._dump = _dump_roles(endpoint, client, version, encoding)
        return self._dump


def _dump_roles(
    endpoint: Endpoint, client: programs.Installation, version: int, encoding: str
) -> RolesDump:
    """Dump roles and tablespaces, through the database itself or through `postgres`.

    Named, for `postgres` may be out of reach (trap A3.3). But the names of roles are shared by
    databases of all encodings: one that is UTF-8 may be no text at all in this database, or other
    characters (trap A3.14).
    """
    databases = [endpoint.params["dbname"]]
    if encoding != "UTF8":
        databases.insert(0, "postgres")
    for database in databases:
        try:
            return _dump_roles_through(database, endpoint, client, version)
        except e.ProgramFailed as error:
            failed = error
    raise e.DumpFailed(f"could not dump the roles: {failed.message}") from failed


def _dump_roles_through(
    database: str, endpoint: Endpoint, client: programs.Installation, version: int
) -> RolesDump:
    """Dump roles and tablespaces; without password hashes where these may not be read.

    pg_authid can be read by superusers only, and on managed services by nobody (trap A3.2).
    """
    with endpoint.child(**session_settings(version)) as access:
        for passwords in (True, False):
            command = [
                client.program("pg_dumpall"), "--globals-only", "--no-password",
                "--database", "dbname=" + _conninfo_value(database), *access.arguments,
            ]  # fmt: skip
            if not passwords:
                command.append("--no-role-passwords")
            try:
                data = _output(command, access)
            except e.ProgramFailed as error:
                if passwords and "pg_authid" in str(error):
                    continue
                raise
            if _GLOBALS_END not in data:
                raise e.DumpFailed("could not dump the roles: pg_dumpall's output is cut")
            warnings = [] if passwords else ["the globals hold no passwords: no right to read them"]
            return RolesDump(repeatable_roles(data), passwords, warnings)
    raise AssertionError("unreachable")


def _output(command: Sequence[str], access: ChildAccess) -> bytes:
    """Run a program and return what it writes.

    In a thread, for a signal comes to the main one, and might come just when the program has
    started and nobody knows of it yet.
    """
    output: list[bytes] = []

    def run() -> None:
        with programs.Child(command, access.environment, access.descriptors) as child:
            crew.on_stop(child.kill)
            data = b"".join(iter(child.read, b""))
            child.finish()
            output.append(data)

    with Crew() as crew:
        crew.start(run, command[0])
        crew.wait()
    return output[0]


def _conninfo_value(value: str) -> str:
    return "'" + re.sub(r"([\\'])", r"\\\1", value) + "'"


def repeatable_roles(script: bytes) -> bytes:
    """Return pg_dumpall's SQL for roles, of which some may be there already."""
    return _CREATE_ROLE.sub(_create_role_if_missing, script)


def _create_role_if_missing(match: re.Match[bytes]) -> bytes:
    """Make a role's creation repeatable: an existing one is no error (trap A3.4).

    It keeps its attributes and its password too, which may have been changed since.
    """
    if match["create"] is None:
        return match.group()
    tag = b"$pgkeep$"
    while tag in match.group():
        tag = tag[:-1] + b"_$"
    return b"DO %b BEGIN %b EXCEPTION WHEN duplicate_object THEN NULL; END %b;" % (
        tag, match.group(), tag,
    )  # fmt: skip


@contextlib.contextmanager
def _alone(connection: Connection, store: Store, database: str) -> Iterator[None]:
    """Hold the locks of a run; both die with their holder.

    The file guards the store's partial files from a second run here, the advisory lock the database
    from runs elsewhere.
    """
    with store.lock(f".{naming.encode_database(database)}.lock") as alone:
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


def _earlier(store: Store, database: str, options: BackupOptions) -> list[m.Manifest]:
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
