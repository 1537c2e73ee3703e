"""python -m bench: measure, keep the figures in build/bench.json, write docs/benchmarks.md."""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support import private_keys
from tests.support.buckets import Buckets

from pgkeep.postgres.server import Server

from . import data, point_in_time, report, tools
from .data import Lab
from .measure import Measured, run

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "bench"

Runs = dict[str, list[dict[str, Any]]]


class Bench:
    """What one run of the program measures, and how often."""

    def __init__(self, lab: Lab, options: argparse.Namespace) -> None:
        self.lab = lab
        self.scale: float = options.scale
        self.rounds: int = options.rounds
        self.without: list[str] = options.without

    def backup(self) -> dict[str, Runs]:
        """Back up both large databases with every tool."""
        return {database: self._backups(database) for database in self._large()}

    def restore(self) -> dict[str, Runs]:
        """Restore both large databases with every tool."""
        return {database: self._restores(database) for database in self._large()}

    def tables(self) -> dict[str, Runs]:
        """Back up a database of 10,000 tables."""
        if not self.lab.exists("tables"):
            data.ten_thousand_tables(self.lab, self.scale)
        commands = {
            "pg_dump | gzip -1": "pg_dump | gzip -1 >$OUT/dump.sql.gz",
            tools.PGKEEP_BACKUP: tools.backups(self.lab.jobs)[tools.PGKEEP_BACKUP],
        }
        return {"tables": self._alternate("tables", self._wanted(commands))}

    def start(self) -> dict[str, Runs]:
        """Start commands that do little, with three backups in the folder."""
        with self._output("postgres") as environment:
            for _ in range(3):
                run(tools.backups(self.lab.jobs)[tools.PGKEEP_BACKUP], environment)
                time.sleep(1.1)  # an artifact is named by the second
            environment["BACKUP_DIR"] = environment["OUT"]
            commands = {
                "python -c pass": f"exec {sys.executable} -c pass",
                "pgkeep --version": "exec pgkeep --version",
                "pgkeep list": "exec pgkeep list",
            }
            return {
                "start": {
                    name: [asdict(run(command, environment)) for _ in range(20)]
                    for name, command in commands.items()
                }
            }

    def large(self) -> dict[str, Runs]:
        """Back up and restore databases of two sizes, to compare the memory."""
        found = {}
        for name, factor in (("one", 1), ("large", 4)):
            if not self.lab.exists(name):
                data.one_table(self.lab, self.scale * factor, name)
            found[name] = self._once(name)
        return found

    def offsite(self) -> dict[str, Runs]:
        """Back up 2 GB to a directory, to a directory and a bucket, to a bucket; restore that."""
        if not self.lab.exists("offsite"):
            data.one_table(self.lab, self.scale * 1.4, "offsite")
        folder = Path(tempfile.mkdtemp(dir=WORK))
        server = Buckets(folder)
        server.start()
        try:
            return {"offsite": self._offsite(server)}
        finally:
            server.stop()
            shutil.rmtree(folder)

    def encryption(self) -> dict[str, Runs]:
        """Back up and restore without encryption, with age and with GPG."""
        if not self.lab.exists("many"):
            data.many_tables(self.lab, self.scale)
        folder = Path(tempfile.mkdtemp(dir=WORK))
        age, gpg = private_keys.age_key(folder), private_keys.gpg_key(folder)
        keys = {"AGE": age.recipient, "IDENTITY": str(age.file), "PUBLIC": str(gpg.public)}
        try:
            return {"many": self._encrypted("many", {**keys, **gpg.environment})}
        finally:
            private_keys.close(gpg)
            shutil.rmtree(folder)

    def pitr(self) -> dict[str, Runs]:
        """Take base backups, store WAL and restore, beside PostgreSQL's own programs."""
        folder = Path(tempfile.mkdtemp(dir=WORK))
        folder.chmod(0o755)

        def told(number: int, name: str, measured: Measured) -> dict[str, Any]:
            return _told("pitr", number, name, measured)

        part = point_in_time.Part(folder, self.rounds, self.scale, self.lab.jobs, told)
        try:
            return {"pitr": part.measure()}
        finally:
            shutil.rmtree(folder)

    def _encrypted(self, database: str, keys: Mapping[str, str]) -> Runs:
        rows = self._rows(database)
        runs: Runs = {f"{what}, {name}": [] for name in tools.ENCRYPTION for what in WHAT}
        for number in range(-1, self.rounds):  # the first one is a warm-up
            for name, settings in tools.ENCRYPTION.items():
                with self._output(database) as environment:
                    for what, command in WHAT.items():
                        self.lab.tidy()
                        line = command.format(settings=settings, jobs=self.lab.jobs)
                        output = Path(environment["OUT"])
                        measured = _told(
                            database, number, f"{what}, {name}",
                            run(line, {**environment, **keys}, output),
                        )  # fmt: skip
                        if number >= 0:
                            runs[f"{what}, {name}"].append(measured)
                    if self._rows("restored") != rows:
                        raise SystemExit(f"{name}: the restored rows are not those of {database}")
        self.lab.tidy()
        return runs

    def _offsite(self, server: Buckets) -> Runs:
        rows = self._rows("offsite")
        runs: Runs = {name: [] for name in tools.OFFSITE}
        for number in range(self.rounds):
            with self._output("offsite") as environment:
                bucket = server.bucket()
                environment |= {**server.environment(bucket), "BUCKET": bucket}
                for name, command in tools.OFFSITE.items():
                    self.lab.tidy()
                    measured = run(command.format(jobs=self.lab.jobs), environment)
                    runs[name].append(_told("offsite", number, name, measured))
                if self._rows("restored") != rows:
                    raise SystemExit("the rows from the bucket are not those of the database")
        self.lab.tidy()
        return runs

    def _large(self) -> Iterator[str]:
        makers: dict[str, Callable[[Lab, float], None]] = {
            "many": data.many_tables,
            "one": data.one_table,
        }
        for name, make in makers.items():
            if not self.lab.exists(name):
                make(self.lab, self.scale)
            yield name

    def _wanted(self, commands: Mapping[str, str]) -> dict[str, str]:
        return {
            name: command
            for name, command in commands.items()
            if not any(word in name for word in self.without)
        }

    def _backups(self, database: str) -> Runs:
        floor = tools.floor(self.lab, database, WORK)
        commands = {tools.FLOOR: floor, **tools.backups(self.lab.jobs)}
        return self._alternate(database, self._wanted(commands))

    def _alternate(self, database: str, commands: Mapping[str, str]) -> Runs:
        """Measure all commands once, then all again, so that a slow minute hits every one."""
        runs: Runs = {name: [] for name in commands}
        self._one_backup(database, next(iter(commands.values())))  # a warm-up
        for number in range(self.rounds):
            for name, command in commands.items():
                measured = self._one_backup(database, command)
                runs[name].append(_told(database, number, name, measured))
        return runs

    def _one_backup(self, database: str, command: str) -> Measured:
        with self._output(database) as environment:
            self.lab.tidy()
            return run(command, environment, Path(environment["OUT"]))

    def _restores(self, database: str) -> Runs:
        commands = tools.restores(self.lab.jobs)
        wanted = self._wanted({name: command for name, (command, _) in commands.items()})
        runs: Runs = {name: [] for name in wanted}
        rows = self._rows(database)
        with self._dumps(database, {name: commands[name][1] for name in wanted}) as dumps:
            for number in range(-1, self.rounds):
                for name, command in wanted.items():
                    self.lab.tidy()
                    measured = run(command, dumps[name])
                    if self._rows("restored") != rows:
                        raise SystemExit(f"{name}: the restored rows are not those of {database}")
                    if number < 0:
                        break  # a warm-up
                    runs[name].append(_told(database, number, name, measured))
        self.lab.tidy()
        return runs

    def _once(self, database: str) -> Runs:
        command, backup = tools.restores(self.lab.jobs)[tools.PGKEEP_RESTORE]
        with self._output(database) as environment:
            made = run(backup, environment, Path(environment["OUT"]))
            restored = run(command, environment)
        self.lab.tidy()
        return {
            tools.PGKEEP_BACKUP: [_told(database, 0, tools.PGKEEP_BACKUP, made)],
            tools.PGKEEP_RESTORE: [_told(database, 0, tools.PGKEEP_RESTORE, restored)],
        }

    def _rows(self, database: str) -> list[str]:
        tables = [line.split("|")[0] for line in self.lab.psql(database, tools.TABLES).splitlines()]
        counts = "".join(f"SELECT '{table}', count(*) FROM {table};\n" for table in tables)
        return sorted(self.lab.psql(database, counts).splitlines())

    @contextmanager
    def _output(self, database: str) -> Iterator[dict[str, str]]:
        folder = Path(tempfile.mkdtemp(dir=WORK))
        try:
            yield {**self.lab.environment, "PGDATABASE": database, "OUT": str(folder)}
        finally:
            shutil.rmtree(folder)

    @contextmanager
    def _dumps(
        self, database: str, commands: Mapping[str, str]
    ) -> Iterator[dict[str, dict[str, str]]]:
        folder = Path(tempfile.mkdtemp(dir=WORK))
        found = {}
        try:
            for number, (name, command) in enumerate(commands.items()):
                output = folder / str(number)
                output.mkdir()
                found[name] = {**self.lab.environment, "PGDATABASE": database, "OUT": str(output)}
                run(command, found[name])
            yield found
        finally:
            shutil.rmtree(folder)


