"""Turn the figures into a page that can be read."""

import statistics
import textwrap
from collections.abc import Iterator, Mapping

from . import point_in_time, tools
from .measure import Measured
from .record import Database, Record, memory, seconds, share

TITLES = {
    "many": "Many tables: pgbench at scale 60, 3 million JSON documents, 36 small tables",
    "one": "One table: 5 million JSON documents",
    "some": "A third of the rows of the database with many tables",
    "tables": "10,000 tables",
}

INTRODUCTION = """# Benchmarks

`make bench` measures, and `make bench BENCH_ARGS=--record` writes this page. All figures are from
one run on one commit. The [glossary](glossary.md) explains the terms.

- A round runs all tools on the same server, one after the other. After a warm-up, {rounds} rounds
  are measured. A time is the median. The fastest and the slowest run are in brackets.
- Before every run, the benchmark removes the output of the last one, drops a restored database,
  and executes `CHECKPOINT` and `sync`.
- The rows of every backup and of every restored database are counted after the run.
- Every tool that supports parallel connections uses {jobs} of them (`--jobs`).
- *Memory* is the peak of all processes of the tool together (PSS, 20 samples a second), without
  the server.
- *pgkeep's share* is pgkeep's time in percent of this tool's time, the median of the shares of all
  rounds. Below 100 % pgkeep is faster.
"""

MEASURED = """
Measured on {date} at commit {commit}, with {cores} cores and {memory:.0f} GiB of memory;
PostgreSQL {postgresql} with `fsync` on, `shared_buffers` 512 MB, `max_wal_size` 4 GB;
Python {python}; {programs}.
"""

BACKUP = f"""
`{tools.FLOOR}` reads every table with the same number of connections and discards the rows. No
backup can be faster than this.
"""

RESTORE = """
Every tool restores into a new database. The time includes its creation. `pgkeep restore` ends with
`ANALYZE`. The other tools do not run it. In the rows with `vacuumdb`, `vacuumdb --analyze-only`
follows with the same number of connections.
"""

VERIFY = """
Verification of the backup file of this database. `pgkeep verify` checks more than the CRC: hashes,
row counts, and the structure of the SQL.
"""

ENCRYPTION = """
The rows without pgkeep encrypt to the same key, and `gpg` does not compress once more.
"""

BUCKET = f"""
The bucket is on the same machine (SeaweedFS) and uses the same cores. In
`{tools.UPLOAD}` and `{tools.DOWNLOAD}` the data passes through a pipe, in parts of 8 MiB,
at most ten at a time. This is how `aws s3 cp` does it.
"""

POINT_IN_TIME = f"""
A separate cluster with tables of pgbench, {{size:.1f}} GB, and the WAL of
{point_in_time.CLIENTS * point_in_time.TRANSACTIONS:,} transactions in each round. The first row is
what pgkeep does in one command: copy, verify, and compress with all cores. `pgkeep pitr enable`
ends when the first second can be restored. `pgkeep pitr stream` receives the WAL that the server
has kept, and stores it compressed and flushed. `pgkeep pitr restore` ends when the cluster was
recovered to the last transaction, proved, promoted and stopped; its memory includes the server that
recovers. Afterwards the benchmark counts the transactions in the restored cluster.
"""

START = """
Medians of 20 starts; `pgkeep list` finds three backups.
"""

LARGE = """
The number of connections determines the memory, not the size of the database:
"""

AGAIN = """
## Run it again

```console
make bench                                          # measure everything, compare with this page
make bench BENCH_ARGS=--record                      # then replace this page by that run
make bench BENCH_ARGS="--only backup --rounds 5"    # one part
make bench BENCH_ARGS="--only restore --scale 0.1"  # a quick look
```

It requires Linux, 30 GB of disk space and an otherwise idle machine. `make bench` fails if a share
is more than 10 % worse than the one that `docs/benchmarks.json` records. It has then been measured
twice, see [Speed gate](design.md#speed-gate).
"""

Lines = Iterator[str]


def page(record: Record) -> str:
    """Return the page about all parts that were measured."""
    return "\n".join(_lines(record))


def _lines(record: Record) -> Lines:
    yield INTRODUCTION.format(rounds=record.rounds, jobs=record.jobs)
    yield _paragraph(MEASURED.format(
        date=record.date, commit=record.commit, cores=record.cores, memory=record.memory / 2**30,
        postgresql=record.postgresql, python=record.python, programs=", ".join(record.tools),
    ))  # fmt: skip
    if record.scale != 1:
        yield f"A quick run: scale {record.scale}.\n"
    for name, (title, text, lines) in SECTIONS.items():
        if name in record.parts:
            databases = record.parts[name].databases
            size = next(iter(databases.values())).size / 1e9
            yield f"## {title}\n"
            if text:
                yield _paragraph(text.format(size=size))
            yield from lines(databases)
            yield ""
    if {"backup", "restore", "large"} <= record.parts.keys():
        yield f"## Memory\n\n{_paragraph(LARGE)}"
        yield from _memory(record)
        yield ""
    yield f"## Time of the run\n\n{_paragraph(_durations(record))}"
    yield AGAIN.strip("\n") + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 100, break_on_hyphens=False) + "\n"


