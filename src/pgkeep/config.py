"""Read the settings from the command line, the environment and pgkeep.toml.

All problems are reported at once, each with its origin. A setting that cannot be read never falls
back to its default.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import errors as e
from .model.retention import Policy
from .settings import BUCKET, SECRETS, SETTINGS, Settings, flag, prefix, settings_of

if TYPE_CHECKING:
    from .crypt.opening import Keys
    from .crypt.options import Encryption
    from .postgres.connection import Endpoint
    from .stores.store import Store


class Value(NamedTuple):
    """The text of a setting, and its origin."""

    text: str
    origin: str


_BY_VARIABLE = {setting.variable: setting for setting in SETTINGS}
CONFIG_FILE = "PGKEEP_CONFIG"
COMMAND_LINE = "the command line"  # the origin of options
_CONNECTION = {setting.variable for setting in SETTINGS if setting.libpq is not None}
_FAIL_CLOSED = {setting.variable for setting in SETTINGS if setting.fails_closed}
_HIDDEN = SECRETS | _FAIL_CLOSED  # a wrong value can be a secret
# A misspelt variable of these would leave backups in plain text, or a private key unused.
_STRICT = ("BACKUP_ENCR", "BACKUP_IDENTIT", "PGKEEP_ENCR", "PGKEEP_IDENTIT")
_LARGEST_NUMBER = 1000  # bits
_SHOWN = 1000  # characters of a wrong value
PLAIN = "none"  # the value of BACKUP_ENCRYPT_TO that turns encryption off
_FLAGS = {setting.variable for setting in SETTINGS if setting.parse is flag}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of one target."""

    target: str | None
    values: Mapping[str, Value]  # as they were given, by variable
    settings: Settings
    cache: Path | None = None  # folder of this machine for copies of small files

    @property
    def connection(self) -> Mapping[str, str]:
        """What POSTGRES_... mean to libpq, by keyword."""
        return {
            setting.libpq: value.text
            for setting in SETTINGS
            if setting.libpq is not None
            and (value := self.values.get(setting.variable)) is not None
            and value.text
        }

    @property
    def policy(self) -> Policy:
        """How long backups are kept."""
        return Policy(
            daily=self.settings.daily,
            weekly=self.settings.weekly,
            monthly=self.settings.monthly,
            min_keep=self.settings.min_keep,
        )

    def endpoint(self, database: str | None = None) -> "Endpoint":
        """Return the connection parameters, for another database if a name is given.

        Raises:
            UsageError: the connection string is not valid.

        """
        from .postgres.connection import Endpoint  # noqa: PLC0415 - 200 ms that `list` need not pay

        dsn = self.settings.dsn
        endpoint = Endpoint(self.connection) if dsn is None else Endpoint.from_dsn(dsn)
        variable = "POSTGRES_PASSWORD" if dsn is None else "DATABASE_URL"
        if variable in self.values:
            origin = f"{variable}, from {self.values[variable].origin},"
            endpoint = replace(endpoint, password_from=origin)
        return endpoint if database is None else endpoint.to(database)

    def connected(self) -> str | None:
        """Return the database of the connection, if the settings name it."""
        if self.settings.dsn is None:
            return self.connection.get("dbname")
        return self.endpoint().params.get("dbname")

    @property
    def encrypts(self) -> bool:
        """Whether backups are to be encrypted: whether BACKUP_ENCRYPT_TO has public keys."""
        return self.settings.encrypt_to not in (None, PLAIN)

    def encryption(self) -> "Encryption":
        """Return who can decrypt new backups, and the private keys for reading them.

        Raises:
            UsageError: a public key cannot be used, or a package or program is missing.

        """
        from .crypt import recipients  # noqa: PLC0415 - few commands need them
        from .crypt.options import Encryption  # noqa: PLC0415

        text = self.settings.encrypt_to
        return Encryption(
            recipients=recipients.parse(text or "") if self.encrypts else None,
            plain=text == PLAIN,
            keys=self.keys(),
        )

    def keys(self, ask: "Callable[[str], str] | None" = None) -> "Keys":
        """Return the private keys; `ask` asks for the passphrase of a file of them."""
        from .crypt.opening import Keys  # noqa: PLC0415

        return Keys(self.settings.identity_files, ask)

    def store(self) -> "Store":
        """Return the store of the backups: the directory, or the bucket instead of it."""
        return self.store_at(self.settings.directory)

    def copy(self) -> "Store | None":
        """Return the store of the copies, if one is configured."""
        bucket = self.settings.s3_bucket
        return None if bucket is None else self._bucket(bucket, self.settings.s3_prefix)

    def store_at(self, place: str, *, tiers: bool = True) -> "Store":
        """Return the store of a directory, or of the URL of a bucket."""
        if not place.startswith(BUCKET):
            from .stores.local import LocalStore  # noqa: PLC0415

            return LocalStore(Path(place))
        bucket, _, path = place.removeprefix(BUCKET).partition("/")
        return self._bucket(bucket, prefix(path), tiers=tiers)

    def _bucket(self, bucket: str, prefix: str, *, tiers: bool = True) -> "Store":
        try:
            from .stores.s3.client import S3Settings  # noqa: PLC0415 - 0.5 s that few need
            from .stores.s3.store import S3Store  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise e.UsageError(
                f"buckets require another package: {error.name}", hint="pip install 'pgkeep[s3]'"
            ) from error
        s3 = S3Settings(
            bucket=bucket,
            prefix=prefix,
            endpoint=self.settings.s3_endpoint,
            region=self.settings.s3_region,
            max_parts=self.settings.s3_max_parts,
            part_size=self.settings.s3_part_size,
            timeout=self.settings.s3_timeout,
            limit=self.settings.s3_limit,
            cache=self.cache,
        )
        return S3Store(s3, tiers=tiers)


