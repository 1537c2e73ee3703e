"""A bucket that fails at any point: no wrong success, no hang, nothing by halves, nothing left."""

import contextlib
import dataclasses
import hashlib
import os
import random
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.catalog import side_files
from pgkeep.crypt.opening import Keys
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore
from pgkeep.stores.s3.client import S3Settings
from pgkeep.stores.s3.store import S3Store
from pgkeep.stores.s3.upload import LARGEST_OBJECT, LARGEST_PART, part_size
from pgkeep.stores.store import read_all
from tests.support import invoke, launcher, servers
from tests.support.buckets import Buckets, bucket_store, keys, unfinished
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables
from tests.support.invoke import listed, outputs
from tests.support.proxy import Fault, Proxy, proxy

NAME = "app_daily_20261122T020000Z.sql.gz"

SEED = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(10**9)))
POINTS = 80
WORKERS = 4
PART = 64 << 10


def seeded() -> random.Random:
    print("FAULT_SEED", SEED)  # noqa: T201 - pytest shows it with a failure
    return random.Random(SEED)  # noqa: S311 - no secret


def put(store: S3Store, data: bytes) -> None:
    with store.create(NAME, owner="7") as upload:
        for start in range(0, len(data), 50_000):
            upload.write(data[start : start + 50_000])
        upload.seal()
        upload.publish()


def random_fault(chance: random.Random) -> Fault:
    kind = chance.choice(["reset", "stall", "status", "lost", "cut"])
    match = chance.choice(["partNumber", "uploads", "POST", "PUT", "HEAD", "GET", "uploadId", ""])
    status, code = chance.choice(
        [(500, "InternalError"), (503, "SlowDown"), (403, "AccessDenied"), (400, "RequestTimeout")]
    )
    return Fault(
        kind,  # type: ignore[arg-type]
        match,
        skip=chance.randrange(4),
        times=chance.choice([1, 1, 2, 3, 50]),
        after=chance.randrange(PART),
        status=status,
        code=code,
    )