def _compared(databases: Mapping[str, Database], *, sizes: bool = False) -> Lines:
    for number, (name, database) in enumerate(databases.items()):
        yield ("\n" if number else "") + f"### {TITLES[name]} ({database.size / 1e9:.1f} GB)\n"
        yield from _table(database, sizes=sizes)


def _with_sizes(databases: Mapping[str, Database]) -> Lines:
    return _compared(databases, sizes=True)


def _table(database: Database, *, sizes: bool) -> Lines:
    zstd = any(ours.endswith(tools.WITH_ZSTD) for ours in database.peers)
    titles = ["", "time", "pgkeep's share", *["with zstd"] * zstd, *["size"] * sizes, "memory"]
    yield "|" + "|".join(f" {title} " if title else " " for title in titles) + "|"
    yield "|" + "---|" * len(titles)
    for name, found in database.runs.items():
        size = statistics.median(run.size for run in found) / 1e6
        cells = [_name(name), _spread(found), _share(database, name, zstd=False)]
        cells += [_share(database, name, zstd=True)] * zstd
        cells += [f"{size:.0f} MB" if size else ""] * sizes
        yield f"| {' | '.join([*cells, f'{memory(found):.0f} MiB'])} |"


def _name(name: str) -> str:
    shown = (name if name == tools.FLOOR else f"`{name}`").replace("|", "\\|")
    return f"**{shown}**" if name.startswith("pgkeep") else shown


def _spread(found: list[Measured]) -> str:
    times = [run.seconds for run in found]
    return f"{seconds(found):.1f} s ({min(times):.1f} to {max(times):.1f})"


def _share(database: Database, peer: str, *, zstd: bool) -> str:
    """Return pgkeep's share of the time of another tool; each has one row of pgkeep, or two."""
    return ", ".join(
        f"{share(database.runs, ours, peer):.0%}".replace("%", " %")
        for ours, peers in database.peers.items()
        if peer in peers and ours.endswith(tools.WITH_ZSTD) == zstd
    )


def _point_in_time(databases: Mapping[str, Database]) -> Lines:
    yield "| | time | speed | memory |\n|---|---|---|---|"
    for name, found in databases["pitr"].runs.items():
        size = statistics.median(run.size for run in found) / 2**20
        speed = f"{size / seconds(found):.0f} MiB/s" if name in point_in_time.SHIP else ""
        shown = f"`{name}`".replace("|", "\\|")
        yield f"| {shown} | {seconds(found):.1f} s | {speed} | {memory(found):.0f} MiB |"


def _started(databases: Mapping[str, Database]) -> Lines:
    yield "| | time |\n|---|---|"
    for name, found in databases["start"].runs.items():
        yield f"| `{name}` | {1000 * seconds(found):.0f} ms |"


def _memory(record: Record) -> Lines:
    yield "| database | | time | memory |\n|---|---|---|---|"
    for part, name in (("backup", "one"), ("restore", "one"), ("large", "large")):
        database = record.parts[part].databases[name]
        for row in (tools.PGKEEP_BACKUP, tools.PGKEEP_RESTORE):
            if found := database.runs.get(row):
                size = f"{database.size / 1e9:.1f} GB"
                yield f"| {size} | `{row}` | {seconds(found):.1f} s | {memory(found):.0f} MiB |"


def _durations(record: Record) -> str:
    """Return how long each part took, with the creation of its databases."""
    total = sum(part.seconds for part in record.parts.values())
    parts = ", ".join(f"{name} {part.seconds:.0f} s" for name, part in record.parts.items())
    return f"{total / 60:.0f} minutes: {parts}."


SECTIONS = {
    "backup": ("Backup", BACKUP, _with_sizes),
    "restore": ("Restore", RESTORE, _compared),
    "verify": ("Verify", VERIFY, _compared),
    "encryption": ("Encryption", ENCRYPTION, _compared),
    "bucket": ("Buckets", BUCKET, _compared),
    "pitr": ("Point in time", POINT_IN_TIME, _point_in_time),
    "tables": ("A backup of many small tables", "", _with_sizes),
    "start": ("Start", START, _started),
}
