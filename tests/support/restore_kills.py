"""Kill restores to a point in time at random moments: `python -m tests.support.restore_kills 60`.

After each kill nothing may be left: no server, no temporary folder, and no directory that is not
complete. The next restore succeeds.
"""

import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tests.support import invoke
from tests.support.wal_source import WalSource, wal_source

PATIENCE = 30.0  # seconds, for what a shell does after a kill


def left(*folders: Path) -> list[str]:
    """Return what is left of a restore: processes, and files in folders."""
    words = [str(folder) for folder in folders]
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if any(word in command for word in words):
            found.append(command[:200])
    return found + [str(path) for folder in folders for path in folder.iterdir()]


def wait_for_nothing(*folders: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while found := left(*folders):
        if time.monotonic() > deadline:
            raise AssertionError(f"left: {found}")
        time.sleep(0.05)


class Kills:
    """Restores of one source, each into the same directory."""

    def __init__(self, source: WalSource) -> None:
        self.place, self.temporary = source.folder / "place", source.folder / "temporary"
        for folder in (self.place, self.temporary):
            folder.mkdir(mode=0o755)
        self.target = self.place / "data"
        path = f"{source.programs}:{invoke.environment()['PATH']}"
        self._env = invoke.environment(
            BACKUP_DIR=source.location.url, PATH=path, TMPDIR=str(self.temporary)
        )
        self._arguments = ("pitr", "restore", "--latest", f"--target-dir={self.target}")

    def complete(self) -> float:
        """Restore without a kill; return the seconds."""
        began = time.monotonic()
        invoke.run(*self._arguments, "--promote", env=self._env)
        seconds = time.monotonic() - began
        assert (self.target / "PG_VERSION").exists()
        shutil.rmtree(self.target)
        wait_for_nothing(self.place, self.temporary)
        return seconds

    def kill(self, after: float, number: signal.Signals) -> str:
        """Kill a restore after some seconds; return how it ended."""
        process = invoke.start(*self._arguments, env=self._env)
        time.sleep(after)
        process.send_signal(number)
        process.communicate()
        outcome = "complete" if process.returncode == 0 else "killed"
        if self.target.exists():
            assert (self.target / "PG_VERSION").exists(), sorted(self.target.iterdir())
            assert not (self.target / "postmaster.pid").exists()
            assert (self.target / "postgresql.conf").read_text().startswith("# Written by pgkeep")
            outcome = "complete"
            shutil.rmtree(self.target)
        wait_for_nothing(self.place, self.temporary)
        return outcome


def main(count: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    outcomes: Counter[tuple[str, str]] = Counter()
    with wal_source(17) as source:
        source.base()
        source.connection.execute("create table t as select generate_series(1, 30000) i")
        source.run("insert into t values (0)")
        source.ship()
        kills = Kills(source)
        seconds = kills.complete()
        for number in range(count):
            how = signal.SIGKILL if number % 3 else signal.SIGTERM
            outcomes[how.name, kills.kill(chance.uniform(0.2, seconds * 1.1), how)] += 1
            if number % 10 == 9:
                kills.complete()
        kills.complete()
    print(f"{count} kills within {seconds:.1f} s, seed {seed}: {dict(outcomes)}")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
