"""The WAL archive, with segments of a real server."""

import hashlib
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.artifact.compression import gzip
from pgkeep.crypt import recipients
from pgkeep.crypt.opening import Keys
from pgkeep.crypt.options import Encryption
from pgkeep.model.wal import Segment
from pgkeep.pitr import archive as archive_module
from pgkeep.pitr.archive import WalArchive
from pgkeep.pitr.received import Received
from pgkeep.pitr.shipper import Pace, Shipper, StoreShipper
from pgkeep.pitr.wal_file import Origin, read_header
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore
from pgkeep.stores.store import write_file
from tests.support import private_keys, servers
from tests.support.buckets import Buckets, bucket_store
from tests.support.private_keys import AgeKey
from tests.support.proxy import Fault, proxy


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> AgeKey:
    return private_keys.age_key(tmp_path_factory.mktemp("age"))


@pytest.fixture
def segments(server: Server) -> tuple[Origin, dict[str, bytes]]:
    return segments_of(server)


@pytest.fixture
def segments_of_17(pg17: Server) -> tuple[Origin, dict[str, bytes]]:
    return segments_of(pg17)


def segments_of(server: Server) -> tuple[Origin, dict[str, bytes]]:
    """Return two complete segments of a server, as it has written them."""
    with servers.connect(server, "postgres") as connection:
        (row,) = connection.execute(
            "select pg_walfile_name(pg_switch_wal()), system_identifier::text,"
            " pg_size_bytes(current_setting('wal_segment_size')) from pg_control_system()"
        ).fetchall()
        connection.execute("create table if not exists wal_of_test (a int); select pg_switch_wal()")
        names = connection.execute(
            "select name, pg_read_binary_file('pg_wal/' || name) from pg_ls_waldir()"
            " where name >= %s and name ~ '^[0-9A-F]{24}$'"
            " and name < pg_walfile_name(pg_current_wal_lsn()) order by name limit 2",
            [row[0]],
        ).fetchall()
        connection.execute("drop table wal_of_test")
    assert len(names) == 2
    return Origin(row[1], row[2]), {name: bytes(data) for name, data in names}