def load(
    environ: Mapping[str, str],
    options: Mapping[str, str | None] | None = None,
    target: str | None = None,
) -> list[Config]:
    """Read the settings of all targets in the file, or of one target, or those without a target.

    Options are named by their variables. An option takes precedence over the table of a target, the
    table over the environment, and the environment over the top of the file.

    Raises:
        UsageError: with all problems.

    """
    problems: list[str] = []
    top, tables = _file(environ.get(CONFIG_FILE) or None, problems)
    if target is not None and target not in tables:
        known = ", ".join(tables) or "none"
        problems.append(f"--target: no target {target} in the configuration (targets: {known})")
    surroundings = {**top, **_environment(environ, problems)}
    from_options = {
        variable: Value(text, COMMAND_LINE)
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
                f"[targets.{name}]: {variable.lower()} has no effect: DATABASE_URL from"
                f" {values['DATABASE_URL'].origin} takes precedence; set database_url for the"
                " target"
                for variable in own.keys() & _CONNECTION
            ]
        parsed = _parse(values, problems)
        if not problems:
            if parsed["BACKUP_DIR"].startswith(BUCKET) and parsed["BACKUP_S3_BUCKET"]:
                problems.append(
                    f"BACKUP_DIR is already a bucket, {parsed['BACKUP_DIR']}: BACKUP_S3_BUCKET is"
                    " for copies of a directory"
                )
            settings = settings_of(parsed)
            configs.append(
                Config(target=name, values=values, settings=settings, cache=_cache(environ))
            )
    if problems:
        raise e.UsageError(
            "; ".join(dict.fromkeys(problems)), hint="pgkeep config --help lists every variable."
        )
    return configs


def _cache(environ: Mapping[str, str]) -> Path | None:
    """Return the folder for copies, by the XDG Base Directory Specification; None without a home.

    A path that is not absolute is ignored, as the specification requires.
    """
    found = [environ.get("XDG_CACHE_HOME", ""), f"{environ.get('HOME', '')}/.cache"]
    paths = [Path(path) for path in found if path.startswith("/") and path != "/.cache"]
    return paths[0] / "pgkeep" if paths else None


