"""Copies in a bucket, and backups that are only there: uploaded, pending, pruned, restored."""

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pgkeep import errors as e
from pgkeep.catalog import copies, locks, prune
from pgkeep.catalog.catalog import Catalog
from pgkeep.catalog.locks import manifests_locked
from pgkeep.model.manifest import Drill, FileFacts, Manifest, decode, encode
from pgkeep.model.retention import Decision
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, planted, servers
from tests.support.buckets import Buckets, free_ports, keys, unfinished
from tests.support.compare import assert_same_database
from tests.support.faults import Run
from tests.support.invoke import listed, outputs
from tests.support.proxy import Fault, proxy
from tests.support.servers import SETTINGS

NOW = datetime.now(UTC).replace(microsecond=0)
# About 20 MB as gzip, so that an upload has three parts.
LARGE = """
create table large (id int primary key, pad text);
insert into large
select i, (select string_agg(md5((i * j)::text), '') from generate_series(1, 30) j)
from generate_series(1, 40000) i;
create index on large (left(pad, 32));
create table small (a int);
insert into small values (42);
"""
SMALL = """
create table t (a int, b text);
insert into t select i, 'b' || i from generate_series(1, 500) i;
"""


@pytest.fixture(scope="module")
def large(pg17: Server) -> Iterator[str]:
    name = f"large_{os.getpid()}"
    servers.sql(pg17, "postgres", f"create database {name} template template0")
    servers.psql(pg17, name, input=LARGE)
    yield name
    servers.drop(pg17, name)


@pytest.fixture(scope="module")
def larger(pg17: Server) -> Iterator[str]:
    """More than six parts of 5 MiB."""
    name = f"larger_{os.getpid()}"
    servers.sql(pg17, "postgres", f"create database {name} template template0")
    row = " || ".join(f"md5((i * {number})::text)" for number in range(1, 13))
    servers.sql(
        pg17, name, f"create table t as select {row} as a from generate_series(1, 160000) i"
    )
    yield name
    servers.drop(pg17, name)


@pytest.fixture
def small(pg17: Server, database: DatabaseFactory) -> str:
    name = database(pg17)
    servers.psql(pg17, name, input=SMALL)
    return name


@pytest.fixture
def cluster() -> Iterator[Server]:
    """A server of its own, for runs over every database."""
    with Server(servers.bin_folder(17), settings=SETTINGS) as server:
        yield server


@pytest.fixture
def bucket(buckets: Buckets) -> str:
    return buckets.bucket()


def manifest_in(directory: Path) -> Manifest:
    (path,) = directory.glob("*.manifest.json")
    return decode(path.read_bytes(), path.name)


