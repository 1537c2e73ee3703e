"""Artifact names: `{database}_{type}_{timestamp}[_schema].sql.gz`, formatted and parsed.

The database's name is percent-encoded byte by byte, so that any name PostgreSQL allows is one
harmless file name, and parsing by the grammar never takes `app-2` for `app`.
"""

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


class BackupType(StrEnum):
    """The retention tier that a backup belongs to; manual ones belong to none."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupName:
    """What a backup's file names say: database, type, UTC time, schema only or not."""

    database: str
    type: BackupType
    taken: datetime
    schema_only: bool = False

    @property
    def stem(self) -> str:
        """What the names of all files of this backup begin with."""
        moment = self.taken.astimezone(UTC).strftime(_TIMESTAMP)
        suffix = "_schema" if self.schema_only else ""
        return f"{encode_database(self.database)}_{self.type}_{moment}{suffix}"

    @property
    def artifact(self) -> str:
        """The name of the dump itself."""
        return self.stem + ARTIFACT

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
        """All names of this backup, the manifest last."""
        return (self.artifact, self.checksum, self.globals, self.manifest)


def encode_database(database: str) -> str:
    """Return a database's name as a part of a file name; surrogate-escaped bytes survive.

    `quote` leaves exactly the contract's letters and the tilde alone; the tilde is encoded too.
    """
    return quote(database.encode("utf-8", "surrogateescape"), safe="").replace("~", "%7E")


def parse(file_name: str) -> BackupName | None:
    """Return what the name of any file of a backup says; None when it is not one of ours."""
    for ending in (CHECKSUM, GLOBALS, MANIFEST, ARTIFACT):
        if file_name.endswith(ending):
            return _parse_stem(file_name.removesuffix(ending))
    return None


def _parse_stem(stem: str) -> BackupName | None:
    match = _STEM.fullmatch(stem)
    if match is None:
        return None
    try:
        # By far faster than strptime, for a directory of thousands.
        taken = datetime.fromisoformat(match["taken"])
    except ValueError:
        return None
    name = BackupName(
        database=unquote(match["database"], "utf-8", "surrogateescape"),
        type=BackupType(match["type"]),
        taken=taken,
        schema_only=match["schema"] is not None,
    )
    # Only what formats back to itself is ours: `a%41` is not how we write `aA`.
    return name if name.stem == stem else None
