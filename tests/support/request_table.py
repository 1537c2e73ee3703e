"""Count the requests of commands to a bucket with many backups, for docs/design.md.

    python -m tests.support.request_table 10 150 5000

SOURCES can name the folder `src` of another version.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pgkeep.model.manifest import encode
from tests.support import invoke, planted, servers
from tests.support.buckets import Buckets
from tests.support.proxy import proxy

COMMANDS = {
    "backup": ("backup", "--type=daily"),
    "list": ("list",),
    "status": ("status",),
    "prune": ("prune",),
    "metrics": ("metrics",),
}


def plant(client: Any, bucket: str, count: int, cluster: str) -> None:
    """Plant backups of one database, one for each day."""
    now = datetime.now(UTC).replace(microsecond=0)
    files: dict[str, bytes] = {}
    for number in range(count):
        made = planted.manifest(now - timedelta(days=number + 1), cluster=cluster)
        files |= dict.fromkeys(made.name.files, b"x") | {made.name.manifest: encode(made)}

    def put(name: str) -> None:
        client.put_object(Bucket=bucket, Key=f"backups/daily/{name}", Body=files[name])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, files))


def main() -> None:
    running = servers.Servers()
    server = running(17)
    servers.sql(server, "postgres", "create database app")
    with tempfile.TemporaryDirectory() as folder:
        buckets = Buckets(Path(folder))
        buckets.start()
        try:
            for count in map(int, sys.argv[1:]):
                bucket = buckets.bucket()
                plant(buckets.client(), bucket, count, planted.cluster_of(server))
                measure(buckets, server, bucket, Path(folder) / bucket, count)
        finally:
            buckets.stop()
            running.close()


def measure(buckets: Buckets, server: Any, bucket: str, home: Path, count: int) -> None:
    with proxy(buckets.port) as counted:
        env = buckets.environment(bucket)
        del env["BACKUP_S3_BUCKET"]
        env |= {
            "BACKUP_DIR": f"s3://{bucket}/backups", "BACKUP_S3_ENDPOINT": counted.endpoint,
            "BACKUP_RETENTION_DAILY": "36500", "PYTHONPATH": os.environ.get("SOURCES", ""),
        }  # fmt: skip
        # The first run of a version finds no summary; then each on a new machine, and again.
        for name, args, copies in [
            ("first backup", COMMANDS["backup"], home / "first"),
            *((f"{name}, new machine", args, home / name) for name, args in COMMANDS.items()),
            *((f"{name}, again", args, home / name) for name, args in COMMANDS.items()),
        ]:
            counted.requests.clear()
            all_env = invoke.environment(server, "app", **env) | {"XDG_CACHE_HOME": str(copies)}
            done = subprocess.run(
                [invoke.PGKEEP, *args], env=all_env, capture_output=True, text=True, check=False
            )
            kinds = Counter(
                "LIST" if "list-type=2" in line else line.split(" ")[0] for line in counted.requests
            )
            print(count, name, done.returncode, kinds.total(), dict(kinds), flush=True)  # noqa: T201
            if done.returncode:
                print(done.stderr[-600:])  # noqa: T201


if __name__ == "__main__":
    main()