WHAT = {"backup": tools.ENCRYPTED_BACKUP, "restore": tools.ENCRYPTED_RESTORE}
PARTS = ("backup", "restore", "encryption", "pitr", "tables", "start")


def main() -> None:
    """Measure the chosen parts and write down what was found."""
    options = _options()
    shutil.rmtree(WORK, ignore_errors=True)  # of a run that was killed
    WORK.mkdir(parents=True)
    programs = data.bin_folder()
    with Server(programs, settings=data.SETTINGS) as server:
        bench = Bench(Lab(server, programs, options.jobs), options)
        parts = list(options.only or PARTS) + (["large"] if options.large else [])
        for part in dict.fromkeys(parts):
            figures = getattr(bench, part)()
            _keep(options, part, {**_circumstances(bench), "databases": figures})


def _keep(options: argparse.Namespace, part: str, found: Mapping[str, Any]) -> None:
    """Put one part's figures into the file of all parts, and write the page anew."""
    # A quick look must not replace the figures that are published.
    quick = options.scale != 1 or bool(options.without)
    store = ROOT / "build" / ("bench-quick.json" if quick else "bench.json")
    page = ROOT / ("build/benchmarks-quick.md" if quick else "docs/benchmarks.md")
    parts = json.loads(store.read_text()) if store.exists() else {}
    parts[part] = found
    store.write_text(json.dumps(parts, indent=1) + "\n")
    page.write_text(report.page(parts), encoding="utf-8")
    print(f"written: {page.relative_to(ROOT)}, {store.relative_to(ROOT)}", flush=True)


