"""Signals at chosen and at random moments of a backup and of a restore.

`python -m tests.support.signals --count 1000` sends that many and prints each outcome. Half of them
are sent after a random time, from the start of the process on; half at a random event of the main
thread (a call of Python, or a return from C, where Python looks for signals), which also hits the
moments that take no time.
"""

import argparse
import collections
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pgkeep.postgres.server import Server
from tests.support import faults, invoke, servers

LIMIT = 5.0  # seconds until everything has ended

# In front of the program: it strikes itself when the main thread has seen so many events.
EVENTS = """
import os, signal, sys
left = [{event}]
def count(frame, event, arg):
    left[0] -= event == "call" or event == "c_return"
    if left[0] == 0:
        sys.setprofile(None)
        os.kill(os.getpid(), {number})
sys.setprofile(count)
"""
MAIN = "from pgkeep.cli import main\nmain()\n"
# Tells at the end how many events there are.
COUNTING = """
import atexit, sys
seen = [0]
def count(frame, event, arg):
    seen[0] += event == "call" or event == "c_return"
atexit.register(lambda: print("events", seen[0], file=sys.stderr))
sys.setprofile(count)
"""

FILL = """
create table rows as select i as id, repeat(md5(i::text), 10) as filler
    from generate_series(1, 3000) as i;
create table others as select i as id from generate_series(1, 1000) as i;
create index on rows (id);
create sequence numbers start 7;
create view sums as select count(*) from rows;
create table marks as select 'new' as of;
"""


@dataclass
class Outcome:
    """How a run ended."""

    code: int
    seconds: float  # after the signal
    said: str
    left: list[int] = field(default_factory=list)  # children

    @property
    def last(self) -> str:
        lines = self.said.splitlines()
        return lines[-1] if lines else ""

    @property
    def of_python(self) -> bool:
        """Whether SIGINT met Python's own start, before the first line of pgkeep."""
        return "pgkeep/cli" not in self.said and (
            "KeyboardInterrupt" in self.said or "Fatal Python error" in self.said
        )


