"""What goes wrong in a step: before the command starts, while it runs, and how it is put right."""

import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tests.support import proxy, servers

from . import plan
from .operations import Task
from .world import FAKETIME, SIZES, Running, World

CHILD_SECONDS = 1.0  # to wait for a child


class Strike:
    """A fault of a step; the default does nothing."""

    signals: ClassVar[bool] = False  # whether the exit status can be that of a signal

    def __init__(self, world: World, fault: plan.Fault, tasks: Sequence[Task]) -> None:
        self.world, self.fault, self.tasks = world, fault, tasks
        self.what = fault.name

    def before(self) -> list[str]:
        """Do what has to be done before the commands start."""
        return []

    def during(self, running: Sequence[Running]) -> None:
        """Do what is done at the moment of the fault."""

    def after(self) -> list[str]:
        """Put it right; return what is wrong."""
        return []

    def afterwards(self) -> None:
        """Remove what the fault has left on purpose, when everything was checked."""


class Signal(Strike):
    """A signal to pgkeep or to one of its children."""

    signals = True

    def during(self, running: Sequence[Running]) -> None:
        name = self.fault.name.removeprefix("child: ")
        target = running[0]
        pid = target.process.pid
        if name != self.fault.name:
            deadline = time.monotonic() + CHILD_SECONDS
            while not (children := target.children()) and time.monotonic() < deadline:
                if not target.alive():
                    return
                time.sleep(0.01)
            if not children:
                return
            pid = children[int(self.fault.pick * len(children))]
        if not target.alive():
            return
        first, _, then = name.partition(", ")
        target.send(pid, signal.Signals[first])
        if then:
            time.sleep(0.3 + 1.5 * self.fault.amount)
            target.send(pid, signal.Signals[then])


class ServerCrash(Strike):
    """The server is killed or stopped without a checkpoint, and started again."""

    def during(self, running: Sequence[Running]) -> None:
        if self.fault.pick < 0.5:
            self.world.server.kill()
        else:
            self.world.server.stop(immediate=True)
        time.sleep(self.fault.amount)
        self.world.server.start()


class Sessions(Strike):
    """The sessions of pgkeep and its programs are terminated."""

    def during(self, running: Sequence[Running]) -> None:
        query = (
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name like 'pgkeep%' and backend_type = 'client backend'"
        )
        servers.sql(self.world.server, "postgres", query)


class DiskFull(Strike):
    """A file system has room for some bytes only."""

    def _fill(self) -> None:
        name = self.fault.name.rpartition(" ")[2]
        self.place = {"TMPDIR": "tmp", "full": "spool"}.get(name, name)
        system = os.statvfs(self.world.folder / self.place)
        used = (system.f_blocks - system.f_bfree) * system.f_frsize
        # Most runs need less than 1 MB.
        free = int(self.fault.amount**2 * (1 << 20)) >> 12 << 12
        self.world.remount(self.place, f"size={used + free + 4096}")

    def before(self) -> list[str]:
        self.place = ""
        if self.fault.moment < 0.6:
            self._fill()
        return []

    def during(self, running: Sequence[Running]) -> None:
        if not self.place:
            self._fill()

    def after(self) -> list[str]:
        if self.place:
            self.world.remount(self.place, f"size={SIZES[self.place]}m")
        return []


class ReadOnly(Strike):
    """The directory of the backups is on a file system that cannot be written."""

    def before(self) -> list[str]:
        self.world.remount("backups", "ro")
        return []

    def after(self) -> list[str]:
        self.world.remount("backups", "rw")
        return []


class BucketDown(Strike):
    """The server of the bucket is killed, or stopped for a while."""

    def during(self, running: Sequence[Running]) -> None:
        buckets = self.world.buckets
        if self.fault.name.endswith("killed"):
            buckets.stop()
            wait(running, 10 * self.fault.amount)
            return
        assert buckets.pid is not None
        os.killpg(buckets.pid, signal.SIGSTOP)
        wait(running, 12 * self.fault.amount)
        os.killpg(buckets.pid, signal.SIGCONT)

    def after(self) -> list[str]:
        if self.world.buckets.pid is None:
            self.world.buckets.start()
        return []


class BucketAnswers(Strike):
    """Some requests to the bucket fail, as networks and servers make them fail."""

    KINDS: ClassVar[Mapping[str, dict[str, Any]]] = {
        "status 500": {"kind": "status", "status": 500},
        "status 503": {"kind": "status", "status": 503, "code": "SlowDown"},
        "status 403": {"kind": "status", "status": 403, "code": "AccessDenied"},
        "answers truncated": {"kind": "cut"},
        "answers lost": {"kind": "lost"},
        "connections reset": {"kind": "reset"},
        "requests stall": {"kind": "stall"},
    }

    def before(self) -> list[str]:
        kind = self.KINDS[self.fault.name.removeprefix("bucket: ")]
        failing = proxy.Fault(
            **kind, skip=int(self.fault.moment * 15), times=1 + int(self.fault.amount**2 * 20),
            after=int(self.fault.pick * 2000),
        )  # fmt: skip
        self.world.proxy.faults.append(failing)
        return []

    def after(self) -> list[str]:
        self.world.proxy.faults.clear()
        return []


