"""The facts about a base backup, and their JSON form next to its parts.

The file is written last: a base backup without it does not exist.
"""

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from .. import errors as e
from ..model.manifest import (
    EARLIEST,
    HASH,
    LARGEST,
    LATEST,
    Count,
    Encryption,
    FileFacts,
    Moment,
    digest_of,
)
from ..model.unreadable import UNREADABLE
from ..model.wal import SEGMENT_SIZES, Lsn

FORMAT = 1
SUFFIX = ".base.json"
_SUFFIX = re.compile(r"\.[A-Za-z0-9._-]+")
_NAME = re.compile(r"(?P<started>[0-9]{8}T[0-9]{6}Z)_(?P<kind>full|incremental)")


class Kind(StrEnum):
    """Whether a base backup contains all blocks, or only those that changed since another one."""

    FULL = "full"
    INCREMENTAL = "incremental"


class Tablespace(msgspec.Struct, frozen=True):
    """A tablespace outside the data directory."""

    oid: int
    location: str  # on the source


class BaseManifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All facts about a base backup that are known without opening its parts."""

    format: int = FORMAT
    pgkeep: str
    system_identifier: str
    version: str
    version_num: Count
    kind: Kind
    parent: str | None = None  # the name of the backup on which an incremental one is based
    timeline: Count
    start: str  # LSN at which recovery begins
    stop: str  # LSN that recovery must reach
    started: Moment  # UTC; also in the name
    stopped: Moment  # UTC
    segment_size: Count
    checksums: bool = False
    size: Count  # bytes of all files
    file_count: Count = 0  # with directories; 0: unknown
    parts: list[FileFacts]
    backup_manifest: FileFacts  # PostgreSQL's own, which the next incremental backup needs
    tablespaces: list[Tablespace] = []
    settings: dict[str, str] = {}  # those that recovery must not lower
    encryption: Encryption | None = None
    history: list[tuple[int, str]] = []  # earlier timelines, each with the LSN at its end
    configuration: FileFacts | None = None  # files of the server outside its data directory
    warnings: list[str] = []
    superuser: str = "postgres"  # the role that initdb made; recovery is watched as this role
    database: str = "postgres"  # one that allowed connections
    timezone: str | None = None  # of the server's log

    @property
    def name(self) -> str:
        """The common beginning of all file names of this backup."""
        return base_name(self.started, self.kind)

    @property
    def start_lsn(self) -> Lsn:
        """The position at which recovery begins."""
        return Lsn.parse(self.start)

    @property
    def stop_lsn(self) -> Lsn:
        """The position that recovery must reach."""
        return Lsn.parse(self.stop)

    @property
    def major(self) -> int:
        """The major version, such as 17."""
        return self.version_num // 10000

    @property
    def files(self) -> list[str]:
        """The names of all files, the manifest first, as they are removed."""
        return [
            self.name + SUFFIX,
            *(facts.name for facts in self.contents),
        ]

    @property
    def contents(self) -> list[FileFacts]:
        """All files except the manifest."""
        more = [] if self.configuration is None else [self.configuration]
        return [self.backup_manifest, *more, *self.parts]


def base_name(started: datetime, kind: Kind) -> str:
    """Return the name of a base backup: the UTC time at which it started, and its kind."""
    return f"{started.astimezone(UTC):%Y%m%dT%H%M%SZ}_{kind}"


def name_of(file: str) -> str | None:
    """Return the name of the base backup to which a file belongs; None for other files."""
    match = _NAME.match(file)
    return None if match is None else match[0]


def started_of(name: str) -> datetime | None:
    """Return when a base backup with this name was started; None for an impossible time."""
    try:
        return datetime.strptime(name.partition("_")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def is_base_file(file: str) -> bool:
    """Whether a file has the name of a file of a base backup."""
    return _NAME.match(file) is not None


def _is_own(file: str, base: str) -> bool:
    """Whether a file can be one of a base backup: a name without a path, which can be removed."""
    return file.startswith(base) and _SUFFIX.fullmatch(file, len(base)) is not None


def encode(manifest: BaseManifest) -> bytes:
    """Return the manifest as readable JSON, with its hash."""
    fields = msgspec.json.decode(msgspec.json.encode(manifest))
    fields[HASH] = digest_of(fields)
    return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"


def decode(data: bytes, file: str) -> BaseManifest:
    """Read a manifest.

    Raises:
        VerificationFailed: it is damaged, has a newer format, or describes another backup.

    """
    try:
        fields = msgspec.json.decode(data[:LARGEST], type=dict[str, Any])
        if isinstance(found := fields.get("format"), int) and found > FORMAT:
            raise e.NewerFormat(
                f"{file} has format {found}, this pgkeep reads up to {FORMAT}",
                hint="Use the version of pgkeep that wrote it, or a newer one.",
            )
        manifest = msgspec.convert(fields, BaseManifest)
        if manifest.segment_size not in SEGMENT_SIZES:
            raise ValueError(f"found segments of {manifest.segment_size} bytes")
        for position in (manifest.start, manifest.stop, *(end for _, end in manifest.history)):
            Lsn.parse(position)
        for time in (manifest.started, manifest.stopped):
            if not EARLIEST <= time.year <= LATEST:  # others have no name
                raise ValueError(f"its time is {time}")
    except UNREADABLE as error:
        raise e.VerificationFailed(f"{file} is not a manifest of a base backup: {error}") from error
    if fields.get(HASH) != digest_of(fields):
        raise e.VerificationFailed(f"{file} is damaged: it differs from its hash")
    if file != manifest.name + SUFFIX:
        raise e.VerificationFailed(f"{file} is the manifest of base backup {manifest.name}")
    strange = [name for name in manifest.files if not _is_own(name, manifest.name)]
    if strange:
        raise e.VerificationFailed(f"{file} lists a file of another backup: {strange[0]}")
    return manifest