class Struck:
    """A pgkeep that gets a signal; its children are known by a mark in their environment."""

    def __init__(self, env: dict[str, str], prelude: str | None, *args: str) -> None:
        mark = secrets.token_hex(8)
        self._mark = f"PGSTRUCK={mark}".encode()
        start = [invoke.PGKEEP] if prelude is None else [sys.executable, "-c", prelude + MAIN]
        self.process = subprocess.Popen(
            [*start, *args], env={**env, "PGSTRUCK": mark}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ends(self, since: float | None = None, seconds: float = 60) -> Outcome:
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"did not end: {out}\n{err}") from None
        took = 0.0 if since is None else time.monotonic() - since
        deadline = time.monotonic() + 2
        while (left := self._children()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return Outcome(self.process.returncode, took, err, left)

    def _children(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


class Work:
    """A backup or a restore that can be done again and again, and how to see what it has done."""

    def __init__(self, server: Server, folder: Path, kind: str) -> None:
        self.server = server
        self.kind = kind
        self.directory = folder / "backups"
        self.source = f"signals_{secrets.token_hex(4)}"
        self.target = f"{self.source}_target"
        servers.sql(server, "postgres", f"create database {self.source} template template0")
        servers.sql(server, self.source, FILL)
        self.artifact = invoke.backup(server, self.source, folder / "first")
        env = {"BACKUP_DIR": str(self.directory), "BACKUP_JOBS": "2"}
        if kind == "backup":
            self.env = invoke.environment(server, self.source, **env)
            self.args = ["backup", "--verify"]
        else:
            self.env = invoke.environment(server, "postgres", **env)
            self.args = ["restore", f"--backup={self.artifact}", f"--target-db={self.target}"]
            if kind == "swap":
                self.args += ["--drop-existing", "--yes"]

    def close(self) -> None:
        for name in [self.source, *self._databases()]:
            servers.sql(
                self.server,
                "postgres",
                f"drop database if exists {servers.quoted(name)} with (force)",
            )

    def prepare(self) -> None:
        """Restore the state before the work."""
        if self.kind == "backup":
            self.before = set(faults.published(self.directory))
            return
        for name in self._databases():
            servers.sql(
                self.server,
                "postgres",
                f"drop database if exists {servers.quoted(name)} with (force)",
            )
        if self.kind == "swap":
            servers.sql(
                self.server, "postgres", f"create database {self.target} template template0"
            )
            servers.sql(self.server, self.target, "create table marks as select 'old' as of")

    def check(self, outcome: Outcome, number: int) -> str:
        """Return in a word how it has ended; raise AssertionError where that is wrong."""
        context = f"{self.kind} {signal.Signals(number).name} {outcome}"
        assert outcome.seconds <= LIMIT, context
        assert outcome.left == [], context
        done = self._is_done()
        if outcome.of_python:
            assert number == signal.SIGINT, context
            assert not done, context
            return "python's own start"
        for word in ("Traceback", "Exception ignored", "Fatal"):
            assert word not in outcome.said, context
        if outcome.code == -number:
            assert outcome.said == "", context
            assert not done, context
            return "before the handlers"
        if outcome.code == 0:
            assert done, context
            return "done"
        assert outcome.code == 128 + number, context
        assert f"ended by {signal.Signals(number).name}" in outcome.last, context
        said = " is published" in outcome.last or " is restored" in outcome.last
        assert said == done, context
        return "ended, done" if done else "ended"

    def _is_done(self) -> bool:
        """Return whether the work was done; raise AssertionError if only half of it was."""
        if self.kind == "backup":
            names = faults.published(self.directory)  # complete, or nothing
            partial = [name for name in invoke.left_over(self.directory) if ".partial-" in name]
            assert partial == [], partial
            return set(names) != self.before
        names = self._databases()
        assert not [name for name in names if "__restore_" in name], names
        if self.target not in names:
            assert (self.kind, names) == ("restore", []), names
            return False
        ((of,),) = servers.sql(self.server, self.target, "select of from marks")
        if of == "new":
            ((rows,),) = servers.sql(self.server, self.target, "select count(*) from rows")
            assert rows == 3000
        old = [name for name in names if "__old_" in name]
        assert len(old) == (1 if of == "new" and self.kind == "swap" else 0), names
        return bool(of == "new")

    def _databases(self) -> list[str]:
        query = "select datname from pg_database where starts_with(datname, %(prefix)s) order by 1"
        rows = servers.sql(self.server, "postgres", query, prefix=self.target)
        return [row[0] for row in rows]

    def strike(self, number: int, *, after: float | None = None, event: int | None = None) -> str:
        """Do the work; send the signal after some seconds, or at an event of the main thread."""
        self.prepare()
        if event is not None:
            prelude = EVENTS.format(event=event, number=int(number))
            started = time.monotonic()
            outcome = Struck(self.env, prelude, *self.args).ends()
            outcome.seconds = 0.0 if outcome.code == 0 else outcome.seconds
            assert time.monotonic() - started < self.whole * 4 + LIMIT, outcome
            return self.check(outcome, number)
        run = Struck(self.env, None, *self.args)
        time.sleep(after or 0.0)
        run.process.send_signal(number)
        return self.check(run.ends(time.monotonic()), number)

    def measure(self) -> int:
        """Do the work undisturbed; return how many events its main thread sees."""
        self.prepare()
        started = time.monotonic()
        assert Struck(self.env, None, *self.args).ends().code == 0
        self.whole = time.monotonic() - started
        self.prepare()
        outcome = Struck(self.env, COUNTING, *self.args).ends()
        assert outcome.code == 0, outcome
        return int(outcome.last.split()[1])


@contextmanager
def work(server: Server, folder: Path, kind: str) -> Iterator[Work]:
    folder.mkdir(parents=True, exist_ok=True)
    one = Work(server, folder, kind)
    try:
        yield one
    finally:
        one.close()


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--major", type=int, default=17)
    parser.add_argument("--kinds", default="backup,restore,swap")
    options = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup pgkeep would ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(options.seed)  # noqa: S311 - not for secrets
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    wrong = 0
    kinds = options.kinds.split(",")
    with (
        Server(servers.bin_folder(options.major)) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        for kind in kinds:
            with work(server, Path(folder) / kind, kind) as one:
                events = one.measure()
                sys.stdout.write(f"{kind}: {one.whole:.2f} s, {events} events\n")
                for turn in range(options.count // len(kinds)):
                    number = chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
                    how = "time" if turn % 2 else "event"
                    after = chance.uniform(0, one.whole * 1.1)
                    event = chance.randrange(1, events)
                    try:
                        result = (
                            one.strike(number, after=after)
                            if how == "time"
                            else one.strike(number, event=event)
                        )
                    except AssertionError as error:
                        wrong += 1
                        result = "WRONG"
                        sys.stdout.write(f"WRONG {how} {after:.3f} {event}: {error}\n")
                        sys.stdout.flush()
                    counts[kind, how, result] += 1
    for key, count in sorted(counts.items()):
        sys.stdout.write(f"{count:6} {' '.join(key)}\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    os.umask(0o077)
    _main()
