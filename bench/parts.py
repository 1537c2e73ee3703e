"""The parts of the benchmark: which commands are measured on which database."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import private_keys
from tests.support.buckets import Buckets

from . import data, point_in_time, tools
from .data import Lab
from .measure import run
from .record import Database, Runs
from .rounds import Group, Rounds, show
from .tools import Step

STARTS = 20

Databases = dict[str, Database]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all parts have in common."""

    lab: Lab
    work: Path
    scale: float
    rounds: int
    without: tuple[str, ...] = ()  # rows whose name contains one of these are not measured

    def rounds_on(self, database: str, more: Mapping[str, str] | None = None) -> Rounds:
        """Return the rounds on a database."""
        return Rounds(self.lab, database, self.work, more)

    def wanted(self, steps: list[Step]) -> list[Step]:
        """Return the steps that are measured."""
        return [step for step in steps if not any(word in step.name for word in self.without)]

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield a folder that exists until the end of a part."""
        folder = Path(tempfile.mkdtemp(dir=self.work))
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def backup(bench: Bench) -> Databases:
    """Back up both large databases with every tool."""
    found = {}
    for database in ("many", "one"):
        size = data.provide(bench.lab, database, bench.scale)
        floor = tools.floor(bench.lab, database, bench.work)
        steps = bench.wanted([floor, *tools.backups(bench.lab.jobs)])
        found[database] = _one_by_one(bench, database, size, steps)
    return found


def tables(bench: Bench) -> Databases:
    """Back up a database of 10,000 tables."""
    size = data.provide(bench.lab, "tables", bench.scale)
    steps = bench.wanted(tools.small_backups(bench.lab.jobs))
    return {"tables": _one_by_one(bench, "tables", size, steps)}


def _one_by_one(bench: Bench, database: str, size: int, steps: list[Step]) -> Database:
    groups = [Group(steps=[step]) for step in steps]
    runs = bench.rounds_on(database).measure(groups, bench.rounds)
    return Database(size=size, runs=runs, peers=_all_others(runs))


def restore(bench: Bench) -> Databases:
    """Restore both large databases with every tool."""
    found = {}
    for database in ("many", "one"):
        size = data.provide(bench.lab, database, bench.scale)
        runs = _of_backups(bench, database, tools.restores(bench.lab.jobs))
        found[database] = Database(size=size, runs=runs, peers=_all_others(runs))
    return found


def verify(bench: Bench) -> Databases:
    """Verify backup files of pgkeep with every tool that can."""
    size = data.provide(bench.lab, "many", bench.scale)
    verifications = tools.verifications()
    runs = _of_backups(bench, "many", verifications)
    peers = {
        ours.name: tuple(step.name for step in others) for *others, ours in verifications.values()
    }
    return {"many": Database(size=size, runs=runs, peers=peers)}


def _of_backups(bench: Bench, database: str, commands: Mapping[str, list[Step]]) -> Runs:
    """Measure commands on the output of those that back up; they do not change it."""
    backups = {step.name: step for step in tools.backups(bench.lab.jobs)}
    rounds = bench.rounds_on(database)
    with bench.folder() as folder:
        groups: list[Group] = []
        for name, every in commands.items():
            if steps := bench.wanted(every):
                output = rounds.prepare(backups[name], folder / str(len(groups)))
                groups += [Group(steps=steps, folder=output)]
        return rounds.measure(groups, bench.rounds)


def encryption(bench: Bench) -> Databases:
    """Back up, verify and restore without encryption, with age and with GPG."""
    size = data.provide(bench.lab, "some", bench.scale)
    with bench.folder() as folder:
        age, gpg = private_keys.age_key(folder), private_keys.gpg_key(folder)
        keys = {"AGE": age.recipient, "IDENTITY": str(age.file), "PUBLIC": str(gpg.public)}
        try:
            rounds = bench.rounds_on("some", {**keys, **gpg.environment})
            groups = [Group(steps=steps) for steps in tools.encrypted(bench.lab.jobs)]
            runs = rounds.measure(groups, bench.rounds)
        finally:
            private_keys.close(gpg)
    return {"some": Database(size=size, runs=runs, peers=dict(tools.encrypted_peers()))}


def bucket(bench: Bench) -> Databases:
    """Back up to a directory and to a bucket, and restore from the bucket."""
    size = data.provide(bench.lab, "some", bench.scale)
    with bench.folder() as folder:
        server = Buckets(folder)
        server.start()
        try:
            name = server.bucket()
            rounds = bench.rounds_on("some", {**server.environment(name), "BUCKET": name})
            groups = [Group(steps=steps) for steps in tools.buckets(bench.lab.jobs)]
            runs = rounds.measure(groups, bench.rounds)
        finally:
            server.stop()
    peers = {tools.TO_BUCKET: (tools.UPLOAD,), tools.FROM_BUCKET: (tools.DOWNLOAD,)}
    return {"some": Database(size=size, runs=runs, peers=peers)}


def pitr(bench: Bench) -> Databases:
    """Take base backups, store WAL and restore, beside PostgreSQL's own programs."""
    with bench.folder() as folder:
        part = point_in_time.Part(folder, bench.rounds, bench.scale, bench.lab.jobs)
        return {"pitr": part.measure()}


def start(bench: Bench) -> Databases:
    """Start commands that do little, with three backups in the folder."""
    backups = {step.name: step for step in tools.backups(bench.lab.jobs)}
    with bench.folder() as folder:
        environment = {**bench.lab.environment, "PGDATABASE": "postgres", "OUT": str(folder)}
        for _ in range(3):
            run(backups[tools.PGKEEP_BACKUP].command, environment)
            time.sleep(1.1)  # the name of a backup file contains the second
        steps = tools.starts()
        rounds = [[run(step.command, environment) for step in steps] for _ in range(STARTS)]
    runs = {step.name: list(found) for step, *found in zip(steps, *rounds, strict=True)}
    for name, found in runs.items():
        show(
            "start", STARTS, name, sorted(found, key=lambda measured: measured.seconds)[STARTS // 2]
        )
    return {"start": Database(size=0, runs=runs, peers=_all_others(runs))}


def large(bench: Bench) -> Databases:
    """Back up and restore a database of four times the size, to compare the memory."""
    size = data.provide(bench.lab, "large", bench.scale)
    backups = {step.name: step for step in tools.backups(bench.lab.jobs)}
    (load,) = tools.restores(bench.lab.jobs)[tools.PGKEEP_BACKUP]
    rounds = bench.rounds_on("large")
    runs = rounds.measure([Group(steps=[backups[tools.PGKEEP_BACKUP], load])], 1, warm_up=False)
    return {"large": Database(size=size, runs=runs)}


def _all_others(runs: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Compare each row of pgkeep with all rows of other tools."""
    others = tuple(name for name in runs if not name.startswith("pgkeep"))
    return {name: others for name in runs if name.startswith("pgkeep")}


# In this order; the last one takes the most space.
PARTS: dict[str, Callable[[Bench], Databases]] = {
    function.__name__: function
    for function in (backup, restore, verify, encryption, bucket, pitr, tables, start, large)
}
