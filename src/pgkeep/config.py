"""Settings from the environment and the command line, as the values that a library takes.

Everything is read at once and all problems are told together; nothing falls back to a default
because it could not be read.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import errors as e

if TYPE_CHECKING:
    from .database import Endpoint


class Setting(NamedTuple):
    """One variable: its name, what it is without it, how to read it, what it means."""

    variable: str
    default: str
    parse: Callable[[str], Any]
    meaning: str


def _jobs_default() -> str:
    return str(min(4, (os.cpu_count() or 1) + 1))


def _positive(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise ValueError("a whole number from 1")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) or float(text) <= 0:
        raise ValueError("a number of seconds above 0")
    return float(text)


def _directory(text: str) -> Path:
    if not text:
        raise ValueError("a directory")
    return Path(text)


SETTINGS = (
    Setting("BACKUP_DIR", "./backups", _directory, "backup storage directory"),
    Setting("BACKUP_JOBS", _jobs_default(), _positive, "connections used at once"),
    Setting("BACKUP_LOCK_TIMEOUT", "300", _seconds, "seconds to wait for locked tables"),
)

# What POSTGRES_... means to libpq.
CONNECTION = {
    "POSTGRES_HOST": "host",
    "POSTGRES_PORT": "port",
    "POSTGRES_DB": "dbname",
    "POSTGRES_USER": "user",
    "POSTGRES_PASSWORD": "password",
}
URL = "DATABASE_URL"
VARIABLES = (*(one.variable for one in SETTINGS), URL, *CONNECTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a run."""

    connection: Mapping[str, str]  # libpq keywords
    dsn: str | None
    directory: Path
    jobs: int
    lock_timeout: float

    def endpoint(self, database: str | None = None) -> "Endpoint":
        """Return the way to the server, to another database than the one set if one is named.

        Raises:
            UsageError: the connection string is not valid.

        """
        from .database import Endpoint  # noqa: PLC0415 - 200 ms that `list` need not pay

        endpoint = Endpoint(self.connection) if self.dsn is None else Endpoint.from_dsn(self.dsn)
        return endpoint if database is None else endpoint.to(database)


def load(environ: Mapping[str, str], options: Mapping[str, str | None] | None = None) -> Config:
    """Read the settings; an option, named like its variable, wins over the environment.

    Raises:
        UsageError: names every problem.

    """
    problems: list[str] = []
    given = _given(environ, problems)
    for variable, option in (options or {}).items():
        if option is not None:
            given[variable] = (option, "the command line")
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text, origin = given.get(setting.variable, (setting.default, "the default"))
        try:
            values[setting.variable] = setting.parse(text)
        except ValueError as error:
            problems.append(f"{setting.variable}: expected {error}, got {text!r} from {origin}")
    if problems:
        raise e.UsageError("; ".join(problems), hint="pgkeep --help lists every variable.")
    return Config(
        connection=_connection(given),
        dsn=_dsn(given),
        directory=values["BACKUP_DIR"],
        jobs=values["BACKUP_JOBS"],
        lock_timeout=values["BACKUP_LOCK_TIMEOUT"],
    )


def _given(environ: Mapping[str, str], problems: list[str]) -> dict[str, tuple[str, str]]:
    """Return what the environment sets, each with where it comes from.

    NAME_FILE names a file that holds the value, such as a mounted secret.
    """
    given: dict[str, tuple[str, str]] = {}
    for variable in VARIABLES:
        file = environ.get(f"{variable}_FILE")
        if variable in environ and file is not None:
            problems.append(f"{variable} and {variable}_FILE are both set")
        elif variable in environ:
            given[variable] = (environ[variable], "the environment")
        elif file is not None:
            try:
                given[variable] = (Path(file).read_text().rstrip("\r\n"), file)
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not text"
                problems.append(f"{variable}_FILE: could not read {file}: {reason}")
    return given


def _dsn(given: Mapping[str, tuple[str, str]]) -> str | None:
    """Return the URL for libpq, which knows no drivers as SQLAlchemy's URLs may name them."""
    if URL not in given:
        return None
    return re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", given[URL][0])


def _connection(given: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    values = {keyword: given.get(variable, ("", ""))[0] for variable, keyword in CONNECTION.items()}
    return {keyword: value for keyword, value in values.items() if value}
