"""Settings from the command line, the environment and pgkeep.toml, as the values a library takes.

Everything is read at once and all problems are told together, each with where it comes from;
nothing falls back to a default because it could not be read.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from . import errors as e
from .model.retention import Policy

if TYPE_CHECKING:
    from .postgres.connection import Endpoint
    from .stores.store import Store


class Setting(NamedTuple):
    """One variable: its name, what it is without it, how to read it, what it means."""

    variable: str
    default: str
    parse: Callable[[str], Any]
    meaning: str


class Value(NamedTuple):
    """What a variable is set to, and by whom."""

    text: str
    origin: str


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


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if text and not names:
        raise ValueError("names separated by commas, or *")
    return names


def _directory(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("a directory")
    if text.startswith(BUCKET) and not re.fullmatch(r"[^/]+(/.*)?", text.removeprefix(BUCKET)):
        raise ValueError("a directory, or s3://BUCKET/PREFIX")
    return text


def _flag(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "on": True}
    words |= {"false": False, "no": False, "0": False, "off": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError("true or false") from None


def _bucket(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", text):
        raise ValueError("the name of a bucket")
    return text


def _prefix(text: str) -> str:
    return f"{text.strip('/')}/" if text.strip("/") else ""


def _endpoint(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/?#]+/?", text):
        raise ValueError("a URL such as https://s3.example.com")
    return text.rstrip("/")


def _parts(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text) or not 10 <= int(text) <= 10_000:
        raise ValueError("a whole number from 10 to 10000")
    return int(text)


def _part_size(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]+", text) or not 5 <= int(text) <= 5120:
        raise ValueError("a whole number of MiB from 5 to 5120")
    return int(text) << 20


def _text(text: str) -> str:
    return text


_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _span(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(s|min|h|d|w)", text)
    seconds = 0.0 if found is None else float(found[1]) * _UNITS[found[2]]
    if not 0 < seconds <= LONGEST_SPAN:
        raise ValueError("a duration such as 90s, 30min, 26h or 2d")
    return seconds


def _optional_span(text: str) -> float | None:
    return _span(text) if text else None


def _metrics_file(text: str) -> str:
    if text and (not text.endswith(".prom") or "\0" in text):
        raise ValueError("a file NAME.prom, for node_exporter reads no others")
    return text


def _url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s/?#@]+([/?]\S*)?", text):
        raise ValueError("a URL such as https://host/path")
    return text


def _token(text: str) -> str:
    if text and not re.fullmatch(r"[!-~]{16,}", text):
        raise ValueError("16 letters, digits or signs, or more, as by openssl rand -hex 16")
    return text


SETTINGS = (
    Setting(
        "BACKUP_DIR", "./backups", _directory,
        "backup storage directory, or s3://BUCKET/PREFIX for backups in a bucket only",
    ),
    Setting(
        "BACKUP_DATABASES", "", _names,
        "names separated by commas, or * for every database that can be connected to;"
        " without it the connected one",
    ),
    Setting("BACKUP_RETENTION_DAILY", "7", _whole(0), "days to keep daily backups"),
    Setting("BACKUP_RETENTION_WEEKLY", "4", _whole(0), "weeks to keep weekly backups"),
    Setting("BACKUP_RETENTION_MONTHLY", "12", _whole(0), "months to keep monthly backups"),
    Setting(
        "BACKUP_MIN_KEEP", "1", _whole(1),
        "verified backups per database that retention never touches",
    ),
    Setting("BACKUP_TIMEZONE", "UTC", _zone, "where days, weeks and months begin for --type=auto"),
    Setting(
        "BACKUP_JOBS", str(min(4, (os.cpu_count() or 1) + 1)), _whole(1),
        "connections used at once; min(4, cores + 1) without it",
    ),
    Setting(
        "BACKUP_DRIFT", "50", _share,
        "percent by which size, tables or rows may fall without a warning",
    ),
    Setting(
        "BACKUP_LOCK_TIMEOUT", "300", _seconds, "seconds to wait for tables that others lock"
    ),
    Setting(
        "BACKUP_COMPUTED_VALUES", "true", _flag,
        "record hashes of materialized views and generated columns, which drills compare",
    ),
    Setting("BACKUP_S3_BUCKET", "", _bucket, "bucket for remote storage"),
    Setting("BACKUP_S3_PREFIX", "backups/", _prefix, "key prefix"),
    Setting("BACKUP_S3_ENDPOINT", "", _endpoint, "endpoint of an S3-compatible service"),
    Setting(
        "BACKUP_S3_REGION", "", _text,
        "region of the bucket; without it AWS_REGION, or us-east-1",
    ),
    Setting(
        "BACKUP_S3_REQUIRED", "false", _flag,
        "false: a failed copy is pending and uploaded by the next run; true: it is exit code 6",
    ),
    Setting(
        "BACKUP_S3_TIMEOUT", "60", _seconds, "seconds after which a call without an answer fails"
    ),
    Setting(
        "BACKUP_S3_LIMIT", "21600", _seconds,
        "seconds that an upload may lag behind what is written",
    ),
    Setting(
        "BACKUP_S3_MAX_PARTS", "10000", _parts, "parts of one upload that the service allows"
    ),
    Setting(
        "BACKUP_S3_PART_SIZE", "", _part_size,
        "MiB of every part, for services that want equal ones; without it they grow",
    ),
    Setting(
        "BACKUP_METRICS_FILE", "", _metrics_file,
        "metrics of every run for node_exporter's textfile collector, NAME.prom",
    ),
    Setting("BACKUP_PUSHGATEWAY", "", _endpoint, "URL of a Pushgateway that gets them too"),
    Setting("BACKUP_MAX_AGE", "26h", _span, "how old a database's newest backup may become"),
    Setting(
        "BACKUP_DRILL_MAX_AGE", "", _optional_span,
        "how long ago its last successful drill may be; not judged without it",
    ),
    Setting(
        "BACKUP_RTO", "", _optional_span,
        "how long its last drill may have taken; not judged without it",
    ),
    Setting(
        "BACKUP_PING_URL", "", _url,
        "told when a run begins (/start), has succeeded, or failed (/fail), as by healthchecks.io",
    ),
    Setting("BACKUP_WEBHOOK", "", _url, "URL that gets the outcome of every run as JSON"),
    Setting(
        "BACKUP_SERVE_TOKEN", "", _token,
        "password of pgkeep serve, 16 characters or more; needed where it listens on more than this"
        " machine",
    ),
    Setting("DATABASE_URL", "", _text, "connection string or URI; wins over POSTGRES_..."),
    Setting("POSTGRES_HOST", "", _text, "host or socket directory"),
    Setting("POSTGRES_PORT", "", _text, "port"),
    Setting("POSTGRES_DB", "", _text, "database"),
    Setting("POSTGRES_USER", "", _text, "role"),
    Setting("POSTGRES_PASSWORD", "", _text, "password"),
)  # fmt: skip
_BY_VARIABLE = {one.variable: one for one in SETTINGS}
_FLAGS = {one.variable for one in SETTINGS if one.parse is _flag}
# Who knows the URL of a ping may send it.
SECRETS = frozenset(
    {
        "DATABASE_URL", "POSTGRES_PASSWORD", "BACKUP_PING_URL", "BACKUP_WEBHOOK",
        "BACKUP_SERVE_TOKEN",
    }
)  # fmt: skip
CONFIG_FILE = "PGKEEP_CONFIG"
LONGEST_SPAN = 100 * 366 * 86400.0  # seconds: a century
LONGEST = 2_147_483  # seconds: PostgreSQL counts milliseconds in 32 bits
BUCKET = "s3://"

# What POSTGRES_... means to libpq.
CONNECTION = {
    "POSTGRES_HOST": "host",
    "POSTGRES_PORT": "port",
    "POSTGRES_DB": "dbname",
    "POSTGRES_USER": "user",
    "POSTGRES_PASSWORD": "password",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of one target."""

    target: str | None
    values: Mapping[str, Value]  # as they were given, by variable
    connection: Mapping[str, str]  # libpq keywords
    dsn: str | None
    directory: str  # or the URL of a bucket
    s3: Mapping[str, Any]  # the fields of S3Settings
    require_copy: bool
    databases: tuple[str, ...]
    policy: Policy
    zone: ZoneInfo
    jobs: int
    drift: float  # a share, from 0 to 1
    lock_timeout: float  # seconds
    computed: bool  # whether hashes of computed values are recorded
    metrics_file: Path | None
    pushgateway: str | None
    max_age: float  # seconds, as the next two
    drill_max_age: float | None
    rto: float | None
    ping_url: str | None
    webhook: str | None
    serve_token: str | None

    def endpoint(self, database: str | None = None) -> "Endpoint":
        """Return the way to the server, to another database than the one set if one is named.

        Raises:
            UsageError: the connection string is not valid.

        """
        from .postgres.connection import Endpoint  # noqa: PLC0415 - 200 ms that `list` need not pay

        endpoint = Endpoint(self.connection) if self.dsn is None else Endpoint.from_dsn(self.dsn)
        return endpoint if database is None else endpoint.to(database)

    def connected(self) -> str | None:
        """Return the database that is connected to, where the settings name it."""
        if self.dsn is None:
            return self.connection.get("dbname")
        return self.endpoint().params.get("dbname")

    def store(self) -> "Store":
        """Return where backups go first: the directory, or the bucket that stands for it."""
        return self.store_at(self.directory)

    def copy(self) -> "Store | None":
        """Return where a copy of each backup goes, if anywhere."""
        return None if self.s3["bucket"] is None else _s3_store(self.s3)

    def store_at(self, place: str, *, tiers: bool = True) -> "Store":
        """Return the store of a directory, or of a bucket's URL."""
        if not place.startswith(BUCKET):
            from .stores.local import LocalStore  # noqa: PLC0415

            return LocalStore(Path(place))
        bucket, _, prefix = place.removeprefix(BUCKET).partition("/")
        return _s3_store({**self.s3, "bucket": bucket, "prefix": _prefix(prefix)}, tiers=tiers)