def test_to_both_places_and_back_with_nothing_but_the_credentials(
    pg17: Server, large: str, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """C8, C12, C26: in parts, while it is made; each file in the folder of its tier."""
    env = invoke.environment(
        pg17, large, BACKUP_DIR=str(tmp_path / "here"), **buckets.environment(bucket)
    )
    out, _ = outputs("backup", "--type=weekly", env=env)
    assert f"copied to s3://{bucket}/backups" in out
    manifest = manifest_in(tmp_path / "here")
    assert manifest.pending == []
    assert manifest.artifact.size > 2 * (8 << 20), "this needs three parts"
    client = buckets.client()
    assert sorted(keys(client, bucket)) == sorted(
        f"backups/weekly/{name}" for name in manifest.name.files
    )
    assert unfinished(client, bucket) == []
    for name in manifest.name.files:
        body = client.get_object(Bucket=bucket, Key=f"backups/weekly/{name}")["Body"].read()
        assert body == (tmp_path / "here" / name).read_bytes()
    (entry,) = listed(env)
    assert sorted(entry["stores"].values()) == [False, False]
    assert re.search(r" both +verified", outputs("list", env=env)[0])

    elsewhere = env | {"BACKUP_DIR": str(tmp_path / "nothing")}
    target = f"back_{os.getpid()}"
    try:
        outputs("restore", "--latest", f"--target-db={target}", env=elsewhere)
        assert_same_database(pg17, large, pg17, target)
    finally:
        servers.drop(pg17, target)


def test_to_a_bucket_only(
    pg17: Server, large: str, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """No local space is needed, and --backup takes the URL that was printed."""
    place = f"s3://{bucket}/my/backups"
    cloud = buckets.environment(bucket)
    del cloud["BACKUP_S3_BUCKET"]
    env = invoke.environment(pg17, large, BACKUP_DIR=place, TMPDIR=str(tmp_path / "none"), **cloud)
    out, _ = outputs("backup", "--type=daily", env=env)
    (url,) = re.findall(rf"{place}/daily/\S+[.]sql[.]gz", out)
    assert ", verified" in out
    (entry,) = listed(env)
    assert entry["stores"] == {place: False}
    assert "ok: " in outputs("verify", url, env=env)[0]
    target = f"back_{os.getpid()}"
    try:
        outputs("restore", f"--backup={url}", f"--target-db={target}", env=env)
        assert_same_database(pg17, large, pg17, target)
    finally:
        servers.drop(pg17, target)
    assert not list(tmp_path.iterdir())


def test_a_failed_copy_is_pending_and_uploaded_later(
    pg17: Server, small: str, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """Fail-open: the backup is whole, lists the pending copy; the next run or sync uploads it."""
    directory = tmp_path / "here"
    good = invoke.environment(pg17, small, BACKUP_DIR=str(directory), **buckets.environment(bucket))
    dead = good | {"BACKUP_S3_ENDPOINT": f"http://127.0.0.1:{free_ports(1)[0]}"}
    out, err = outputs("backup", env=dead)
    assert "its copy is pending" in out
    assert "warning: " in err
    assert manifest_in(directory).pending == [f"s3://{bucket}/backups"]
    assert " pending " in outputs("list", env=good)[0]
    target = f"back_{os.getpid()}"
    try:
        # What cannot be reached may have a newer one: it must be named.
        err = outputs("restore", "--latest", f"--target-db={target}", env=dead, code=9)[1]
        assert "may be too old" in err
        artifact = directory / manifest_in(directory).artifact.name
        outputs("restore", f"--backup={artifact}", f"--target-db={target}", env=dead)
        assert_same_database(pg17, small, pg17, target)
    finally:
        servers.drop(pg17, target)

    out, err = outputs("backup", env=dead | {"BACKUP_S3_REQUIRED": "true"}, code=6)
    assert "hint: Check BACKUP_S3_ENDPOINT" in err
    assert len(listed(good)) == 2, "it is a backup all the same"
    assert "error: copies are still pending" in outputs("sync", env=dead, code=6)[1]

    document = json.loads(outputs("backup", "--json", env=good)[0])
    assert len(document["copied"]) == 2
    assert document["copied"] == sorted(document["copied"], reverse=True), "oldest last"
    assert [sorted(one["stores"].values()) for one in listed(good)] == [[False, False]] * 3

    outputs("backup", env=dead)
    assert "copied 1 backup" in outputs("sync", env=good)[0]
    assert all(not one["manifest"].get("pending") for one in listed(good))
    assert len([key for key in keys(buckets.client(), bucket) if "manifest" in key]) == 4
    assert "copied 0 backups" in outputs("sync", env=good)[0]


UNFORESEEN = {
    "an endpoint that botocore refuses": {"BACKUP_S3_ENDPOINT": "http://minio_server:9000"},
    "credentials that make it stumble": {"AWS_CONFIG_FILE": "config", "AWS_ACCESS_KEY_ID": ""},
}


@pytest.mark.parametrize("what", UNFORESEEN)
def test_any_error_of_a_bucket_leaves_the_copy_pending(
    pg17: Server, small: str, app: str, buckets: Buckets, tmp_path: Path, what: str
) -> None:
    """Fail-open: every database is backed up."""
    (tmp_path / "config").write_text("[default]\ncredential_process = echo []\n")
    cloud = buckets.environment("any", BACKUP_DIR=str(tmp_path / "here")) | UNFORESEEN[what]
    env = invoke.environment(pg17, "postgres", **{key: one for key, one in cloud.items() if one})
    process = invoke.start("backup", env=env | {"BACKUP_DATABASES": f"{small},{app}"}, cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.count("its copy is pending") == 2
    assert err.count("warning: ") >= 2
    assert "Traceback" not in err
    assert len([*(tmp_path / "here").glob("*.manifest.json")]) == 2


def test_a_bucket_out_of_reach_does_not_hide_what_is_here(buckets: Buckets, tmp_path: Path) -> None:
    planted.plant(tmp_path, planted.manifest(NOW))
    cloud = buckets.environment("any", BACKUP_DIR=str(tmp_path))
    env = invoke.environment(None, None, **cloud) | UNFORESEEN["an endpoint that botocore refuses"]
    out, err = outputs("list", env=env)
    assert "database app\n" in out
    assert "Invalid endpoint: http://minio_server:9000" in err


def test_a_pending_copy_of_a_verified_backup_is_read_back(
    pg17: Server, small: str, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    artifact = invoke.backup(pg17, small, tmp_path, "--verify")
    env = invoke.environment(pg17, **buckets.environment(bucket, BACKUP_DIR=str(tmp_path)))
    other = bytes(artifact.stat().st_size)
    changed = Fault("status", f"GET /{bucket}/backups/", times=9, status=200, body=other)
    with proxy(buckets.port, changed) as lying:
        err = outputs("sync", "--all", env=env | {"BACKUP_S3_ENDPOINT": lying.endpoint}, code=6)[1]
    assert "SHA-256 after the upload is" in err
    assert keys(buckets.client(), bucket) == []
    assert "copied 1 backup" in outputs("sync", "--all", env=env)[0]


@pytest.mark.parametrize("gone", [False, True])
def test_a_manifest_may_change_while_its_backup_is_copied(tmp_path: Path, gone: bool) -> None:
    """A drill that was noted meanwhile stays; a backup that was pruned does not come back."""
    store, target = LocalStore(tmp_path / "here"), LocalStore(tmp_path / "there")
    backup = planted.manifest(NOW)
    facts = FileFacts(backup.artifact.name, 1, hashlib.sha256(b"x").hexdigest())
    backup = msgspec.structs.replace(backup, artifact=facts, pending=[target.url])
    planted.plant(store.directory, backup)
    drill = Drill(when=NOW, passed=True, seconds={}, findings=0)

    def meanwhile(_: int) -> None:
        if gone:
            prune.prune(Catalog(store), [Decision(backup, keep=False, reasons=())])
        else:
            planted.plant(store.directory, msgspec.structs.replace(backup, drills=[drill]))

    (copied,) = copies.upload_pending(store, target, [backup], meanwhile)
    assert copied == (backup, None)
    if gone:
        assert invoke.left_over(store.directory) == []
        assert list(copies.upload_pending(store, target, [backup])) == []
    else:
        expected = msgspec.structs.replace(backup, pending=[], drills=[drill])
        assert manifest_in(store.directory) == expected


def test_a_manifest_is_changed_or_removed_by_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "here")
    one = planted.plant(store.directory, planted.manifest(NOW))
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0)
    with manifests_locked(store):
        with pytest.raises(e.StoreError, match="is locked"):
            copies.mark_copied(store, one, LocalStore(tmp_path / "there"))
        with pytest.raises(e.RetentionFailed, match="is locked"):
            prune.prune(Catalog(store), [Decision(one, keep=False, reasons=())])
    assert manifest_in(store.directory) == one


def test_what_another_is_just_sending_is_left_alone(
    pg17: Server, large: str, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """C8: `sync` while a backup is copied; a backup, and one more `sync`, while `sync` copies."""
    extra = buckets.environment(bucket, BACKUP_DIR=str(tmp_path))
    env = invoke.environment(pg17, large, **extra)
    client = buckets.client()
    with proxy(buckets.port, Fault("stall", "partNumber=2", times=99, after=1000)) as slow:

        def second_part() -> bool:
            return any("partNumber=2" in request for request in slow.requests)

        held = extra | {"BACKUP_S3_ENDPOINT": slow.endpoint}
        with Run(pg17, large, "backup", env=held):
            faults.eventually(
                lambda: [*tmp_path.glob("*.manifest.json")], "the backup is published"
            )
            faults.eventually(second_part, "the second part")
            sending = unfinished(client, bucket)
            assert len(sending) == 2
            assert (
                "is running, or its copies are already being" in outputs("sync", env=env, code=6)[1]
            )
            assert unfinished(client, bucket) == sending
        slow.requests.clear()
        with Run(pg17, large, "sync", env=held):
            faults.eventually(second_part, "the second part")
            sending = unfinished(client, bucket)
            assert "is running, or its copies are already being" in outputs("backup", env=env)[1]
            outputs("sync", env=env, code=6)
            assert unfinished(client, bucket) == sending
    outputs("backup", env=env)
    assert unfinished(client, bucket) == []
    assert [sorted(one["stores"].values()) for one in listed(env)] == [[False, False]] * 3


def test_sync_all_fills_a_new_bucket_and_never_spreads_damage(
    pg17: Server, small: str, buckets: Buckets, tmp_path: Path
) -> None:
    """C30: what a lifecycle rule or a hand has removed there is listed, and can be made again."""
    directory = tmp_path / "here"
    plain = invoke.environment(pg17, small, BACKUP_DIR=str(directory))
    for _ in range(2):
        outputs("backup", env=plain)
    bucket = buckets.bucket()
    env = plain | buckets.environment(bucket)
    assert "copied 0 backups" in outputs("sync", env=env)[0]
    assert "copied 2 backups" in outputs("sync", "--all", env=env)[0]
    client = buckets.client()
    first = min(key for key in keys(client, bucket) if key.endswith("Z.sql.gz"))
    client.delete_object(Bucket=bucket, Key=first)
    one, other = listed(env)
    assert (sorted(one["stores"].values()), sorted(other["stores"].values())) == (
        [False, True],
        [False, False],
    )
    lines = outputs("list", env=env)[0].splitlines()
    assert re.search(r" dir +missing in$", lines[2])
    assert (lines[3].strip(), max(map(len, lines))) == ("one", 80)
    artifact = directory / first.rpartition("/")[2]
    data = artifact.read_bytes()
    artifact.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    err = outputs("sync", "--all", env=env, code=6)[1]
    assert "was not copied: SHA-256 is" in err
    assert first not in keys(client, bucket)
    artifact.write_bytes(data)
    outputs("sync", "--all", env=env)
    assert first in keys(client, bucket)


def test_a_copy_that_is_there_is_not_put_at_risk(
    pg17: Server, small: str, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """Killed before it noted the copy, and the file here is damaged: the copy is the last one."""
    env = invoke.environment(pg17, small, BACKUP_DIR=str(tmp_path), **buckets.environment(bucket))
    outputs("backup", env=env)
    (path,) = tmp_path.glob("*.manifest.json")
    one = decode(path.read_bytes(), path.name)
    path.write_bytes(encode(msgspec.structs.replace(one, pending=[f"s3://{bucket}/backups"])))
    artifact = tmp_path / one.artifact.name
    artifact.write_bytes(bytes(one.artifact.size))
    before = keys(buckets.client(), bucket)
    assert len(before) == 4
    outputs("sync", env=env)
    assert keys(buckets.client(), bucket) == before
    assert manifest_in(tmp_path).pending == []
    target = f"back_{os.getpid()}"
    try:
        elsewhere = env | {"BACKUP_DIR": str(tmp_path / "none")}
        outputs("restore", "--latest", f"--target-db={target}", env=elsewhere)
        assert_same_database(pg17, small, pg17, target)
    finally:
        servers.drop(pg17, target)


@pytest.mark.parametrize("only", [False, True])
def test_an_identity_that_may_only_write(
    pg17: Server, small: str, buckets: Buckets, bucket: str, tmp_path: Path, only: bool
) -> None:
    """C17: enough for a backup; against ransomware it is all that the server should have."""
    place = f"s3://{bucket}/backups" if only else str(tmp_path / "here")
    cloud = buckets.environment(bucket, "writer")
    if only:
        del cloud["BACKUP_S3_BUCKET"]
    env = invoke.environment(pg17, small, BACKUP_DIR=place, **cloud)
    out, err = outputs("backup", "--type=daily", *(["--no-verify"] if only else []), env=env)
    assert "pending" not in out + err
    if only:
        err = outputs("backup", "--type=auto", env=env, code=6)[1]
        assert "cannot determine which tier is due" in err
        assert "Set it with --type" in err
        assert "AccessDenied" in outputs("list", env=env, code=6)[1]
    reading = buckets.environment(bucket, "reader", BACKUP_DIR=str(tmp_path / "none"))
    env = invoke.environment(pg17, small, **reading)
    target = f"back_{os.getpid()}"
    try:
        outputs("restore", "--latest", f"--target-db={target}", env=env)
        assert_same_database(pg17, small, pg17, target)
    finally:
        servers.drop(pg17, target)


def test_two_clusters_in_one_prefix(
    pg15: Server, pg17: Server, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """C26: neither prunes the other's, nor throws away what it is just sending."""
    name = f"twin_{os.getpid()}"
    client = buckets.client()
    kept = {}
    try:
        for server in (pg15, pg17):
            servers.sql(server, "postgres", f"create database {name} template template0")
            servers.psql(server, name, input=SMALL)
            for age in (1, 2, 3, 30, 40):
                old = planted.manifest(
                    NOW - timedelta(days=age, minutes=server is pg15),
                    database=name,
                    cluster=planted.cluster_of(server),
                )
                for file in old.name.files:
                    body = encode(old) if file == old.name.manifest else b"x"
                    client.put_object(Bucket=bucket, Key=f"backups/daily/{file}", Body=body)
                if age < 30 or server is pg15:
                    kept[old.name.artifact] = old
        owner = planted.cluster_of(pg15)
        artifact = f"{name}_daily_20000101T000000Z.sql.gz"
        for key in (artifact, f"{artifact}.{owner}"):
            client.create_multipart_upload(Bucket=bucket, Key=f"backups/daily/{key}")
        env = invoke.environment(
            pg17, name, BACKUP_DIR=str(tmp_path / "17"), **buckets.environment(bucket)
        )
        _, err = outputs("backup", "--type=daily", env=env)
        assert err.count("removed the copy of") == 2
        there = {key.rpartition("/")[2] for key in keys(client, bucket)}
        assert set(kept) <= there
        assert len([key for key in there if key.endswith("Z.sql.gz")]) == len(kept) + 1
        assert len(unfinished(client, bucket)) == 2, "they are the other cluster's"
        env = invoke.environment(
            pg15, name, BACKUP_DIR=str(tmp_path / "15"), **buckets.environment(bucket)
        )
        outputs("backup", "--type=daily", env=env)
        assert unfinished(client, bucket) == []
    finally:
        for server in (pg15, pg17):
            servers.drop(server, name)


def test_kill_9_leaves_nothing_after_the_next_run(
    pg17: Server, large: str, buckets: Buckets, bucket: str
) -> None:
    """C8, C9: parts that were sent are swept by the next run."""
    cloud = buckets.environment(bucket)
    del cloud["BACKUP_S3_BUCKET"]
    extra = {"BACKUP_DIR": f"s3://{bucket}/backups", **cloud}
    client = buckets.client()
    with proxy(buckets.port, Fault("stall", "partNumber=2", times=99, after=1000)) as held:
        slow = extra | {"BACKUP_S3_ENDPOINT": held.endpoint}
        with Run(pg17, large, "backup", env=slow) as killed:
            faults.eventually(
                lambda: any("partNumber=2" in request for request in held.requests),
                "the second part",
            )
            killed.kill()
    assert keys(client, bucket) == []
    assert len(unfinished(client, bucket)) == 2
    outputs("backup", env=invoke.environment(pg17, large, **extra))
    assert unfinished(client, bucket) == []
    assert len(keys(client, bucket)) == 4


@pytest.mark.parametrize(
    ("number", "unanswered"),
    [(signal.SIGTERM, "partNumber"), (signal.SIGINT, "partNumber"), (signal.SIGTERM, "POST")],
)
def test_a_signal_ends_an_upload_at_once(
    pg17: Server, larger: str, buckets: Buckets, bucket: str, number: int, unanswered: str
) -> None:
    """C8: even while the server does not answer, and whoever writes waits for it."""
    cloud = buckets.environment(bucket, BACKUP_S3_PART_SIZE="5")
    del cloud["BACKUP_S3_BUCKET"]
    with proxy(buckets.port, Fault("stall", unanswered, times=100, after=1000)) as slow:
        cloud["BACKUP_S3_ENDPOINT"] = slow.endpoint
        extra = {"BACKUP_DIR": f"s3://{bucket}/backups", **cloud}
        with Run(pg17, larger, "backup", env=extra) as run_:
            faults.eventually(
                lambda: any(unanswered in request for request in slow.requests), "the call"
            )
            faults.eventually(
                lambda: (
                    faults.sessions(pg17, larger, "wait_event = 'ClientWrite'")
                    or not faults.sessions(pg17, larger, "query like 'COPY %%'")
                ),
                "full pipes, or all rows in memory",
            )
            began = time.monotonic()
            run_.process.send_signal(number)
            run_.ends(128 + number, seconds=45)
            assert time.monotonic() - began < 30  # a call without an answer takes 60
    client = buckets.client()
    assert keys(client, bucket) == []
    assert unfinished(client, bucket) == []


MISTAKES: dict[str, tuple[dict[str, str], str]] = {
    "secret": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
    "key": ({"AWS_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId"),
    "bucket": ({"BACKUP_DIR": "s3://no-such-bucket-here/x"}, "NoSuchBucket"),
    "refused": ({"BACKUP_S3_ENDPOINT": "http://127.0.0.1:9"}, "Check BACKUP_S3_ENDPOINT"),
    "name": ({"BACKUP_S3_ENDPOINT": "http://s3.invalid"}, "Check BACKUP_S3_ENDPOINT"),
    "underscore": ({"BACKUP_S3_ENDPOINT": "http://minio_server:9000"}, "no underscore"),
    "none": ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Set AWS_ACCESS_KEY_ID"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_within_ten_seconds(
    pg17: Server, small: str, buckets: Buckets, bucket: str, mistake: str, tmp_path: Path
) -> None:
    """C20, C22, C23, C25: before anything is dumped."""
    place, home = f"s3://{bucket}/backups", str(tmp_path / "none")
    cloud = buckets.environment(bucket, BACKUP_DIR=place, HOME=home)
    del cloud["BACKUP_S3_BUCKET"]
    changes, expected = MISTAKES[mistake]
    env = invoke.environment(pg17, small, **(cloud | changes))
    env = {name: value for name, value in env.items() if value}
    began = time.monotonic()
    err = outputs("backup", env=env, code=6)[1]
    assert time.monotonic() - began < 15  # ten, and what a busy machine takes
    assert expected in err
    assert "locking tables" not in err


def test_doctor_goes_the_way_of_a_backup(
    pg17: Server, small: str, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """C16, C28: in parts, read back, listed, removed."""
    env = invoke.environment(pg17, small, BACKUP_DIR=str(tmp_path), **buckets.environment(bucket))
    out, _ = outputs("doctor", env=env)
    assert f"s3://{bucket}/backups, can write, read, list, remove" in out
    client = buckets.client()
    assert keys(client, bucket) == []
    assert unfinished(client, bucket) == []
    with proxy(buckets.port, Fault("status", "uploads", times=9, status=501)) as bad:
        out = outputs("doctor", env=env | {"BACKUP_S3_ENDPOINT": bad.endpoint}, code=4)[0]
    assert "out of reach" in out
    env |= buckets.environment(bucket, "writer")
    out, _ = outputs("doctor", env=env)
    assert "can write" in out
    assert "restores require another identity" in out


def test_a_locked_backup_is_retained_not_a_failure(
    pg17: Server, small: str, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """C15: the server's answer to DELETE under Object Lock, and its date."""
    client = buckets.client()
    old = planted.manifest(
        NOW - timedelta(days=40), database=small, cluster=planted.cluster_of(pg17)
    )
    for age in (1, 2, 3):
        young = planted.manifest(
            NOW - timedelta(days=age), database=small, cluster=planted.cluster_of(pg17)
        )
        _plant(client, bucket, young)
    _plant(client, bucket, old)
    retention = (
        b"<?xml version='1.0'?><Retention><Mode>COMPLIANCE</Mode>"
        b"<RetainUntilDate>2030-01-02T03:04:05Z</RetainUntilDate></Retention>"
    )
    denied = Fault("status", "DELETE /" + bucket, times=99, status=403, code="AccessDenied")
    until = Fault("status", "retention", times=99, status=200, body=retention)
    with proxy(buckets.port, until, denied) as locked:
        env = invoke.environment(
            pg17, small, BACKUP_DIR=str(tmp_path), **buckets.environment(bucket)
        ) | {"BACKUP_S3_ENDPOINT": locked.endpoint}
        err = outputs("backup", "--type=daily", env=env)[1]
    assert "is retained until 2030-01-02 03:04 UTC" in err
    assert f"backups/daily/{old.name.manifest}" in keys(client, bucket)


def _plant(client: Any, bucket: str, manifest: Manifest) -> None:
    for file in manifest.name.files:
        body = encode(manifest) if file == manifest.name.manifest else b"x"
        client.put_object(Bucket=bucket, Key=f"backups/{manifest.type}/{file}", Body=body)


def test_odd_names_and_every_database(
    cluster: Server, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """C26: keys hold what file names hold; one who may only write does not know what was there."""
    odd = 'ä %2F/"b\n+ &'
    servers.sql(cluster, "postgres", f"create database {servers.quoted(odd)} template template0")
    servers.sql(cluster, odd, "create table t as select 42 as a")
    cloud = buckets.environment(
        bucket, "writer", BACKUP_DIR=f"s3://{bucket}/a b", BACKUP_DATABASES="*,postgres"
    )
    del cloud["BACKUP_S3_BUCKET"]
    env = invoke.environment(cluster, "postgres", **cloud)
    document = json.loads(outputs("backup", "--json", env=env)[0])
    assert [one["database"]["name"] for one in document["backups"]] == ["postgres", odd]
    env |= buckets.environment(bucket, "reader")
    del env["BACKUP_S3_BUCKET"]
    assert len(listed(env)) == 2
    outputs("restore", "--latest", f"--database={odd}", "--target-db=back", env=env)
    assert servers.sql(cluster, "back", "table t") == [(42,)]


def test_a_bucket_that_stalls_holds_up_nothing_but_its_copy(
    pg17: Server, large: str, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """Fail-open: the dump goes on, its locks are gone and the backup is there meanwhile."""
    stall = Fault("stall", "partNumber", times=99, after=1000)
    with proxy(buckets.port, stall) as slow:
        extra = buckets.environment(
            bucket, BACKUP_DIR=str(tmp_path), BACKUP_S3_TIMEOUT="5",
            BACKUP_S3_ENDPOINT=slow.endpoint,
        )  # fmt: skip
        with Run(pg17, large, "backup", env=extra) as copying:
            faults.eventually(
                lambda: [*tmp_path.glob("*.manifest.json")], "the backup is published"
            )
            assert copying.process.poll() is None, "its copy is on the way"
            query = "select count(*) from pg_locks where relation = 'large'::regclass"
            faults.eventually(
                lambda: servers.sql(pg17, large, query) == [(0,)], "no lock on the table", 3
            )
            assert copying.process.poll() is None
            assert "warning: " in copying.ends(0, seconds=60)
    assert manifest_in(tmp_path).pending == [f"s3://{bucket}/backups"]


def test_settings_of_the_bucket_reach_it(
    pg17: Server, large: str, buckets: Buckets, bucket: str, tmp_path: Path
) -> None:
    """C6, C7, C23: prefix, region and the length of parts; and few parts that grow."""
    with proxy(buckets.port) as seen:
        env = invoke.environment(
            pg17, large, BACKUP_DIR=str(tmp_path), **buckets.environment(bucket),
        ) | {
            "BACKUP_S3_ENDPOINT": seen.endpoint, "BACKUP_S3_PREFIX": "/some/where",
            "BACKUP_S3_REGION": "eu-central-1", "BACKUP_S3_PART_SIZE": "5",
        }  # fmt: skip
        outputs("backup", env=env)
        assert {key.rpartition("/")[0] for key in keys(buckets.client(), bucket)} == {
            "some/where/manual"
        }
        parts = [head for head in seen.heads if head.startswith("PUT ") and "partNumber" in head]
        lengths = sorted(int(part.lower().partition("content-length: ")[2].split()[0])
                         for part in parts)  # fmt: skip
        assert len(lengths) > 2
        assert lengths[1:] == [5 << 20] * (len(lengths) - 1), "all but the last are equal"
        assert all("/eu-central-1/s3/aws4_request" in head for head in seen.heads)
        seen.heads.clear()
        del env["BACKUP_S3_PART_SIZE"]
        outputs("backup", env=env | {"BACKUP_S3_MAX_PARTS": "10"})
        assert 2 <= sum("partNumber" in head.partition("\r")[0] for head in seen.heads) <= 10
