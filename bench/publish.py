"""The documents that show figures of the record: the page, the README, the design, the template."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from . import report, tools
from .measure import Measured
from .record import Record, memory, seconds, share

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
DESIGN = ROOT / "docs" / "design.md"
PROJECT = ROOT / "template" / "{{cookiecutter.project_slug}}"
REFERENCE = PROJECT / "docs/operations/backup-reference.md"
ADR = PROJECT / "docs/adr/023-database-backup-strategy.md"
CRONJOBS = PROJECT / "k8s/base/cronjobs.yaml"

_FIGURES = """
<!-- make bench writes this section -->
`make bench` compares pgkeep with `pg_dump | gzip`, pigz, zstd, `pg_dump -Fd -j` and `pg_restore -j` in one run. [Benchmarks](docs/benchmarks.md) has the last result with all versions. It was measured with {cores} cores, on two databases:

| pgkeep takes this share of the other tool's time | first database, second database |
|---|---|
{rows}

pgkeep used less than {usual} MiB of memory, also with a database of {large:.0f} GB. It used {tables} MiB with 10,000 tables{bucket}.

"""  # noqa: E501 - a paragraph of the README is one line


def documents(record: Record) -> dict[Path, str]:
    """Return the texts of all documents with the figures of a record.

    Raises:
        LookupError: a document has no place for a figure, or the record does not have it.
    """
    return {
        PAGE: report.page(record),
        README: _replaced(README, {r"(?<=^## Figures\n)[\s\S]*?(?=^## )": _readme(record)}),
        DESIGN: _replaced(DESIGN, {r"(?<=files are at most )\d+ % larger": _larger(record)}),
        **_project(record),
    }


def _larger(record: Record) -> str:
    """Return by how much pgkeep's files are larger than those of pg_dump | gzip."""
    sizes = [
        [
            median(run.size for run in database.runs[row])
            for row in (tools.PGKEEP_BACKUP, tools.GZIP)
        ]
        for database in record.parts["backup"].databases.values()
    ]
    return f"{math.ceil(max(100 * (ours / other - 1) for ours, other in sizes))} % larger"


def _project(record: Record) -> dict[Path, str]:
    usual, tables = peak(record, "backup", "restore", "large"), peak(record, "tables")
    hour = f"an hour restores {_restored_in_an_hour(record)} GB"
    many = record.parts["backup"].databases["many"]
    rows = (tools.GZIP, f"pg_dump -Fd -j{record.jobs}", tools.PGKEEP_BACKUP)
    piped, directory, ours = (many.runs[row] for row in rows)
    return {
        REFERENCE: _replaced(REFERENCE, {
            r"(?<=of pgkeep \|\n\|---\|---\|---\|---\|---\|---\|\n)(?:\|.*\n)+": _rows(record),
            r"an hour restores \d+ GB": hour,
            r"(?<=highest memory use was )\d+ MiB(?:, with 10,000 tables)?":
                f"{tables} MiB, with 10,000 tables" if tables > usual else f"{usual} MiB",
        }),
        ADR: _replaced(ADR, {
            r"an hour restores \d+ GB": hour,
            r"[\d.]+ GB of database in \d+ MB": f"{_gb(many.size)} of database in {_mb(ours)}",
            r"\d+ MB instead of \d+ MB": f"{_mb(directory)} instead of {_mb(ours)}",
            r"[\d.]+ s where pgkeep takes [\d.]+ s": f"{_s(piped)} where pgkeep takes {_s(ours)}",
        }),
        CRONJOBS: _replaced(CRONJOBS, {
            r"(?<=pgkeep and its children: )\d+ MiB, and \d+ MiB": f"{usual} MiB, and {tables} MiB",
        }),
    }  # fmt: skip


def peak(record: Record, *parts: str) -> int:
    """Return the highest memory use of pgkeep in some parts, in MiB."""
    found = [
        memory(runs)
        for part in parts
        for database in record.parts[part].databases.values()
        for name, runs in database.runs.items()
        if name.startswith("pgkeep")
    ]
    return round(max(found))


