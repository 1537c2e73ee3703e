"""Kill base backups and retention at random points, and check what is left.

    python -m tests.support.pitr_kills 100

Whatever the point: each listed base backup is complete, its WAL is there, the same command succeeds
afterwards, and then nothing of the killed run is left.
"""

import collections
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pgkeep.crypt.opening import Keys
from pgkeep.crypt.options import Encryption
from pgkeep.model.wal import Segment, parse_segment
from pgkeep.pitr import bases
from pgkeep.pitr.base_manifest import BaseManifest
from pgkeep.pitr.location import ClusterFacts, Location
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.support import invoke, servers

COMMANDS = (("pitr", "base"), ("pitr", "base", "--full"), ("prune",))
SIZE = 1 << 20


class Kills:
    """A server with summarized WAL, its stores, and what has been archived."""

    def __init__(self, server: Server, folder: Path, seed: int) -> None:
        self.server, self.chance = server, random.Random(seed)  # noqa: S311
        self.programs = servers.bin_folder(servers.major_of(server))
        (folder / "b").mkdir()
        path = f"{self.programs}:{invoke.environment()['PATH']}"
        self.env = invoke.environment(
            server, "postgres", BACKUP_DIR=str(folder / "b"), BACKUP_WINDOW="1s", PATH=path
        )
        made = json.loads(invoke.run("pitr", "base", "--json", env=self.env))
        identifier = made["system_identifier"]
        root = folder / "b" / "pitr"
        self.staging = root / "spool" / identifier / "base"
        facts = ClusterFacts(
            system_identifier=identifier, segment_size=SIZE, version_num=made["version_num"]
        )
        self.location = Location(
            "here", facts, LocalStore(root / identifier / "wal"),
            LocalStore(root / identifier / "base"),
        )  # fmt: skip
        self.archived: set[Segment] = set()
        self.checked: set[str] = set()
        self.seconds = collections.defaultdict[tuple[str, ...], float](lambda: 1.0)
        self.killed = collections.Counter[str]()
        self.folder = folder

    def archive(self) -> None:
        """Write and archive some WAL."""
        archive = self.location.archive(Encryption())
        endpoint = Endpoint({**self.server.params, "dbname": "postgres"})
        with endpoint.connect() as connection:
            for statement in ("create table if not exists public.t (v text)",
                              "insert into public.t select md5(random()::text)",
                              "select pg_switch_wal()", "checkpoint"):  # fmt: skip
                connection.execute(statement.encode())
            for name, data in connection.execute(
                "select name, pg_read_binary_file('pg_wal/' || name) from pg_ls_waldir()"
                " where name ~ '^[0-9A-F]{24}$' and name < pg_walfile_name(pg_current_wal_lsn())"
                " order by name"
            ).fetchall():
                segment = parse_segment(name, SIZE)
                assert segment is not None
                if segment not in self.archived:
                    archive.put(name, bytes(data))
                    self.archived.add(segment)

    def step(self) -> None:
        """Kill a command at a random point, check, and repeat the command."""
        self.archive()
        command = self.chance.choice(COMMANDS)
        running = invoke.start(*command, env=self.env)
        try:
            running.wait(self.chance.uniform(0.05, 1.0) * self.seconds[command])
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
        running.communicate()
        self.killed[" ".join(command) if running.returncode < 0 else "ended before"] += 1
        self.check()
        began = time.monotonic()
        invoke.run(*command, env=self.env)
        self.seconds[command] = time.monotonic() - began
        if command[0] == "pitr":
            self.check(clean=True)

    def check(self, *, clean: bool = False) -> None:
        """Check what is listed, and after a complete run that nothing else exists."""
        catalog = self.location.bases()
        known = catalog.read()
        assert catalog.unreadable == []
        present = set(self.location.archive(Encryption()).segments())
        for base in known.values():
            bases.chain_of(base, known)
            first = base.start_lsn // SIZE
            assert {s for s in self.archived if s.number >= first} <= present, base.name
            if base.name not in self.checked:
                self._read(base)
        if clean:
            assert catalog.leftovers == {}
            assert [path for path in self.staging.iterdir() if path.is_dir()] == []
            hidden = {path.name for path in self.location.base.directory.glob(".*")}  # type: ignore[attr-defined]
            assert hidden == {".~bases.lock"}
            kept = {path.name.partition(".")[0] for path in self.staging.glob("2*")}
            assert kept <= set(known)

    def _read(self, base: BaseManifest) -> None:
        for facts in base.contents:
            with bases.opened(self.location.base, facts, Keys()) as blocks:
                for _ in blocks:
                    pass
        self.checked.add(base.name)

    def restore(self) -> int:
        """Put every listed base backup together; return how many."""
        known = self.location.bases().read()
        for base in known.values():
            with tempfile.TemporaryDirectory(dir=self.folder) as work:
                target = Path(work) / "data"
                bases.assemble(
                    self.location.base, bases.chain_of(base, known), self.programs, target,
                    Path(work) / "chain", Keys(), 2, Silent(),
                )  # fmt: skip
                servers.execute([str(self.programs / "pg_verifybackup"), "-q", str(target)])
        return len(known)


def run(count: int, seed: int, folder: Path) -> Kills:
    """Kill so many times."""
    settings = {"summarize_wal": "on", "wal_level": "replica", "wal_keep_size": "16MB"}
    with Server(
        servers.bin_folder(18), settings=settings, initdb=["--wal-segsize=1"],
        directory=servers.data_folder(),
    ) as server:  # fmt: skip
        kills = Kills(server, folder, seed)
        for _ in range(count):
            kills.step()
    kills.restore()
    return kills


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=servers.data_folder()) as own:
        began = time.monotonic()
        found = run(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 1, Path(own))
        print(dict(found.killed), f"{len(found.checked)} base backups read,"  # noqa: T201
              f" {time.monotonic() - began:.0f} s")  # fmt: skip