def _s3_store(settings: Mapping[str, Any], *, tiers: bool = True) -> "Store":
    try:
        from .stores.s3.client import S3Settings  # noqa: PLC0415 - half a second that few need
        from .stores.s3.store import S3Store  # noqa: PLC0415 - half a second that few need
    except ModuleNotFoundError as error:
        raise e.UsageError(
            f"buckets need another package: {error.name}", hint="pip install 'pgkeep[s3]'"
        ) from error
    return S3Store(S3Settings(**settings), tiers=tiers)


def load(
    environ: Mapping[str, str],
    options: Mapping[str, str | None] | None = None,
    target: str | None = None,
) -> list[Config]:
    """Read the settings of the targets that the file has, or of the one named, or the only ones.

    An option, named like its variable, wins over a target's own table, that over the environment,
    that over the top of the file.

    Raises:
        UsageError: names every problem.

    """
    problems: list[str] = []
    top, tables = _file(environ.get(CONFIG_FILE) or None, problems)
    if target is not None and target not in tables:
        there = ", ".join(tables) or "none"
        problems.append(f"--target: no target {target} in the configuration (there: {there})")
    surroundings = {**top, **_environment(environ, problems)}
    from_options = {
        variable: Value(text, "the command line")
        for variable, text in (options or {}).items()
        if text is not None
    }
    names: Sequence[str | None] = [target] if target is not None else list(tables) or [None]
    configs = []
    for name in names:
        own = tables.get(name, {}) if name is not None else {}
        values = {**surroundings, **own, **from_options}
        if "DATABASE_URL" in values.keys() - own.keys() - from_options.keys():
            problems += [
                f"[targets.{name}]: {variable.lower()} is of no effect: DATABASE_URL from"
                f" {values['DATABASE_URL'].origin} wins; set database_url for the target"
                for variable in own.keys() & CONNECTION.keys()
            ]
        parsed = _parse(values, problems)
        if not problems:
            if parsed["BACKUP_DIR"].startswith(BUCKET) and parsed["BACKUP_S3_BUCKET"]:
                problems.append(
                    f"BACKUP_DIR is a bucket already, {parsed['BACKUP_DIR']}: BACKUP_S3_BUCKET is"
                    " for copies of a directory"
                )
            configs.append(_build(name, values, parsed))
    if problems:
        raise e.UsageError(
            "; ".join(dict.fromkeys(problems)), hint="pgkeep config --help lists every variable."
        )
    return configs


