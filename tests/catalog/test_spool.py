"""A backup that goes only to a bucket holds its snapshot no longer than the dump takes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, servers
from tests.support.buckets import Buckets, keys, unfinished
from tests.support.faults import Run
from tests.support.proxy import Fault, Proxy, proxy

HOLDS = "backend_xmin is not null"


@pytest.fixture
def large(pg17: Server, database: DatabaseFactory) -> str:
    """A database whose artifact is larger than all parts that wait in memory."""
    name = database(pg17)
    columns = ", ".join(f"md5((i * 20 + {j})::text)" for j in range(20))
    servers.sql(pg17, name, f"""
        create table t as select concat({columns}) as b from generate_series(1, 80000) i
    """)  # fmt: skip
    return name


@pytest.fixture
def stalled(buckets: Buckets) -> Iterator[Proxy]:
    """A bucket that takes no part until its faults are removed."""
    with proxy(buckets.port, Fault("stall", "partNumber", times=999, after=1000)) as broken:
        yield broken


def test_the_snapshot_does_not_wait_for_the_upload(
    pg17: Server, large: str, buckets: Buckets, stalled: Proxy, tmp_path: Path
) -> None:
    """A6.4, B9: the dump is complete while the bucket has got nothing; kill -9 leaves nothing."""
    bucket, folder = buckets.bucket(), tmp_path / "tmp"
    folder.mkdir()
    env = buckets.environment(
        bucket, BACKUP_S3_ENDPOINT=stalled.endpoint, BACKUP_S3_PART_SIZE="5",
        BACKUP_S3_TIMEOUT="3", BACKUP_DIR=f"s3://{bucket}/backups", TMPDIR=str(folder),
    )  # fmt: skip
    del env["BACKUP_S3_BUCKET"]
    for killed in (True, False):
        with Run(pg17, large, "backup", env=env) as run:
            faults.eventually(lambda: faults.sessions(pg17, large, HOLDS), "the snapshot")
            faults.eventually(lambda: not faults.sessions(pg17, large, HOLDS), "its end", 60)
            assert run.process.poll() is None
            assert keys(buckets.client(), bucket) == []
            assert [*folder.iterdir()] == []  # the files have no names
            if killed:
                run.kill()
            else:
                stalled.faults.clear()
                run.ends(0, 60)
    assert [*folder.iterdir()] == []
    assert len(keys(buckets.client(), bucket)) == 4
    assert unfinished(buckets.client(), bucket) == []
    listed = json.loads(invoke.run("list", "--json", env=invoke.environment() | env))
    assert "warnings" not in listed[0]["manifest"]
    artifact = listed[0]["manifest"]["artifact"]["name"]
    place = f"s3://{bucket}/backups/manual/{artifact}"
    invoke.run("verify", place, env=invoke.environment() | env)


def test_without_room_it_is_said(pg17: Server, app: str, buckets: Buckets, tmp_path: Path) -> None:
    """B3: a full folder for temporary files is a warning; the upload goes on without it."""
    bucket = buckets.bucket()
    env = buckets.environment(bucket, BACKUP_DIR=f"s3://{bucket}/backups")
    del env["BACKUP_S3_BUCKET"]
    done = invoke.run_python(
        "import pgkeep.stores.spool as s; s.room = lambda: 1000", "backup",
        env=invoke.environment(pg17, app, **env),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "TMPDIR has room for 0.0 GB, the backup needs about 0.0 GB: if the upload" in done.stderr
