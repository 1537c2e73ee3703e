# ruff: noqa: RUF009 - a field is the declaration of a setting
"""The settings: each is declared once, as a field of `Settings` with a `Setting` beside it.

Values, validation, `pgkeep config` and the tables of the documents follow from the declarations.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .model import cluster as cluster_names
from .model.database_patterns import DatabaseSelection
from .model.naming import Compression
from .model.private_key import PRIVATE_KEY

BUCKET = "s3://"
LONGEST_SPAN = 100 * 366 * 86400.0  # seconds: a century
LONGEST = 2_147_483  # seconds: PostgreSQL counts milliseconds in 32 bits
_POSTGRESQL = re.compile(
    r"^(?:postgres(?:ql)?|pgsql|psql|postgis|timescale(?:db|gis)?)(?:\+\w+)?://", re.IGNORECASE
)
STANZA = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # of pgBackRest
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZES = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}  # the units of PostgreSQL


class Group(StrEnum):
    """What settings are about."""

    BACKUP = "Backups"
    RETENTION = "Retention"
    BUCKET = "Bucket"
    ENCRYPTION = "Encryption"
    PITR = "Point in time"
    MONITORING = "Monitoring"
    CONNECTION = "Connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How one setting is given: by which variable and option, as which text."""

    variable: str
    group: Group
    parse: Callable[[str], Any]
    description: str  # in Markdown, as the reference prints it
    default: str = ""  # empty: the field is None, or what `parse` makes of an empty text
    shown_default: str | None = None  # where the default depends on the machine
    option: str | None = None  # the command-line option that sets it
    libpq: str | None = None  # the keyword of a connection string that it stands for
    secret: bool = False
    fails_closed: bool = False  # an empty text is an error, and not as if it were unset

    @property
    def help(self) -> str:
        """The description without Markdown."""
        return self.description.replace("`", "")


def _setting(variable: str, group: Group, parse: Callable[[str], Any], **more: Any) -> Any:
    setting = Setting(variable=variable, group=group, parse=parse, **more)
    return dataclasses.field(metadata={"setting": setting})