def test_what_was_archived_comes_back(
    segments: tuple[Origin, dict[str, bytes]], key: AgeKey, tmp_path: Path
) -> None:
    """A6: the same file again is no error; another one is never stored over it."""
    origin, files = segments
    names = list(files)
    assert read_header(files[names[0]], "").segment_size == origin.segment_size
    encryption = Encryption(recipients=recipients.parse(key.recipient), keys=Keys([key.file]))
    for folder, chosen in (("plain", Encryption()), ("encrypted", encryption)):
        store = LocalStore(tmp_path / folder)
        archive = WalArchive(store, origin, chosen)
        assert [archive.put(name, files[name]) for name in names] == [True, True]
        assert [WalArchive(store, origin, chosen).put(name, files[name]) for name in names] == [
            False, False,
        ]  # fmt: skip
        again = WalArchive(store, origin, chosen)
        assert {name: again.get(name) for name in names} == files
        assert again.get("0000000100000000FFFFFFFF") is None
        assert [segment.name(origin.segment_size) for segment in again.segments()] == names
        changed = bytearray(files[names[0]])
        changed[-1] ^= 1
        with pytest.raises(e.Differs, match="with other contents"):
            again.put(names[0], bytes(changed))
        assert len(list(store.items())) == 2
        stored = sorted(store.directory.iterdir())[0]
        digest = hashlib.sha256(files[names[0]]).hexdigest()[:32]
        suffix = ".gz.age" if chosen.recipients else ".gz"
        assert stored.name == f"{names[0]}-{digest}{suffix}"
        for position in (40, stored.stat().st_size // 2, stored.stat().st_size - 9):
            data = bytearray(stored.read_bytes())
            data[position] ^= 1
            stored.write_bytes(data)
            with pytest.raises(e.VerificationFailed):
                WalArchive(store, origin, chosen).get(names[0])
            data[position] ^= 1
            stored.write_bytes(data)
    plain = b"".join(path.read_bytes() for path in (tmp_path / "encrypted").iterdir())
    assert b"\x1f\x8b\x08" not in plain[:100]


def test_only_wal_of_this_cluster_is_archived(
    segments: tuple[Origin, dict[str, bytes]], tmp_path: Path
) -> None:
    """PITR rules 3, 6 and 10: name, size, cluster and position must agree."""
    origin, files = segments
    first, second = files
    archive = WalArchive(LocalStore(tmp_path / "wal"), origin, Encryption())
    for name, data, said in (
        (first, files[first][:-1], "expected"),
        (first, files[second], "found the segment at"),
        (first, bytes(len(files[first])), "header of a WAL segment is missing"),
        (f"{first}.partial.x", files[first], "not the name of a WAL file"),
        ("../x", files[first], "not the name of a WAL file"),
        ("00000001.history", b"", "not the name of a WAL file"),
        ("00000003.history", b"2 0/1\n1 0/2\n", "does not come after"),
    ):
        with pytest.raises(e.VerificationFailed, match=said):
            archive.put(name, data)
    other = WalArchive(archive.store, Origin("1", origin.segment_size), Encryption())
    with pytest.raises(e.VerificationFailed, match="expected 1"):
        other.put(first, files[first])
    assert not (tmp_path / "wal").exists()
    assert archive.put("00000002.history", b"1\t0/6000000\tno recovery target specified\n")
    assert archive.put(f"{first}.partial", files[first][:8192])
    assert archive_module.histories(archive)[2][0].parent == 1
    assert archive.segments() == []
    assert Segment(1, 1).next == Segment(1, 2)


def test_other_bytes_than_the_name_promises(tmp_path: Path) -> None:
    """B28: an intact gzip file of another history; gzip's own checksum does not tell."""
    archive = WalArchive(LocalStore(tmp_path), Origin("1", 1 << 24), Encryption())
    data, other = b"1\t0/3000000\treason\n", b"1\t0/4000000\treason\n"
    name = "00000002.history"
    stored = archive_module.stored_name(name, hashlib.sha256(data).hexdigest(), None)
    write_file(archive.store, stored, gzip(other))
    with pytest.raises(e.VerificationFailed, match="as in its name"):
        archive.get(name)


def test_the_longer_of_two_states_is_the_newer_one(tmp_path: Path) -> None:
    """A4: a kill between storing an unfinished segment and removing its earlier state."""
    size, name = 1 << 20, Segment(1, 5).name(1 << 20) + ".partial"
    # A page header: magic number, long form, timeline, position, cluster, sizes.
    header = struct.pack("HHIQI4xQII", 0xD116, 2, 1, 5 * size, 0, 7, size, 8192)
    archive = WalArchive(LocalStore(tmp_path), Origin("7", size), Encryption())
    states = [header + b"earlier", header + b"earlier and later"]
    for state in states:
        stored = archive_module.stored_name(name, hashlib.sha256(state).hexdigest(), None)
        write_file(archive.store, stored, gzip(state))
    assert archive.get(name) == states[1]


def test_two_processes_store_one_name(
    segments_of_17: tuple[Origin, dict[str, bytes]], tmp_path: Path, buckets: Buckets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A6: both have listed the store before; the same bytes are one file, other bytes fail."""
    origin, files = segments_of_17
    name, data = next(iter(files.items()))
    other = data[: len(data) // 2] + b"of another server" + data[len(data) // 2 + 17 :]
    for store in (LocalStore(tmp_path), bucket_store(buckets, monkeypatch)):
        first, second = (WalArchive(store, origin, Encryption()) for _ in range(2))
        assert (first.files(), second.files()) == ({}, {})
        with ThreadPoolExecutor(2) as threads:
            [*threads.map(lambda archive: archive.put(name, data), (first, second))]
        (stored,) = store.items()
        assert WalArchive(store, origin, Encryption()).get(name) == data
        stale = WalArchive(store, origin, Encryption())
        stale.files().clear()
        with pytest.raises(e.Differs):
            stale.put(name, other)
        assert [*store.items()] == [stored]
        store.delete(stored.name)
        first.refresh()
        assert first.files() == {}
        second.refresh()
        assert second.files() == {}
        with ThreadPoolExecutor(2) as threads:
            done = [threads.submit(first.put, name, data), threads.submit(second.put, name, other)]
        failed = [isinstance(found.exception(), e.Differs) for found in done]
        left = [item.name for item in store.items()]
        assert any(failed), "two files under one name are never a success"
        assert len(left) >= failed.count(False), "what was acknowledged stays"
        if len(left) == 2:  # both were stored at the same time: until somebody decides
            for archive, bytes_of_it in ((first, data), (second, other)):
                archive.refresh()
                with pytest.raises(e.Differs):
                    archive.put(name, bytes_of_it)


def test_a_segment_is_put_on_condition(
    segments_of_17: tuple[Origin, dict[str, bytes]],
    buckets: Buckets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A6, A4: never over an object; without support too; an answer that gets lost is no failure."""
    origin, files = segments_of_17
    (name, data), (later, more) = files.items()
    put = f"PUT /{(bucket := buckets.bucket())}/backups/"
    unsupported = Fault("status", match=put, status=501, code="NotImplemented")
    lost = Fault("lost", match=put, skip=2, times=1)
    with proxy(buckets.port, unsupported, lost) as running:
        settings = {"bucket": bucket, "endpoint": running.endpoint}
        store = bucket_store(buckets, monkeypatch, **settings)
        archive = WalArchive(store, origin, Encryption())
        assert archive.put(name, data)
        heads = [head.lower() for head in running.heads if head.startswith(put)]
        assert ["if-none-match: *" in head for head in heads] == [True, False]
        again = bucket_store(buckets, monkeypatch, **settings)
        stale = WalArchive(again, origin, Encryption())
        stale.files().clear()
        assert stale.put(later, more), "the object exists, and the answer was lost"
        stale.files().clear()
        assert stale.put(name, data), "another process has stored it meanwhile"
        assert len([*store.items()]) == 2
        assert WalArchive(store, origin, Encryption()).get(later) == more
        write_file(again, "name", b"1", new=True)
        with pytest.raises(e.Exists):
            write_file(again, "name", b"2", new=True)


FAULTS = (
    Fault("reset", match="PUT", after=1000),
    Fault("stall", match="PUT", after=1000),
    Fault("lost", match="PUT"),
    Fault("status", match="PUT", status=500),
    Fault("status", match="PUT", status=403, code="AccessDenied"),
    Fault("status", match="HEAD", status=500),
    Fault("status", match="list-type", status=503, code="SlowDown"),
    Fault("stall", match="list-type"),
)


def test_success_is_never_reported_for_what_is_absent(
    segments_of_17: tuple[Origin, dict[str, bytes]], tmp_path: Path, buckets: Buckets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A4: whatever a request meets, the file counts as stored only if it can be read back."""
    origin, files = segments_of_17
    name, data = next(iter(files.items()))
    (tmp_path / name).write_bytes(data)
    received = Received(tmp_path, tmp_path / "earlier", tmp_path / "after", origin.segment_size)
    bucket, failures = buckets.bucket(), 0
    direct = bucket_store(buckets, monkeypatch, bucket=bucket)
    with proxy(buckets.port) as running:
        settings = {"bucket": bucket, "endpoint": running.endpoint, "timeout": 1, "attempts": 1}
        store = bucket_store(buckets, monkeypatch, "admin", **settings)
        for fault in FAULTS:
            running.faults[:] = [replace(fault)]
            shipper = StoreShipper(
                WalArchive(store, origin, Encryption()), received, Pace(max_lag=0)
            )
            try:
                shipper.ship()
            except e.StoreError:
                failures += 1
                assert shipper.done == set(), fault
                shipper.ship()
            assert shipper.done == {name}, fault
            (stored,) = direct.items()
            assert WalArchive(direct, origin, Encryption()).get(name) == data, fault
            direct.delete(stored.name)
    assert failures >= 5, "most faults were noticed"


class Retaining(LocalStore):
    """A store whose files cannot be removed for some time."""

    retains = True

    def delete(self, name: str) -> None:
        if self.retains:
            raise e.Retained(f"{name} is retained until 2030-01-02 03:04 UTC")
        super().delete(name)


def test_unfinished_segments_are_stored_at_a_pace(
    segments_of_17: tuple[Origin, dict[str, bytes]], tmp_path: Path
) -> None:
    """A15: not on every change, never without one; states that are retained go when they can."""
    origin, files = segments_of_17
    name, data = next(iter(files.items()))
    (folder := tmp_path / "wal").mkdir()
    received = Received(folder, tmp_path / "earlier", tmp_path / "after", origin.segment_size)
    store = Retaining(tmp_path / "store")
    shipper = StoreShipper(WalArchive(store, origin, Encryption()), received, Pace(max_lag=3600))
    partial = folder / f"{name}.partial"

    def holds(length: int, changed: int) -> None:
        partial.write_bytes(data[:length] + bytes(len(data) - length))
        os.utime(partial, (changed, changed))

    holds(100, changed=1)
    assert not shipper.ship(at_once=False), "it had changed"
    assert len(store.named("")) == 1
    holds(200, changed=2)
    assert not shipper.ship(at_once=False)
    assert len(store.named("")) == 1, "it waits for a quarter of the lag"
    shipper.ship(at_once=True)
    assert len(store.named("")) == 2, "the earlier state is retained, which is no failure"
    holds(300, changed=2)
    assert shipper.ship(at_once=True), "it is not read while its time is the same"
    assert len(store.named("")) == 2
    partial.write_bytes(data)
    partial.rename(folder / name)
    assert shipper.ship(at_once=False)
    assert shipper.done == {name}
    assert len(store.named("")) == 3
    assert {*shipper.archive.files()} == {name, f"{name}.partial"}
    shipper.archive.forget_before("F" * 24)
    assert [*shipper.archive.files()] == [f"{name}.partial"], "there can be millions"
    assert not shipper.archive.put(name, data), "but the store is asked again"
    store.retains = False
    again = WalArchive(store, origin, Encryption())
    again.tidy()
    (left,) = store.named("")
    assert left.startswith(f"{name}-")


def test_a_changed_unfinished_segment_is_not_removed(
    segments_of_17: tuple[Origin, dict[str, bytes]], tmp_path: Path
) -> None:
    """A broken window sets the spool aside at once: what no store has must stay in it."""
    origin, files = segments_of_17
    name, data = next(iter(files.items()))
    received = Received(
        tmp_path / "wal", tmp_path / "earlier", tmp_path / "placeholder", origin.segment_size
    )
    partial = received.folder / f"{name}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    store = LocalStore(tmp_path / "store")
    shipper = Shipper(received, [WalArchive(store, origin, Encryption())], max_lag=3600)
    half = data[: origin.segment_size // 2]
    partial.write_bytes(half + bytes(origin.segment_size - len(half)))
    os.utime(partial, (1, 1))
    (state,) = shipper.states
    state.ship()
    partial.write_bytes(data)
    assert not state.ship(at_once=False), "its time has not come"
    received.set_aside()
    shipper.remove()
    (kept,) = received.earlier.iterdir()
    state.ship()
    assert state.archive.get(partial.name) == data.rstrip(b"\0")
    os.utime(kept, (2, 2))
    state.ship()
    shipper.remove()
    assert not [*received.earlier.iterdir()], "every store has it as it is"
