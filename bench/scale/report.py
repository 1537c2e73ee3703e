"""Turn the figures into a page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import growth

_INTRODUCTION = """\
# Scale

`make scale` writes this page. It measures every command at n, 2n and 4n, so that growth shows. The
[glossary](glossary.md) explains the terms.

- The first time is the processor time of the command and of its sessions on the server. The time
  in brackets is the wall time, which contains what else ran on the machine. Both are the best of up
  to three runs. The memory is the peak of all processes of the command together (PSS, 20 samples a
  second), without the server.
- The exponent is log2(t(4n) / t(n)) / 2: 1 if the time grows like n, 2 if it grows like its square.
  The first one is that of the processor time, the second one that of the wall time.
- A command is marked, and the program fails, if the exponent of its processor time is above {limit}
  and the times differ by more than {noise} s. It is also marked if it fails, if its memory grows
  faster than n, or if its memory grows with the size of tables.
- Restored rows are compared with the original ones. `pgkeep drill` compares every row by itself.
  Its memory contains the temporary server.

{machine}
"""
_FOUND = """
## Found and fixed

Each of these has a test that counts how often something is looked at, and measures no time.

- A backup compared each manifest of its database with all others. With 4,000 backups of a database,
  this took 10 of 12 s of processor time.
- Verification looked at all objects of a file for each of its statements. 1,250 tables took 5.0 s
  and 2,500 tables 18.2 s. They take 0.8 s and 1.2 s now, 10,000 tables 3.5 s.
- `pgkeep status`, the page and the metrics looked at all backups, and at all results of all
  records, for each database. The state of 100 databases with records of 40 nights took 0.8 s, of
  200 databases 3.1 s. The state of 1,000 databases takes 2 s now.
- Two commands ended with an unexpected error: `pgkeep status` if retention had removed a backup of
  one of the days that it shows, and a page if the WAL in a store was not read within half a minute.
"""
_AGAIN = """
## Run it again

```console
make scale                                             # everything, in hours
make scale SCALE_ARGS="--only tables --only backups"   # some subjects
make scale SCALE_ARGS="--factor 0.1"                   # a quick run; does not change this page
```

It requires Linux and disk space: {needs} GB for gigabytes of rows, at most 16 GB for the others.
"""
_MACHINE = (
    "Measured with {cores} cores and {memory:.0f} GiB of memory; PostgreSQL {postgresql} with"
    " `fsync` off and `wal_level` minimal; Python {python}."
)


def page(subjects: Mapping[str, Mapping[str, Any]], needs: int) -> str:
    """Return the page about all subjects that were measured."""
    return "\n".join(_lines(subjects, needs)) + "\n"


def marked(found: Mapping[str, Any]) -> list[str]:
    """Return the commands of a subject that failed, or grow faster than what they work on."""
    return [name for name, command in found["commands"].items() if _verdict(command)]


def _lines(subjects: Mapping[str, Mapping[str, Any]], needs: int) -> Iterator[str]:
    machines = {_MACHINE.format(**found["machine"]) for found in subjects.values()}
    yield _INTRODUCTION.format(
        limit=growth.LIMIT, noise=growth.NOISE, machine="\n".join(sorted(machines))
    ).rstrip("\n")  # fmt: skip
    yield _FOUND.rstrip("\n")
    for found in subjects.values():
        yield f"\n## {found['title']}\n"
        yield f"{found['text']}\n"
        yield f"Measured on {found['date']} with pgkeep at commit `{found['commit']}`.\n"
        sizes = list(found["sizes"])
        yield f"| command | {' | '.join(f'{size:,}' for size in sizes)} | exponents | |"
        yield "|---|" + "---|" * (len(sizes) + 2)
        for name, command in found["commands"].items():
            yield _row(name, command, sizes)
    yield _AGAIN.format(needs=needs >> 30).rstrip("\n")


def _row(name: str, command: Mapping[str, Any], sizes: Sequence[int]) -> str:
    figures = command["figures"]
    cells = [_cell(figures.get(str(size))) for size in sizes]
    exponents = ""
    if (grown := _three(figures)) is not None:
        exponents = ", ".join(
            f"{growth.exponent([figure[what] for figure in grown]):.2f}"
            for what in ("processor", "seconds")
        )
    return f"| {' | '.join([f'`{name}`', *cells, exponents, _verdict(command)])} |"


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "failed"
    memory = figure["memory"] / 2**20
    return f"{figure['processor']:.2f} s ({figure['seconds']:.1f} s), {memory:.0f} MiB"


def _three(figures: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    found = [figures[size] for size in sorted(figures, key=int)[:3]]
    return found if len(found) == 3 and all(found) else None


def _verdict(command: Mapping[str, Any]) -> str:
    """Return why a command is marked, or nothing."""
    if not all(command["figures"].values()):
        return "**failed**"
    grown = _three(command["figures"])
    if grown is None:
        return ""
    found = []
    processor, memory = ([figure[what] for figure in grown] for what in ("processor", "memory"))
    if growth.is_steep(processor):
        found.append("**time**")
    if growth.is_hungry(memory, flat=command["flat"]):
        found.append("**memory**")
    return " and ".join(found)