def _optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return the parser that makes None of an empty text."""
    return lambda text: parse(text) if text else None


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]+", text) or int(text) < least:
            raise ValueError(f"a whole number from {least}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) or not 0 < float(text) <= LONGEST:
        raise ValueError(f"a number of seconds above 0, at most {LONGEST}")
    return float(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"[0-9]+", text) or not 1 <= int(text) <= 100:
        raise ValueError("a percentage from 1 to 100")
    return int(text) / 100


def _zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("a time zone such as UTC or Europe/Berlin") from None


def _database_url(text: str) -> str:
    # URLs of SQLAlchemy name a driver, those of Django (dj-database-url) can name PostGIS or
    # Timescale, or abbreviate. libpq does not know these schemes.
    return re.sub(_POSTGRESQL, "postgresql://", text)


def _directory(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("a directory")
    if text.startswith(BUCKET) and not re.fullmatch(r"[^/]+(/.*)?", text.removeprefix(BUCKET)):
        raise ValueError("a directory, or s3://BUCKET/PREFIX")
    return text


def flag(text: str) -> bool:
    """Return what a word for true or false means."""
    words = {"true": True, "yes": True, "1": True, "on": True}
    words |= {"false": False, "no": False, "0": False, "off": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError("true or false") from None


def _bucket(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", text):
        raise ValueError("the name of a bucket")
    return text


def prefix(text: str) -> str:
    """Return the prefix of keys for a path."""
    return f"{text.strip('/')}/" if text.strip("/") else ""


def _endpoint(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+/?", text):
        raise ValueError("a URL such as https://s3.example.com")
    return text.rstrip("/")


def _parts(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text) or not 10 <= int(text) <= 10_000:
        raise ValueError("a whole number from 10 to 10000")
    return int(text)


def _part_size(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text) or not 5 <= int(text) <= 5120:
        raise ValueError("a whole number of MiB from 5 to 5120")
    return int(text) << 20


def _compression(text: str) -> Compression:
    try:
        return Compression(text.lower())
    except ValueError:
        raise ValueError("gzip or zstd") from None


def _text(text: str) -> str:
    return text


def _size(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(kB|MB|GB)", text)
    size = 0.0 if found is None else float(found[1]) * _SIZES[found[2]]
    if not 1 << 10 <= size <= 1 << 50:
        raise ValueError("a size such as 500kB, 50MB or 1.5GB")
    return size


def _span(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(s|min|h|d|w)", text)
    seconds = 0.0 if found is None else float(found[1]) * _UNITS[found[2]]
    if not 0 < seconds <= LONGEST_SPAN:
        raise ValueError("a duration such as 90s, 30min, 26h or 2d")
    return seconds


def _span_or_none(text: str) -> float | None:
    try:
        return None if text in ("0", "none") else _span(text)
    except ValueError as error:
        raise ValueError(f"{error}, or 0 for no limit") from None


def _span_or_zero(text: str) -> float:
    try:
        return 0.0 if text == "0" else _span(text)
    except ValueError as error:
        raise ValueError(f"{error}, or 0") from None


def _metrics_file(text: str) -> Path:
    if not text.endswith(".prom") or "\0" in text:
        raise ValueError("a file NAME.prom: node_exporter reads no other files")
    return Path(text)


def _stanzas(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not all(map(STANZA.fullmatch, names)):
        raise ValueError("names of stanzas, separated by commas")
    return names


def _recipients(text: str) -> str:
    # Refused here, before the value of a setting is printed anywhere.
    if PRIVATE_KEY.search(text):
        raise ValueError("public keys, and no private key")
    return text


def _identity_files(text: str) -> tuple[Path, ...]:
    if "\0" in text:
        raise ValueError("a file of private keys")
    return tuple(Path(part.strip()).expanduser() for part in text.split(",") if part.strip())


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+([/?]\S*)?", text):
        raise ValueError("a URL such as https://host/path")
    return text


def _cluster(text: str) -> str:
    if not cluster_names.ALLOWED.fullmatch(text):
        raise ValueError(cluster_names.EXPECTED)
    return text


def _token(text: str) -> str:
    if not re.fullmatch(r"[!-~]{16,}", text):
        raise ValueError("16 letters, digits or signs, or more, as openssl rand -hex 16 prints")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values of all settings; times are in seconds."""

    directory: str = _setting(
        "BACKUP_DIR",
        Group.BACKUP,
        _directory,
        description=(
            "Directory for backups, or `s3://BUCKET/PREFIX` for backups in a bucket only."
        ),
        default="./backups",
        option="--dir",
    )
    databases: DatabaseSelection = _setting(
        "BACKUP_DATABASES",
        Group.BACKUP,
        DatabaseSelection.parse,
        description=(
            "Databases to back up: names and patterns (`*`, `?`) separated by commas,"
            " exclusions begin with `!`, such as `*,!scratch_*`; or a JSON array of exact names."
            " Without it, the database of the connection."
        ),
    )
    daily: int = _setting(
        "BACKUP_RETENTION_DAILY",
        Group.RETENTION,
        _whole(0),
        description="Days to keep daily backups.",
        default="7",
    )
    weekly: int = _setting(
        "BACKUP_RETENTION_WEEKLY",
        Group.RETENTION,
        _whole(0),
        description="Weeks to keep weekly backups.",
        default="4",
    )
    monthly: int = _setting(
        "BACKUP_RETENTION_MONTHLY",
        Group.RETENTION,
        _whole(0),
        description="Months to keep monthly backups.",
        default="12",
    )
    min_keep: int = _setting(
        "BACKUP_MIN_KEEP",
        Group.RETENTION,
        _whole(1),
        description=(
            "Number of newest verified backups of each database that retention never removes."
        ),
        default="1",
    )
    zone: ZoneInfo = _setting(
        "BACKUP_TIMEZONE",
        Group.BACKUP,
        _zone,
        description="Time zone in which days, weeks and months begin for `--type=auto`.",
        default="UTC",
    )
    jobs: int = _setting(
        "BACKUP_JOBS",
        Group.BACKUP,
        _whole(1),
        description="Number of parallel connections.",
        default=str(min(4, (os.cpu_count() or 1) + 1)),
        shown_default="min(4, cores + 1)",
        option="--jobs",
    )
    compression: Compression = _setting(
        "BACKUP_COMPRESSION",
        Group.BACKUP,
        _compression,
        description=(
            "Compression of new backup files: `gzip` for `.sql.gz`, which `zcat` reads, or `zstd`"
            " for `.sql.zst`, which is smaller and which `zstdcat` reads."
        ),
        default="gzip",
        option="--compression",
    )
    drift: float = _setting(
        "BACKUP_DRIFT",
        Group.BACKUP,
        _share,
        description="Percentage by which size, tables or rows can fall before a backup warns.",
        default="50",
    )
    lock_timeout: float = _setting(
        "BACKUP_LOCK_TIMEOUT",
        Group.BACKUP,
        _seconds,
        description=(
            "Maximum time to wait for table locks, all tables and attempts together, in seconds,"
            " up to 2147483."
        ),
        default="300",
        option="--lock-timeout",
    )
    yield_after: float | None = _setting(
        "BACKUP_YIELD_AFTER",
        Group.BACKUP,
        _optional(_seconds),
        description=(
            "Give up the backup when another session has been waiting for its locks for so many"
            " seconds. Never if unset."
        ),
        option="--yield-after",
    )
    computed: bool = _setting(
        "BACKUP_COMPUTED_VALUES",
        Group.BACKUP,
        flag,
        description=(
            "Record hashes of materialized views and generated columns, which drills compare."
        ),
        default="true",
        option="--no-computed-values",
    )
    stall_timeout: float | None = _setting(
        "BACKUP_STALL_TIMEOUT",
        Group.BACKUP,
        _span_or_none,
        description=(
            "Maximum time without a byte from the server and without work for the backup on it."
            " Then the backup fails. `0`: no limit."
        ),
        default="5min",
    )
    max_snapshot_age: float | None = _setting(
        "BACKUP_MAX_SNAPSHOT_AGE",
        Group.BACKUP,
        _optional(_span),
        description=(
            "Maximum age of a backup's snapshot, which holds back VACUUM. Then the backup fails."
            " No limit if unset."
        ),
    )
    retries: int = _setting(
        "BACKUP_RETRIES",
        Group.BACKUP,
        _whole(0),
        description=(
            "Number of times that the backup of a database is repeated after a lost connection, a"
            " restart or failover of the server, or a conflict with recovery."
        ),
        default="1",
    )
    rate_limit: float | None = _setting(
        "BACKUP_RATE_LIMIT",
        Group.BACKUP,
        _optional(_size),
        description=(
            "Bytes of SQL that a backup reads per second, with all its connections: `500kB`,"
            " `50MB`. No limit if unset. A slower backup holds its snapshot for longer. For"
            " `pgkeep pitr base`: bytes of files."
        ),
    )
    s3_bucket: str | None = _setting(
        "BACKUP_S3_BUCKET",
        Group.BUCKET,
        _optional(_bucket),
        description="Bucket that receives a copy of each backup.",
    )
    s3_prefix: str = _setting(
        "BACKUP_S3_PREFIX",
        Group.BUCKET,
        prefix,
        description="Prefix of all keys in the bucket.",
        default="backups/",
    )
    s3_endpoint: str | None = _setting(
        "BACKUP_S3_ENDPOINT",
        Group.BUCKET,
        _optional(_endpoint),
        description="Endpoint URL of an S3-compatible service. Without it, AWS.",
    )
    s3_region: str | None = _setting(
        "BACKUP_S3_REGION",
        Group.BUCKET,
        _optional(_text),
        description="Region of the bucket. Without it, `AWS_REGION`, or us-east-1.",
    )
    require_copy: bool = _setting(
        "BACKUP_S3_REQUIRED",
        Group.BUCKET,
        flag,
        description=(
            "Whether a failed upload fails the run. false: the copy is pending,"
            " and the next run uploads it. true: exit code 6."
        ),
        default="false",
    )
    s3_timeout: float = _setting(
        "BACKUP_S3_TIMEOUT",
        Group.BUCKET,
        _seconds,
        description="Seconds to wait for an answer before a call fails.",
        default="60",
    )
    s3_limit: float = _setting(
        "BACKUP_S3_LIMIT",
        Group.BUCKET,
        _seconds,
        description="Seconds that an upload can lag behind the backup.",
        default="21600",
    )
    s3_max_parts: int = _setting(
        "BACKUP_S3_MAX_PARTS",
        Group.BUCKET,
        _parts,
        description="Maximum number of parts in one upload, as the service allows.",
        default="10000",
    )
    s3_part_size: int | None = _setting(
        "BACKUP_S3_PART_SIZE",
        Group.BUCKET,
        _optional(_part_size),
        description=(
            "Size of every part in MiB, for services that require equal parts. "
            "Without it, parts grow."
        ),
    )
    encrypt_to: str | None = _setting(
        "BACKUP_ENCRYPT_TO",
        Group.ENCRYPTION,
        _optional(_recipients),
        description=(
            "Who can decrypt new backups: public keys of age (`age1...`), of SSH, or GPG keys, or"
            " files of them, separated by commas. `none`: no encryption, although earlier backups"
            " are encrypted."
        ),
        fails_closed=True,
    )
    identity_files: tuple[Path, ...] = _setting(
        "BACKUP_IDENTITY_FILE",
        Group.ENCRYPTION,
        _identity_files,
        description=(
            "File of private keys of age, or an SSH key, that decrypts backups; several are"
            " separated by commas. GPG uses its own keyring."
        ),
        option="--identity",
    )
    wal_max_lag: float = _setting(
        "BACKUP_WAL_MAX_LAG",
        Group.PITR,
        _span_or_zero,
        description=(
            "Point in time: maximum age of the newest change in the stores. While the server"
            " writes, the unfinished WAL segment is stored every quarter of this time. `0`: only"
            " complete segments are stored."
        ),
        default="60s",
    )
    window: float = _setting(
        "BACKUP_WINDOW",
        Group.PITR,
        _span,
        description="Point in time: how far back any second can be restored.",
        default="7d",
    )
    spool: Path | None = _setting(
        "BACKUP_SPOOL_DIR",
        Group.PITR,
        _optional(Path),
        description=(
            "Point in time: directory for received WAL and for base backups before they are stored."
            " Without it, `pitr/spool` in `BACKUP_DIR`."
        ),
    )
    metrics_file: Path | None = _setting(
        "BACKUP_METRICS_FILE",
        Group.MONITORING,
        _optional(_metrics_file),
        description=(
            "File for the metrics of every run, failed runs included, for "
            "node_exporter's textfile collector: `NAME.prom`, one for each "
            "configuration. Requires the extra `pgkeep[metrics]`."
        ),
    )
    pushgateway: str | None = _setting(
        "BACKUP_PUSHGATEWAY",
        Group.MONITORING,
        _optional(_endpoint),
        description="URL of a Pushgateway that receives the same metrics.",
    )
    cluster: str | None = _setting(
        "BACKUP_CLUSTER",
        Group.MONITORING,
        _optional(_cluster),
        description=(
            "Name of the cluster in metrics, notifications and `pgkeep status`. Without it,"
            " the last 8 hexadecimal digits of the system identifier."
        ),
    )
    max_age: float = _setting(
        "BACKUP_MAX_AGE",
        Group.MONITORING,
        _span,
        description=(
            "Maximum age of a database's newest backup: `90s`, `30min`, `26h`, `2d`, `1w`."
        ),
        default="26h",
    )
    base_max_age: float = _setting(
        "BACKUP_BASE_MAX_AGE",
        Group.MONITORING,
        _span,
        description="Point in time: maximum age of a cluster's newest base backup.",
        default="8d",
    )
    drill_max_age: float | None = _setting(
        "BACKUP_DRILL_MAX_AGE",
        Group.MONITORING,
        _optional(_span),
        description="Maximum age of a database's last passed drill. Not checked if unset.",
    )
    rto: float | None = _setting(
        "BACKUP_RTO",
        Group.MONITORING,
        _optional(_span),
        description=(
            "Recovery time objective: maximum recovery time of a database's last "
            "drill. Not checked if unset."
        ),
    )
    pgbackrest_stanzas: tuple[str, ...] = _setting(
        "BACKUP_PGBACKREST_STANZA",
        Group.MONITORING,
        _stanzas,
        description=(
            "Stanzas of pgBackRest, separated by commas, that `status` and the metrics check too."
            " `pgbackrest` must be installed here, with its configuration."
        ),
    )
    ping_url: str | None = _setting(
        "BACKUP_PING_URL",
        Group.MONITORING,
        _optional(_url),
        description=(
            "URL that is pinged when a run starts (`/start`), succeeds, or "
            "fails (`/fail`), as healthchecks.io expects it."
        ),
        secret=True,
    )
    webhook: str | None = _setting(
        "BACKUP_WEBHOOK",
        Group.MONITORING,
        _optional(_url),
        description="URL that receives the outcome of every run as JSON.",
        secret=True,
    )
    serve_token: str | None = _setting(
        "BACKUP_SERVE_TOKEN",
        Group.MONITORING,
        _optional(_token),
        description=(
            "Password of `pgkeep serve`, at least 16 characters. Required if it"
            " listens on an address that other machines can reach."
        ),
        secret=True,
    )
    dsn: str | None = _setting(
        "DATABASE_URL",
        Group.CONNECTION,
        _optional(_database_url),
        description="Connection string or URI. Takes precedence over `POSTGRES_...`.",
        option="--dsn",
        secret=True,
    )
    postgres_host: str | None = _setting(
        "POSTGRES_HOST",
        Group.CONNECTION,
        _optional(_text),
        description="Host or socket directory of the server.",
        libpq="host",
    )
    postgres_port: str | None = _setting(
        "POSTGRES_PORT",
        Group.CONNECTION,
        _optional(_text),
        description="Port of the server.",
        libpq="port",
    )
    postgres_db: str | None = _setting(
        "POSTGRES_DB", Group.CONNECTION, _optional(_text), description="Database.", libpq="dbname"
    )
    postgres_user: str | None = _setting(
        "POSTGRES_USER", Group.CONNECTION, _optional(_text), description="Role.", libpq="user"
    )
    postgres_password: str | None = _setting(
        "POSTGRES_PASSWORD",
        Group.CONNECTION,
        _optional(_text),
        description="Password of the role.",
        libpq="password",
        secret=True,
    )


_DECLARED: dict[str, Setting] = {
    field.name: field.metadata["setting"] for field in dataclasses.fields(Settings)
}
SETTINGS = tuple(_DECLARED.values())
SECRETS = frozenset(setting.variable for setting in SETTINGS if setting.secret)


def settings_of(parsed: Mapping[str, Any]) -> Settings:
    """Return the settings with these values, by variable."""
    return Settings(**{name: parsed[setting.variable] for name, setting in _DECLARED.items()})
