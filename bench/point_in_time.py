"""Point in time beside PostgreSQL's own programs: base backups, WAL, recovery."""

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from pgkeep.postgres.server import Server

from . import data
from .measure import Measured, run
from .record import Database, Runs
from .rounds import show

SETTINGS = {**data.SETTINGS, "wal_level": "replica", "max_slot_wal_keep_size": "20GB"}
BY_HAND = "pg_basebackup, pg_verifybackup, tar | zstd -1"
BASE = {
    BY_HAND: "pg_basebackup -D $OUT/base -Fp -c fast -X stream --manifest-checksums=SHA256"
    " && pg_verifybackup -q $OUT/base && tar -C $OUT/base -cf - . | zstd -q -1 -o $OUT/base.tar.zst"
    " && rm -r $OUT/base",
    "pgkeep pitr base --full": "pgkeep pitr base --full",
}
ENABLE = "pgkeep pitr enable"
_SERVICE = (
    "pgkeep pitr stream --no-receive & service=$!;"
    " until [ -S $BACKUP_SPOOL_DIR/archive.sock ]; do sleep 0.05; done;"
    " for file in $WAL/*; do {client}; done; kill $service; wait $service"
)
# Each segment by a command of its own, as archive_command and restore_command run it.
SHIP = {
    "cp": "for file in $WAL/*; do cp $file $OUT/; done",
    "cp, flushed": "for file in $WAL/*; do cp $file $OUT/; sync $OUT/${file##*/}; done",
    "gzip -1": "for file in $WAL/*; do gzip -1 <$file >$OUT/${file##*/}.gz; done",
    "gzip -d": "for file in $WAL/*; do gzip -d <$COMPRESSED/${file##*/}.gz >$OUT/${file##*/}; done",
    "pgkeep pitr stream": "pgkeep pitr stream --until=$LSN",
    "pgkeep pitr push": "mkdir $OUT/backups; export BACKUP_DIR=$OUT/backups"
    " BACKUP_SPOOL_DIR=$OUT/spool; " + _SERVICE.format(client="pgkeep pitr push $file"),
    "pgkeep pitr fetch": _SERVICE.format(client="pgkeep pitr fetch ${file##*/} $OUT/${file##*/}"),
}
RESTORED = "pgkeep pitr restore"
RESTORE = "pgkeep pitr restore --to=$TIME --target-dir=$OUT/restored --promote"
PEERS = {
    "pgkeep pitr base --full": (BY_HAND,),
    "pgkeep pitr stream": ("gzip -1",),
    "pgkeep pitr push": ("gzip -1",),
    "pgkeep pitr fetch": ("gzip -d",),
    # No program of PostgreSQL does these; the other one shows how fast the machine was.
    ENABLE: (BY_HAND,),
    RESTORED: (BY_HAND,),
}
PGBENCH_SCALE = 30
CLIENTS, TRANSACTIONS = 4, 25_000  # of each client, in each round

_TRANSACTIONS = "select count(*) from pgbench_history"


