"""pgkeep pitr fetch as restore_command: PostgreSQL never promotes a server early."""

import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.model.wal import Segment
from pgkeep.pitr import archive_fetch
from pgkeep.pitr.archive import WalArchive, stored_name
from pgkeep.pitr.archive_fetch import Absent, Fetcher, Source, is_end
from pgkeep.pitr.wal_file import Origin, read_header
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalSource, LocalStore
from pgkeep.stores.s3.client import S3Settings
from pgkeep.stores.s3.store import S3Store
from tests.support import archive_commands, invoke, servers
from tests.support.archive_commands import ORIGIN, Copy, segment, service
from tests.support.buckets import Buckets, bucket_store
from tests.support.faults import eventually
from tests.support.proxy import Fault, proxy

SIZE = 1 << 20
ROWS = 6


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the user of the server can enter."""
    with tempfile.TemporaryDirectory(prefix="pitr-", dir=servers.data_folder()) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def source(server: Server, folder: Path) -> tuple[Path, Origin, list[str]]:
    """Write a row into each of some segments, and archive them; return a copy from before."""
    servers.sql(server, "postgres", "create table ledger (n int); checkpoint")
    server.stop()
    base = folder / "base"
    subprocess.run(["cp", "-a", str(server._data), str(base)], check=True)
    server.start()
    with servers.connect(server, "postgres") as connection:
        row = connection.execute("select pg_walfile_name(pg_current_wal_lsn())").fetchone()
        assert row is not None
        first = row[0]
        for number in range(ROWS):
            connection.execute("insert into ledger values (%s)", [number])
            connection.execute("select pg_switch_wal()")
    names = sorted(path.name for path in (server._data / "pg_wal").iterdir() if
                   len(path.name) == 24 and path.name >= first)[:ROWS]  # fmt: skip
    header = read_header((server._data / "pg_wal" / first).read_bytes(), first)
    origin = Origin(header.system_identifier, SIZE)
    archive = WalArchive(LocalStore(folder / "wal"), origin, Encryption())
    for name in names:
        archive.put(name, (server._data / "pg_wal" / name).read_bytes())
    return base, origin, names


@pytest.mark.parametrize("major", [15, 17, 18])
def test_a_server_is_promoted_only_at_the_end_of_the_archive(major: int, open_folder: Path) -> None:
    """A17, PITR rule 16: holes, damage, lost stores, a dead service, killed and missing clients."""
    programs = servers.bin_folder(major)
    settings = {"wal_keep_size": "64MB"}
    with Server(programs, settings=settings, initdb=["--wal-segsize=1"],
                directory=servers.data_folder()) as server:  # fmt: skip
        base, origin, names = source(server, open_folder)
    (open_folder / "copy").mkdir()
    copy = Copy(programs, base, open_folder / "copy")
    copy.signal("recovery.signal")
    client = archive_commands.client(open_folder)
    local = LocalStore(open_folder / "wal")
    (third,) = local.directory.glob(f"{names[2]}-*")
    good = third.read_bytes()
    closed = S3Store(S3Settings(bucket="b", endpoint="http://127.0.0.1:1", timeout=1), tiers=False)

    def stops(command: str, said: str) -> None:
        with copy.started(restore_command=command) as process:
            assert process.poll() == 1, (command, copy.log.read_text())
        log = copy.log.read_text()
        assert said in log, (command, log)
        assert "archive recovery complete" not in log
        assert (copy.data / "recovery.signal").exists()

    with service(open_folder, [local], origin) as socket:
        fetch = f"{client} pitr fetch --socket={socket} --timeout=20"
        third.unlink()
        stops(f"{fetch} %f %p", "exit code 255")  # 404 within the archive
        damaged = bytearray(good)
        damaged[len(good) // 2] ^= 1
        third.write_bytes(damaged)
        stops(f"{fetch} %f %p", "exit code 255")
        third.write_bytes(good)
        local.directory.rename(open_folder / "away")
        stops(f"{fetch} %f %p", "exit code 255")  # as an empty mount point
        (open_folder / "away").rename(local.directory)
        # Python's own failures have exit code 1, unless the shell asks for another code.
        guard = f"{client} pitr fetch --socket={socket} --end-code=100 %f %p || exit %s"
        guard = guard.replace("%s", "$(($? == 100 ? 1 : 255))")
        if major == 17:  # the reactions to exit codes are the same on all
            stops(f"{fetch} %f", "exit code 255")  # %p was forgotten
            stops(f"{fetch} --nonsense %f %p", "exit code 255")
            later = f"case %f in *{names[2][-4:]}) kill -%s $$;; esac; exec {fetch} %f %p"
            for number in ("KILL", "TERM"):
                said = "startup process" if number == "TERM" else "could not restore file"
                stops(later.replace("%s", number), said)
            stops(
                f"case %f in *{names[2][-4:]}) /nowhere %f;; *) exec {fetch} %f %p;; esac",
                "not found",
            )
            stops(
                f"case %f in *{names[2][-4:]}) /etc/passwd;; *) exec {fetch} %f %p;; esac",
                "not executable",
            )
            package = open_folder / "lib"
            package.rename(open_folder / "upgrading")
            stops(guard, "exit code 255")
            (open_folder / "upgrading").rename(package)
    with service(open_folder, [closed], origin):
        stops(f"{fetch} %f %p", "exit code 255")  # the network
    stops(f"{fetch} --timeout=1 %f %p", "exit code 255")  # the service was killed
    with service(open_folder, [local], origin), copy.started(restore_command=guard):
        with psycopg.connect(**copy.params) as connection:  # type: ignore[arg-type]
            rows = connection.execute("select n from ledger order by n").fetchall()
        assert [row[0] for row in rows] == list(range(ROWS))
    assert "archive recovery complete" in copy.log.read_text()
    assert not (copy.data / "recovery.signal").exists()
    assert not list((copy.data / "pg_wal").glob("*.pgkeep-*"))


def test_what_absence_means() -> None:
    """PITR rule 16: 1 beyond the newest segment of a timeline and for histories, else never."""
    archived = ["000000010000000000000003", "000000010000000000000005", "00000003.history",
                "000000030000000000000007", "000000010000000000000006.partial"]  # fmt: skip
    for name, expected in (
        ("000000010000000000000006", True),
        ("000000010000000000000004", False),
        ("000000010000000000000001", False),
        ("000000030000000000000008", True),
        ("000000030000000000000006", False),
        ("000000020000000000000007", False),  # it went on to timeline 3
        ("000000020000000000000008", True),
        ("000000040000000000000007", True),
        ("00000002.history", True),
        ("000000010000000000000006.partial", False),
        ("000000010000000000000009.00000028.backup", False),
        ("RECOVERYXLOG", False),
    ):
        assert is_end(name, archived, SIZE) is expected, name
    assert is_end("000000010000000000000001", [], SIZE)


class Counting(LocalStore):
    """A directory that counts what is read, and can make readers wait."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.opened: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def open(self, name: str) -> LocalSource:
        self.opened.append(name)
        self.gate.wait(60)
        return super().open(name)