class Clock(Strike):
    """The clock of the host is wrong, or is set while the command runs."""

    def before(self) -> list[str]:
        days = 1 + int(self.fault.amount * 60)
        self.file = self.world.folder / "faketime"
        offset = {"behind": f"-{days}d", "ahead": f"+{days}d", "jumps": "+0"}
        kind = self.fault.name.removeprefix("clock: ")
        self.file.write_text(offset[kind] + "\n")
        for task in self.tasks[:1]:
            task.env |= {
                "LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(self.file),
                "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }  # fmt: skip
        return []

    def during(self, running: Sequence[Running]) -> None:
        if self.fault.name.endswith("jumps"):
            sign = "+" if self.fault.pick < 0.3 else "-"
            self.file.write_text(f"{sign}{1 + int(self.fault.amount * 7200)}\n")

    def afterwards(self) -> None:
        """Remove what has a time in the future, as an administrator would."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for entry in self.world.listing():
            if str(entry["manifest"]["taken"]) > now:
                self.world.forget(entry["name"])


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of a backup in the directory or in the bucket."""

    backup: str
    name: str
    bucket: bool


class Damage(Strike):
    """A file of a backup changes at rest; it is put back afterwards."""

    def before(self) -> list[str]:
        files = stored_files(self.world)
        if not files:
            self.file = None
            return []
        self.file = files[int(self.fault.pick * len(files))]
        self.data = self.world.load(self.file.name, bucket=self.file.bucket)
        assert self.data is not None
        self.damaged = damaged(self.data, self.fault)
        where = "bucket" if self.file.bucket else "directory"
        self.what = f"{self.fault.name}: {self.file.name} in the {where}"
        self.world.store(self.file.name, self.damaged, bucket=self.file.bucket)
        return self._reported()

    def _reported(self) -> list[str]:
        """Return what is wrong if a full verification does not find it."""
        assert self.file is not None
        if self.damaged is None and self.file.name.endswith((".manifest.json", ".sha256")):
            return []  # without its manifest it is not a backup, which also has the SHA-256
        done = self.world.call("verify", "--all", "--json")
        if done.code != 5 or self.file.backup not in done.out + done.err:
            said = f"exit code {done.code}, {self.file.name} is not named: {done.tail()}"
            return [f"verify --all: {said}"]
        return []

    def after(self) -> list[str]:
        if self.file is not None and self._still_damaged():
            self.world.store(self.file.name, self.data, bucket=self.file.bucket)
        return []

    def _still_damaged(self) -> bool:
        """Whether no run has replaced, repaired or removed the file since."""
        assert self.file is not None
        if self.world.load(self.file.name, bucket=self.file.bucket) != self.damaged:
            return False
        names = self.world.names(bucket=self.file.bucket)
        manifest = f"{self.file.backup}.manifest.json"
        if self.file.name != manifest:
            stem = self.file.name.partition(".")[0]
            return manifest in names and any(name.startswith(f"{stem}.sql.") for name in names)
        return any(name.startswith(f"{self.file.backup}") and name != manifest for name in names)


def stored_files(world: World) -> list[Stored]:
    """Return the files of all known backups in both stores."""
    found = []
    for bucket in (False, True):
        for name in world.names(bucket=bucket):
            backup = name.partition(".")[0].partition("_key")[0]
            if backup in world.known:
                found.append(Stored(backup, name, bucket))
    return found


def damaged(data: bytes, fault: plan.Fault) -> bytes | None:
    """Return changed bytes, or None for a file that is removed."""
    if fault.name.endswith("removed"):
        return None
    if fault.name.endswith("truncated"):
        return data[: int(fault.amount * len(data.rstrip()))]
    place = min(int(fault.amount * len(data)), len(data) - 1)
    bit = 1 << random.Random(fault.amount).randrange(8)
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def wait(running: Sequence[Running], seconds: float) -> None:
    """Wait until the commands have ended, or some seconds have passed."""
    deadline = time.monotonic() + seconds
    while any(each.alive() for each in running) and time.monotonic() < deadline:
        time.sleep(0.02)


STRIKES: Mapping[str, type[Strike]] = {
    "SIG": Signal, "child": Signal, "server crash": ServerCrash, "sessions": Sessions,
    "disk full": DiskFull, "spool full": DiskFull, "read-only": ReadOnly,
    "bucket: killed": BucketDown, "bucket: stopped": BucketDown, "bucket": BucketAnswers,
    "clock": Clock, "damage:": Damage,
}  # fmt: skip


def strike(
    world: World, fault: plan.Fault | None, tasks: Sequence[Task], more: Mapping[str, type[Strike]]
) -> Strike | None:
    """Return what a fault does."""
    if fault is None:
        return None
    return next(
        kind(world, fault, tasks)
        for prefix, kind in {**more, **STRIKES}.items()
        if fault.name.startswith(prefix)
    )
