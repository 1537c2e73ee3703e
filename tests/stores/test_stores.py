"""Every store keeps the same promises: local, in memory, in a bucket."""

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgkeep import errors as e
from pgkeep.model.record import FOLDER as RECORDS
from pgkeep.stores.local import LocalStore
from pgkeep.stores.memory import MemoryStore
from pgkeep.stores.s3.bucket import Bucket, Part
from pgkeep.stores.s3.store import S3Store
from pgkeep.stores.store import Item, Store, chunks, locked, read_all, write_file
from tests.support.buckets import Buckets, bucket_store
from tests.support.faults import synced_names

NAME = "app_daily_20261122T020000Z.sql.gz"
Maker = Callable[[str], Store]


@pytest.fixture(params=["local", "memory", "s3"])
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    buckets: Buckets,
    monkeypatch: pytest.MonkeyPatch,
) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "new" / "backups")
    if request.param == "memory":
        return MemoryStore()
    return bucket_store(buckets, monkeypatch)


def put(store: Store, name: str, data: bytes) -> None:
    with store.create(name, owner="1") as upload:
        for start in range(0, len(data), 700_000):
            upload.write(data[start : start + 700_000])
        upload.seal()
        assert name not in [item.name for item in store.items()]
        upload.publish()


@pytest.mark.parametrize("size", [0, 1, 5 << 20, (11 << 20) + 3])
def test_what_was_put_comes_back(store: Store, size: int) -> None:
    """C7: nothing, a byte, exactly one part, two parts and a bit."""
    data = os.urandom(size)
    put(store, NAME, data)
    (item,) = store.items()
    assert item[:2] == (NAME, size)
    assert bool(item.version) == store.remote
    loaded = store.load(item, 1 << 20)
    assert loaded[1:] == (size, item.version)
    assert loaded.data == (data if size <= 1 << 20 else b"")
    assert store.exists(NAME)
    with contextlib.closing(store.open(NAME)) as source:
        assert source.size == size
        assert read_all(source) == data
        assert b"".join(chunks(source)) == data
        if size:
            assert source.read(size - 1, 1) == data[-1:]
        with pytest.raises(e.StoreError, match=r"no byte|InvalidRange"):
            source.read(size, 1)


def test_a_file_is_replaced_whole(store: Store) -> None:
    put(store, NAME, b"one")
    with store.create(NAME) as upload:
        upload.write(b"second")
        upload.seal()
        upload.publish()
    with contextlib.closing(store.open(NAME)) as source:
        assert read_all(source) == b"second"


@pytest.mark.parametrize("size", [3, 11 << 20])
@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_not_published_is_not_there(store: Store, size: int, sealed: bool) -> None:
    """C8, C9: not even parts of it."""
    with store.create(NAME) as upload:
        upload.write(os.urandom(size))
        if sealed:
            upload.seal()
    assert list(store.items()) == []
    assert not store.exists(NAME)
    if isinstance(store, S3Store):
        assert "Uploads" not in store.bucket.client.list_multipart_uploads(
            Bucket=store.settings.bucket
        )


@pytest.mark.parametrize("size", [3, 11 << 20])
def test_read_back_before_it_is_published(store: Store, size: int) -> None:
    data = os.urandom(size)
    with store.create(NAME) as upload:
        upload.write(data)
        upload.seal()
        with contextlib.closing(upload.source()) as source:
            assert read_all(source) == data
    assert list(store.items()) == [], "it was not published, so it is taken back"
    with store.create(NAME) as upload:
        upload.write(data)
        upload.seal()
        upload.source().close()
        upload.publish()
    assert [item.name for item in store.items()] == [NAME]


