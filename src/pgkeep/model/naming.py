"""Format and parse names of backup files: `{database}_{type}_{timestamp}[_schema].sql.gz`.

Names of files in zstd end in `.sql.zst`. The globals, which are small, are always in gzip. Names of
encrypted files end with the cipher: `.sql.gz.age`, `.sql.gz.gpg`. A backup that was encrypted again
has `_key2` or a higher number before its suffix, because for a moment both files exist.

The database name is percent-encoded byte by byte, so that every name that PostgreSQL allows is a
safe file name, and parsing never takes `app-2` for `app`. A short id, for people, follows from the
name alone.
"""

import functools
import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, unquote

ARTIFACT = ".sql.gz"
CHECKSUM = ".sha256"  # after the name of the backup file
GLOBALS = ".globals.sql.gz"
MANIFEST = ".manifest.json"

_TIMESTAMP = "%Y%m%dT%H%M%SZ"
_STEM = re.compile(
    r"(?P<database>(?:[A-Za-z0-9._-]|%[0-9A-F]{2})+)"
    r"_(?P<type>daily|weekly|monthly|manual)"
    r"_(?P<taken>[0-9]{8}T[0-9]{6}Z)"
    r"(?P<schema>_schema)?"
)
_FILE = re.compile(
    rf"(?P<stem>{_STEM.pattern})"
    r"(?:_key(?P<generation>[2-9]|[1-9][0-9]{1,5}))?"
    r"(?:\.sql\.(?P<compression>gz|zst)(?:\.(?P<cipher>age|gpg))?(?:\.sha256)?"
    r"|\.globals\.sql\.gz(?:\.(?P<globals>age|gpg))?)"
)
_ARTIFACT = re.compile(r"(?<!\.globals)\.sql\.(?:gz|zst)(?P<cipher>\.(?:age|gpg))?\Z")
_ID_LENGTH = 8
_ID = re.compile(rf"[0-9a-f]{{4,{_ID_LENGTH}}}")


class BackupType(StrEnum):
    """The retention tier of a backup; manual backups belong to no tier."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    MANUAL = "manual"


class Compression(StrEnum):
    """With what the SQL of a backup file is compressed."""

    GZIP = "gzip"
    ZSTD = "zstd"

    @property
    def suffix(self) -> str:
        """The end of the names of such files."""
        return _SUFFIXES[self]

    @property
    def program(self) -> str:
        """The program that prints the contents of such files."""
        return _PROGRAMS[self]


_SUFFIXES = {Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}
_PROGRAMS = {Compression.GZIP: "zcat", Compression.ZSTD: "zstdcat"}
_COMPRESSIONS = {suffix[1:]: compression for compression, suffix in _SUFFIXES.items()}


class Cipher(StrEnum):
    """What a file is encrypted with; also the suffix of its name."""

    AGE = "age"
    GPG = "gpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupName:
    """The parts of a backup's file names: database, type, UTC time, schema only or not.

    The compression, the cipher, and how often the files were encrypted again, belong to the files:
    two names of one backup are equal. The name of a manifest does not contain them; the manifest
    does.
    """

    database: str
    type: BackupType
    taken: datetime
    schema_only: bool = False
    compression: Compression = field(default=Compression.GZIP, compare=False)
    cipher: Cipher | None = field(default=None, compare=False)
    generation: int = field(default=1, compare=False)  # 1: as the backup was made

    @property
    def stem(self) -> str:
        """The common beginning of all file names of this backup."""
        moment = self.taken.astimezone(UTC).strftime(_TIMESTAMP)
        suffix = "_schema" if self.schema_only else ""
        return f"{encode_database(self.database)}_{self.type}_{moment}{suffix}"

    @property
    def artifact(self) -> str:
        """The name of the dump itself."""
        return self._file(f".sql{self.compression.suffix}")

    @property
    def id(self) -> str:
        """A short name for people: the beginning of the SHA-256 of the name that ends in .sql.gz.

        It is the same for every compression and cipher.
        """
        return hashlib.sha256(f"{self.stem}{ARTIFACT}".encode()).hexdigest()[:_ID_LENGTH]

    @property
    def checksum(self) -> str:
        """The name of the file for `sha256sum -c`."""
        return self.artifact + CHECKSUM

    @property
    def globals(self) -> str:
        """The name of the dump of the cluster's roles."""
        return self._file(GLOBALS)

    @property
    def manifest(self) -> str:
        """The name of the manifest; where it is missing there is no backup."""
        return self.stem + MANIFEST

    @property
    def files(self) -> tuple[str, ...]:
        """All file names of this backup, the manifest last."""
        return (self.artifact, self.checksum, self.globals, self.manifest)

    @property
    def form(self) -> tuple[str, str]:
        """With what the backup file is compressed, and encrypted if it is."""
        return self.compression, self.cipher or ""

    def of_file(self, file_name: str) -> "BackupName":
        """Return this backup with what the name of one of its files says about the files."""
        found = parse(file_name)
        if found is None or found != self:
            return self
        return replace(
            self,
            compression=found.compression,
            cipher=found.cipher,
            generation=found.generation,
        )

    def _file(self, suffix: str) -> str:
        generation = f"_key{self.generation}" if self.generation > 1 else ""
        return f"{self.stem}{generation}{suffix}{f'.{self.cipher}' if self.cipher else ''}"


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


@functools.lru_cache(maxsize=1 << 14)  # one listing parses each of its names several times
def parse(file_name: str) -> BackupName | None:
    """Return the parts of any file name of a backup, or None if it has another form."""
    if file_name.endswith(MANIFEST):
        match = _STEM.fullmatch(file_name.removesuffix(MANIFEST))
        return None if match is None else _name(match)
    match = _FILE.fullmatch(file_name)
    if match is None or (name := _name(match)) is None:
        return None
    cipher = match["cipher"] or match["globals"]
    compression = _COMPRESSIONS[match["compression"] or "gz"]
    if cipher is None and match["generation"] is None and compression is Compression.GZIP:
        return name
    return replace(
        name,
        compression=compression,
        cipher=Cipher(cipher) if cipher else None,
        generation=int(match["generation"] or 1),
    )


class SideNames(NamedTuple):
    """The names of the files next to a backup file."""

    checksum: str
    globals: str
    manifest: str


def side_names(file_name: str) -> SideNames | None:
    """Return the names of the files next to a backup file, or to a dump with a similar name."""
    match = _ARTIFACT.search(file_name)
    if match is None:
        return None
    found = parse(file_name)
    if found is not None:
        return SideNames(found.checksum, found.globals, found.manifest)
    stem, cipher = file_name[: match.start()], match["cipher"] or ""
    return SideNames(file_name + CHECKSUM, f"{stem}{GLOBALS}{cipher}", stem + MANIFEST)


def is_artifact(file_name: str) -> bool:
    """Whether a file name is that of a backup file: of the dump itself, encrypted or not."""
    return _ARTIFACT.search(file_name) is not None and parse(file_name) is not None


def _name(match: re.Match[str]) -> BackupName | None:
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
    return name if name.stem == match.groupdict().get("stem", match[0]) else None
