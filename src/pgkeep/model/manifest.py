"""The facts about a backup, and their JSON form in the manifest.

Unknown fields are ignored, so that an older pgkeep can list backups of a newer one. A higher format
number is refused, so that the manifest is not misread. The JSON contains a hash of all its fields,
known or not; manifests of older versions have none.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from .. import errors as e
from . import cluster as cluster_names
from . import naming
from .unreadable import UNREADABLE

FORMAT = 1
EARLIEST, LATEST = 1970, 9000  # years
LARGEST = 64 << 20  # bytes: over a million tables
# Phases of a drill that do not delay a recovery: they belong to the drill itself.
NOT_RECOVERY = frozenset({"start", "check", "clean"})
UNKNOWN_CLUSTER = "0"  # the system identifier of a dump from another tool, which does not record it

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=-1e10, le=1e10)]  # three centuries


class Setting(msgspec.Struct, frozen=True):
    """`ALTER DATABASE SET`, or `ALTER ROLE IN DATABASE SET` if a role is given."""

    role: str | None
    value: str  # as in pg_db_role_setting: name=value


class Grant(msgspec.Struct, frozen=True):
    """One privilege on the database; an empty grantee is PUBLIC."""

    grantee: str
    privilege: Literal["CREATE", "CONNECT", "TEMPORARY"]
    grantable: bool


class DatabaseFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The properties that CREATE DATABASE and ALTER DATABASE need to recreate a database."""

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
    """The server from which a backup was taken."""

    version: str  # such as 17.2
    version_num: Count  # such as 170002
    system_identifier: str
    in_recovery: bool = False
    replay_lag: Seconds | None = None  # seconds, of a standby; None: unknown
    lsn: str | None = None  # just after the snapshot, which sees nothing that is later
    timeline: Count | None = None

    @property
    def major(self) -> int:
        """The major version, such as 17."""
        return self.version_num // 10000


class Extension(msgspec.Struct, frozen=True):
    """An extension of the database, which the target requires."""

    name: str
    version: str


class TableRows(msgspec.Struct, frozen=True, array_like=True):
    """The number of rows of a table in the backup."""

    schema: str
    name: str
    rows: Count


class Operators(msgspec.Struct, frozen=True, array_like=True):
    """Operators that a construct uses, where SQL text has no syntax to name them."""

    construct: str  # such as NULLIF
    names: list[str]  # with their schemas and types
    schemas: list[str]  # that contain them


class Resolution(msgspec.Struct, frozen=True, array_like=True):
    """An object whose SQL changes its meaning when it is read with an empty search path."""

    object: str  # kind and name, such as view app.v
    uses: list[Operators]


class Computed(msgspec.Struct, frozen=True, array_like=True):
    """Values that a restore computes and a dump does not contain: number of rows, and hash."""

    relation: str  # as written in SQL
    columns: str  # the stored generated columns as an SQL list; empty for a materialized view
    rows: int
    digest: str