def test_an_object_that_lost_its_end(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    """C11: the service reported success, and has fewer bytes than were sent."""
    store = bucket_store(buckets, monkeypatch)
    put = Bucket.put

    def shorter(bucket: Bucket, name: str, part: Part, *args: Any, **more: Any) -> None:
        with contextlib.closing(Part(1, part.size)) as stored:
            stored.take(memoryview(part.body["Body"].read()[:-1]))
            put(bucket, name, stored, *args, **more)

    monkeypatch.setattr(Bucket, "put", shorter)
    with pytest.raises(e.StoreError, match="has 2 bytes, 3 were sent"):
        write_file(store, NAME, b"abc")


def test_a_record_is_in_a_folder_of_its_own(store: Store) -> None:
    """Everything that works for files of backups works for records."""
    name = "records/20261122T020000Z_backup_0_0123abcd.json"
    put(store, NAME, b"1")
    put(store, name, b"{}")
    assert sorted(item[:2] for item in store.items()) == [(NAME, 1), (name, 2)]
    assert store.exists(name)
    assert store.load(Item(name, 2), 10).data == b"{}"
    store.delete(name)
    assert [item.name for item in store.items()] == [NAME]


def test_a_record_of_root_is_the_directorys_owners(tmp_path: Path) -> None:
    """B11: `sudo pgkeep restore` must not keep the nightly run from leaving its records."""
    owner = os.geteuid() or 65534
    os.chown(tmp_path, owner, -1)
    name = "records/20261122T020000Z_restore_0_0123abcd.json"
    put(LocalStore(tmp_path), name, b"{}")
    assert {path.stat().st_uid for path in (tmp_path / name, tmp_path / "records")} == {owner}
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_folder_of_records_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """G5.5: the owner of the directory must not get files or directories of root."""
    owner, elsewhere = tmp_path / "backups", tmp_path / "etc"
    owner.mkdir()
    elsewhere.mkdir()
    os.chown(owner, 65534 if os.geteuid() == 0 else -1, -1)
    (owner / "records").symlink_to(elsewhere)
    before = elsewhere.stat()
    name = "records/20261122T020000Z_restore_0_0123abcd.json"
    with pytest.raises(e.StoreError, match="records"):
        put(LocalStore(owner), name, b"{}")
    assert [*elsewhere.iterdir()] == []
    assert (elsewhere.stat().st_uid, elsewhere.stat().st_mode) == (before.st_uid, before.st_mode)


def test_delete_is_exact_and_repeatable(store: Store) -> None:
    other = NAME.replace("app_", "app-2_")
    put(store, NAME, b"1")
    put(store, other, b"2")
    store.delete(NAME)
    store.delete(NAME)
    assert [item.name for item in store.items()] == [other]


def test_a_missing_file_is_named(store: Store) -> None:
    assert list(store.items()) == []
    with pytest.raises(e.StoreError, match=NAME):
        store.open(NAME)


def test_a_tier_is_a_folder_of_the_bucket(
    buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a lifecycle rule can name it; what lies elsewhere is not ours."""
    store = bucket_store(buckets, monkeypatch, prefix="a/b/")
    put(store, NAME, b"1")
    client = store.bucket.client
    for key in ("a/b/weekly/" + NAME, "a/" + NAME, "a/b/daily/x/" + NAME, "a/b/daily/"):
        client.put_object(Bucket=store.settings.bucket, Key=key, Body=b"not ours")
    assert [item[:2] for item in store.items()] == [(NAME, 1)]
    assert store.url_of(NAME) == f"s3://{store.settings.bucket}/a/b/daily/{NAME}"
    found = client.head_object(Bucket=store.settings.bucket, Key=f"a/b/daily/{NAME}")
    assert found["ContentLength"] == 1


def test_more_objects_than_a_page_has(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    """C10: more backups than a page has, and archived WAL, which is skipped after its first page.

    A list without `tiers` has only what is directly in the folder, however much is below it.
    """
    store = bucket_store(buckets, monkeypatch)
    bucket = store.bucket
    names = {f"app_daily_{2000 + n // 300}{1 + n // 25 % 12:02}{1 + n % 25:02}T020000Z.sql.gz"
             for n in range(1100)} | {"app_weekly_20000101T020000Z.sql.gz"}  # fmt: skip
    clusters = {"pitr/1.cluster.json", "pitr/2.cluster.json"}
    wal = {f"pitr/1/wal/{n:024X}-{n:032x}.gz" for n in range(1400)} | {"pitr/2/base/x.json"}
    keys = {bucket.key(name) for name in names} | {
        bucket.settings.prefix + name for name in clusters | wal
    }
    buckets.fill(bucket.settings.bucket, keys)
    pages: list[int] = []
    bucket.client.meta.events.register(
        "after-call.s3.ListObjectsV2",
        lambda parsed, **_: pages.append(len(parsed.get("Contents", ()))),
    )
    items = {item.name: item.modified for item in store.items()}
    assert items.keys() == names | clusters
    assert all(modified is not None for modified in items.values())
    # SeaweedFS lists pitr/1/ before pitr/1.cluster.json, others after it.
    assert pages == [1000, 1000, 4]
    pages.clear()
    settings = replace(bucket.settings, prefix=f"{bucket.settings.prefix}pitr/")
    below = S3Store(settings, tiers=False)
    below.bucket.client.meta.events.register(
        "after-call.s3.ListObjectsV2",
        lambda parsed, **_: pages.append(len(parsed.get("Contents", ()))),
    )
    assert {f"pitr/{item.name}" for item in below.items()} == clusters
    assert pages == [2]


def test_a_lock_is_waited_for_as_long_as_is_said(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.lock(".a.lock") as first:
        assert first
        with locked(store, ".a.lock", 0) as second:
            assert not second
    held, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with store.lock(".a.lock"):
            held.set()
            enough.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    threading.Timer(0.2, enough.set).start()
    with locked(store, ".a.lock", 60) as third:
        assert third
        assert enough.is_set()
    thread.join()


def test_a_lock_that_root_has_made_is_the_directorys_owners(tmp_path: Path) -> None:
    """B11: one `pgkeep prune` by root must not stop the nightly run of another user."""
    owner = os.geteuid() or 65534
    os.chown(tmp_path, owner, -1)
    with LocalStore(tmp_path).lock(".a.lock") as alone:
        assert alone
    assert (tmp_path / ".a.lock").stat().st_uid == owner


def test_a_new_directory_survives_a_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1, B3: a durable file in a directory whose own name is not durable would be lost."""
    synced = synced_names(monkeypatch)
    store = LocalStore(tmp_path / "new" / "backups")
    write_file(store, NAME, b"x")
    *parents, partial, directory = synced
    assert parents == [str(tmp_path), str(tmp_path / "new")]
    assert f"/.{NAME}.partial-" in partial
    assert directory == store.url
    synced.clear()
    write_file(store, f"{RECORDS}a.json", b"x")
    folder = str(store.directory / RECORDS.rstrip("/"))
    assert [synced[0], synced[-1]] == [store.url, folder]
