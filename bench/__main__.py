"""python -m bench: measure pgkeep beside other tools, and compare with the recorded figures."""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgkeep.postgres.server import Server

from . import data, gate, publish, record, report, tools
from .data import Lab
from .parts import PARTS, Bench
from .record import Part, Record

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
WORK = BUILD / "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    only: tuple[str, ...]
    without: tuple[str, ...]
    rounds: int
    jobs: int
    scale: float
    record: bool

    @property
    def whole(self) -> bool:
        """Tell whether the run measures all that docs/benchmarks.md shows."""
        return not self.only and not self.without and self.scale == 1

    @property
    def files(self) -> tuple[Path, Path]:
        """Return where the figures and the page are written."""
        name = "benchmarks" if self.whole else "benchmarks-part"
        return BUILD / f"{name}.json", BUILD / f"{name}.md"


def main() -> int:
    """Measure, or publish what the last whole run has measured; return the exit status."""
    options = _options()
    if options.record:
        return _publish()
    shutil.rmtree(WORK, ignore_errors=True)  # of a run that was killed
    WORK.mkdir(parents=True)
    programs = data.bin_folder()
    recorded = record.load(publish.RECORD)
    with Server(programs, settings=data.SETTINGS) as server:
        bench = Bench(
            lab=Lab(server, programs, options.jobs), work=WORK, scale=options.scale,
            rounds=options.rounds, without=options.without,
        )  # fmt: skip
        now = _circumstances(bench)
        for name in options.only or PARTS:
            now.parts[name] = _measured(bench, name)
            _keep(options, now)
        # One bad minute is not a slower program: what seems slower is measured again.
        for name in slower(recorded, now):
            now.parts[name] = record.merged(now.parts[name], _measured(bench, name))
            _keep(options, now)
    return compared(recorded, now)


def _measured(bench: Bench, name: str) -> Part:
    began = time.monotonic()
    databases = PARTS[name](bench)
    seconds = time.monotonic() - began
    print(f"part {name}: {seconds:.0f} s", flush=True)
    return Part(seconds=round(seconds), databases=databases)


def _keep(options: Options, now: Record) -> None:
    """Write what was measured until now, so that a run that fails later is not lost."""
    figures, page = options.files
    record.save(figures, now)
    page.write_text(report.page(now), encoding="utf-8")


def slower(recorded: Record | None, now: Record) -> list[str]:
    """Return the parts with a share above its limit."""
    if recorded is None or gate.not_comparable(recorded, now):
        return []
    found = [change for change in gate.changes(recorded.shares(), now.shares()) if change.failed]
    return list(dict.fromkeys(change.compared.part for change in found))


def compared(recorded: Record | None, now: Record) -> int:
    """Print the comparison with the record; return the exit status."""
    if recorded is None:
        print(f"no record to compare with: {publish.RECORD.relative_to(ROOT)} does not exist")
        return 0
    if reason := gate.not_comparable(recorded, now):
        print(f"not compared with the record: {reason}")
        return 0
    changes = gate.changes(recorded.shares(), now.shares())
    print(f"compared with the record of {recorded.date}, commit {recorded.commit}:")
    print("\n".join(gate.table(changes)))
    failed = sum(change.failed for change in changes)
    print(f"{len(changes)} shares compared, {failed} more than {gate.LIMIT - 1:.0%} worse")
    return 1 if failed else 0


def _publish() -> int:
    """Replace the record by the last whole run, and the figures in all documents."""
    last = record.load(BUILD / "benchmarks.json")
    if last is None or set(last.parts) != set(PARTS):
        print("no complete run to record: run make bench without options first", file=sys.stderr)
        return 2
    compared(record.load(publish.RECORD), last)
    for path, text in publish.documents(last).items():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")
    record.save(publish.RECORD, last)
    print(f"recorded: {last.date}, commit {last.commit}")
    return 0


def _circumstances(bench: Bench) -> Record:
    lab = bench.lab
    return Record(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        commit=_commit(),
        scale=bench.scale,
        rounds=bench.rounds,
        jobs=lab.jobs,
        cores=tools.CORES,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        postgresql=lab.psql("postgres", "SHOW server_version").strip(),
        python=platform.python_version(),
        tools=tuple(_version(lab, name) for name in ("gzip", "pigz", "zstd", "age", "gpg")),
        parts={},
    )


def _commit() -> str:
    """Return the commit of the working tree."""
    git = ("git", "-C", str(ROOT))
    commit = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True).strip()
    changed = subprocess.check_output([*git, "status", "--porcelain", "--untracked-files=no"])
    return f"{commit} with changes" if changed else commit


def _version(lab: Lab, program: str) -> str:
    """Return name and version, whatever a program prints around them."""
    found = re.search(r"\d+[.][\d.]*\d", lab.run([program, "--version"]))
    return f"{program} {found[0]}" if found else program


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    rounds = int(os.environ.get("BENCH_ROUNDS", "3"))
    jobs = min(4, tools.CORES + 1)
    add = parser.add_argument
    add("--only", action="append", default=[], choices=tuple(PARTS), help="measure this part")
    add("--without", action="append", default=[], metavar="WORD", help="leave out rows named so")
    add("--rounds", type=int, default=rounds, help=f"default {rounds}, or BENCH_ROUNDS")
    add("--jobs", type=int, default=jobs, help=f"connections of every tool; default {jobs}")
    add("--scale", type=float, default=1.0, help="multiplies the rows; other than 1: a quick look")
    add("--record", action="store_true", help="measure nothing: publish the last whole run")
    given = vars(parser.parse_args())
    lists = {name: tuple(dict.fromkeys(given[name])) for name in ("only", "without")}
    return Options(**{**given, **lists})


if __name__ == "__main__":
    sys.exit(main())
