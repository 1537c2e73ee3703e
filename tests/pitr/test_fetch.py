"""pgkeep pitr fetch as restore_command: PostgreSQL never promotes a server early."""

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.pitr.archive import WalArchive
from pgkeep.pitr.archive_fetch import Fetcher, Source, is_end
from pgkeep.pitr.archive_push import Destination, Pusher
from pgkeep.pitr.archive_server import ArchiveServer, listening
from pgkeep.pitr.wal_file import Origin, read_header
from pgkeep.postgres.server import Account, Server
from pgkeep.stores.local import LocalStore
from pgkeep.stores.s3.client import S3Settings
from pgkeep.stores.s3.store import S3Store
from pgkeep.stores.store import Store
from tests.support import archive_commands, servers
from tests.support.archive_commands import Copy

SIZE = 1 << 20
ROWS = 6


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the user of the server can enter."""
    with tempfile.TemporaryDirectory(prefix="pitr-", dir=servers.data_folder()) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def service(folder: Path, stores: Sequence[Store], origin: Origin) -> Iterator[Path]:
    """Run the service with these stores, without pauses; yield its socket."""

    def check() -> None:
        for store in stores:
            if isinstance(store, LocalStore) and not store.directory.exists():
                raise e.StoreError("it is not mounted")

    archives = [WalArchive(store, origin, Encryption()) for store in stores]
    fetcher = Fetcher([Source(archive, check) for archive in archives], folder / "spool", origin,
                      pauses=(0.01,))  # fmt: skip
    pusher = Pusher([Destination(archive, lambda: None) for archive in archives], [], origin)
    server = ArchiveServer(pusher, fetcher, origin.system_identifier, lambda _: None)
    stop = threading.Event()
    group = None if Account.choose().gid is None else "nogroup"
    with listening(folder / "run" / "archive.sock", group) as listener:
        thread = threading.Thread(target=server.serve, args=(listener, stop.is_set))
        thread.start()
        try:
            yield folder / "run" / "archive.sock"
        finally:
            stop.set()
            thread.join()
            fetcher.close()


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
    stops(f"{fetch} %f %p", "exit code 255")  # the service was killed
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