def test_random_faults_while_uploading(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    """C8, C9, C21: either the object is there and is right, or there is none; and an error."""
    chance = seeded()
    points = [
        (chance.choice([100, PART, 3 * PART + 5, 6 * PART]), random_fault(chance))
        for _ in range(POINTS)
    ]
    stores = [bucket_store(buckets, monkeypatch, part_size=PART) for _ in range(WORKERS)]
    # Side by side, for most of it is waiting.
    with ThreadPoolExecutor(WORKERS) as pool:
        done = list(
            pool.map(
                lambda number: [
                    broken_upload(stores[number], buckets.port, *point)
                    for point in points[number::WORKERS]
                ],
                range(WORKERS),
            )
        )
    outcomes = [one for part in done for one in part]
    assert len(outcomes) == POINTS
    assert POINTS // 10 < sum(outcomes) < POINTS * 9 // 10


def broken_upload(clean: S3Store, port: int, size: int, fault: Fault) -> bool:
    """Upload with a fault, check what is there; return whether it was said to be a success."""
    data = os.urandom(size)
    with proxy(port, fault) as broken:
        settings = dataclasses.replace(
            clean.settings, endpoint=broken.endpoint, timeout=0.4, limit=20, attempts=2
        )
        began = time.monotonic()
        try:
            put(S3Store(settings), data)
            done = True
        except e.StoreError:
            done = False
        assert time.monotonic() - began < 30, fault
    there = clean.exists(NAME)
    if there:
        with contextlib.closing(clean.open(NAME)) as source:
            assert read_all(source) == data, fault
    assert there or not done, fault
    clean.delete(NAME)
    clean.sweep(lambda name: name == NAME, "7")
    assert unfinished(clean.bucket.client, clean.settings.bucket) == [], fault
    return done


def test_random_faults_while_reading(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    """C29: the right bytes or an error, also where the answer ends early."""
    chance = seeded()
    clean = bucket_store(buckets, monkeypatch, part_size=5 << 20)
    data = os.urandom(1 << 20)
    put(clean, data)
    outcomes = {True: 0, False: 0}
    for _ in range(40):
        fault = random_fault(chance)
        fault.match = "GET"
        fault.skip = chance.randrange(3)
        with proxy(buckets.port, fault) as broken:
            store = S3Store(
                S3Settings(bucket=clean.settings.bucket, endpoint=broken.endpoint, timeout=0.3)
            )
            try:
                with contextlib.closing(store.open(NAME)) as source:
                    read = b"".join(source.read(at, 200_000) for at in range(0, 1_000_000, 200_000))
            except e.StoreError:
                outcomes[False] += 1
            else:
                outcomes[True] += 1
                assert read == data[:1_000_000], fault
    assert min(outcomes.values()) > 5, outcomes


FAULTS = {
    "reset in the middle of a part": Fault("reset", "partNumber", times=99, after=70_000),
    "stall in the middle of a part": Fault("stall", "partNumber", times=99, after=70_000),
    "500": Fault("status", "partNumber", times=99),
    "503": Fault("status", "partNumber", times=99, status=503, code="SlowDown"),
    "403": Fault("status", "partNumber", times=99, status=403, code="AccessDenied"),
    "completion fails": Fault("status", "POST", skip=2, times=99),
    "manifest fails": Fault("status", "PUT /bucket", skip=4, times=99),
    "everything stalls": Fault("stall", "", times=999),
}


@pytest.fixture(scope="module")
def fat(pg17: Server) -> Iterator[str]:
    """A database whose artifact takes more than one part, for reading only."""
    with Disposables() as made:
        name = made.database(pg17)
        servers.psql(pg17, name, input="""
            create table t as select i, md5(i::text) || md5((i * 3)::text) as b
            from generate_series(1, 250000) i
        """)  # fmt: skip
        yield name


@pytest.mark.parametrize("name", FAULTS)
def test_the_local_backup_is_whole_whatever_the_bucket_does(
    pg17: Server, fat: str, buckets: Buckets, tmp_path: Path, name: str
) -> None:
    """B2, C8, C9, C21: exit code 0, a warning, a pending copy; the next run uploads it."""
    fault = FAULTS[name]
    fault.seen = 0
    bucket = buckets.bucket()
    env = invoke.environment(pg17, fat, BACKUP_DIR=str(tmp_path), **buckets.environment(bucket))
    with proxy(buckets.port, fault) as broken:
        broken_env = env | {"BACKUP_S3_ENDPOINT": broken.endpoint, "BACKUP_S3_TIMEOUT": "1"}
        out, err = outputs("backup", env=broken_env, seconds=60)
    assert fault.seen, broken.requests
    assert "its copy is pending" in out
    assert "warning: " in err
    (entry,) = listed(env)
    assert entry["manifest"]["pending"] == [f"s3://{bucket}/backups"]
    artifact = entry["manifest"]["artifact"]["name"]
    side_files.verify(LocalStore(tmp_path), artifact, keys=Keys(), jobs=2, progress=lambda _: None)
    assert not [key for key in keys(buckets.client(), bucket) if "manifest" in key]
    outputs("backup", env=env)
    assert [sorted(one["stores"].values()) for one in listed(env)] == [[False, False]] * 2
    assert unfinished(buckets.client(), bucket) == []


def test_a_server_that_is_killed_and_comes_back(pg17: Server, fat: str, tmp_path: Path) -> None:
    """A copy that was begun fails with its server; when it is back the copy is uploaded."""
    own = Buckets(tmp_path)
    own.start()
    try:
        bucket = own.bucket()
        env = invoke.environment(
            pg17, fat, BACKUP_DIR=str(tmp_path / "here"), BACKUP_S3_TIMEOUT="2",
            **own.environment(bucket),
        )  # fmt: skip
        with proxy(own.port, Fault("stall", "partNumber", after=1000)) as held:
            process = launcher.start(["backup"], env | {"BACKUP_S3_ENDPOINT": held.endpoint})
            while not any("partNumber" in request for request in held.requests):
                time.sleep(0.01)
            own.stop(signal.SIGKILL)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "its copy is pending" in out
        own.start()
        outputs("sync", env=env)
        (entry,) = listed(env)
        assert sorted(entry["stores"].values()) == [False, False]
        target = f"back_{os.getpid()}"
        try:
            elsewhere = env | {"BACKUP_DIR": str(tmp_path / "none")}
            outputs("restore", "--latest", f"--target-db={target}", env=elsewhere)
            assert_same_database(pg17, fat, pg17, target)
        finally:
            servers.drop(pg17, target)
    finally:
        own.stop()


def test_a_slow_upload_has_a_limit(
    pg17: Server, fat: str, buckets: Buckets, tmp_path: Path
) -> None:
    """Every call may be answered, and yet the whole take for ever."""
    bucket = buckets.bucket()
    env = invoke.environment(
        pg17, fat, BACKUP_DIR=str(tmp_path), BACKUP_S3_LIMIT="2", **buckets.environment(bucket)
    )
    with proxy(buckets.port, Fault("stall", "partNumber", times=99, after=1000)) as slow:
        began = time.monotonic()
        out, err = outputs("backup", env=env | {"BACKUP_S3_ENDPOINT": slow.endpoint})
        assert time.monotonic() - began < 30
    assert "its copy is pending" in out
    assert "it lags behind by more than 2 s" in err


def test_a_damaged_object_is_not_restored(
    pg17: Server, fat: str, buckets: Buckets, tmp_path: Path
) -> None:
    """C12, C13: one bit in the bucket; every member is checked when it is loaded."""
    bucket = buckets.bucket()
    env = invoke.environment(pg17, fat, BACKUP_DIR=str(tmp_path), **buckets.environment(bucket))
    outputs("backup", env=env)
    client = buckets.client()
    (key,) = [key for key in keys(client, bucket) if key.endswith("Z.sql.gz")]
    data = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    data[len(data) // 2] ^= 4
    client.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    target = f"back_{os.getpid()}"
    elsewhere = env | {"BACKUP_DIR": str(tmp_path / "none")}
    for command in (
        ["restore", "--latest", f"--target-db={target}"],
        ["verify", f"s3://{bucket}/{key}"],
    ):
        assert "the SHA-256 differs" in outputs(*command, env=elsewhere, code=5)[1]
    assert not servers.sql(
        pg17, "postgres", f"select from pg_database where datname like '{target}%'"
    )


def test_an_endpoint_with_a_ca_of_its_own(
    pg17: Server, fat: str, buckets: Buckets, tmp_path: Path
) -> None:
    """C24: known by AWS_CA_BUNDLE or SSL_CERT_FILE; never an unverified connection."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout",
         str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    bucket = buckets.bucket()
    plain = Proxy(buckets.port, context)
    try:
        env = invoke.environment(
            pg17, fat, BACKUP_DIR=f"s3://{bucket}/backups", **buckets.environment(bucket)
        ) | {"BACKUP_S3_ENDPOINT": plain.endpoint.replace("http:", "https:")}
        del env["BACKUP_S3_BUCKET"]
        err = outputs("backup", env=env, code=6, seconds=15)[1]
        assert "certificate verify failed" in err
        assert "hint: If the server has a private certificate, name its CA file" in err
        for variable in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
            outputs("backup", env=env | {variable: str(certificate)})
        assert len(keys(buckets.client(), bucket)) == 8
    finally:
        plain.close()


@pytest.mark.parametrize("limit", [1000, 10_000])
def test_parts_grow_so_that_five_terabytes_fit(limit: int) -> None:
    """C5, C6: whatever the service allows; none too large, and small ones at the beginning."""
    sizes = [part_size(number, limit) for number in range(1, limit + 1)]
    assert sum(sizes) >= LARGEST_OBJECT
    assert max(sizes) <= LARGEST_PART
    assert sizes[0] >= 5 << 20
    assert sizes == sorted(sizes)
    if limit == 10_000:
        assert sum(sizes[:1000]) > 50e9
        assert sizes[1000] < 150 << 20


def test_an_upload_keeps_within_a_limit_of_parts(
    buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6, C21: a small limit on a real server; memory stays bounded by a few parts."""
    store = bucket_store(buckets, monkeypatch, part_size=None, max_parts=10)
    block = os.urandom(1 << 20)
    digest = hashlib.sha256()
    with proxy(buckets.port) as counted:
        settings = S3Settings(bucket=store.settings.bucket, endpoint=counted.endpoint, max_parts=10)
        with S3Store(settings).create(NAME) as upload:
            for _ in range(40):
                upload.write(block)
                digest.update(block)
            upload.seal()
            upload.publish()
    assert len([request for request in counted.requests if "partNumber" in request]) <= 10
    with contextlib.closing(store.open(NAME)) as source:
        assert hashlib.sha256(read_all(source)).hexdigest() == digest.hexdigest()
