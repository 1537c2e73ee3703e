"""Make one backup: lock, dump, check, publish. Nothing has a final name before all is well."""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from . import __version__, naming, programs, verify
from . import artifact as a
from . import dump as d
from . import errors as e
from . import manifest as m
from .database import SESSION, Endpoint
from .snapshot import Connection
from .stores import Upload
from .stores.local import LocalStore

# Of pg_try_advisory_lock: "pgkeep" as a number. Such a lock is the database's own and dies with the
# connection, so it holds between hosts too (traps B11, B12).
ADVISORY_LOCK = int.from_bytes(b"pgkeep")

_CREATE_ROLE = re.compile(rb'^CREATE ROLE (?:"(?:[^"]|"")*"|[^";\s]+);$', re.MULTILINE)


class Progress(d.Progress, Protocol):
    """What a backup tells while it works."""

    def verifying(self, size: int) -> None:
        """Say that reading back begins, of so many bytes."""

    def verified(self, size: int) -> None:
        """Say that so many of them are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOptions:
    """What backup to make."""

    type: naming.BackupType
    jobs: int
    schema_only: bool = False
    verify: bool = False
    lock_timeout: float = 300.0  # seconds


def backup(
    endpoint: Endpoint,
    store: LocalStore,
    options: BackupOptions,
    progress: Progress,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> m.Manifest:
    """Back up the database that the endpoint leads to; return the manifest that was published.

    Raises:
        AlreadyRunning, ConnectionFailed, DumpFailed, VerificationFailed, StoreError: and then
            nothing was published.

    """
    with endpoint.connect() as connection:
        database = connection.info.dbname
        with _alone(connection, store, database):
            store.sweep(lambda name: _is_of(database, name))
            name = _free_name(store, database, options, now)
            return _make(endpoint, connection, store, name, options, progress)


def _make(
    endpoint: Endpoint,
    connection: Connection,
    store: LocalStore,
    name: naming.BackupName,
    options: BackupOptions,
    progress: Progress,
) -> m.Manifest:
    with contextlib.ExitStack() as stack:
        uploads = {file: stack.enter_context(store.create(file)) for file in name.files}
        artifact = uploads[name.artifact]
        writer = a.ArtifactWriter(artifact)
        how = d.DumpOptions(
            jobs=options.jobs, schema_only=options.schema_only, lock_timeout=options.lock_timeout
        )
        result = d.dump(endpoint, connection, writer, how, progress)
        progress.step("writing to disk")
        artifact.seal()
        warnings = list(result.warnings)
        roles = _dump_globals(endpoint.pinned(connection), result.client, warnings)
        facts = _write(uploads[name.globals], name.globals, a.compress(roles.sql))
        digest = writer.sha256
        _write(uploads[name.checksum], name.checksum, f"{digest}  {name.artifact}\n".encode())
        verified = None
        if options.verify:
            _read_back(artifact, digest, options.jobs, progress)
            verified = datetime.now(UTC)
        manifest = m.Manifest(
            pgkeep=__version__,
            database=result.index.meta.database,
            server=result.index.meta.server,
            client_version=result.index.meta.client_version,
            type=options.type,
            schema_only=options.schema_only,
            taken=name.taken,
            snapshot=result.snapshot,
            finished=datetime.now(UTC),
            artifact=m.FileFacts(name.artifact, writer.size, digest),
            raw_bytes=result.index.raw_bytes,
            globals=facts,
            role_passwords=roles.passwords,
            tables=result.index.table_rows(),
            extensions=result.index.meta.extensions,
            roles=result.index.meta.roles,
            warnings=warnings,
            verified=verified,
        )
        _write(uploads[name.manifest], name.manifest, m.encode(manifest))
        # Everything is on the disk by now, so that only four renames are left; the manifest's is
        # the last, and makes the others a backup.
        for file in name.files:
            uploads[file].publish()
        return manifest


def _write(upload: Upload, name: str, data: bytes) -> m.FileFacts:
    upload.write(data)
    upload.seal()
    return m.FileFacts(name, len(data), hashlib.sha256(data).hexdigest())


def _read_back(upload: Upload, digest: str, jobs: int, progress: Progress) -> None:
    progress.step("verifying")
    source = upload.source()
    try:
        progress.verifying(source.size)
        side = verify.SideFiles(sha256=digest)
        verify.verify_source(source, jobs=jobs, progress=progress.verified, side=side)
    finally:
        source.close()


class _Globals(msgspec.Struct, frozen=True):
    sql: bytes
    passwords: bool


def _dump_globals(
    endpoint: Endpoint, client: programs.Installation, warnings: list[str]
) -> _Globals:
    """Dump roles and tablespaces; without password hashes where these may not be read.

    pg_authid can be read by superusers only, and on managed services by nobody (trap A3.2).
    """
    database = endpoint.params["dbname"]
    with endpoint.child(**SESSION) as access:
        for passwords in (True, False):
            # -l, for the database `postgres` may be out of reach (trap A3.3).
            command = [
                client.program("pg_dumpall"), "--globals-only", "--no-password",
                "--database", "dbname=" + _conninfo_value(database), *access.arguments,
            ]  # fmt: skip
            if not passwords:
                command.append("--no-role-passwords")
            try:
                with programs.Child(command, access.environment, access.descriptors) as child:
                    data = b"".join(iter(child.read, b""))
                    child.finish()
            except e.ProgramFailed as error:
                if passwords and "pg_authid" in str(error):
                    continue
                raise e.DumpFailed(f"could not dump the roles: {error.message}") from error
            if not passwords:
                warnings.append("the role may not read password hashes: globals hold none")
            return _Globals(_CREATE_ROLE.sub(_create_role_if_missing, data), passwords)
    raise AssertionError("unreachable")


def _conninfo_value(value: str) -> str:
    return "'" + re.sub(r"([\\'])", r"\\\1", value) + "'"


def _create_role_if_missing(match: re.Match[bytes]) -> bytes:
    """Make a role's creation repeatable: an existing one is no error (trap A3.4)."""
    tag = b"$pgkeep$"
    while tag in match.group():
        tag = tag[:-1] + b"_$"
    return b"DO %b BEGIN %b EXCEPTION WHEN duplicate_object THEN NULL; END %b;" % (
        tag, match.group(), tag,
    )  # fmt: skip


