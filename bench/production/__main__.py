"""python -m bench.production: backups, table restores and swaps beside an application at work."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from tests.support.servers import bin_folder

from pgkeep.postgres.server import Server

from . import replicas, report
from .application import ACCOUNTS, BALANCE, SCHEMA, Application
from .observer import Observer

# As PostgreSQL has them by default, where a temporary server has others.
SETTINGS = {
    "wal_level": "logical",
    "max_locks_per_transaction": "64",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_wal_size": "4GB",
}
DATABASE = "app"
REPORTS = "reports"


@dataclass(frozen=True, kw_only=True)
class Lab:
    """The server, and how pgkeep is run."""

    server: Server
    major: int
    folder: Path

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            make_conninfo("", **self.server.params, dbname=database), autocommit=True
        )

    def pgkeep(self, *args: str, database: str = DATABASE) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{bin_folder(self.major)}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "PGHOST": self.server.host,
            "PGPORT": str(self.server.port),
            "PGUSER": self.server.user,
            "PGDATABASE": database,
            "BACKUP_DIR": str(self.folder / database),
        }
        return subprocess.run(
            ["pgkeep", *args], env=environment, capture_output=True, text=True, check=False
        )


def backups(lab: Lab, count: int, *options: str) -> dict[int, int]:
    """Make backups; return how many ended with each exit code."""
    codes: dict[int, int] = {}
    for _ in range(count):
        done = lab.pgkeep("backup", "--type=manual", "--verify", *options)
        if done.returncode not in (0, 4):
            raise SystemExit(f"exit code {done.returncode}:\n{done.stderr}")
        codes[done.returncode] = codes.get(done.returncode, 0) + 1
        time.sleep(1)  # a name has a resolution of one second
    return codes


def table_restores(lab: Lab, count: int) -> dict[int, int]:
    """Replace a table that is read and referenced all the time."""
    codes: dict[int, int] = {}
    for _ in range(count):
        done = lab.pgkeep("restore", "--latest", "--table=prices", "--drop-existing", "--yes")
        if done.returncode not in (0, 8):
            raise SystemExit(f"exit code {done.returncode}:\n{done.stderr}")
        codes[done.returncode] = codes.get(done.returncode, 0) + 1
    return codes


def swaps(lab: Lab, count: int) -> dict[int, int]:
    """Replace a database that is used all the time."""
    codes: dict[int, int] = {}
    for _ in range(count):
        done = lab.pgkeep(
            "restore", "--latest", "--drop-existing", "--discard-old", "--yes", database=REPORTS
        )
        if done.returncode:
            raise SystemExit(f"exit code {done.returncode}:\n{done.stderr}")
        codes[done.returncode] = codes.get(done.returncode, 0) + 1
    return codes


def noted_waits(lab: Lab) -> int:
    """Return how many waits the manifests of all backups record."""
    manifests = (lab.folder / DATABASE).glob("*.manifest.json")
    return sum(len(json.loads(path.read_text()).get("blocked", [])) for path in manifests)


def check_sums(lab: Lab) -> int:
    """Restore every fifth backup and compare the sum of all balances; return how many."""
    stems = sorted(
        path.name.removesuffix(".manifest.json")
        for path in (lab.folder / DATABASE).glob("*.manifest.json")
    )[::5]
    for stem in stems:
        done = lab.pgkeep("restore", f"--backup={stem}", "--target-db=restored", "--yes")
        if done.returncode:
            raise SystemExit(f"{stem} was not restored:\n{done.stderr}")
        with lab.connect("restored") as connection:
            row = connection.execute("select count(*), sum(balance) from accounts").fetchone()
        if row != (ACCOUNTS, ACCOUNTS * BALANCE):
            raise SystemExit(f"{stem} is not a state of the database: found {row}")
        with lab.connect("postgres") as connection:
            connection.execute("drop database restored")
    return len(stems)


def measure(
    name: str, application: Application, observer: Observer, work: Callable[[], dict[int, int]]
) -> report.Phase:
    """Run a phase and return what happened in it."""
    print(f"{name} ...", file=sys.stderr)
    application.reset()
    observer.reset()
    started = time.monotonic()
    codes = work()
    return report.Phase(
        name=name,
        seconds=time.monotonic() - started,
        codes=codes,
        sessions=[report.copied(session) for session in application.sessions],
        waits=list(observer.waits),
        lag=dict(observer.lag),
    )


def idle(seconds: float) -> dict[int, int]:
    """Let the application work alone."""
    time.sleep(seconds)
    return {}


def run(major: int, options: argparse.Namespace) -> report.Result:
    """Run all phases on a server of one major version."""
    programs = bin_folder(major)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(programs, settings=SETTINGS))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lab = Lab(server=server, major=major, folder=folder)
        prepare(lab, options.rows)
        stack.enter_context(replicas.Standby(server, programs))
        small = SCHEMA.format(rows=1)
        stack.enter_context(replicas.subscriber(server, DATABASE, small, programs))
        observer = stack.enter_context(Observer(server, DATABASE))
        application = stack.enter_context(Application(server, DATABASE))
        half = options.backups // 2
        works: dict[str, Callable[[], dict[int, int]]] = {
            "the application alone": lambda: idle(20),
            f"{half} backups": lambda: backups(lab, half),
            f"{half} backups with `--yield-after=5`": lambda: backups(lab, half, "--yield-after=5"),
            f"{options.restores} restores of a table": lambda: table_restores(
                lab, options.restores
            ),
            f"{options.restores} restores of a database, swapped": lambda: swaps(
                lab, options.restores
            ),
        }
        phases = [measure(name, application, observer, work) for name, work in works.items()]
        if observer.failed:
            raise SystemExit(f"the observer failed: {observer.failed[0]}")
        return report.Result(
            major=major, phases=phases, noted=noted_waits(lab), checked=check_sums(lab)
        )


def prepare(lab: Lab, rows: int) -> None:
    """Create the databases, and a backup of the one that is swapped."""
    with lab.connect("postgres") as connection:
        connection.execute(f"create database {DATABASE}".encode())
        connection.execute(f"create database {REPORTS}".encode())
    with lab.connect(DATABASE) as connection:
        connection.execute(SCHEMA.format(rows=rows).encode())
    with lab.connect(REPORTS) as connection:
        connection.execute("create table t as select generate_series(1, 100000) a")
    lab.pgkeep("backup", "--type=manual", "--verify", database=REPORTS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all phases on every server and write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.production", description=__doc__)
    parser.add_argument("--majors", default="15,17,18")
    parser.add_argument("--rows", type=int, default=400_000, help="rows of the large table")
    parser.add_argument("--backups", type=int, default=50)
    parser.add_argument("--restores", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("docs/production.md"))
    options = parser.parse_args(arguments)
    results = [run(int(major), options) for major in options.majors.split(",")]
    text = report.page(results)
    options.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
