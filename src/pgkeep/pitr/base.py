"""Take a base backup: pg_basebackup into a staging directory, verify, pack, publish."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from .. import __version__, processes
from .. import errors as e
from ..artifact.compression import gzip
from ..catalog.encryption import encryption_facts
from ..crypt.options import Encryption
from ..model.manifest import Count, FileFacts
from ..model.unreadable import UNREADABLE
from ..model.wal import Lsn, decode_history
from ..postgres.connection import Connection, Endpoint, first_row
from ..postgres.messages import translated
from ..progress import Progress
from ..stores.hashed_upload import HashedUpload
from ..stores.store import Store, all_or_none, write_file
from . import configuration, copying, parts
from .base_manifest import SUFFIX, BaseManifest, Kind, Tablespace, base_name, encode
from .control import read_control

BACKUP_MANIFEST = "backup_manifest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The base backup on which an incremental one is based."""

    manifest: BaseManifest
    backup_manifest: bytes  # PostgreSQL's own


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseOptions:
    """How to take a base backup."""

    programs: Path  # the folder with the programs of the server's own major version
    staging: Path  # room for all files of the cluster; created with mode 0700
    jobs: int
    encryption: Encryption
    parent: Parent | None = None
    rate: float | None = None  # bytes per second


class ServerState:
    """What the source says before and after a base backup."""

    def __init__(self, connection: Connection) -> None:
        row = first_row(
            connection,
            "SELECT system_identifier::pg_catalog.text,"
            " pg_catalog.current_setting('server_version'),"
            " pg_catalog.current_setting('server_version_num')::pg_catalog.int4,"
            " pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')),"
            " (SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10),"
            " pg_catalog.current_setting('log_timezone'), pg_catalog.current_database()"
            " FROM pg_catalog.pg_control_system()",
        )
        self.system_identifier: str = row[0]
        self.version: str = str(row[1]).split(" ")[0]
        self.version_num: int = row[2]
        self.segment_size: int = row[3]
        self.superuser: str = row[4]
        self.timezone: str = row[5]
        self.database: str = row[6]
        self.tablespaces = [
            Tablespace(oid, location)
            for oid, location in connection.execute(
                "SELECT oid::pg_catalog.int8, pg_catalog.pg_tablespace_location(oid)"
                " FROM pg_catalog.pg_tablespace"
                " WHERE pg_catalog.pg_tablespace_location(oid) <> '' ORDER BY 1"
            )
            if Path(location).is_absolute()
        ]


def clock(connection: Connection) -> datetime:
    """Return the time of the server."""
    (now,) = first_row(connection, "SELECT pg_catalog.clock_timestamp()")
    found: datetime = now
    return found


def take(
    endpoint: Endpoint, connection: Connection, store: Store, options: BaseOptions,
    progress: Progress,
) -> BaseManifest:  # fmt: skip
    """Take a base backup and publish it in a store.

    Raises:
        DumpFailed: pg_basebackup failed.
        VerificationFailed: what it wrote is not complete.
        StoreError: it could not be stored; nothing was published.

    """
    state = ServerState(connection)
    started = _free_time(store, connection, options)
    with _staging(options.staging, base_name(started, _kind(options))) as folder:
        copying.check_space(connection, folder, _expected(options))
        data = folder / "data"
        progress.step("copying the cluster")
        copying.copy(endpoint, connection, _command(data, folder, state, options), progress)
        with translated():
            stopped = clock(connection)
            configuration_files, warnings = configuration.read(connection)
        facts = _facts(data, state, options, (started, stopped))
        facts = msgspec.structs.replace(facts, warnings=warnings)
        made = _published(store, data, options, progress, facts, configuration_files)
        # A host without the private key cannot read it in the store for the next incremental one.
        _keep_manifest(data / BACKUP_MANIFEST, options.staging / kept_name(made.name))
        return made


def _free_time(store: Store, connection: Connection, options: BaseOptions) -> datetime:
    """Return the time of the server, which no other base backup has in its name."""
    while True:
        started = clock(connection).replace(microsecond=0)
        if not store.exists(base_name(started, _kind(options)) + SUFFIX):
            return started
        time.sleep(0.1)


def _expected(options: BaseOptions) -> int | None:
    """Return the bytes that an incremental base backup may need; None for a full one."""
    if options.parent is None:
        return None
    former = options.parent.manifest
    return former.size if former.kind is Kind.INCREMENTAL else 0


