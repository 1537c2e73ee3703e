"""python -m bench.scale: measure commands at n, 2n and 4n, write docs/scale.md, fail on growth."""

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.buckets import Buckets

from pgkeep.postgres.server import Server

from .. import tools
from ..data import Lab, bin_folder
from . import catalogs, report, rows, schemas
from .subject import Stage, Subject, failed

ROOT = Path(__file__).parents[2]
KEPT = 10 << 30  # bytes of disk space that remain free
SETTINGS = {
    "max_locks_per_transaction": "4096",  # one transaction locks 50,000 tables
    "shared_buffers": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum_naptime": "1h",
}
SUBJECTS: dict[str, Subject] = {
    "tables": schemas.TABLES,
    "partitions": schemas.PARTITIONS,
    "columns": schemas.COLUMNS,
    "large-objects": schemas.LARGE_OBJECTS,
    "value": schemas.VALUE,
    "databases": catalogs.DATABASES,
    "nights": catalogs.NIGHTS,
    "backups": catalogs.BACKUPS,
    "bucket": catalogs.BUCKET,
    "wal": catalogs.WAL,
    "wal-bucket": catalogs.WAL_BUCKET,
    "rows": rows.ROWS,
}


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one subject at all its sizes."""
    subject = SUBJECTS[name]
    sizes = [max(1, round(size * options.factor)) for size in subject.sizes]
    if not options.no_larger:
        sizes += [max(1, round(size * options.factor)) for size in subject.larger]
    commands: dict[str, Any] = {
        command.name: {"flat": command.flat, "figures": {}} for command in subject.commands
    }
    machine: dict[str, Any] = {}
    for size in sizes:
        with _stage(subject, options) as stage:
            print(f"{name} {size}: building", flush=True)
            subject.build(stage, size)
            for command in subject.commands:
                figure = failed(stage, command, subject.sums)
                shown = (
                    "failed" if figure is None
                    else f"{figure.seconds:8.2f} s {figure.processor:8.2f} s of processor time"
                    f" {figure.memory / 2**20:6.0f} MiB"
                )  # fmt: skip
                print(f"{name} {size:7} {command.name:44} {shown}", flush=True)
                commands[command.name]["figures"][str(size)] = figure and asdict(figure)
            machine = _machine(stage.lab)
    return {
        "title": subject.title, "text": subject.text, "sizes": sizes, "commands": commands,
        "date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": _commit(), "machine": machine,
    }  # fmt: skip


@contextlib.contextmanager
def _stage(subject: Subject, options: argparse.Namespace) -> Any:
    free = shutil.disk_usage(options.directory).free
    needs = int(subject.needs * options.factor) + KEPT
    if free < needs:
        raise SystemExit(
            f"{subject.title}: {free >> 30} GB are free in {options.directory},"
            f" {needs >> 30} GB are required"
        )
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="scale-", dir=options.directory)
        )
        folder = Path(name)
        folder.chmod(0o755)
        buckets = None
        if subject.bucket:
            (folder / "s3").mkdir()
            buckets = Buckets(folder / "s3")
            stack.callback(buckets.stop)
            buckets.start()
        programs = bin_folder()
        server = stack.enter_context(
            Server(programs, settings=SETTINGS | dict(subject.settings), directory=folder)
        )
        yield Stage(Lab(server, programs, options.jobs), server, folder, buckets)


def _machine(lab: Lab) -> dict[str, Any]:
    return {
        "cores": tools.CORES,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "postgresql": lab.psql("postgres", "SHOW server_version").strip(),
        "python": platform.python_version(),
    }


def _commit() -> str:
    """Return the last commit that changed what is measured."""
    command = ["git", "log", "-1", "--format=%h", "--", "src"]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def _keep(options: argparse.Namespace, name: str, found: Mapping[str, Any]) -> None:
    """Put the figures of one subject into the file of all subjects, and write the page."""
    store: Path = options.figures
    kept = json.loads(store.read_text()) if store.exists() else {}
    kept[name] = found
    store.write_text(json.dumps(kept, indent=1) + "\n")
    ordered = {name: kept[name] for name in SUBJECTS if name in kept}
    options.output.write_text(report.page(ordered, rows.ROWS.needs), encoding="utf-8")
    print(f"written: {options.output}", flush=True)


def main() -> None:
    """Measure the chosen subjects; exit with 1 if one of them grows too fast."""
    options = _options()
    grown = []
    for name in options.only or SUBJECTS:
        found = measure(name, options)
        _keep(options, name, found)
        grown += [f"{name}: {command}" for command in report.marked(found)]
    if grown:
        raise SystemExit("failed, or grows faster than what it works on:\n" + "\n".join(grown))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    add = parser.add_argument
    jobs = min(4, tools.CORES + 1)
    temporary = Path(tempfile.gettempdir())
    add("--only", action="append", choices=SUBJECTS, help="measure this subject")
    add("--factor", type=float, default=1.0, help="multiplies n; other than 1: a quick run")
    add("--no-larger", action="store_true", help="no more than 4n: not 50,000 tables")
    add("--jobs", type=int, default=jobs, help=f"parallel connections; default {jobs}")
    add("--directory", type=Path, default=temporary, help=f"for all files; default {temporary}")
    add("--figures", type=Path, help="file that keeps the figures; default build/scale.json")
    add("--output", type=Path, help="the page; default docs/scale.md")
    options = parser.parse_args()
    quick = options.factor != 1
    build = ROOT / "build"
    options.figures = options.figures or build / ("scale-quick.json" if quick else "scale.json")
    options.output = options.output or (build if quick else ROOT / "docs") / (
        "scale-quick.md" if quick else "scale.md"
    )
    return options


if __name__ == "__main__":
    main()
