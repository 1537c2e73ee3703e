"""What `pgbackrest info --output=json` says of a stanza: a strict reader, without I/O.

The JSON is that of another program, of any version. Every field that is used is checked, because
labels and names become arguments of programs and parts of messages.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from .. import errors as e
from ..model.unreadable import UNREADABLE
from ..model.wal import Lsn

LARGEST = 16 << 20  # bytes; a backup needs less than 1 kB
OK = 0
NO_BACKUP = 2
_MISSING = (1, 3)  # the path, or the data, of the stanza
LATEST_TIME = 1 << 33  # seconds; the year 2242

_Name = Annotated[str, Meta(pattern=r"^[0-9A-F]{24}\Z")]
_Label = Annotated[str, Meta(pattern=r"^[0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?\Z")]
_Position = Annotated[str, Meta(pattern=r"^[0-9A-F]{1,8}/[0-9A-F]{1,8}\Z")]
_Version = Annotated[str, Meta(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3})?\Z")]
_Number = Annotated[int, Meta(ge=0, le=1 << 53)]
_Time = Annotated[int, Meta(ge=0, le=LATEST_TIME)]


class _Of(msgspec.Struct, frozen=True, rename="kebab"):
    """The database and the repository of a backup or an archive."""

    id: _Number
    repo_key: _Number = 1


class _Database(msgspec.Struct, frozen=True, rename="kebab"):
    id: _Number
    system_id: Annotated[int, Meta(ge=1)]
    version: _Version
    repo_key: _Number = 1


class _Archive(msgspec.Struct, frozen=True):
    database: _Of
    min: _Name | None = None
    max: _Name | None = None


class _Segments(msgspec.Struct, frozen=True):
    start: _Name | None = None
    stop: _Name | None = None


class _Positions(msgspec.Struct, frozen=True):
    start: _Position
    stop: _Position


class _Times(msgspec.Struct, frozen=True):
    start: _Time
    stop: _Time


class _Size(msgspec.Struct, frozen=True):
    size: _Number


class _Backup(msgspec.Struct, frozen=True):
    label: _Label
    type: Annotated[str, Meta(pattern=r"^(full|diff|incr)\Z")]
    archive: _Segments
    database: _Of
    timestamp: _Times
    info: _Size
    lsn: _Positions | None = None
    error: bool | None = None  # pages with a wrong checksum


class _Status(msgspec.Struct, frozen=True):
    code: _Number
    message: str


class _Repository(msgspec.Struct, frozen=True):
    status: _Status


class _Stanza(msgspec.Struct, frozen=True):
    name: str
    status: _Status
    archive: list[_Archive]
    backup: list[_Backup]
    db: list[_Database]
    repo: list[_Repository] = []


_DECODER = msgspec.json.Decoder(list[_Stanza])


@dataclass(frozen=True, slots=True, kw_only=True)
class StanzaBackup:
    """One backup of a stanza."""

    label: str
    type: str  # full, diff, incr
    repository: int
    started: datetime
    stopped: datetime
    first_segment: str  # of the WAL that it needs
    start: Lsn
    stop: Lsn
    size: int  # bytes of the cluster
    damaged: bool  # pgBackRest has found pages with a wrong checksum in it
    archive_max: str | None  # the newest archived segment of its database


@dataclass(frozen=True, slots=True, kw_only=True)
class Stanza:
    """The state of one stanza."""

    name: str
    code: int
    message: str
    system_identifier: str | None
    version: str | None
    backups: tuple[StanzaBackup, ...]  # oldest first
    archive_min: str | None
    archive_max: str | None

    @property
    def missing(self) -> bool:
        """Whether the repository has nothing under this name."""
        return self.code in _MISSING

    def newest(self, *types: str) -> StanzaBackup | None:
        """Return the newest backup of these types, or of any type."""
        found = [backup for backup in self.backups if not types or backup.type in types]
        return found[-1] if found else None


def parse(data: bytes, name: str) -> Stanza:
    """Read the output for one stanza.

    Raises:
        VerificationFailed: it has another form.

    """
    try:
        if len(data) > LARGEST:
            raise ValueError(f"found more than {LARGEST} bytes")
        found = [stanza for stanza in _DECODER.decode(data) if stanza.name == name]
        if len(found) != 1:
            raise ValueError(f"found {len(found)} stanzas {name}, expected 1")
        return _stanza(found[0])
    except UNREADABLE as error:
        raise e.VerificationFailed(f"pgbackrest info has an unknown form: {error}") from error


def _stanza(found: _Stanza) -> Stanza:
    current = max(found.db, key=lambda database: database.id, default=None)
    own = [] if current is None else [each for each in found.db if each.id == current.id]
    if len({database.system_id for database in own}) > 1:
        raise ValueError("repositories have different clusters")
    archives = {(each.database.id, each.database.repo_key): each for each in found.archive}
    backups = [
        _backup(each, archives)
        for each in found.backup
        if current is not None and each.database.id == current.id
    ]
    newest = [
        each for (number, _), each in sorted(archives.items())
        if current is not None and number == current.id
    ]  # fmt: skip
    # Of "other", the repositories say what it is.
    details = [each.status.message for each in found.repo if each.status.code == found.status.code]
    return Stanza(
        name=found.name,
        code=found.status.code,
        message=(details or [found.status.message])[0].partition("\n")[0][:500],
        system_identifier=None if current is None else str(current.system_id),
        version=None if current is None else current.version,
        backups=tuple(sorted(backups, key=lambda backup: (backup.stopped, backup.label))),
        archive_min=min((each.min for each in newest if each.min), default=None),
        archive_max=max((each.max for each in newest if each.max), default=None),
    )


def _backup(found: _Backup, archives: dict[tuple[int, int], _Archive]) -> StanzaBackup:
    if found.lsn is None or found.archive.start is None:
        raise ValueError(f"backup {found.label} has no positions: its pgBackRest is too old")
    archive = archives.get((found.database.id, found.database.repo_key))
    return StanzaBackup(
        label=found.label,
        type=found.type,
        repository=found.database.repo_key,
        started=datetime.fromtimestamp(found.timestamp.start, UTC),
        stopped=datetime.fromtimestamp(found.timestamp.stop, UTC),
        first_segment=found.archive.start,
        start=Lsn.parse(found.lsn.start),
        stop=Lsn.parse(found.lsn.stop),
        size=found.info.size,
        damaged=found.error is True,
        archive_max=None if archive is None else archive.max,
    )
