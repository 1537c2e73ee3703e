"""The commands of point in time, with a receiver at work, and what each must have done."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from tests.support import servers
from tests.support.buckets import keys

from bench.soak.faults import Receiver
from pgkeep.postgres.server import Account

from . import ledger, plan
from .faults import Strike, damaged
from .operations import TASKS, Task
from .world import Result, Running, World

MARGIN = timedelta(seconds=2)  # from the ends of a window


class PointInTime:
    """The receiver of a world, and its windows."""

    def __init__(self, world: World) -> None:
        self.world = world
        done = world.call("pitr", "enable", "--service=none")
        if done.code:
            raise AssertionError(f"pitr enable: exit code {done.code}: {done.err}")
        self.log = world.folder / "receiver.log"
        self._read = 0
        environment = world.environment() | {"BACKUP_WAL_MAX_LAG": "8s"}
        self.receiver = Receiver(environment, self.log)
        self.receiver.supervise()

    def close(self) -> None:
        self.receiver.__exit__()

    def windows(self) -> list[dict[str, Any]]:
        """Return what `pgkeep pitr windows` prints: one document for each store."""
        done = self.world.call("pitr", "windows", "--json")
        assert done.code == 0, f"pitr windows: exit code {done.code}\n{done.err}"
        found: list[dict[str, Any]] = json.loads(done.out)
        return found

    def problems(self) -> list[str]:
        """Start the receiver if it has ended; return what is wrong with what it printed."""
        self.receiver.supervise()
        found = [
            f"the receiver ended with {code}" for code in self.receiver.ended if code in (1, 5)
        ]
        self.receiver.ended.clear()
        with self.log.open() as log:
            log.seek(self._read)
            text = log.read()
            self._read = log.tell()
        if "Traceback" in text:
            found.append(f"the receiver: {text[-3000:]}")
        return found

    def gaps(self) -> list[str]:
        """Return what is wrong with the windows after faults."""
        documents = self.windows()
        found = [f"{document['store']}: gaps {document['gaps']}" for document in documents
                 if document["gaps"]]  # fmt: skip
        stores = [document["store"] for document in documents if document["windows"]]
        return found + ([] if len(stores) == 2 else [f"only {stores} have a window"])


def of(world: World) -> PointInTime:
    assert isinstance(world.point_in_time, PointInTime)
    return world.point_in_time


class Base(Task):
    """pgkeep pitr base."""

    def prepare(self) -> None:
        self.env = self.world.environment()
        full = ["--full"] if self.operation.variant == "full" else []
        self.args = ("pitr", "base", "--json", *full)

    def judge(self, result: Result) -> list[str]:
        if result.code:
            return []
        name = result.last.partition("base backup ")[2].partition(":")[0]
        found = [name in bases(document) for document in of(self.world).windows()]
        return [] if all(found) else [f"exit code 0, but {name} is not in every store"]


def bases(document: Mapping[str, Any]) -> set[str]:
    """Return the base backups that a document of windows names."""
    named = {name for window in document["windows"] for name in window["bases"]}
    return named | set(map(str, document["waiting"]))


class Restore(Task):
    """pgkeep pitr restore, on a host that has only one of the stores."""

    def prepare(self) -> None:
        stores = "bucket" if self.operation.stores == "bucket" else "directory"
        self.env = {
            name: value
            for name, value in self.world.environment(stores=stores).items()
            if name == "PATH" or not name.startswith("PG")
        }
        self.target = self.world.folder / f"restored-{self.number}"
        self.expected_number: int | None = None
        point = "--latest"
        moment = self._moment(stores)
        if self.operation.variant != "latest" and moment is not None:
            chosen, self.expected_number = moment
            point = f"--to={chosen.isoformat()}"
        into = {
            "dump": [f"--as-dump={self.target}", f"--database={self.operation.database}"],
            "preview": ["--preview"],
        }.get(self.operation.variant, [f"--target-dir={self.target}", "--promote"])
        self.args = ("pitr", "restore", point, *into, "--json")

    def _moment(self, stores: str) -> tuple[datetime, int] | None:
        """Choose a second of a window of a store."""
        for document in of(self.world).windows():
            if document["store"].startswith("s3:") != (stores == "bucket"):
                continue
            if not document["windows"]:
                return None
            window = self.pick(document["windows"])
            since, until = (datetime.fromisoformat(window[end]) for end in ("since", "until"))
            since, until = since + MARGIN, until - MARGIN
            share = (self.operation.pick * 7919) % 1
            for step in range(10):
                moment = since + (until - since) * ((share + step / 10) % 1)
                found = self.ledger.between(moment)
                if found is not None and since < found[0] < until:
                    return found
        return None

    def judge(self, result: Result) -> list[str]:
        try:
            if result.code or self.operation.variant == "preview":
                left = [] if not self.target.exists() else list(self.target.iterdir())
                complete = any(path.name == "PG_VERSION" for path in left) or result.code == -9
                told = "restored" in result.err
                if left and not (complete and (told or result.code == -9)):
                    return [f"exit code {result.code}, and {self.target} has {left[:3]}"]
                return []
            if self.operation.variant == "dump":
                return self._judge_dump()
            return self._judge_cluster()
        finally:
            shutil.rmtree(self.target, ignore_errors=True)

    def _judge_cluster(self) -> list[str]:
        problems = []
        for database in plan.DATABASES:
            with started(self.world, self.target, database) as connection:
                found = ledger.examine(connection)
            own = database == self.operation.database
            problems += self._compared(found, self.world.ledgers[database], own=own)
        return problems

    def _judge_dump(self) -> list[str]:
        (file,) = [path for path in self.target.iterdir()
                   if ".sql." in path.name and not path.name.endswith(".sha256")
                   and ".globals." not in path.name]  # fmt: skip
        target = f"dump {self.number}"
        try:
            self.clean("restore", f"--backup={file}", f"--target-db={target}", "--no-analyze")
            with servers.connect(self.world.server, target) as connection:
                found = ledger.examine(connection)
            return self._compared(found, self.ledger, own=True)
        finally:
            self.world.drop(target)

    def _compared(self, found: ledger.Found, source: ledger.Ledger, *, own: bool) -> list[str]:
        problems = list(found.problems)
        if own and self.expected_number not in (None, found.number):
            problems.append(f"state {found.number}, expected {self.expected_number}")
        allowed = source.states.get(found.number)
        if allowed is not None and found.fingerprint not in allowed:
            problems.append(f"state {found.number} is not one that {source.database} had")
        return [f"{source.database}: {problem}" for problem in problems]


@contextmanager
def started(world: World, data: Path, database: str) -> Iterator[ledger.Connection]:
    """Start a restored data directory."""
    account = Account.choose()
    programs = servers.bin_folder(world.major)
    with tempfile.TemporaryDirectory(prefix="torture-") as run:
        (data / "pg_hba.conf").write_text("local all all trust\n")
        account.own(Path(run))
        account.own(data)
        options = f"-k {run} -c listen_addresses= -c fsync=off"
        control = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-s", "-t", "120"]
        who: dict[str, Any] = {}
        if account.uid is not None:
            who = {"user": account.uid, "group": account.gid, "extra_groups": []}
        start = [*control, "-o", options, "-l", f"{run}/log", "start"]
        subprocess.run(start, check=True, cwd="/", **who)
        try:
            with psycopg.connect(
                host=run, user=world.server.user, dbname=database, autocommit=True
            ) as connection:
                yield connection
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, check=True, cwd="/", **who)


class Read(Task):
    """pgkeep pitr windows, pgkeep pitr verify, pgkeep drill --pitr."""

    def prepare(self) -> None:
        self.env = self.world.environment()
        variant = self.operation.variant
        self.args = ("drill", "--pitr") if variant == "drill" else ("pitr", variant)
        self.args += ("--json",)


class Prune(Task):
    """pgkeep prune, of base backups and WAL."""

    codes: ClassVar[tuple[int, ...]] = (7,)

    def prepare(self) -> None:
        self.args = ("prune", "--json")
        window = "2min" if self.operation.variant == "short" else "10min"
        self.env = self.world.environment() | {"BACKUP_WINDOW": window}

    def judge(self, result: Result) -> list[str]:
        stores = [document for document in of(self.world).windows() if document["windows"]]
        return [] if len(stores) == 2 else [f"{2 - len(stores)} stores have no window any more"]


class ReceiverFault(Strike):
    """The receiver or pg_receivewal ends; it is started again afterwards."""

    def during(self, running: list[Running]) -> None:  # type: ignore[override]
        receiver = of(self.world).receiver
        if "child" in self.fault.name:
            receiver.kill_child()
        else:
            receiver.stop(signal.SIGKILL if "KILL" in self.fault.name else signal.SIGTERM)

    def after(self) -> list[str]:
        of(self.world).receiver.supervise()
        return []


class DamageOfWal(Strike):
    """A file of the archive or of a base backup changes at rest; it is put back afterwards."""

    def before(self) -> list[str]:
        files = self._files()
        self.name, self.bucket = files[int(self.fault.pick * len(files))]
        kind = ("truncated", "bit flipped", "removed")[int(self.fault.amount * 997) % 3]
        self.what = f"damage: {kind}: {self.name} in the {'bucket' if self.bucket else 'directory'}"
        data = self._load()
        assert data is not None
        self.data = data
        fault = plan.Fault(name=kind, moment=0, amount=self.fault.amount, pick=0)
        self.damaged = damaged(self.data, fault)
        self._store(self.damaged)
        done = self.world.call("pitr", "verify", "--json")
        file = Path(self.name).name
        if done.code != 5:
            return [f"pitr verify: exit code {done.code}, with {self.what}: {done.tail()}"]
        named = file in done.out or file.partition("-")[0] in done.out
        return [] if named or self.damaged is None else [f"pitr verify does not name {file}"]

    def after(self) -> list[str]:
        if self._load() == self.damaged and (self.damaged is not None or self._expected()):
            self._store(self.data)
        return []

    def _expected(self) -> bool:
        """Whether retention has kept what a removed file belongs to."""
        number, _, _ = Path(self.name).name.partition("-")
        if "/base/" in self.name:
            return True
        return any(
            "/wal/" in other and Path(other).name[:24] <= number
            for other, bucket in self._all()
            if bucket == self.bucket
        )

    def _files(self) -> list[tuple[str, bool]]:
        """Return the files that the newest window of each store requires."""
        found = []
        starts = {}
        newest = {}
        for document in of(self.world).windows():
            bucket = document["store"].startswith("s3:")
            window = document["windows"][-1]
            high, low = (int(part, 16) for part in window["start"].split("/"))
            starts[bucket] = f"{window['timeline']:08X}{high:08X}{low >> 20:08X}"
            newest[bucket] = window["bases"][-1]
        for name, bucket in self._all():
            file = name.rpartition("/")[2]
            wal = "/wal/" in name and file[:24] >= starts[bucket] and ".partial" not in file
            base = "/base/" in name and file.startswith(newest[bucket])
            if (wal and file[:24].isalnum() and len(file) > 24) or base:
                found.append((name, bucket))
        return found

    def _all(self) -> list[tuple[str, bool]]:
        root = self.world.folder / "backups" / "b"
        local = [
            str(path.relative_to(root))
            for kind in ("wal", "base")
            for path in sorted(root.glob(f"pitr/*/{kind}/*"))
            if path.is_file() and path.name[0] != "."
        ]
        stored = keys(self.world.buckets.client(), self.world.bucket)
        remote = sorted(key for key in stored if "/pitr/" in key and "/drill/" not in key)
        return [(name, False) for name in local] + [(key, True) for key in remote]

    def _load(self) -> bytes | None:
        if not self.bucket:
            path = self.world.folder / "backups" / "b" / self.name
            return path.read_bytes() if path.exists() else None
        if self.name not in keys(self.world.buckets.client(), self.world.bucket):
            return None
        found = self.world.buckets.client().get_object(Bucket=self.world.bucket, Key=self.name)
        data: bytes = found["Body"].read()
        return data

    def _store(self, data: bytes | None) -> None:
        client = self.world.buckets.client()
        if self.bucket:
            if data is None:
                client.delete_object(Bucket=self.world.bucket, Key=self.name)
            else:
                client.put_object(Bucket=self.world.bucket, Key=self.name, Body=data)
            return
        path = self.world.folder / "backups" / "b" / self.name
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
            os.utime(path)


PITR_TASKS: Mapping[str, type[Task]] = {
    **TASKS, "pitr base": Base, "pitr restore": Restore, "pitr read": Read, "pitr prune": Prune,
}  # fmt: skip
PITR_STRIKES: Mapping[str, type[Strike]] = {
    "receiver": ReceiverFault, "damage of point in time": DamageOfWal,
}  # fmt: skip
