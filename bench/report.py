"""Turn the figures into a page that can be read."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from . import point_in_time, tools

TITLES = {
    "many": "Many tables: pgbench at scale 60, 3 million JSON documents, 36 small tables",
    "one": "One table: 5 million JSON documents",
    "tables": "10,000 tables",
}

INTRODUCTION = """# Benchmarks

`make bench` writes this page. The [glossary](glossary.md) explains the terms. All figures of a
table come from one run. Different tables can come from different runs.

- A round runs all tools on the same server, one after the other. After a warm-up, {rounds} rounds
  are measured. A time is the median. The fastest and the slowest run are in brackets.
- Before every run, the benchmark removes the output of the last one, drops a restored database,
  and executes `CHECKPOINT` and `sync`.
- Every tool that supports parallel connections uses {jobs} of them (`--jobs`).
- *Memory* is the peak of all processes of the tool together (PSS, 20 samples a second), without
  the server.
- *pgkeep's share* is pgkeep's time in percent of this tool's time. Below 100 % pgkeep is faster.

Measured on {date} with {cores} cores and {memory:.0f} GiB of memory; PostgreSQL {postgresql} with
`fsync` on, `shared_buffers` 512 MB, `max_wal_size` 4 GB; {programs}; Python {python}.
"""

BACKUP = f"""
`{tools.FLOOR}` reads every table with the same number of connections and discards the rows. No
backup can be faster than this.
"""

RESTORE = """
Every tool restores into a new database. The time includes its creation. The restored rows are
counted after every run. `pgkeep restore` ends with `ANALYZE`. The other tools do not run it, and
their times do not include it.
"""

LARGE = """
The number of connections determines the memory, not the size of the database:
"""

OFFSITE = """
The bucket is on the same machine (SeaweedFS) and uses the same cores.
"""

ENCRYPTION = """
The same database is backed up and restored without encryption, with age and with GPG.
"""

POINT_IN_TIME = """
A separate cluster with tables of pgbench, and the WAL of 200,000 transactions. The first row is
what pgkeep does in one command: copy, verify, and compress with all cores. `pgkeep pitr enable`
ends when the first second can be restored. `pgkeep pitr stream` receives the WAL that the server
has kept, and stores it compressed and flushed. `pgkeep pitr restore` ends when the cluster was
recovered to the last transaction, proved, promoted and stopped; its memory includes the server that
recovers. Measured on {date}.
"""

AGAIN = """
## Run it again

```console
make bench                                          # everything
make bench BENCH_ARGS="--large"                     # also the memory for 5 GB
make bench BENCH_ARGS="--only backup --rounds 3"    # one part
make bench BENCH_ARGS="--only restore --scale 0.1"  # a quick run; does not change this page
```

