"""Measure commands round by round, and check the result of each of them."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .data import Lab
from .measure import Measured, run
from .record import Runs
from .tools import Step

# Prints TABLE|ROWS for each table of a dump on its input. Rows are most lines: they come first.
COUNT = r"""
c { if ($0 == "\\.") c = 0; else n[t]++; next }
/^COPY .* FROM stdin;$/ { t = $2; sub(/^public[.]/, "", t); c = 1; n[t] += 0 }
END { for (t in n) print t "|" n[t] }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Steps that follow each other with one folder $OUT: of each round, or always the same."""

    steps: Sequence[Step]
    folder: Path | None = None


class Rounds:
    """Groups of commands on one database, one group after the other in each round."""

    def __init__(
        self, lab: Lab, database: str, work: Path, more: Mapping[str, str] | None = None
    ) -> None:
        self._lab = lab
        self._database = database
        self._work = work
        self._environment = {**lab.environment, **(more or {}), "PGDATABASE": database}
        self._rows = lab.rows(database)

    def measure(self, groups: Sequence[Group], rounds: int, *, warm_up: bool = True) -> Runs:
        """Measure all groups once, then all again, so that a slow minute hits every one."""
        runs: Runs = {step.name: [] for group in groups for step in group.steps}
        if warm_up:
            self._group(groups[0])
        for number in range(1, rounds + 1):
            for group in groups:
                for name, measured in self._group(group):
                    runs[name].append(measured)
                    show(self._database, number, name, measured)
        self._lab.tidy()
        return runs

    def prepare(self, step: Step, folder: Path) -> Path:
        """Execute a command whose output others read; return the folder of the output."""
        folder.mkdir()
        run(step.command, {**self._environment, "OUT": str(folder)})
        return folder

    def _group(self, group: Group) -> list[tuple[str, Measured]]:
        found: list[tuple[str, Measured]] = []
        with self._folder(group) as folder:
            environment = {**self._environment, "OUT": str(folder)}
            for step in group.steps:
                if not step.continues:
                    self._lab.tidy()
                measured = run(step.command, environment, None if group.folder else folder)
                if step.continues:
                    measured = _together(found[-1][1], measured)
                found.append((step.name, measured))
                self._check(step, environment)
        return found

    @contextmanager
    def _folder(self, group: Group) -> Iterator[Path]:
        if group.folder is not None:
            yield group.folder
            return
        folder = Path(tempfile.mkdtemp(dir=self._work))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def _check(self, step: Step, environment: Mapping[str, str]) -> None:
        if step.restores and self._lab.rows("restored") != self._rows:
            raise SystemExit(f"{step.name}: the restored rows are not those of {self._database}")
        if step.reads and self._in_backup(step, environment) != self._rows:
            raise SystemExit(f"{step.name}: the rows of the backup are not those of the database")

    def _in_backup(self, step: Step, environment: Mapping[str, str]) -> dict[str, int]:
        command = f"{step.reads} | awk '{COUNT}'"
        printed = self._lab.run(["bash", "-euo", "pipefail", "-c", command], more=environment)
        counts = (line.split("|") for line in printed.splitlines())
        return {table: int(rows) for table, rows in counts}


def show(database: str, number: int, name: str, measured: Measured) -> None:
    """Print a figure while the benchmark is running."""
    print(
        f"{database:8} {number:2} {name:46} {measured.seconds:7.2f} s"
        f" {measured.size / 1e6:8.1f} MB {measured.memory / 2**20:6.0f} MiB",
        flush=True,
    )


def _together(first: Measured, second: Measured) -> Measured:
    return Measured(
        seconds=round(first.seconds + second.seconds, 4),
        size=second.size,
        memory=max(first.memory, second.memory),
    )
