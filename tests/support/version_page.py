"""The results of `make versions` as a page, and its tables as a test reads them."""

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pgkeep import __version__
from pgkeep.postgres import versions

_INTRODUCTION = """\
# Supported versions of PostgreSQL

`make versions` writes this page. The [glossary](glossary.md) explains the terms.

pgkeep supports PostgreSQL {oldest} to {newest}, and point-in-time recovery from {point_in_time} on.
The module `postgres/versions.py` names these versions. The command tests each of them with a real
server. It ends with exit code 1 if a result differs. A cell is the time of a step in seconds, which
depends on the other work of the machine.

Measured on {date} with pgkeep {pgkeep} (commit {commit}), {cores} cores, in {minutes:.0f} minutes.
{unsupported}
"""

_UNSUPPORTED = """
PostgreSQL {version} is not supported yet. A backup of such a server succeeds, and prints a warning.
"""

_EACH = """
## Each version

The test uses two databases. One has an object of every kind that `pg_dump` writes, and 154,510
rows. The other one has tables that every build of a server supports.

- *backup* backs up and verifies both, with the client programs of the server's version, or of the
  next newer one that is installed. *verify* reads both again.
- *drill* restores the second database into a temporary server, and compares every row. The cell
  names the version of this server. *drill there* does the same in a database of the server itself.
- *restore* restores the first database into the same server. *`psql`* does this with `zcat` and
  `psql`. *newest programs* backs up the second one with the client programs of PostgreSQL
  {newest}, and restores this backup. Rows, definitions, sequences, large objects and settings must
  be the same.

"""

_PAIRS = """
## Into every newer version

Each row is a source, each column a target. The second database is restored. Its rows must be those
of the source. Its definitions must be those that `psql` makes of a dump.

"""

_POINT_IN_TIME = """
## Point in time

The test enables point in time, inserts rows, takes another base backup, receives the WAL, and
verifies all of it. `pgkeep drill --pitr` then recovers the newest point and a random one. The rows
of the newest point must be complete.

"""

COLUMNS = {
    "backup": "backup", "verify": "verify", "drill": "drill",
    "drill on the same server": "drill there", "restore": "restore", "psql": "`psql`",
    "newest programs": "newest programs",
}  # fmt: skip
POINT_IN_TIME = "point in time"


@dataclass(frozen=True)
class Cell:
    """The result of a step: what it found, and its seconds; None if it did nothing or failed."""

    found: str
    seconds: float | None

    def __str__(self) -> str:
        if self.seconds is None:
            return self.found
        time = f"{self.seconds:.1f}"
        return f"{time} ({self.found})" if self.found else time


@dataclass
class Row:
    """What was done with the server of one version."""

    major: int
    version: str
    programs: str = ""
    cells: dict[str, Cell] = field(default_factory=dict)
    targets: dict[int, Cell] = field(default_factory=dict)  # by major version


def page(rows: Sequence[Row], seconds: float) -> str:
    """Return the page in Markdown."""
    commit = ["git", "rev-parse", "--short", "HEAD"]
    unsupported = "".join(
        _UNSUPPORTED.format(version=row.version)
        for row in rows
        if row.major not in versions.SUPPORTED
    )
    parts = [
        _INTRODUCTION.format(
            oldest=versions.OLDEST, newest=versions.NEWEST,
            point_in_time=versions.OLDEST_FOR_POINT_IN_TIME, pgkeep=__version__,
            date=f"{datetime.now(UTC):%Y-%m-%d}", cores=os.cpu_count(), minutes=seconds / 60,
            commit=subprocess.check_output(commit, text=True).strip(), unsupported=unsupported,
        ).rstrip() + "\n",
        _EACH.format(newest=versions.NEWEST),
        _table(
            ["server", "client programs", *COLUMNS.values()],
            ([row.version, row.programs, *(row.cells[name] for name in COLUMNS)] for row in rows),
        ),
        _PAIRS,
        _table(
            ["from \\ into", *(row.version for row in rows[1:])],
            (
                [row.version, *(row.targets.get(target.major, "") for target in rows[1:])]
                for row in rows[:-1]
            ),
        ),
        _POINT_IN_TIME,
        _table(
            ["server", "seconds (kind of the second base backup)"],
            ([row.version, row.cells[POINT_IN_TIME]] for row in rows if POINT_IN_TIME in row.cells),
        ),
    ]  # fmt: skip
    return "".join(parts)


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of each table of a page, with its head."""
    found = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    ]
    return [[head, *rows] for head, _, *rows in found]