It requires Linux, 10 GB of disk space (`--large`: 30 GB) and an otherwise idle machine. The
figures of every run are written to `build/bench.json`.
"""


def page(parts: Mapping[str, Any]) -> str:
    """Return the page about all parts that were measured."""
    return "\n".join(_lines(parts))


def _lines(parts: Mapping[str, Any]) -> Iterator[str]:
    latest = max(parts.values(), key=lambda part: str(part["date"]))
    programs = ", ".join(f"`{tool}`" for tool in latest["tools"])
    yield INTRODUCTION.format(
        **{**latest, "memory": latest["memory"] / 2**30, "programs": programs}
    )
    if latest["scale"] != 1:
        yield f"A quick run: scale {latest['scale']}.\n"
    for name, title, text in (
        ("backup", "Backup", BACKUP),
        ("restore", "Restore", RESTORE),
        ("tables", "A backup of many small tables", ""),
    ):
        if name in parts:
            yield f"## {title}\n{text}"
            yield from _compared(parts[name], sizes=name != "restore")
    if "encryption" in parts:
        yield f"## Encryption\n{ENCRYPTION}"
        yield from _encrypted(parts["encryption"])
    if "pitr" in parts:
        text = POINT_IN_TIME.format(date=parts["pitr"]["date"])
        yield f"## Point in time\n{text}"
        yield from _point_in_time(parts["pitr"])
    if "start" in parts:
        yield "## Start\n"
        yield from _started(parts["start"])
    if "large" in parts:
        yield f"## Memory\n{LARGE}"
        yield from _memory(parts["large"])
    if "offsite" in parts:
        yield f"## Buckets\n{OFFSITE}"
        yield from _offsite(parts["offsite"])
    yield AGAIN.strip("\n") + "\n"


def _compared(part: Mapping[str, Any], *, sizes: bool) -> Iterator[str]:
    for database, runs in part["databases"].items():
        size = part["sizes"][database] / 1e9
        yield f"### {TITLES[database]} ({size:.1f} GB)\n"
        yield "| | time | pgkeep's share |" + (" size |" if sizes else "") + " memory |"
        yield "|---|---|---|" + ("---|" if sizes else "") + "---|"
        ours = next((_seconds(found) for name, found in runs.items() if "pgkeep" in name), None)
        for name, found in runs.items():
            yield _row(name, found, ours, sizes=sizes)
        yield ""


def _row(name: str, found: list[Mapping[str, Any]], ours: float | None, *, sizes: bool) -> str:
    seconds = [run["seconds"] for run in found]
    spread = f"({min(seconds):.1f} to {max(seconds):.1f})"
    share = "" if ours is None or "pgkeep" in name else f"{100 * ours / _seconds(found):.0f} %"
    size = statistics.median(run["size"] for run in found) / 1e6
    memory = max(run["memory"] for run in found) / 2**20
    shown = f"`{name}`" if name != tools.FLOOR else name
    if "pgkeep" in name:
        shown = f"**{shown}**"
    cells = [shown.replace("|", "\\|"), f"{_seconds(found):.1f} s {spread}", share]
    if sizes:
        cells.append(f"{size:.0f} MB" if size else "")
    return f"| {' | '.join([*cells, f'{memory:.0f} MiB'])} |"


def _offsite(part: Mapping[str, Any]) -> Iterator[str]:
    size = part["sizes"]["offsite"] / 1e9
    yield f"| {size:.1f} GB | time | memory |\n|---|---|---|"
    for name, found in part["databases"]["offsite"].items():
        memory = max(run["memory"] for run in found) / 2**20
        yield f"| {name} | {_seconds(found):.1f} s | {memory:.0f} MiB |"
    yield ""


def _encrypted(part: Mapping[str, Any]) -> Iterator[str]:
    runs = part["databases"]["many"]
    size = part["sizes"]["many"] / 1e9
    yield f"| {size:.1f} GB | time | share of the time without encryption | memory |"
    yield "|---|---|---|---|"
    for name, found in runs.items():
        plain = _seconds(runs[f"{name.partition(',')[0]}, not encrypted"])
        memory = max(run["memory"] for run in found) / 2**20
        share = f"{100 * _seconds(found) / plain:.0f} %"
        yield f"| {name} | {_seconds(found):.1f} s | {share} | {memory:.0f} MiB |"
    yield ""


def _point_in_time(part: Mapping[str, Any]) -> Iterator[str]:
    runs = part["databases"]["pitr"]
    yield "| | time | speed | memory |\n|---|---|---|---|"
    for name, found in runs.items():
        memory = max(run["memory"] for run in found) / 2**20
        size = statistics.median(run["size"] for run in found) / 2**20
        speed = f"{size / _seconds(found):.0f} MiB/s" if name in point_in_time.SHIP else ""
        shown = f"`{name}`".replace("|", "\\|")
        yield f"| {shown} | {_seconds(found):.1f} s | {speed} | {memory:.0f} MiB |"
    yield ""


def _started(part: Mapping[str, Any]) -> Iterator[str]:
    yield "Medians of 20 starts; `pgkeep list` finds three backups.\n"
    yield "| | time |\n|---|---|"
    for name, found in part["databases"]["start"].items():
        yield f"| `{name}` | {1000 * _seconds(found):.0f} ms |"
    yield ""


def _memory(part: Mapping[str, Any]) -> Iterator[str]:
    yield "| database | | time | memory |\n|---|---|---|---|"
    for database, runs in part["databases"].items():
        size = part["sizes"][database] / 1e9
        for name, (found,) in runs.items():
            memory = found["memory"] / 2**20
            yield f"| {size:.1f} GB | `{name}` | {found['seconds']:.1f} s | {memory:.0f} MiB |"
    yield ""


def _seconds(found: list[Mapping[str, Any]]) -> float:
    return float(statistics.median(run["seconds"] for run in found))