@contextlib.contextmanager
def _alone(connection: Connection, store: LocalStore, database: str) -> Iterator[None]:
    """Hold the locks of a run; both die with their holder.

    The file guards the store's partial files from a second run here, the advisory lock the database
    from runs elsewhere.
    """
    store.prepare()
    path = store.directory / f".{naming.encode_database(database)}.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise e.StoreError(f"could not open {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _already_running(database, str(store.directory)) from None
        row = connection.execute(
            "SELECT pg_catalog.pg_try_advisory_lock(%s)", [ADVISORY_LOCK]
        ).fetchone()
        if row is None or not row[0]:
            raise _already_running(database, "another host or directory")
        yield
    finally:
        os.close(fd)


def _already_running(database: str, where: str) -> e.AlreadyRunning:
    return e.AlreadyRunning(
        f"a backup of database {database} is already running (lock held from {where})",
        hint="Wait for it to end; a run that was killed holds no lock.",
    )


def _is_of(database: str, file_name: str) -> bool:
    parsed = naming.parse(file_name)
    return parsed is not None and parsed.database == database


def _free_name(
    store: LocalStore, database: str, options: BackupOptions, now: Callable[[], datetime]
) -> naming.BackupName:
    """Return a name that no file has; names are unique to the second."""
    while True:
        name = naming.BackupName(
            database=database,
            type=options.type,
            taken=now().replace(microsecond=0),
            schema_only=options.schema_only,
        )
        if not any((store.directory / file).exists() for file in name.files):
            return name
        time.sleep(0.1)