class BlockedSession(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session that waited for a lock of the backup, or behind a session that did."""

    pid: int
    user: str
    application: str
    waits_for: str  # the table or index, or something else
    mode: str | None = None  # of the lock on a relation
    command: str | None = None  # the first word of its statement
    seconds: Seconds


class FileFacts(msgspec.Struct, frozen=True):
    """One file of a backup."""

    name: str
    size: Count  # bytes
    sha256: str


class Encryption(msgspec.Struct, frozen=True):
    """With what the files of a backup are encrypted, and to whom."""

    cipher: naming.Cipher
    recipients: list[str]  # public keys of age, fingerprints of SSH and GPG keys


class Drill(msgspec.Struct, frozen=True):
    """The result of a drill of the backup."""

    when: Moment  # UTC
    passed: bool
    seconds: dict[str, Seconds]  # by phase
    findings: Count

    @property
    def recovery_seconds(self) -> float:
        """The time after which the database was restored."""
        return sum(seconds for phase, seconds in self.seconds.items() if phase not in NOT_RECOVERY)


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that retention never removes."""

    reason: str
    by: str  # user and host
    since: Moment  # UTC


class _Format(msgspec.Struct):
    format: int = FORMAT


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All facts about a backup that are known without opening its artifact."""

    format: int = FORMAT
    pgkeep: str
    database: DatabaseFacts
    server: ServerFacts
    client_version: str
    type: naming.BackupType
    schema_only: bool = False
    data_only: bool = False  # of a dump from another tool: rows without their tables
    taken: Moment  # UTC; also in the file names
    snapshot: Moment  # UTC; the time as of which the backup contains the data
    finished: Moment  # UTC
    artifact: FileFacts
    raw_bytes: Count  # of SQL
    database_size: Count | None = None  # bytes on the server's disk, with indexes
    index_sha256: str | None = None  # of the index, which contains all other hashes
    globals: FileFacts | None = None
    role_passwords: bool = False  # the globals contain password hashes
    tables: list[TableRows] = []
    extensions: list[Extension] = []
    roles: list[str] = []  # owners and grantees that a restore needs
    warnings: list[str] = []
    drift: list[str] = []  # figures that fell since the last verified backup
    verified: Moment | None = None  # time of the last successful verification
    # What was compared then: the contents, or, without a private key, only the stored bytes.
    verified_level: Literal["contents", "ciphertext"] = "contents"
    encryption: Encryption | None = None
    blocked: list[BlockedSession] = []  # by the backup: the longest waits, longest first
    pending: list[str] = []  # URLs of stores for which the copy is pending
    policy: str | None = None  # the retention policy to apply after this backup
    drills: list[Drill] = []  # the last drills, newest last
    hold: Hold | None = None  # why retention never removes it
    cluster: str | None = None  # BACKUP_CLUSTER when the backup was made

    @property
    def cipher(self) -> naming.Cipher | None:
        """With what it is encrypted."""
        return None if self.encryption is None else self.encryption.cipher

    @property
    def name(self) -> naming.BackupName:
        """The name of the backup, from which the names of its files follow."""
        name = naming.BackupName(
            database=self.database.name,
            type=self.type,
            taken=self.taken,
            schema_only=self.schema_only,
        )
        return name.of_file(self.artifact.name)

    @property
    def as_of(self) -> datetime:
        """The time as of which data is restored; a standby can have been behind its primary."""
        return self.snapshot - timedelta(seconds=max(0.0, self.server.replay_lag or 0.0))

    @property
    def lag_unknown(self) -> bool:
        """Whether the data can be older than `as_of`: the standby did not know its lag."""
        return self.server.in_recovery and self.server.replay_lag is None

    @property
    def full(self) -> bool:
        """Whether a database can be restored from it: it has definitions and rows."""
        return not self.schema_only and not self.data_only

    @property
    def indexed(self) -> bool:
        """Whether it is a dump from another tool, whose completeness is unknown."""
        return self.server.system_identifier == UNKNOWN_CLUSTER

    @property
    def cluster_name(self) -> str:
        """The name of the cluster; empty if neither a name nor an identifier was recorded."""
        return self.cluster or cluster_names.short_form(self.server.system_identifier)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables)


# msgspec examines a type when it is first used, which crashes if two threads do it at once.
_EXAMINED = tuple(msgspec.json.Decoder(kind) for kind in (Manifest, _Format))


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as readable JSON, with its hash."""
    fields = msgspec.json.decode(msgspec.json.encode(manifest))
    fields[HASH] = digest_of(fields)
    return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"


HASH = "manifest_sha256"


def digest_of(fields: dict[str, Any]) -> str:
    """Return the SHA-256 of the JSON without spaces and without the hash, its keys sorted."""
    others = {name: value for name, value in fields.items() if name != HASH}
    return hashlib.sha256(msgspec.json.encode(others, order="sorted")).hexdigest()


def _with_new_names(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a manifest, with fields renamed that had another name before 0.2."""
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
    if HASH in fields and fields[HASH] != (found := digest_of(fields)):
        raise e.VerificationFailed(
            f"{file_name} is damaged: SHA-256 is {found}, expected {fields[HASH]}",
            hint="If the manifest was edited by hand, remove its field manifest_sha256.",
        )


def decode(data: bytes, file_name: str) -> Manifest:
    """Read a manifest.

    Raises:
        VerificationFailed: it is not a manifest, is damaged, or has a newer format.

    """
    check_size(len(data), file_name)
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
        found = msgspec.convert(fields, _Format).format
        if found > FORMAT:
            raise e.VerificationFailed(
                f"{file_name} has format {found}, this pgkeep reads up to {FORMAT}",
                hint="Use the version of pgkeep that wrote it, or a newer one.",
            )
        manifest = msgspec.convert(_with_new_names(fields), Manifest)
        _check_digest(fields, file_name)
    except UNREADABLE as error:
        raise e.VerificationFailed(f"{file_name} is not a manifest of pgkeep: {error}") from error
    times = [manifest.taken, manifest.snapshot, manifest.finished, manifest.verified]
    times += [drill.when for drill in manifest.drills]
    for time in times:
        # Other years cannot be converted to every time zone, nor subtracted from.
        if time is not None and not EARLIEST <= time.year <= LATEST:
            raise e.VerificationFailed(
                f"{file_name} is not a manifest of pgkeep: its time is {time}"
            )
    return manifest


def check_size(size: int, file_name: str) -> None:
    """Refuse a file that is too large for a manifest before reading it.

    Raises:
        VerificationFailed: the file is too large.

    """
    if size > LARGEST:
        raise e.VerificationFailed(
            f"{file_name} is not a manifest of pgkeep: found {size} bytes, expected at most"
            f" {LARGEST}"
        )
