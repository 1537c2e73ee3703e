"""Kill the receiver at random points under load; `python -m tests.support.receiver_kills COUNT`."""

import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore
from pgkeep.stores.s3.store import S3Store
from tests.support import invoke, servers
from tests.support.buckets import Buckets, bucket_store, unfinished
from tests.support.receiving import SETTINGS, Cluster, enabled, streaming

LATEST = 3.0  # seconds after the start: it begins to receive in the first second


@dataclass
class Result:
    """What is left after the kills."""

    segments: int
    gaps: int
    temporary: list[str]


@contextmanager
def load(cluster: Cluster) -> Iterator[None]:
    """Write about 5 MB of WAL a second."""
    ended = threading.Event()

    def write() -> None:
        with servers.connect(cluster.server, "postgres") as connection:
            connection.execute("create table if not exists public.filler (t text)")
            while not ended.wait(0.01):
                connection.execute(
                    "insert into public.filler select string_agg(md5(random()::text), '')"
                    " from generate_series(1, 3000)"
                )

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def kill(cluster: Cluster, env: dict[str, str], count: int, chance: random.Random) -> None:
    """Start the receiver, and kill it at a random point."""
    for _ in range(count):
        process = invoke.start("pitr", "stream", env=env)
        with process:
            time.sleep(chance.uniform(0.3, LATEST))
            assert process.poll() is None, process.communicate()
            process.kill()


def run(server: Server, place: Path, buckets: Buckets, count: int) -> Result:
    """Kill the receiver; then store the rest, and check each stored segment of both stores."""
    bucket = buckets.bucket()
    cluster = enabled(server, place)
    cluster.env |= buckets.environment(bucket)
    with load(cluster):
        kill(cluster, cluster.env, count, random.Random())  # noqa: S311 - any point
    with streaming(cluster) as stream:
        stream.stores(cluster.position(), seconds=300)
    with pytest.MonkeyPatch.context() as patch:
        prefix = f"backups/pitr/{cluster.folder.name}/wal/"
        copies = bucket_store(buckets, patch, bucket=bucket, prefix=prefix)
        flat = S3Store(copies.settings, tiers=False)
        local = LocalStore(cluster.folder / "wal")
        runs = [cluster.runs(store) for store in (local, flat)]
        temporary = [path.name for path in local.directory.iterdir() if path.name[0] == "."]
        temporary += unfinished(buckets.client(), bucket)
        first, last = runs[0][0].first.number, runs[0][-1].last.number
        states = [name for name in map(str, local.named("")) if ".partial-" in name]
        return Result(
            segments=last - first + 1,
            gaps=sum(len(found) - 1 for found in runs),
            temporary=temporary + states[1:],
        )


def main() -> None:
    """Print what is left after many kills."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="pitr-") as folder,
        tempfile.TemporaryDirectory(prefix="bucket-") as store,
        Server(servers.bin_folder(17), settings=SETTINGS, initdb=["--wal-segsize=1"]) as server,
    ):
        Path(folder).chmod(0o755)
        (Path(folder) / "backups").mkdir()
        buckets = Buckets(Path(store))
        buckets.start()
        try:
            result = run(server, Path(folder), buckets, int(sys.argv[1]))
        finally:
            buckets.stop()
    print(result, f"{time.monotonic() - began:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()
