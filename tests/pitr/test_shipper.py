"""Receiving and storing WAL of a real server, with kills and a store that fails."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.model import wal
from pgkeep.model.wal import Path as WalPath
from pgkeep.pitr import base, slot
from pgkeep.pitr.archive import WalArchive, stored_name
from pgkeep.pitr.received import Received
from pgkeep.pitr.shipper import Shipper
from pgkeep.pitr.wal_file import Origin
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore, LocalUpload
from tests.support import invoke, servers
from tests.support.faults import synced_names

SIZE = 1 << 20


@contextmanager
def receiver(server: Server, programs: Path, folder: Path, name: str) -> Iterator[object]:
    folder.mkdir(exist_ok=True)
    command = [str(programs / "pg_receivewal"), "-D", str(folder), "-S", name, "--no-loop", "-w"]
    process = subprocess.Popen(command, env=invoke.environment(server), stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Failing(LocalStore):
    """A directory that does not accept files while it fails."""

    fails = False

    def create(
        self, name: str, *, owner: str = "0", sha256: str | None = None, new: bool = False
    ) -> LocalUpload:
        if self.fails:
            raise e.StoreError("disk full")
        return super().create(name, owner=owner, sha256=sha256, new=new)


@pytest.mark.parametrize("major", [15, 18])
def test_no_segment_is_lost(major: int, tmp_path: Path) -> None:
    """A9, PITR rules 1, 2, 4: the slot keeps what a killed receiver missed, nothing is doubled."""
    programs = servers.bin_folder(major)
    folder = tmp_path / "received"
    with Server(programs, initdb=["--wal-segsize=1"]) as server:
        endpoint = Endpoint({**server.params, "dbname": "postgres"})
        with endpoint.connect() as connection:
            origin = Origin(base.ServerState(connection).system_identifier, SIZE)
            name = slot.slot_name(origin.system_identifier)
            slot.create(connection, name)
            state = slot.state(connection, name)
            assert state is not None
            assert state.restart is not None, "WAL is kept from now on"
            stores = [LocalStore(tmp_path / "a"), Failing(tmp_path / "b")]
            archives = [WalArchive(store, origin, Encryption()) for store in stores]
            received = Received(folder, tmp_path / "earlier", tmp_path / "after", SIZE)
            shipper = Shipper(received, archives, max_lag=1)
            errors: list[e.StoreError] = []

            def ship() -> None:
                for state in shipper.states:
                    try:
                        state.ship()
                    except e.StoreError as error:
                        errors.append(error)
                shipper.remove()

            connection.execute("create table public.t (v text)")

            def write() -> None:
                connection.execute(
                    "insert into public.t select string_agg(md5(random()::text), '')"
                    " from generate_series(1, 20000)"
                )
                connection.execute("select pg_switch_wal()")

            def everywhere() -> bool:
                ship()
                row = connection.execute("select pg_current_wal_lsn()::text").fetchone()
                assert row is not None
                now = wal.Lsn.parse(row[0]) // SIZE * SIZE
                return all(
                    state.reached is not None and state.reached[1] >= now
                    for state in shipper.states
                )

            def newest(text: bytes) -> bool:
                ship()
                partial = [name for name in archives[0].files() if name.endswith(".partial")]
                return any(text in (archives[0].get(name) or b"") for name in partial)

            with receiver(server, programs, folder, name):
                write()
                until(everywhere)
            write()
            Failing.fails = True
            with receiver(server, programs, folder, name):
                write()

                def lags() -> bool:
                    ship()
                    return bool(errors) and shipper.waiting > 0

                until(lags)
                Failing.fails = False
                until(everywhere)
                connection.execute("insert into public.t values ('in the newest seconds')")
                until(lambda: newest(b"in the newest seconds"))
            again = [WalArchive(store, origin, Encryption()) for store in stores]
            for archive in again:
                (run,) = wal.extents(WalPath(1, ()), archive.segments(), SIZE)
                assert run.last.number - run.first.number >= 2
                assert all(len(found) <= 1 for found in archive.files().values())
            assert again[0].segments() == again[1].segments()
            assert len([path for path in folder.iterdir() if len(path.name) == 24]) <= 1
            assert slot.drop(connection, name)
            assert not slot.drop(connection, name)


def test_what_a_killed_receiver_named_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1, B3: it was killed before it flushed the directory; others can name a file meanwhile."""
    store, origin = LocalStore(tmp_path / "wal"), Origin("1", SIZE)
    received = Received(tmp_path / "received", tmp_path / "earlier", tmp_path / "after", SIZE)
    received.folder.mkdir()
    store.prepare()
    name = wal.Segment(1, 5).name(SIZE)
    (store.directory / stored_name(name, "0" * 64, None)).touch()
    archives = [WalArchive(store, origin, Encryption()) for _ in range(2)]
    (state,) = Shipper(received, archives[:1], max_lag=0).states
    synced = synced_names(monkeypatch)
    state.ship()
    assert synced == [store.url]
    assert state.reached is not None, "it is reported as stored"

    history = "00000002.history"
    assert archives[1].files()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # killed before it
        assert archives[0].put(history, b"1\t0/3000000\treason\n")
    synced.clear()
    archives[1].put(history, b"1\t0/3000000\treason\n")
    assert synced[-1:] == [store.url]


def test_a_gap_in_a_store_is_noticed(tmp_path: Path) -> None:
    """A11: a window is broken where stored WAL does not continue, unless that is known already."""
    archive = WalArchive(LocalStore(tmp_path / "wal"), Origin("1", SIZE), Encryption())
    received = Received(tmp_path / "received", tmp_path / "earlier", tmp_path / "after", SIZE)
    (state,) = Shipper(received, [archive], max_lag=0).states
    for number, gap in ((5, None), (6, None), (8, "does not have WAL from 0/700000 to 0/800000")):
        segment = wal.Segment(1, number)
        state._reached(segment, segment.end(SIZE))
        assert (state.gap or "").endswith(gap or "")
        assert bool(state.gap) == bool(gap)