def _parse(values: Mapping[str, Value], problems: list[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for setting in SETTINGS:
        value = values.get(setting.variable, Value(setting.default, "the default"))
        if setting.fails_closed and setting.variable in values and not value.text.strip():
            problems.append(
                f"{setting.variable}: expected public keys, or {PLAIN} for no encryption, got"
                f" {value.text!r} from {value.origin}"
            )
            continue
        try:
            parsed[setting.variable] = setting.parse(value.text)
        except ValueError as error:
            got = "something else" if setting.variable in _HIDDEN else repr(value.text)
            problems.append(f"{setting.variable}: expected {error}, got {got} from {value.origin}")
    return parsed


def _environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Value]:
    """Return the settings of the environment; an empty variable counts as unset.

    A variable that is almost one of ours is a typing error that would go unnoticed for years. One
    that concerns encryption must be known exactly.
    """
    for variable in environ:
        plain = variable.removesuffix("_FILE")
        if {variable, plain} & _BY_VARIABLE.keys():
            continue
        if variable.upper().startswith(_STRICT):
            near = _close(plain.upper(), _BY_VARIABLE)
            problems.append(f"{variable}: unknown variable{near}")
            continue
        if not variable.startswith("BACKUP_"):
            continue
        if environ[variable] and (near := _close(plain, _BY_VARIABLE, 0.9)):
            problems.append(f"{variable}: unknown variable{near}")
    given: dict[str, Value] = {}
    for variable in _BY_VARIABLE:
        text, file = environ.get(variable), environ.get(f"{variable}_FILE")
        if variable not in _FAIL_CLOSED:  # a variable that somebody forgot to fill
            text, file = text or None, file or None
        _take(given, variable, text, file, "the environment", problems)
    return given


def _take(
    given: dict[str, Value],
    variable: str,
    text: str | None,
    file: str | None,
    origin: str,
    problems: list[str],
) -> None:
    """Record a value, or the contents of the file that contains it, such as a mounted secret."""
    if text is not None and file is not None:
        problems.append(f"{variable} and {variable}_FILE are both set in {origin}")
    elif text is not None:
        given[variable] = Value(text, origin)
    elif file is not None:
        try:
            given[variable] = Value(Path(file).read_text().rstrip("\r\n"), file)
        except (OSError, ValueError) as error:  # ValueError: not text, or a zero byte in the name
            reason = getattr(error, "strerror", None) or "not text"
            problems.append(f"{variable}_FILE: could not read {file}: {reason}")


def _file(
    name: str | None, problems: list[str]
) -> tuple[dict[str, Value], dict[str, dict[str, Value]]]:
    """Read pgkeep.toml: settings for all targets, and a table for each target."""
    if name is None:
        return {}, {}
    import tomllib  # noqa: PLC0415 - most have no file

    try:
        contents = tomllib.loads(Path(name).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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
    """Read a table; its keys are the names of the variables in lower case."""
    texts: dict[str, str] = {}
    for key, value in table.items():
        variable = key.upper()
        known_as = {variable, variable.removesuffix("_FILE")}
        if key != key.lower() or not known_as & _BY_VARIABLE.keys():
            known = [name.lower() for name in _BY_VARIABLE]
            problems.append(f"{origin}: unknown key {key}{_close(key.lower(), known)}")
        elif variable == "BACKUP_DATABASES" and isinstance(value, list):
            if all(isinstance(name, str) and "," not in name for name in value):
                texts[variable] = ",".join(value)
            else:
                problems.append(
                    f"{origin}: {key}: expected names without commas, got {_shown(value)}"
                )
        elif isinstance(value, bool) and variable in _FLAGS:
            texts[variable] = str(value).lower()
        elif isinstance(value, (str, float)) or _is_number(value):
            texts[variable] = str(value)
        else:
            got = "something else" if variable in _HIDDEN else _shown(value)
            problems.append(f"{origin}: {key}: expected a string or a number, got {got}")
    given: dict[str, Value] = {}
    for variable in _BY_VARIABLE:
        text, file = texts.get(variable), texts.get(f"{variable}_FILE")
        _take(given, variable, text, file, origin, problems)
    return given


def _is_number(value: object) -> bool:
    """Whether a value is an integer that can be written in decimal digits."""
    return type(value) is int and value.bit_length() <= _LARGEST_NUMBER


def _shown(value: object) -> str:
    """Return a value for a message; Python does not write very large numbers."""
    try:
        return repr(value)[:_SHOWN]
    except (ValueError, RecursionError):
        return "something else"


def _close(name: str, known: Sequence[str] | Mapping[str, Any], cutoff: float = 0.6) -> str:
    import difflib  # noqa: PLC0415 - only a mistake needs it

    near = difflib.get_close_matches(name, list(known), 1, cutoff)
    return f", did you mean {near[0]}?" if near else ""
