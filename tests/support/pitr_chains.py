"""Take a chain of base backups while keys change, and restore its members.

    python -m tests.support.pitr_chains 17 18

Every member is put together, checked by pg_verifybackup, started, and read by pg_amcheck, and the
sum of its ledger is compared.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg

from pgkeep.crypt import recipients
from pgkeep.crypt.opening import Keys
from pgkeep.crypt.options import Encryption
from pgkeep.pitr import bases, verification
from pgkeep.pitr.base_manifest import BaseManifest
from pgkeep.postgres.server import Account, Server
from pgkeep.progress import Silent
from tests.support import private_keys, servers
from tests.support.pitr_cluster import Cluster

SETTINGS = {"summarize_wal": "on", "wal_level": "replica", "autovacuum": "off"}


class Chain:
    """A full base backup and incremental ones; the host that takes them has no private key."""

    def __init__(self, major: int, folder: Path, rows: int) -> None:
        self.programs, self.folder, self.rows = servers.bin_folder(major), folder, rows
        self.age = [private_keys.age_key(folder, f"{name}.txt") for name in "ab"]
        self.gpg = private_keys.gpg_key(folder)
        self.members: list[BaseManifest] = []
        self.reasons: list[str] = []

    def take(self, count: int) -> Cluster:
        """Take a full one and so many incremental ones, with three keys one after the other."""
        with Server(
            self.programs, settings=SETTINGS, initdb=["--wal-segsize=1"],
            directory=servers.data_folder(),
        ) as server:  # fmt: skip
            cluster = Cluster(server, self.programs, self.folder)
            servers.sql(server, "postgres", "create table ledger (n int primary key, v text)")
            for number in range(count + 1):
                lines = (
                    [self.age[0].recipient], [self.age[1].recipient], [str(self.gpg.public)]
                )[number // 3]  # fmt: skip
                cluster.encryption = Encryption(recipients=recipients.parse("\n".join(lines)))
                numbers = f"{number * self.rows}, {(number + 1) * self.rows - 1}"
                query = "insert into ledger select n, 'planted secret' from generate_series"
                servers.sql(server, "postgres", f"{query}({numbers}) n")
                made, reason = cluster.take()
                self.members.append(made)
                self.reasons.append(reason)
            self.reasons.append(cluster.reason())
            self.location = cluster.location()
        return cluster

    def sum_of(self, number: int) -> int:
        """Return what the ledger of a member contains."""
        return sum(range((number + 1) * self.rows))

    def assemble(self, cluster: Cluster, number: int, keys: Keys) -> Path:
        """Put a member together, and check the result."""
        target = self.folder / f"member{number}"
        bases.assemble(
            cluster.store, self.members[: number + 1], self.programs, target,
            self.folder / f"work{number}", keys, 2, Silent(),
        )  # fmt: skip
        servers.execute([str(self.programs / "pg_verifybackup"), "-q", str(target)])
        return target

    @contextlib.contextmanager
    def started(self, data: Path) -> Iterator[psycopg.Connection[tuple[int]]]:
        """Yield a connection to a server on a restored data directory."""
        account = Account.choose()
        with tempfile.TemporaryDirectory() as run:
            account.own(Path(run))
            account.own(data)
            options = f"-k {run} -c listen_addresses='' -c fsync=off"
            control = [str(self.programs / "pg_ctl"), "-D", str(data), "-w", "-s"]
            who = {} if account.uid is None else {"user": account.uid, "group": account.gid}
            start = [*control, "-o", options, "-l", f"{run}/log", "start"]
            subprocess.run(start, check=True, cwd="/", **who)  # type: ignore[call-overload]
            try:
                with psycopg.connect(host=run, user="postgres", dbname="postgres") as connection:
                    yield connection
            finally:
                stop = [*control, "-m", "immediate", "stop"]
                subprocess.run(stop, check=True, cwd="/", **who)  # type: ignore[call-overload]


def _main(majors: Sequence[str]) -> None:
    for major in map(int, majors):
        with tempfile.TemporaryDirectory(dir=servers.data_folder()) as name:
            folder = Path(name)
            folder.chmod(0o755)
            chain = Chain(major, folder, 20_000)
            os.environ["GNUPGHOME"] = str(chain.gpg.home)
            began = time.monotonic()
            cluster = chain.take(7)
            taken = time.monotonic() - began
            keys = Keys([key.file for key in chain.age])
            found = verification.verify(chain.location, Encryption(keys=keys), 2, Silent())
            assert (found.problems, found.by_hash, found.bases) == ([], 0, 8)
            for number in range(8):
                with chain.started(chain.assemble(cluster, number, keys)) as connection:
                    row = connection.execute("select sum(n)::int8 from ledger").fetchone()
                    assert row == (chain.sum_of(number),), number
                    program = str(chain.programs / "pg_amcheck")
                    host = connection.info.host
                    servers.execute(
                        [program, "--all", "--install-missing", "--heapallindexed", "-h", host,
                         "-U", "postgres"]
                    )  # fmt: skip
            private_keys.close(chain.gpg)
            print(f"PostgreSQL {major}: 8 members taken in {taken:.0f} s, each restored, verified,"  # noqa: T201
                  f" started, equal: {time.monotonic() - began - taken:.0f} s")  # fmt: skip


if __name__ == "__main__":
    _main(sys.argv[1:])
