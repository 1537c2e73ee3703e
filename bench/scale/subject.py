"""What is measured: something of n parts, and the commands that work on it."""

import contextlib
import resource
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.buckets import Buckets

from pgkeep.postgres.server import Server

from ..data import Lab
from ..measure import run

RESTORED = "restored"
RUNS = 3  # of a command that takes little time: the fastest is shown
ENOUGH = 5.0  # seconds that runs of a command take together


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, as somebody would type it in a shell."""

    name: str
    line: str
    once: bool = False  # it changes what it works on
    restores: bool = False  # its database is compared with the original
    flat: bool = False  # its memory must not depend on n


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a run of a command took."""

    seconds: float
    processor: float  # seconds, of the server too
    memory: int  # bytes


class Stage:
    """The server, the folder and the bucket for one size of a subject."""

    def __init__(self, lab: Lab, server: Server, folder: Path, buckets: Buckets | None) -> None:
        self.lab = lab
        self.folder = folder
        self._server = server
        self._buckets = buckets
        self.backups = folder / "backups"
        self.backups.mkdir()
        self.environment = {
            **lab.environment,
            "PGDATABASE": "app",
            "BACKUP_DIR": str(self.backups),
            "BACKUP_JOBS": str(lab.jobs),
            "BACKUP_MAX_AGE": "36500d",
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    @property
    def buckets(self) -> Buckets:
        """The server of buckets."""
        assert self._buckets is not None
        return self._buckets

    def create(self, script: str, database: str = "app") -> None:
        """Create a database from a script."""
        self.lab.psql("postgres", f'CREATE DATABASE "{database}" TEMPLATE template0')
        self.lab.psql(database, script + ";\nVACUUM ANALYZE;\nCHECKPOINT;")

    def measure(self, command: Command, sums: str) -> Figure:
        """Run a command until it took long enough; return its best figures."""
        figures: list[Figure] = []
        while not figures or (
            len(figures) < (1 if command.once else RUNS)
            and sum(figure.seconds for figure in figures) < ENOUGH
        ):
            if figures:
                time.sleep(1.1)  # a backup is named by the second
            self.lab.psql("postgres", f"DROP DATABASE IF EXISTS {RESTORED}")
            figures.append(self._once(command))
            if command.restores:
                self._compare(command, sums)
        self.lab.psql("postgres", f"DROP DATABASE IF EXISTS {RESTORED}")
        return Figure(
            seconds=min(figure.seconds for figure in figures),
            processor=min(figure.processor for figure in figures),
            memory=max(figure.memory for figure in figures),
        )

    def _once(self, command: Command) -> Figure:
        self._wait_for_sessions()  # a session counts when it ends, as that which built the subject
        before = self._processor()
        measured = run(command.line, self.environment)
        self._wait_for_sessions()
        return Figure(
            seconds=measured.seconds,
            processor=self._processor() - before,
            memory=measured.memory,
        )

    def _compare(self, command: Command, sums: str) -> None:
        expected, found = (self.lab.psql(name, sums) for name in ("app", RESTORED))
        if not expected.strip() or found != expected:
            raise SystemExit(f"{command.name}: restored {found.strip()}, not {expected.strip()}")

    def _processor(self) -> float:
        """Return the seconds of our commands, and of the sessions of the server that ended."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        fields = Path(f"/proc/{self._server.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = sum(map(int, fields[11:15])) / 100  # USER_HZ
        return used.ru_utime + used.ru_stime + ticks

    def _wait_for_sessions(self) -> None:
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        while self.lab.psql("postgres", query).strip() != "0":
            time.sleep(0.05)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something of n parts."""

    title: str
    text: str
    sizes: tuple[int, int, int]
    larger: tuple[int, ...] = ()  # measured too, without a growth
    build: Callable[[Stage, int], None]
    commands: tuple[Command, ...]
    sums: str = ""  # a query with the same result in a restored database
    bucket: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)  # of the server
    needs: int = 8 << 30  # bytes of disk space


def failed(stage: Stage, command: Command, sums: str) -> Figure | None:
    """Return None if a command fails, so that the others are measured all the same."""
    with contextlib.suppress(subprocess.CalledProcessError):
        return stage.measure(command, sums)
    return None
