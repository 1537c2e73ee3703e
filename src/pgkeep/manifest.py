"""What a backup is, as values; to and from the JSON that lies beside the artifact.

Unknown fields are ignored, so that an older pgkeep can list what a newer one made; a format number
above ours is refused, so that it does not misread it.
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec

from . import errors as e
from . import naming

FORMAT = 1
EARLIEST, LATEST = 1970, 9000  # years
UNKNOWN_CLUSTER = "0"  # the system identifier of a dump of others, which does not say its own

Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Setting(msgspec.Struct, frozen=True):
    """`ALTER DATABASE SET`, or `ALTER ROLE IN DATABASE SET` where a role is named."""

    role: str | None
    value: str  # as in pg_db_role_setting: name=value


class Grant(msgspec.Struct, frozen=True):
    """One privilege on the database; an empty grantee is PUBLIC."""

    grantee: str
    privilege: Literal["CREATE", "CONNECT", "TEMPORARY"]
    grantable: bool


class DatabaseFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What CREATE DATABASE and ALTER DATABASE need to make the like of a database again."""

    name: str
    owner: str
    encoding: str
    collate: str
    ctype: str
    provider: Literal["c", "i", "b"] = "c"  # pg_database.datlocprovider: c libc, i ICU, b builtin
    locale: str | None = None  # of the ICU or builtin provider
    icu_rules: str | None = None
    collation_version: str | None = None
    tablespace: str = "pg_default"
    connection_limit: int = -1
    comment: str | None = None
    settings: list[Setting] = []
    grants: list[Grant] | None = None  # None: the default privileges


class ServerFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The server that a backup was taken from."""

    version: str  # such as 17.2
    version_num: int  # such as 170002
    system_identifier: str
    in_recovery: bool = False
    replay_lag: float | None = None  # seconds, of a standby

    @property
    def major(self) -> int:
        """The major version, such as 17."""
        return self.version_num // 10000


class Extension(msgspec.Struct, frozen=True):
    """An extension that the database has, and the target needs."""

    name: str
    version: str


class TableRows(msgspec.Struct, frozen=True, array_like=True):
    """How many rows of a table the artifact holds."""

    schema: str
    name: str
    rows: int


class FileFacts(msgspec.Struct, frozen=True):
    """One file of a backup."""

    name: str
    size: int  # bytes
    sha256: str


class Drill(msgspec.Struct, frozen=True):
    """What a drill of the backup has shown."""

    when: Moment  # UTC
    green: bool
    seconds: dict[str, float]  # by phase
    findings: int


class _Format(msgspec.Struct):
    format: int = FORMAT


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that is known of one backup without opening its artifact."""

    format: int = FORMAT
    pgkeep: str
    database: DatabaseFacts
    server: ServerFacts
    client_version: str
    type: naming.BackupType
    schema_only: bool = False
    data_only: bool = False  # of a dump of others: rows without their tables
    taken: Moment  # UTC; also in the names
    snapshot: Moment  # UTC; the moment whose data the backup holds
    finished: Moment  # UTC
    artifact: FileFacts
    raw_bytes: int  # of SQL
    index_sha256: str | None = None  # of the index, which has the hashes of everything else
    globals: FileFacts | None = None
    role_passwords: bool = False  # whether the globals hold password hashes
    tables: list[TableRows] = []
    extensions: list[Extension] = []
    roles: list[str] = []  # owners and grantees that a restore needs
    warnings: list[str] = []
    drift: list[str] = []  # what has shrunk since the last verified backup
    verified: Moment | None = None  # when the artifact was last read back and found whole
    pending: list[str] = []  # stores to which a copy is owed
    policy: str | None = None  # the one that retention was to follow after this backup
    drills: list[Drill] = []  # the last ones, the newest last

    @property
    def name(self) -> naming.BackupName:
        """What the backup's files are called."""
        return naming.BackupName(
            database=self.database.name,
            type=self.type,
            taken=self.taken,
            schema_only=self.schema_only,
        )

    @property
    def as_of(self) -> datetime:
        """The moment that it brings back: a standby may have been behind its primary."""
        return self.snapshot - timedelta(seconds=max(0.0, self.server.replay_lag or 0.0))

    @property
    def full(self) -> bool:
        """Whether a database can be made of it: definitions and rows."""
        return not self.schema_only and not self.data_only

    @property
    def indexed(self) -> bool:
        """Whether it is a dump of others, of which nobody knows whether it is complete."""
        return self.server.system_identifier == UNKNOWN_CLUSTER

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables)


_DECODER = msgspec.json.Decoder(Manifest)


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as JSON for people and programs."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes, file_name: str) -> Manifest:
    """Read a manifest.

    Raises:
        VerificationFailed: it is no manifest, or one of a format of the future.

    """
    try:
        try:
            manifest = _DECODER.decode(data)
            found = manifest.format
        except msgspec.DecodeError:
            found = msgspec.json.decode(data, type=_Format).format
            if found <= FORMAT:
                raise
        if found > FORMAT:
            raise e.VerificationFailed(
                f"{file_name} has format {found}, this pgkeep reads up to {FORMAT}",
                hint="Use the version of pgkeep that made it, or a newer one.",
            )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise e.VerificationFailed(f"{file_name} is not a manifest of pgkeep: {error}") from error
    times = [manifest.taken, manifest.snapshot, manifest.finished, manifest.verified]
    times += [one.when for one in manifest.drills]
    for one in times:
        # Others cannot be converted to every zone, nor subtracted from.
        if one is not None and not EARLIEST <= one.year <= LATEST:
            raise e.VerificationFailed(
                f"{file_name} is not a manifest of pgkeep: its time is {one}"
            )
    return manifest
