"""What a backup is, as values; to and from the JSON that lies beside the artifact.

Unknown fields are ignored, so that an older pgkeep can list what a newer one made; a format number
above ours is refused, so that it does not misread it. The JSON contains a hash of itself, over all
fields, known or not; manifests of older versions have none.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from .. import errors as e
from . import naming

FORMAT = 1
EARLIEST, LATEST = 1970, 9000  # years
LARGEST = 64 << 20  # bytes: over a million tables
UNKNOWN_CLUSTER = "0"  # the system identifier of a dump of others, which does not say its own

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=-1e10, le=1e10)]  # three centuries


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
    provider: str = "c"  # pg_database.datlocprovider: c libc, i ICU, b builtin
    locale: str | None = None  # of the ICU or builtin provider
    icu_rules: str | None = None
    collation_version: str | None = None
    tablespace: str = "pg_default"
    connection_limit: int = -1
    is_template: bool = False
    comment: str | None = None
    settings: list[Setting] = []
    grants: list[Grant] | None = None  # None: the default privileges


class ServerFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The server that a backup was taken from."""

    version: str  # such as 17.2
    version_num: Count  # such as 170002
    system_identifier: str
    in_recovery: bool = False
    replay_lag: Seconds | None = None  # seconds, of a standby

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
    rows: Count


class Operators(msgspec.Struct, frozen=True, array_like=True):
    """What a construct compares by, where SQL text has no place for the operators' names."""

    construct: str  # such as NULLIF
    names: list[str]  # with their schemas and types
    schemas: list[str]  # in which they lie


class Resolution(msgspec.Struct, frozen=True, array_like=True):
    """An object whose SQL means something else when it is read with an empty search path."""

    object: str  # kind and name, such as view app.v
    uses: list[Operators]


class Computed(msgspec.Struct, frozen=True, array_like=True):
    """Values that a dump does not hold and a restore computes: how many rows, and their hash."""

    relation: str  # as SQL names it
    columns: str  # the stored generated ones as SQL lists them; of a materialized view none
    rows: int
    digest: str


class FileFacts(msgspec.Struct, frozen=True):
    """One file of a backup."""

    name: str
    size: Count  # bytes
    sha256: str


class Drill(msgspec.Struct, frozen=True):
    """What a drill of the backup has shown."""

    when: Moment  # UTC
    passed: bool
    seconds: dict[str, Seconds]  # by phase
    findings: Count


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
    raw_bytes: Count  # of SQL
    index_sha256: str | None = None  # of the index, which has the hashes of everything else
    globals: FileFacts | None = None
    role_passwords: bool = False  # whether the globals hold password hashes
    tables: list[TableRows] = []
    extensions: list[Extension] = []
    roles: list[str] = []  # owners and grantees that a restore needs
    warnings: list[str] = []
    drift: list[str] = []  # what has shrunk since the last verified backup
    verified: Moment | None = None  # when the artifact was last read back and found whole
    pending: list[str] = []  # URLs of stores to which the copy is pending
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


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as JSON for people and programs, with its hash."""
    fields = msgspec.json.decode(msgspec.json.encode(manifest))
    fields[_HASH] = _digest(fields)
    return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"


_HASH = "manifest_sha256"


def _digest(fields: dict[str, Any]) -> str:
    """Return the SHA-256 of the JSON without spaces, its keys sorted, and without the hash."""
    others = {name: value for name, value in fields.items() if name != _HASH}
    return hashlib.sha256(msgspec.json.encode(others, order="sorted")).hexdigest()


def _with_new_names(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a manifest, those renamed that had another name before 0.2."""
    drills = fields.get("drills")
    if not isinstance(drills, list):
        return fields
    renamed = [
        {"passed": drill["green"], **drill}
        if isinstance(drill, dict) and "green" in drill
        else drill
        for drill in drills
    ]
    return {**fields, "drills": renamed}


def _check_digest(fields: dict[str, Any], file_name: str) -> None:
    if _HASH in fields and fields[_HASH] != (found := _digest(fields)):
        raise e.VerificationFailed(
            f"{file_name} is damaged: its SHA-256 is {found}, it says {fields[_HASH]}",
            hint="If the manifest was edited by hand, remove its field manifest_sha256.",
        )


def decode(data: bytes, file_name: str) -> Manifest:
    """Read a manifest.

    Raises:
        VerificationFailed: it is no manifest, a damaged one, or one of a format of the future.

    """
    check_size(len(data), file_name)
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
        found = msgspec.convert(fields, _Format).format
        if found > FORMAT:
            raise e.VerificationFailed(
                f"{file_name} has format {found}, this pgkeep reads up to {FORMAT}",
                hint="Use the version of pgkeep that made it, or a newer one.",
            )
        manifest = msgspec.convert(_with_new_names(fields), Manifest)
        _check_digest(fields, file_name)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise e.VerificationFailed(f"{file_name} is not a manifest of pgkeep: {error}") from error
    times = [manifest.taken, manifest.snapshot, manifest.finished, manifest.verified]
    times += [drill.when for drill in manifest.drills]
    for one in times:
        # Others cannot be converted to every zone, nor subtracted from.
        if one is not None and not EARLIEST <= one.year <= LATEST:
            raise e.VerificationFailed(
                f"{file_name} is not a manifest of pgkeep: its time is {one}"
            )
    return manifest


def check_size(size: int, file_name: str) -> None:
    """Refuse, before it is read, what is too large for a manifest.

    Raises:
        VerificationFailed: it is.

    """
    if size > LARGEST:
        raise e.VerificationFailed(
            f"{file_name} is not a manifest of pgkeep: it has {size} bytes, at most {LARGEST} are"
            " read"
        )