def _keep_manifest(source: Path, target: Path) -> None:
    """Copy PostgreSQL's manifest for the next run, readable for this user only."""
    partial = target.with_suffix(".partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(source.read_bytes())
    partial.rename(target)


def kept_name(name: str) -> str:
    """Return the name under which a host keeps PostgreSQL's manifest of a base backup."""
    return f"{name}.{BACKUP_MANIFEST}"


def _kind(options: BaseOptions) -> Kind:
    return Kind.FULL if options.parent is None else Kind.INCREMENTAL


@contextmanager
def _staging(parent: Path, name: str) -> Iterator[Path]:
    """Yield an empty directory that only this user can enter; it is removed at the end."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(data: Path, folder: Path, state: ServerState, options: BaseOptions) -> list[str]:
    command = [
        str(options.programs / "pg_basebackup"), "--pgdata", str(data), "--format=plain",
        "--checkpoint=fast", "--wal-method=stream", "--manifest-checksums=SHA256", "--no-sync",
        "--no-password", *copying.max_rate(options.rate),
    ]  # fmt: skip
    for tablespace in state.tablespaces:
        mapped = folder / f"tablespace-{tablespace.oid}"
        sides = [str(side).replace("=", r"\=") for side in (tablespace.location, mapped)]
        command.append(f"--tablespace-mapping={'='.join(sides)}")
    if options.parent is not None:
        manifest = folder / "parent_manifest"
        manifest.write_bytes(options.parent.backup_manifest)
        command.append(f"--incremental={manifest}")
    return command


def verify(programs: Path, data: Path) -> None:
    """Check a base backup in a directory with pg_verifybackup.

    Raises:
        VerificationFailed: a file is damaged or missing.

    """
    processes.run(
        [str(programs / "pg_verifybackup"), "--quiet", str(data)], {}, e.VerificationFailed
    )


def _facts(
    data: Path, state: ServerState, options: BaseOptions, times: tuple[datetime, datetime]
) -> BaseManifest:
    control = read_control(options.programs, data)
    found = parts.entries(data)
    ranges = wal_ranges((data / BACKUP_MANIFEST).read_bytes())
    return BaseManifest(
        pgkeep=__version__,
        system_identifier=state.system_identifier,
        version=state.version,
        version_num=state.version_num,
        kind=_kind(options),
        parent=None if options.parent is None else options.parent.manifest.name,
        timeline=ranges[-1].timeline,
        start=ranges[0].start,
        stop=ranges[-1].end,
        started=times[0],
        stopped=times[1],
        segment_size=state.segment_size,
        checksums=control.checksums,
        size=sum(entry.size for entry in found),
        file_count=len(found),
        parts=[],
        backup_manifest=FileFacts("", 0, ""),
        tablespaces=state.tablespaces,
        settings=control.settings,
        encryption=encryption_facts(options.encryption),
        history=_history(data / "pg_wal", ranges[-1].timeline),
        superuser=state.superuser,
        database=state.database,
        timezone=state.timezone,
    )


def _history(folder: Path, timeline: int) -> list[tuple[int, str]]:
    """Return the earlier timelines, from the history that pg_basebackup has received."""
    path = folder / f"{timeline:08X}.history"
    if not path.is_file():
        return []
    switches = decode_history(path.read_text("ascii", "replace"), path.name)
    return [(switch.parent, str(switch.position)) for switch in switches]


class WalRange(msgspec.Struct, frozen=True):
    """A part of the WAL that a base backup needs, as PostgreSQL's manifest has it."""

    timeline: Count = msgspec.field(name="Timeline")
    start: str = msgspec.field(name="Start-LSN")
    end: str = msgspec.field(name="End-LSN")


class _Ranges(msgspec.Struct, frozen=True):
    ranges: list[WalRange] = msgspec.field(name="WAL-Ranges")


def wal_ranges(backup_manifest: bytes) -> list[WalRange]:
    """Return the WAL that a base backup needs, from PostgreSQL's manifest, in ascending order.

    Raises:
        VerificationFailed: the manifest is damaged.

    """
    try:
        found = msgspec.json.decode(backup_manifest, type=_Ranges).ranges
        ordered = sorted(found, key=lambda part: Lsn.parse(part.start))
        for part in ordered:
            Lsn.parse(part.end)
        if not ordered:
            raise ValueError("no WAL range")
    except UNREADABLE as error:
        raise e.VerificationFailed(f"unreadable {BACKUP_MANIFEST}: {error}") from error
    return ordered


def _published(
    store: Store, data: Path, options: BaseOptions, progress: Progress, facts: BaseManifest,
    configuration_files: Mapping[str, bytes],
) -> BaseManifest:  # fmt: skip
    """Verify and pack at the same time; the manifest is written only if both succeeded."""
    found = parts.entries(data)
    progress.step("verifying and packing")
    progress.total(facts.size)
    suffix = f".{facts.encryption.cipher}" if facts.encryption else ""
    published: list[str] = []

    def packed(pair: tuple[int, list[parts.Entry]]) -> FileFacts:
        number, part = pair
        name = f"{facts.name}.part{number:05d}.tar.gz{suffix}"
        with ExitStack() as stack:
            upload = stack.enter_context(store.create(name, owner=facts.system_identifier))
            stored = HashedUpload(upload)
            plain = stack.enter_context(options.encryption.upload(stored))
            parts.pack(data, part, plain.write, progress.advance)
            plain.seal()
            published.append(name)
            upload.publish()
        return FileFacts(name, stored.size, stored.sha256)

    def small(name: str, contents: bytes) -> FileFacts:
        name = f"{facts.name}.{name}.gz{suffix}"
        contents = options.encryption.encrypted(contents)
        published.append(name)
        write_file(store, name, contents, owner=facts.system_identifier)
        return FileFacts(name, len(contents), hashlib.sha256(contents).hexdigest())

    with all_or_none(store, published):
        # First: its time shows other hosts that parts are being written, which takes long.
        own = small(BACKUP_MANIFEST, gzip((data / BACKUP_MANIFEST).read_bytes()))
        configured = (
            small("configuration.tar", configuration.packed(configuration_files))
            if configuration_files
            else None
        )
        with ThreadPoolExecutor(options.jobs + 1) as pool:
            verified = pool.submit(verify, options.programs, data)
            written = list(pool.map(packed, enumerate(parts.divided(found), 1)))
            verified.result()
        manifest = msgspec.structs.replace(
            facts, parts=written, backup_manifest=own, configuration=configured
        )
        published.append(facts.name + SUFFIX)
        write_file(store, facts.name + SUFFIX, encode(manifest), owner=facts.system_identifier)
    return manifest