def _parse(values: Mapping[str, Value], problems: list[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for setting in SETTINGS:
        value = values.get(setting.variable, Value(setting.default, "the default"))
        try:
            parsed[setting.variable] = setting.parse(value.text)
        except ValueError as error:
            got = "something else" if setting.variable in SECRETS else repr(value.text)
            problems.append(f"{setting.variable}: expected {error}, got {got} from {value.origin}")
    return parsed


def _build(target: str | None, values: Mapping[str, Value], parsed: Mapping[str, Any]) -> Config:
    # SQLAlchemy's and Django's URLs may name a driver, which libpq does not know.
    dsn = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", parsed["DATABASE_URL"])
    return Config(
        target=target,
        values=values,
        connection={
            keyword: parsed[variable]
            for variable, keyword in CONNECTION.items()
            if parsed[variable]
        },
        dsn=dsn or None,
        directory=parsed["BACKUP_DIR"],
        s3={
            "bucket": parsed["BACKUP_S3_BUCKET"] or None,
            "prefix": parsed["BACKUP_S3_PREFIX"],
            "endpoint": parsed["BACKUP_S3_ENDPOINT"] or None,
            "region": parsed["BACKUP_S3_REGION"] or None,
            "max_parts": parsed["BACKUP_S3_MAX_PARTS"],
            "part_size": parsed["BACKUP_S3_PART_SIZE"],
            "timeout": parsed["BACKUP_S3_TIMEOUT"],
            "limit": parsed["BACKUP_S3_LIMIT"],
        },
        require_copy=parsed["BACKUP_S3_REQUIRED"],
        databases=parsed["BACKUP_DATABASES"],
        policy=Policy(
            daily=parsed["BACKUP_RETENTION_DAILY"],
            weekly=parsed["BACKUP_RETENTION_WEEKLY"],
            monthly=parsed["BACKUP_RETENTION_MONTHLY"],
            min_keep=parsed["BACKUP_MIN_KEEP"],
        ),
        zone=parsed["BACKUP_TIMEZONE"],
        jobs=parsed["BACKUP_JOBS"],
        drift=parsed["BACKUP_DRIFT"],
        lock_timeout=parsed["BACKUP_LOCK_TIMEOUT"],
        computed=parsed["BACKUP_COMPUTED_VALUES"],
        metrics_file=Path(parsed["BACKUP_METRICS_FILE"]) if parsed["BACKUP_METRICS_FILE"] else None,
        pushgateway=parsed["BACKUP_PUSHGATEWAY"] or None,
        max_age=parsed["BACKUP_MAX_AGE"],
        drill_max_age=parsed["BACKUP_DRILL_MAX_AGE"],
        rto=parsed["BACKUP_RTO"],
        ping_url=parsed["BACKUP_PING_URL"] or None,
        webhook=parsed["BACKUP_WEBHOOK"] or None,
        serve_token=parsed["BACKUP_SERVE_TOKEN"] or None,
    )


def _environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Value]:
    """Return what the environment sets; an empty variable is as good as none.

    A name that is nearly one of ours is a typing error that would go unnoticed for years.
    """
    for variable in environ:
        plain = variable.removesuffix("_FILE")
        if {variable, plain} & _BY_VARIABLE.keys() or not variable.startswith("BACKUP_"):
            continue
        if environ[variable] and (near := _close(plain, _BY_VARIABLE, 0.9)):
            problems.append(f"{variable}: unknown variable{near}")
    given: dict[str, Value] = {}
    for variable in _BY_VARIABLE:
        text, file = environ.get(variable), environ.get(f"{variable}_FILE")
        _take(given, variable, text or None, file or None, "the environment", problems)
    return given


def _take(
    given: dict[str, Value],
    variable: str,
    text: str | None,
    file: str | None,
    origin: str,
    problems: list[str],
) -> None:
    """Note a value, or the contents of the file that holds it, such as a mounted secret."""
    if text is not None and file is not None:
        problems.append(f"{variable} and {variable}_FILE are both set in {origin}")
    elif text is not None:
        given[variable] = Value(text, origin)
    elif file is not None:
        try:
            given[variable] = Value(Path(file).read_text().rstrip("\r\n"), file)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            problems.append(f"{variable}_FILE: could not read {file}: {reason}")


def _file(
    name: str | None, problems: list[str]
) -> tuple[dict[str, Value], dict[str, dict[str, Value]]]:
    """Read pgkeep.toml: settings for all, and a table for each target."""
    if name is None:
        return {}, {}
    import tomllib  # noqa: PLC0415 - most have no file

    try:
        contents = tomllib.loads(Path(name).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{CONFIG_FILE}: could not read {name}: {error}")
        return {}, {}
    tables = contents.pop("targets", {})
    if not isinstance(tables, dict) or not all(
        isinstance(table, dict) for table in tables.values()
    ):
        problems.append(f"{name}: targets: expected tables such as [targets.app]")
        return {}, {}
    top = _table(contents, name, problems)
    return top, {
        target: _table(table, f"{name} [targets.{target}]", problems)
        for target, table in tables.items()
    }


def _table(table: Mapping[str, Any], origin: str, problems: list[str]) -> dict[str, Value]:
    """Read a table whose keys are the variables' names in lower case."""
    texts: dict[str, str] = {}
    for key, value in table.items():
        variable = key.upper()
        known_as = {variable, variable.removesuffix("_FILE")}
        if key != key.lower() or not known_as & _BY_VARIABLE.keys():
            known = [one.lower() for one in _BY_VARIABLE]
            problems.append(f"{origin}: unknown key {key}{_close(key.lower(), known)}")
        elif variable == "BACKUP_DATABASES" and isinstance(value, list):
            if all(isinstance(one, str) and "," not in one for one in value):
                texts[variable] = ",".join(value)
            else:
                problems.append(f"{origin}: {key}: expected names without commas, got {value!r}")
        elif isinstance(value, bool) and variable in _FLAGS:
            texts[variable] = str(value).lower()
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            texts[variable] = str(value)
        else:
            got = "something else" if variable in SECRETS else repr(value)
            problems.append(f"{origin}: {key}: expected a string or a number, got {got}")
    given: dict[str, Value] = {}
    for variable in _BY_VARIABLE:
        text, file = texts.get(variable), texts.get(f"{variable}_FILE")
        _take(given, variable, text, file, origin, problems)
    return given


def _close(name: str, known: Sequence[str] | Mapping[str, Any], cutoff: float = 0.6) -> str:
    import difflib  # noqa: PLC0415 - only a mistake needs it

    near = difflib.get_close_matches(name, list(known), 1, cutoff)
    return f", perhaps {near[0]} is meant" if near else ""
