"""docs/torture.md, from the saved results of all seeds."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# What the loop has found: what was wrong, and the test that now finds it at once.
FOUND: tuple[tuple[str, str], ...] = (
    (
        (
            "A schema change interrupted `pg_dump` before its first line. If the backup was"
            " encrypted, or only in a bucket, the second `pg_dump` could not write: exit code 6"
        ),
        "`test_pg_dump_is_started_again_whatever_its_output_is_written_to`",
    ),
    (
        "An encryption that was stopped raised an error of its library: exit code 1",
        "`test_an_encryption_that_is_stopped_is_no_bug`",
    ),
    (
        "A drill whose `TMPDIR` was full ended with exit code 1, that of a bug",
        "`test_a_full_disk_is_no_unexpected_error`",
    ),
)

# Steps that failed because a check was wrong, and what was wrong with it.
FALSE_ALARMS = {
    (102, 29): "a killed run that used GPG had left a directory with public keys in `TMPDIR`. The"
    " next run that encrypts with GPG removes it, which the check did not wait for",
    (103, 38): "a missing `.sha256` file is no damage for `pgkeep verify`, because the manifest has"
    " the same hash",
}

GROUPS = {
    "none": "no fault",
    "next to another one": "next to another one",
    "SIG": "signal",
    "child": "signal to a child",
    "server": "server",
    "sessions": "server",
    "disk full": "disk",
    "spool full": "disk",
    "read-only": "disk",
    "bucket": "bucket",
    "clock": "clock",
    "damage": "damage",
    "receiver": "receiver",
}

_INTRODUCTION = """\
# Torture: random operations and faults

`make torture` writes this page: {minutes:.0f} minutes in total, {steps:,} steps, on {date},
commit {commit}, with a machine of {cores} processors that had other work. The
[glossary](glossary.md) explains the terms.

Each step chooses a command of pgkeep and a fault by its seed and its number, and runs the command
on a real PostgreSQL server, a directory and a bucket of a real S3 server. Meanwhile other sessions
change the databases. Then it checks:

- Each backup is listed that was listed before, and that retention has not removed. The newest
  verified backup of each database is never lost.
- The backups that a disturbed run has published, and a sample of {sample:.0%} of all others, are
  restored, by `pgkeep restore` or by `zcat` and `psql`. Each contains exactly one state that the
  database had during the backup: every transaction records the number and a hash of the rows
  of all tables.
- A random second of a window of `pgkeep pitr windows` is restored, and has exactly the transactions
  that were committed until then.
- Exit code, last line and the stores agree. Nothing prints a traceback, nothing hangs.
- A file that is damaged at rest is named by `pgkeep verify --all` or `pgkeep pitr verify`.
- After a run without a fault, nothing is left: temporary files, uploads, databases, slots,
  sessions, locks, processes.

A step that fails ends the run with the command that repeats it.

## Runs
"""


def load(folder: Path) -> list[dict[str, Any]]:
    """Read the results of all seeds."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def commit() -> str:
    """Return the commit of this checkout."""
    command = ["git", "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the page in Markdown."""
    commits = sorted({result["commit"] for result in results})
    parts = [
        _INTRODUCTION.format(
            minutes=sum(result["minutes"] for result in results),
            steps=sum(result["steps"] for result in results),
            date=max(result["date"] for result in results),
            commit=", ".join(commits),
            cores=max(result["cores"] for result in results),
            sample=max(result["sample"] for result in results),
        ),
        _runs(results),
        _failures(results),
        "\n## Operations and faults\n",
        "Runs of each command with each kind of fault. In brackets: those with exit code 0.\n",
        _matrix(results),
        "\n## Faults\n",
        "Exit codes of the commands. Negative ones are signals that pgkeep cannot handle.\n",
        _faults(results),
        "\n## What it has found\n",
        _found(),
    ]  # fmt: skip
    return "\n".join(parts)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _runs(results: Sequence[Mapping[str, Any]]) -> str:
    heads = ("seed", "PostgreSQL", "minutes", "steps", "with two commands", "backups restored",
             "points in time restored", "nothing left", "failed")  # fmt: skip
    return table(
        heads,
        [
            (result["seed"], result["version"], f"{result['minutes']:.0f}", result["steps"],
             result["together"], result["restored"], points(result), result["left"],
             len(result["failed"]) or "none")
            for result in results
        ],
    )  # fmt: skip


def _failures(results: Sequence[Mapping[str, Any]]) -> str:
    """Return why steps failed: `FOUND` has the defects, here are the wrong checks."""
    seeds = {result["seed"] for result in results if result["failed"]}
    alarms = {place: why for place, why in FALSE_ALARMS.items() if place[0] in seeds}
    return "\n".join(f"Step {step} of seed {seed} was a false alarm: {why}."
                     for (seed, step), why in alarms.items())  # fmt: skip


def points(result: Mapping[str, Any]) -> int:
    """Return how many restores to a point in time succeeded, and were compared."""
    return sum(
        count for key, count in result["outcomes"].items()
        if key.startswith("pitr restore") and key.endswith("|0") and "preview" not in key
    )  # fmt: skip


def counted(results: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, str, int]]:
    """Return how often each operation, with each fault, ended with each exit code."""
    found: Counter[tuple[str, str, int]] = Counter()
    for result in results:
        for key, count in result["outcomes"].items():
            operation, fault, code = key.split("|")
            found[operation.partition(":")[0], fault, int(code)] += count
    return found


def group(fault: str) -> str:
    return next(name for prefix, name in GROUPS.items() if fault.startswith(prefix))


def _matrix(results: Sequence[Mapping[str, Any]]) -> str:
    cells: Counter[tuple[str, str]] = Counter()
    done: Counter[tuple[str, str]] = Counter()
    for (operation, fault, code), count in counted(results).items():
        cells[operation, group(fault)] += count
        done[operation, group(fault)] += count * (code == 0)
    columns = list(dict.fromkeys(GROUPS.values()))
    operations = sorted({operation for operation, _ in cells})
    return table(
        ("command", *columns),
        [
            (
                operation,
                *(
                    f"{cells[operation, column]} ({done[operation, column]})"
                    if cells[operation, column] else ""
                    for column in columns
                ),
            )
            for operation in operations
        ],
    )  # fmt: skip


def _faults(results: Sequence[Mapping[str, Any]]) -> str:
    codes: dict[str, Counter[int]] = {}
    for (_, fault, code), count in counted(results).items():
        codes.setdefault(fault, Counter())[code] += count
    rows = [
        (fault, sum(found.values()),
         ", ".join(f"{code}: {count}" for code, count in sorted(found.items())))
        for fault, found in sorted(codes.items())
    ]  # fmt: skip
    return table(("fault", "runs", "exit codes"), rows)


def _found() -> str:
    if not FOUND:
        return "Nothing yet.\n"
    return "Each of these was first made a test.\n\n" + table(("what", "test"), FOUND)
