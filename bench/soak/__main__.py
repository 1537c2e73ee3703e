"""python -m bench.soak: receive WAL for hours beside faults, then restore random seconds."""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from tests.support.buckets import Buckets
from tests.support.servers import bin_folder

from pgkeep.postgres.server import Server

from . import ledger
from .faults import Faults, Receiver
from .report import Result, page

SETTINGS = {
    "wal_level": "replica",
    "max_slot_wal_keep_size": "4GB",
    "summarize_wal": "on",
    "shared_buffers": "64MB",
    "max_wal_size": "1GB",
    "synchronous_commit": "on",
}
BASES = 20 * 60.0  # seconds between two base backups
SAMPLE = 60.0  # seconds between two looks at the bucket


@dataclass
class Samples:
    """What was measured while the load was running."""

    rpo: list[float] = field(default_factory=list)  # the bucket was there for a minute before
    rpo_down: list[float] = field(default_factory=list)  # it was not
    memory: list[int] = field(default_factory=list)
    bases: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


class Lab:
    """The server, the environment of pgkeep, and its runs."""

    def __init__(self, server: Server, major: int, folder: Path, buckets: Buckets) -> None:
        self.server = server
        self.folder = folder
        bucket = buckets.bucket()
        path = f"{bin_folder(major)}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        common = {"PATH": path, "HOME": str(folder), "LC_ALL": "C.UTF-8"}
        self.libpq = {
            "PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": server.user,
            "PGDATABASE": "postgres", "PATH": path,
        }  # fmt: skip
        self.source = {
            **common, **self.libpq, **buckets.environment(bucket),
            "BACKUP_DIR": str(folder / "backups"), "BACKUP_SPOOL_DIR": str(folder / "spool"),
        }  # fmt: skip
        self.blank = {**common, **buckets.environment(bucket)}
        self.blank["BACKUP_DIR"] = f"s3://{self.blank.pop('BACKUP_S3_BUCKET')}/backups"

    def pgkeep(self, *args: str, blank: bool = False) -> subprocess.CompletedProcess[str]:
        """Run pgkeep: on the host of the receiver, or on one that has only the bucket."""
        return subprocess.run(
            ["pgkeep", *args], env=self.blank if blank else self.source, check=False,
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def connect(self) -> psycopg.Connection[Any]:
        """Connect to the database of the load."""
        conninfo = make_conninfo("", **self.server.params, dbname="postgres")
        return psycopg.connect(conninfo, autocommit=True)


def newest(lab: Lab) -> datetime | None:
    """Return the time of the newest commit that the bucket has."""
    done = lab.pgkeep("pitr", "restore", "--latest", "--preview", "--json", blank=True)
    if done.returncode:
        return None
    commits = json.loads(done.stdout)["commits"]
    return datetime.fromisoformat(commits[-1]["time"]) if commits else None


def observe(lab: Lab, receiver: Receiver, faults: Faults, found: Samples, seconds: float) -> None:
    """Measure until the time is over; take base backups meanwhile."""
    end = time.monotonic() + seconds
    next_base = time.monotonic() + BASES
    next_sample = time.monotonic() + SAMPLE
    while time.monotonic() < end:
        time.sleep(1)
        receiver.supervise()
        found.memory.append(receiver.memory())
        if time.monotonic() > next_base:
            next_base += BASES
            done = lab.pgkeep("pitr", "base", "--json")
            found.bases["taken" if done.returncode == 0 else f"exit code {done.returncode}"] += 1
            if done.returncode:
                print(done.stderr[-1000:], file=sys.stderr)
        if time.monotonic() > next_sample:
            next_sample += SAMPLE
            since = faults.bucket_since
            asked = datetime.now(UTC)
            last = newest(lab)
            if last is None:
                continue  # the bucket is down
            rpo = max(0.0, (asked - last).total_seconds())
            there = since is not None and since == faults.bucket_since
            (found.rpo if there and time.monotonic() - (since or 0) > SAMPLE + 60
             else found.rpo_down).append(rpo)  # fmt: skip
            print(f"{asked:%H:%M:%S} RPO {rpo:.1f} s, {receiver.memory() >> 20} MiB,"
                  f" {sum(faults.counts.values())} faults", flush=True)  # fmt: skip


def restores(lab: Lab, rows: ledger.Ledger, count: int, chance: random.Random) -> list[float]:
    """Restore random seconds from the bucket, and compare every row; return the seconds taken."""
    first = rows.commits[0].acknowledged + timedelta(seconds=5)
    span = (rows.commits[-1].acknowledged - first).total_seconds() - 5
    taken: list[float] = []
    while len(taken) < count:
        chosen = rows.between(first + timedelta(seconds=chance.uniform(0, span)))
        if chosen is None:
            continue
        moment, expected = chosen
        target = lab.folder / f"restored{len(taken)}"
        began = time.monotonic()
        done = lab.pgkeep(
            "pitr", "restore", f"--to={moment.isoformat()}", f"--target-dir={target}",
            "--promote", "--json", blank=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{moment} was not restored: {done.stderr}")
        taken.append(time.monotonic() - began)
        difference = ledger.check(sums(lab, target), expected)
        if difference is not None:
            raise SystemExit(f"{moment}: {difference}")
        print(f"{moment:%H:%M:%S.%f}: {expected} rows, exact, {taken[-1]:.1f} s", flush=True)
        subprocess.run(["rm", "-rf", str(target)], check=True)
    return taken


def sums(lab: Lab, data: Path) -> tuple[Any, ...]:
    """Start a restored data directory and query it."""
    with tempfile.TemporaryDirectory(prefix="soak-") as run:
        Path(run).chmod(0o777)
        account = []
        if os.geteuid() == 0:  # PostgreSQL does not run as root
            account = ["setpriv", "--reuid=nobody", "--clear-groups", "--"]
            subprocess.run(["chown", "-R", "nobody", str(data)], check=True)
        command = [
            *account, "pg_ctl", "-D", str(data), "-w",
            "-o", f"-k {run} -c listen_addresses=", "-l", f"{run}/log",
        ]  # fmt: skip
        subprocess.run([*command, "start"], env=lab.libpq, check=True, stdout=subprocess.DEVNULL)
        try:
            with psycopg.connect(host=run, user=lab.server.user, dbname="postgres") as connection:
                row = connection.execute(ledger.SUMS).fetchone()
        finally:
            stop = [*account, "pg_ctl", "-D", str(data), "-w", "-m", "fast", "stop"]
            subprocess.run(stop, env=lab.libpq, check=True, stdout=subprocess.DEVNULL)
    assert row is not None
    return row


def run(options: argparse.Namespace, folder: Path) -> Result:
    """Receive for the given time, then restore."""
    buckets = Buckets(folder / "s3")
    (folder / "s3").mkdir()
    (folder / "backups").mkdir()
    buckets.start()
    with contextlib.ExitStack() as stack:
        stack.callback(buckets.stop)
        server = stack.enter_context(
            Server(bin_folder(options.major), settings=SETTINGS, directory=folder)
        )
        lab = Lab(server, options.major, folder, buckets)
        subprocess.run(["pgbench", "-i", "-q", "-s", "5"], env=lab.libpq, check=True,
                       stderr=subprocess.DEVNULL)  # fmt: skip
        with lab.connect() as connection:
            connection.execute(ledger.SCHEMA)
        enabled = lab.pgkeep("pitr", "enable")
        if enabled.returncode:
            raise SystemExit(enabled.stderr)
        found = Samples()
        receiver = stack.enter_context(Receiver(lab.source, folder / "receiver.log"))
        rows = ledger.Ledger(server, "postgres")
        with ledger.Load(lab.libpq, options.rate), rows:
            with Faults(receiver, buckets, options.pause, options.seed) as faults:
                observe(lab, receiver, faults, found, options.minutes * 60)
            time.sleep(2)
        with lab.connect() as connection:
            (last,) = connection.execute("select pg_current_wal_lsn()::text").fetchone() or ("",)
        receiver.__exit__()
        done = lab.pgkeep("pitr", "stream", f"--until={last}")
        if done.returncode:
            raise SystemExit(done.stderr)
        windows = json.loads(lab.pgkeep("pitr", "windows", "--json", blank=True).stdout)
        taken = restores(lab, rows, options.restores, random.Random(options.seed))
        return Result(
            major=options.major, minutes=options.minutes, seed=options.seed, rate=options.rate,
            commits=len(rows.commits), faults=dict(faults.counts), bases=dict(found.bases),
            rpo=found.rpo, rpo_down=found.rpo_down, memory=found.memory,
            ended=dict(Counter(map(str, receiver.ended))), windows=windows, restores=taken,
            failed=rows.failed,
        )  # fmt: skip


def main() -> None:
    """Run with the options of the command line and write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--major", type=int, default=17)
    parser.add_argument("--rate", type=int, default=50, help="transactions of pgbench per second")
    parser.add_argument("--pause", type=float, default=60, help="mean seconds between two faults")
    parser.add_argument("--restores", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--output", type=Path, default=Path("docs/soak.md"))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        Path(name).chmod(0o755)
        result = run(options, Path(name))
    options.output.write_text(page(result))
    print(options.output.read_text())


if __name__ == "__main__":
    main()