def restored(record: Record) -> list[tuple[float, float]]:
    """Return bytes and seconds of the restores of one table, of two sizes."""
    databases = (record.parts["restore"].databases["one"], record.parts["large"].databases["large"])
    return [(database.size, seconds(database.runs[tools.PGKEEP_RESTORE])) for database in databases]


def _restored_in_an_hour(record: Record) -> int:
    """Return GB of database, rounded down."""
    slowest = min(size / taken for size, taken in restored(record))
    return int(slowest * 3600 / 1e9) // 20 * 20


def _readme(record: Record) -> str:
    usual = peak(record, "backup", "restore", "large")
    bucket = ""
    if "bucket" in record.parts:
        runs = record.parts["bucket"].databases["some"].runs[tools.TO_BUCKET]
        bucket = f", and {memory(runs):.0f} MiB for a backup that goes only to a bucket"
    return _FIGURES.format(
        cores=record.cores,
        rows="\n".join(_shares(record)),
        usual=usual // 10 * 10 + 10,
        large=record.parts["large"].databases["large"].size / 1e9,
        tables=peak(record, "tables"),
        bucket=bucket,
    )


def _shares(record: Record) -> Iterator[str]:
    directory, load = f"pg_dump -Fd -j{record.jobs} -Z zstd:1", f"pg_restore -j{record.jobs}"
    for part, ours, peer, note in (
        ("backup", tools.PGKEEP_BACKUP, tools.GZIP, ""),
        ("backup", tools.PGKEEP_BACKUP, directory, ""),
        ("backup", tools.PGKEEP_BACKUP + tools.WITH_ZSTD, directory, ", both with zstd"),
        ("restore", tools.PGKEEP_RESTORE, "zcat | psql", ", which runs no `ANALYZE`"),
        ("restore", tools.PGKEEP_RESTORE, f"{load} (zstd:1)", ", which runs no `ANALYZE`"),
        ("restore", tools.PGKEEP_RESTORE, f"{load} (zstd:1), vacuumdb", ""),
    ):
        databases = record.parts[part].databases.values()
        if all(peer in database.runs and ours in database.runs for database in databases):
            shown = [f"{share(database.runs, ours, peer):.0%}" for database in databases]
            cells = " and ".join(shown).replace("%", " %"), _code(peer)
            yield f"| {part}: {cells[1]}{note} | {cells[0]} |"


def _code(name: str) -> str:
    command, _, rest = name.partition(", ")
    shown = f"`{command}`".replace("|", "\\|")
    return f"{shown} and `{rest} --analyze-only`" if rest else shown


def _rows(record: Record) -> str:
    """Return the rows of the table in the reference of a project."""
    found = []
    for name, label in (
        ("many", "pgbench, JSON documents and 36 small tables, {} on disk"),
        ("one", "one table of JSON documents, {}"),
    ):
        saved, loaded = (record.parts[part].databases[name] for part in ("backup", "restore"))
        ours = loaded.runs[tools.PGKEEP_RESTORE]
        times = [
            *(saved.runs[row] for row in (tools.GZIP, tools.PGKEEP_BACKUP)),
            loaded.runs["zcat | psql"],
            ours,
        ]
        cells = [label.format(_gb(saved.size)), *map(_s, times), f"{memory(ours):.0f} MiB"]
        found.append(f"| {' | '.join(cells)} |\n")
    large = record.parts["large"].databases["large"]
    made, load = large.runs[tools.PGKEEP_BACKUP], large.runs[tools.PGKEEP_RESTORE]
    size = f"the same, {_gb(large.size)}"
    found.append(f"| {size} | | {_s(made)} | | {_s(load)} | {memory(load):.0f} MiB |\n")
    return "".join(found)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _mb(found: list[Measured]) -> str:
    return f"{median(run.size for run in found) / 1e6:.0f} MB"


def _s(found: list[Measured]) -> str:
    return f"{seconds(found):.1f} s"


def _replaced(document: Path, rules: dict[str, str]) -> str:
    text = document.read_text(encoding="utf-8")
    for pattern, value in rules.items():
        parts = re.split(pattern, text, flags=re.MULTILINE)
        if len(parts) != 2:
            raise LookupError(f"{document}: expected {pattern!r} once, got {len(parts) - 1} times")
        text = value.join(parts)
    return text