class Part:
    """One run: a cluster of half a GB with WAL, on a server of its own."""

    def __init__(self, folder: Path, rounds: int, scale: float, jobs: int) -> None:
        self._folder = folder
        self._rounds = rounds
        self._scale = scale
        self._jobs = jobs
        self._programs = data.bin_folder()

    def measure(self) -> Database:
        """Return the figures of each command; the cluster is deleted."""
        with Server(self._programs, settings=SETTINGS, directory=self._folder) as server:
            path = f"{self._programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
            self._environment = {
                "PATH": path, "HOME": str(self._folder), "LC_ALL": "C.UTF-8",
                "PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": server.user,
                "PGDATABASE": "postgres", "BACKUP_JOBS": str(self._jobs),
            }  # fmt: skip
            self._pgbench("-i", "-q", "-s", str(max(1, int(PGBENCH_SCALE * self._scale))))
            size = int(self._query("select sum(pg_database_size(oid)) from pg_database"))
            runs: Runs = {}
            for number in range(self._rounds + 1):  # the first one is a warm-up
                for name, measured in self._round():
                    if number:
                        runs.setdefault(name, []).append(measured)
                        show("pitr", number, name, measured)
            return Database(size=size, runs=runs, peers=PEERS)

    def _round(self) -> list[tuple[str, Measured]]:
        found = []
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        folder.chmod(0o755)
        try:
            for number, (name, command) in enumerate(BASE.items()):
                out = folder / f"base{number}"
                found.append((name, self._run(command, out, BACKUP_DIR=str(out / "backups"))))
                shutil.rmtree(out)
            found += self._point_in_time(folder)
        finally:
            subprocess.run(["pgkeep", "pitr", "disable"], env=self._with(folder), check=False,
                           capture_output=True)  # fmt: skip
            shutil.rmtree(folder)
        return found

    def _point_in_time(self, folder: Path) -> list[tuple[str, Measured]]:
        """Enable, write WAL while nobody receives it, store it, restore a second of it."""
        settings = self._with(folder)
        found = [(ENABLE, self._run(ENABLE, folder / "enabled", **settings))]
        self._pgbench("-n", "-c", str(CLIENTS), "-t", str(int(TRANSACTIONS * self._scale)))
        transactions = self._query(_TRANSACTIONS)
        wanted = datetime.fromisoformat(self._query("select clock_timestamp()"))
        time.sleep(1)
        self._query("create table if not exists later (); drop table later")
        lsn = self._query("select pg_switch_wal()")
        wal = folder / "wal"
        wal.mkdir()
        source = Path(self._query("select setting from pg_settings where name = 'data_directory'"))
        last = self._query(f"select pg_walfile_name('{lsn}')")
        for path in (source / "pg_wal").iterdir():
            if len(path.name) == 24 and path.name <= last:
                shutil.copy(path, wal)
        size = sum(path.stat().st_size for path in wal.iterdir())
        compressed = folder / f"ship{list(SHIP).index('gzip -1')}"
        for number, (name, command) in enumerate(SHIP.items()):
            out = folder / f"ship{number}"
            measured = self._run(
                command, out, WAL=str(wal), LSN=lsn, COMPRESSED=str(compressed), **settings
            )
            _check_stored(name, wal, [out, Path(settings["BACKUP_DIR"])])
            found.append((name, msgspec.structs.replace(measured, size=size)))
        moment = (wanted + timedelta(milliseconds=1)).isoformat()
        found.append((RESTORED, self._run(RESTORE, folder / "to", TIME=moment, **settings)))
        self._check_restored(folder / "to" / "restored", transactions)
        return found

    def _check_restored(self, cluster: Path, transactions: str) -> None:
        owner = cluster.stat()
        # PostgreSQL refuses to run as root, and its files belong to somebody else then.
        user, group = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else (None, None)
        printed = subprocess.run(
            [self._programs / "postgres", "--single", "-D", cluster, "postgres"],
            env=self._environment, input=_TRANSACTIONS, check=True, capture_output=True, text=True,
            user=user, group=group, extra_groups=[] if user is not None else None,
        ).stdout  # fmt: skip
        if f'count = "{transactions}"' not in printed:
            raise SystemExit(f"{RESTORED}: expected {transactions} transactions, got {printed}")

    def _with(self, folder: Path) -> dict[str, str]:
        return {**self._environment, "BACKUP_DIR": str(folder / "backups"),
                "BACKUP_SPOOL_DIR": str(folder / "spool")}  # fmt: skip

    def _run(self, command: str, out: Path, **settings: str) -> Measured:
        out.mkdir()
        Path(settings["BACKUP_DIR"]).mkdir(exist_ok=True)
        self._query("checkpoint")
        os.sync()
        return run(command, {**self._environment, "OUT": str(out), **settings}, out)

    def _pgbench(self, *args: str) -> None:
        # The same WAL in a quarter of the time; the last commit is flushed within a second.
        settings = {**self._environment, "PGOPTIONS": "-c synchronous_commit=off"}
        subprocess.run(["pgbench", *args], env=settings, check=True, capture_output=True)

    def _query(self, query: str) -> str:
        command = ["psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", query]
        return subprocess.run(
            command, env=self._environment, check=True, capture_output=True, text=True
        ).stdout.strip()


def _check_stored(name: str, wal: Path, folders: Sequence[Path]) -> None:
    """Fail unless all segments are in one of the folders; files that are not compressed equal."""
    for segment in wal.iterdir():
        copies = [path for folder in folders for path in folder.rglob(f"{segment.name}*")]
        plain = [path for path in copies if path.name == segment.name]
        if not copies or not all(filecmp.cmp(segment, path, shallow=False) for path in plain):
            raise SystemExit(f"{name}: segment {segment.name} was not stored")