def more_opened(store: Counting, before: int) -> bool:
    return len(store.opened) > before


def fetch(socket: Path, name: str, target: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [invoke.PGKEEP, "pitr", "fetch", f"--socket={socket}", *options, name, target],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_exit_codes(tmp_path: Path, buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A17, PITR rule 16: 404, network, authentication and damage, with a directory and a bucket."""
    monkeypatch.setattr(archive_fetch, "LISTED", 0.0)  # a listing is used for one answer only
    folder, target = tmp_path / "service", tmp_path / "RECOVERYXLOG"
    directory = LocalStore(tmp_path / "wal")
    names = [segment(number)[0] for number in range(1, 8)]
    with proxy(int(buckets.endpoint.rpartition(":")[2])) as between:
        bucket = buckets.bucket()
        more: dict[str, Any] = {
            "bucket": bucket,
            "endpoint": between.endpoint,
            "prefix": "wal/",
            "timeout": 2,
        }
        remote = bucket_store(buckets, monkeypatch, **more)
        remote = S3Store(remote.settings, tiers=False)
        for store in (directory, remote):
            archive = WalArchive(store, ORIGIN, Encryption())
            for number in (1, 2, 3, 5, 6):
                archive.put(*segment(number))
        (second,) = directory.directory.glob(f"{names[1]}-*")
        second.unlink()
        (third,) = directory.directory.glob(f"{names[2]}-*")
        third.write_bytes(third.read_bytes()[:-9])
        with service(folder, [directory, remote]) as socket:
            for name, code, said in (
                (names[0], 0, ""), (names[1], 0, ""), (names[2], 0, ""),
                (names[3], 255, "is missing in the WAL archive"), (names[6], 1, "ends before"),
                ("00000002.history", 1, "ends before"), ("RECOVERYXLOG", 255, "not the name"),
                ("00000001000000000000000F.partial", 255, "missing"),
            ):  # fmt: skip
                target.unlink(missing_ok=True)
                status, err = fetch(socket, name, target)
                assert (status, said in err) == (code, True), (name, err)
                if code == 0:
                    assert target.read_bytes() == segment(names.index(name) + 1)[1]
                assert target.exists() == (code == 0)
            assert fetch(socket, names[6], target, "--end-code=7")[0] == 7
            assert fetch(socket, names[0], tmp_path / "none" / "x")[0] == 255
            between.faults.append(Fault("status", "list-type=2", times=99, status=503, code="Busy"))
            assert fetch(socket, names[6], target)[0] == 255
            between.faults[:] = [Fault("lost", "list-type=2", times=99)]
            assert fetch(socket, names[6], target)[0] == 255
            between.faults.clear()
            assert fetch(socket, names[6], target)[0] == 1
        for wrong in ({"identity": "writer"}, {"bucket": "no-such-bucket"}):
            arguments: dict[str, Any] = more | wrong
            other = S3Store(bucket_store(buckets, monkeypatch, **arguments).settings, tiers=False)
            with service(folder, [directory, other]) as socket:
                assert fetch(socket, names[0], target)[0] == 0
                for name in (names[6], names[1], "00000002.history"):
                    assert fetch(socket, name, target)[0] == 255, (wrong, name)
    assert not list(tmp_path.glob("*.pgkeep-*"))


def test_segments_are_fetched_ahead(tmp_path: Path) -> None:
    """Read once, found again without the store, and never more in the spool than allowed."""
    store = Counting(tmp_path / "wal")
    archive = WalArchive(store, ORIGIN, Encryption())
    for number in range(1, 60):
        archive.put(*segment(number))
    spool, target = tmp_path / "service" / "spool", tmp_path / "got"
    with service(tmp_path / "service", [store]) as socket:
        assert fetch(socket, segment(1)[0], target)[0] == 0
        eventually(lambda: len(list(spool.iterdir())) == 17, "nothing was fetched ahead")
        for number in range(2, 40):
            assert fetch(socket, segment(number)[0], target)[0] == 0
            assert len(list(spool.iterdir())) <= 20 + archive_fetch.THREADS  # being written
        eventually(lambda: len(store.opened) == 39 + 16, "another number was fetched ahead")
        assert len(set(store.opened)) == len(store.opened)
        store.gate.clear()  # the store does not answer: PostgreSQL gets the last ones again
        for number in (38, 39):
            assert fetch(socket, segment(number)[0], target)[0] == 0
        for place, number in enumerate((signal.SIGTERM, signal.SIGHUP, signal.SIGINT), 57):
            before = len(store.opened)
            client = subprocess.Popen(
                [invoke.PGKEEP, "pitr", "fetch", f"--socket={socket}", segment(place)[0], target],
                stderr=subprocess.PIPE,
            )
            eventually(partial(more_opened, store, before), "the store was not asked")
            client.send_signal(number)
            _, err = client.communicate(timeout=30)
            assert client.returncode == 255, err
        store.gate.set()
        assert fetch(socket, segment(58)[0], target)[0] == 0
    assert target.read_bytes() == segment(58)[1]


def test_an_archive_that_lost_its_newest_wal_does_not_end_there(tmp_path: Path) -> None:
    """A10: a directory that is not mounted any more would end recovery, and promote the server."""
    store, origin = LocalStore(tmp_path / "wal"), Origin("1", 1 << 24)
    store.prepare()
    names = [Segment(1, number).name(1 << 24) for number in (5, 6, 7)]
    files = [store.directory / stored_name(name, "0" * 64, None) for name in names[:2]]
    for file in files:
        file.touch()
    archived = Source(WalArchive(store, origin, Encryption()), lambda: None)
    fetcher = Fetcher([archived], tmp_path / "spool", origin, pauses=())
    try:
        with pytest.raises(Absent):
            fetcher.fetch(names[2])
        files[1].unlink()
        archived.listed = 0.0  # long ago
        with pytest.raises(e.StoreError, match="has lost its newest WAL"):
            fetcher.fetch(names[2])
    finally:
        fetcher.close()