def _told(database: str, number: int, name: str, measured: Measured) -> dict[str, Any]:
    print(
        f"{database:8} {number + 1:2} {name:28} {measured.seconds:7.2f} s"
        f" {measured.size / 1e6:8.1f} MB {measured.memory / 2**20:6.0f} MiB",
        flush=True,
    )
    return asdict(measured)


def _circumstances(bench: Bench) -> dict[str, Any]:
    lab = bench.lab
    names = ("many", "one", "tables", "large", "offsite")
    size = "SELECT pg_database_size('{}')"
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "scale": bench.scale,
        "rounds": bench.rounds,
        "jobs": lab.jobs,
        "cores": tools.CORES,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "postgresql": lab.psql("postgres", "SHOW server_version").strip(),
        "python": platform.python_version(),
        "tools": [lab.run([name, "--version"]).splitlines()[0] for name in ("gzip", "pg_dump")],
        "sizes": {
            name: int(lab.psql("postgres", size.format(name))) for name in names if lab.exists(name)
        },
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    rounds = int(os.environ.get("BENCH_ROUNDS", "5"))
    jobs = min(4, tools.CORES + 1)
    add = parser.add_argument
    add("--only", action="append", choices=(*PARTS, "large", "offsite"), help="measure this part")
    add("--large", action="store_true", help="also compare the memory for 1.2 and 5 GB")
    add("--rounds", type=int, default=rounds, help=f"default {rounds}, or BENCH_ROUNDS")
    add("--jobs", type=int, default=jobs, help=f"connections of every tool; default {jobs}")
    add("--scale", type=float, default=1.0, help="multiplies the rows; other than 1: a quick look")
    add("--without", action="append", default=[], metavar="WORD", help="leave out tools named so")
    return parser.parse_args()


if __name__ == "__main__":
    main()
