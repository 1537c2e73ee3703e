"""Format and parse names of backup files: `{database}_{type}_{timestamp}[_schema].sql.gz`.

The database name is percent-encoded byte by byte, so that every name that PostgreSQL allows is a
safe file name, and parsing never takes `app-2` for `app`. A short id, for people, follows from the
name alone.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import quote, unquote

ARTIFACT = ".sql.gz"
CHECKSUM = ".sql.gz.sha256"
GLOBALS = ".globals.sql.gz"
MANIFEST = ".manifest.json"

_TIMESTAMP = "%Y%m%dT%H%M%SZ"
_STEM = re.compile(
    r"(?P<database>(?:[A-Za-z0-9._-]|%[0-9A-F]{2})+)"
    r"_(?P<type>daily|weekly|monthly|manual)"
    r"_(?P<taken>[0-9]{8}T[0-9]{6}Z)"
    r"(?P<schema>_schema)?"
)
_ID_LENGTH = 8
_ID = re.compile(rf"[0-9a-f]{{4,{_ID_LENGTH}}}")


class BackupType(StrEnum):
    """The retention tier of a backup; manual backups belong to no tier."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupName:
    """The parts of a backup's file names: database, type, UTC time, schema only or not."""

    database: str
    type: BackupType
    taken: datetime
    schema_only: bool = False

    @property
    def stem(self) -> str:
        """The common beginning of all file names of this backup."""
        moment = self.taken.astimezone(UTC).strftime(_TIMESTAMP)
        suffix = "_schema" if self.schema_only else ""
        return f"{encode_database(self.database)}_{self.type}_{moment}{suffix}"

    @property
    def artifact(self) -> str:
        """The name of the dump itself."""
        return self.stem + ARTIFACT

    @property
    def id(self) -> str:
        """A short name for people: the beginning of the SHA-256 of the file name."""
        return hashlib.sha256(self.artifact.encode()).hexdigest()[:_ID_LENGTH]

    @property
    def checksum(self) -> str:
        """The name of the file for `sha256sum -c`."""
        return self.stem + CHECKSUM

    @property
    def globals(self) -> str:
        """The name of the dump of the cluster's roles."""
        return self.stem + GLOBALS

    @property
    def manifest(self) -> str:
        """The name of the manifest; where it is missing there is no backup."""
        return self.stem + MANIFEST

    @property
    def files(self) -> tuple[str, ...]:
        """All file names of this backup, the manifest last."""
        return (self.artifact, self.checksum, self.globals, self.manifest)


def encode_database(database: str) -> str:
    """Encode a database name for use in a file name; surrogate-escaped bytes are preserved.

    `quote` leaves exactly the allowed characters and the tilde unchanged; encode the tilde too.
    """
    return quote(database.encode("utf-8", "surrogateescape"), safe="").replace("~", "%7E")


def is_id(text: str) -> bool:
    """Return whether a text can be the id of a backup, or the beginning of it."""
    return _ID.fullmatch(text) is not None


def is_whole_id(text: str) -> bool:
    """Return whether a text can be the id of a backup, with all its digits."""
    return is_id(text) and len(text) == _ID_LENGTH


def parse(file_name: str) -> BackupName | None:
    """Return the parts of any file name of a backup, or None if it has another form."""
    for ending in (CHECKSUM, GLOBALS, MANIFEST, ARTIFACT):
        if file_name.endswith(ending):
            return _parse_stem(file_name.removesuffix(ending))
    return None


def _parse_stem(stem: str) -> BackupName | None:
    match = _STEM.fullmatch(stem)
    if match is None:
        return None
    try:
        # Much faster than strptime, for directories with thousands of files.
        taken = datetime.fromisoformat(match["taken"])
    except ValueError:
        return None
    name = BackupName(
        database=unquote(match["database"], "utf-8", "surrogateescape"),
        type=BackupType(match["type"]),
        taken=taken,
        schema_only=match["schema"] is not None,
    )
    # Accept only canonical names: pgkeep never writes `a%41` for `aA`.
    return name if name.stem == stem else None
