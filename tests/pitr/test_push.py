"""pgkeep pitr push as archive_command of a real server, with pgkeep pitr stream --no-receive."""

import os
import signal
import socket as unix
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from pgkeep import errors as e
from pgkeep.crypt import recipients
from pgkeep.crypt.options import Encryption
from pgkeep.pitr import stream_state
from pgkeep.pitr.archive import WalArchive, stored_name
from pgkeep.pitr.archive_push import Copier, missing_in
from pgkeep.postgres.server import Account, Server
from pgkeep.stores.local import LocalStore, LocalUpload
from tests.support import archive_commands, invoke, servers
from tests.support.archive_commands import ORIGIN, Copy, segment, service
from tests.support.buckets import Buckets, keys
from tests.support.faults import eventually
from tests.support.private_keys import AgeKey


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the user of the server can enter."""
    with tempfile.TemporaryDirectory(prefix="pitr-", dir=servers.data_folder()) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


class Service:
    """pgkeep pitr stream --no-receive."""

    def __init__(self, env: dict[str, str], socket: Path, *options: str) -> None:
        group = [] if Account.choose().gid is None else ["--socket-group=nogroup"]
        self.socket = socket
        self._arguments = [*options, f"--socket={socket}", *group]
        self._env = env
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        words = ["pitr", "stream", "--no-receive", *self._arguments]
        self.process = invoke.start(*words, env=self._env)

        def answers() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            with unix.socket(unix.AF_UNIX) as client:
                return client.connect_ex(str(self.socket)) == 0

        eventually(answers, "the service does not answer")
        return self.process

    def end(self) -> tuple[str, str]:
        self.process.terminate()
        return self.process.communicate(timeout=60)


Done = subprocess.CompletedProcess[str]


def push(client: Path, socket: Path, file: Path, folder: Path | None = None, *options: str) -> Done:
    return subprocess.run(
        [client, "pitr", "push", f"--socket={socket}", *options, file],
        capture_output=True, text=True, check=False, timeout=60, cwd=folder,
    )  # fmt: skip


def test_archiving_and_recovery_with_a_real_server(open_folder: Path, buckets: Buckets) -> None:
    """A6, PITR rules 4 to 6: archive_command, a standby, and recovery by hand."""
    programs = servers.bin_folder(17)
    client = archive_commands.client(open_folder)
    path = open_folder / "run" / "archive.sock"
    settings = {
        "archive_mode": "on", "archive_command": f"{client} pitr push --socket={path} %p",
        "wal_keep_size": "64MB",
    }  # fmt: skip
    bucket = buckets.bucket()
    with Server(programs, settings=settings, initdb=["--wal-segsize=1"],
                directory=servers.data_folder()) as server:  # fmt: skip
        env = invoke.environment(
            server, "postgres", BACKUP_DIR=str(open_folder / "backups"), BACKUP_S3_REQUIRED="true",
            BACKUP_SPOOL_DIR=str(open_folder / "spool"), **buckets.environment(bucket),
            NOTIFY_SOCKET=str(open_folder / "notify"), WATCHDOG_USEC="300000000",
        )  # fmt: skip
        with unix.socket(unix.AF_UNIX, unix.SOCK_DGRAM) as manager:
            manager.bind(env["NOTIFY_SOCKET"])
            manager.settimeout(60)
            running = Service(env, path)
            told = [manager.recv(1000) for _ in range(3)]
        assert told == [b"READY=1", b"STATUS=stored nothing", b"WATCHDOG=1"], "B22: systemd waits"
        access = stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)
        assert access == ((0o660, 0o710) if os.geteuid() == 0 else (0o600, 0o700))
        with servers.connect(server, "postgres") as connection:
            connection.execute("create table ledger (n int); checkpoint")
            server.stop()
            connection.close()
        for name in ("standby", "by-hand"):
            (open_folder / name).mkdir()
        standby = Copy(programs, server._data, open_folder / "standby")
        by_hand = Copy(programs, server._data, open_folder / "by-hand")
        server.start()
        connection = servers.connect(server, "postgres")

        def write(number: int) -> str:
            connection.execute("insert into ledger values (%s)", [number])
            (name,) = connection.execute("select pg_walfile_name(pg_switch_wal())").fetchone() or ()
            return str(name)

        def archived() -> tuple[str, int, int]:
            row = connection.execute(
                "select last_archived_wal, archived_count, failed_count from pg_stat_archiver"
            ).fetchone()
            assert row is not None
            return row

        last = [write(number) for number in range(10)][-1]
        eventually(lambda: archived()[0] == last, "nothing was archived")
        assert archived()[1:] >= (10, 0)
        assert archived()[2] == 0

        identifier = next((open_folder / "spool").glob("[0-9]*")).name
        wal = open_folder / "backups" / "pitr" / identifier / "wal"
        files = {file.name: file.read_bytes() for file in wal.iterdir()}
        names = [name.partition("-")[0] for name in sorted(files)]
        assert names == sorted(set(names))
        assert names[-10:][-1] == last
        stored = [key.rpartition("/")[2] for key in keys(buckets.client(), bucket)]
        assert sorted(files) == sorted(name for name in stored if ".gz" in name)

        segment = open_folder / last
        data = bytearray((server._data / "pg_wal" / last).read_bytes())
        segment.write_bytes(data)
        assert push(client, path, segment).returncode == 0, "the same bytes again"
        data[-1] ^= 1
        segment.write_bytes(data)
        done = push(client, path, segment)
        assert (done.returncode, "with other contents" in done.stderr) == (6, True), done.stderr
        assert {file.name: file.read_bytes() for file in wal.iterdir()} == files
        for name, contents, code in (
            ("postgresql.conf", b"", 2), ("0000000100000000000000ff", b"", 2),
            (last[:-2] + "FF", b"x" * (1 << 20), 5), (last[:-2] + "FE", b"", 5),
            ("00000002.history", b"nonsense\n", 5), (f"{last}.partial.gz", b"", 2),
        ):  # fmt: skip
            (open_folder / name).write_bytes(contents)
            done = push(client, path, open_folder / name)
            assert done.returncode == code, (name, done.stderr)
        foreign = open_folder / "foreign"
        (foreign / "global").mkdir(parents=True)
        (foreign / "global" / "pg_control").write_bytes(bytes(100))
        (open_folder / "00000002.history").write_bytes(b"1\t0/6000000\tno recovery target\n")
        done = push(client, path, open_folder / "00000002.history", foreign)
        assert (done.returncode, "archive of" in done.stderr) == (9, True), done.stderr

        running.process.send_signal(signal.SIGSTOP)
        done = push(client, path, segment, None, "--timeout=1")
        assert (done.returncode, done.stderr) == (6, "error: no answer after 1 s\n")
        running.process.kill()
        running.process.communicate()
        began = time.monotonic()
        assert push(client, path, segment).returncode == 3
        assert time.monotonic() - began < 5
        running.start()
        later = write(10)
        eventually(lambda: archived()[0] == later, "the archiver did not go on")
        fetch = f"{client} pitr fetch --socket={path} %f %p"
        standby.signal("standby.signal")
        by_hand.signal("recovery.signal")

        def count(copy: Copy) -> int:
            with psycopg.connect(**copy.params) as found:  # type: ignore[arg-type]
                return int((found.execute("select count(*) from ledger").fetchone() or [0])[0])

        with standby.started(restore_command=fetch, hot_standby="on"):
            eventually(lambda: count(standby) == 11, "the standby does not follow")
            write(11)
            eventually(lambda: count(standby) == 12, "the standby does not follow")
        with by_hand.started(restore_command=fetch):
            assert count(by_hand) == 12
        out, err = running.end()
        assert running.process.returncode == 0, err
        connection.close()
    state = stream_state.read(stream_state.path_in(open_folder / "spool" / identifier))
    assert state is not None
    assert (state.receiving, state.problems, state.waiting) == (False, [], 0)
    assert state.complete_until is not None
    assert {store.position for store in state.stores} == {state.position}
    assert f"stored up to {state.position}" in out


class Unsure(LocalStore):
    """A directory that stores a file and then fails, or fails at once."""

    fails: str | None = None

    def create(
        self, name: str, *, owner: str = "0", sha256: str | None = None, new: bool = False
    ) -> LocalUpload:
        if self.fails == "before":
            raise e.StoreError("the store does not answer")
        upload = super().create(name, owner=owner, sha256=sha256, new=new)
        if self.fails == "after":
            publish = upload.publish

            def lost() -> None:
                publish()
                raise e.StoreError("the answer was lost")

            upload.publish = lost  # type: ignore[method-assign]
        return upload


def send(socket: Path, file: Path) -> Done:
    return push(Path(invoke.PGKEEP), socket, file)


def test_pushing_again_and_at_once(tmp_path: Path) -> None:
    """A6, A4: a lost answer, a store that fails, two servers, one name at the same time."""
    first, second = Unsure(tmp_path / "a"), Unsure(tmp_path / "b")
    name, data = segment(1)
    file = tmp_path / name
    file.write_bytes(data)
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / segment(2)[0]
    with service(tmp_path / "s", [first, second]) as socket:
        for second.fails, code in (("before", 6), ("after", 6), (None, 0)):
            done = send(socket, file)
            assert done.returncode == code, done.stderr
            assert len(list(first.items())) == 1
        assert [item.name for item in first.items()] == [item.name for item in second.items()]
        sent = []
        with ThreadPoolExecutor(6) as threads:
            for number in range(6):
                path = tmp_path / f"{number}" / segment(2)[0]
                path.parent.mkdir()
                path.write_bytes(segment(2, b"ab"[number % 2 : number % 2 + 1])[1])
                sent.append(threads.submit(send, socket, path))
        codes = [found.result().returncode for found in sent]
        assert sorted(codes) == [0, 0, 0, 6, 6, 6], codes
        assert len(list(first.items())) == 2
        shorter = tmp_path / segment(3)[0]
        shorter.write_bytes(segment(3)[1][:-1])
        assert send(socket, shorter).returncode == 5
        assert send(socket, tmp_path / "absent").returncode == 1
        other.write_bytes(segment(1)[1])
        assert send(socket, other).returncode == 5, "the contents are of another segment"
        # A client that sends nothing, half of a file, or nonsense holds up nobody.
        for text in (b"", f"push 1 {segment(4)[0]} {1 << 20} 1 -\nxxx".encode(), b"\xff" * 300):
            with unix.socket(unix.AF_UNIX) as client:
                client.connect(str(socket))
                client.sendall(text)
        assert send(socket, file).returncode == 0
    assert len(list(second.items())) == 2
    assert send(socket, file).returncode == 3
    socket.parent.chmod(0o777)
    assert "other users can write" in send(socket, file).stderr
    with pytest.raises(e.Refused, match="other users can write"), service(tmp_path / "s", [first]):
        pass


def test_a_copy_that_is_not_required(tmp_path: Path, age_key: AgeKey) -> None:
    """The service acknowledges after the directory has it, and copies without a private key."""
    encryption = Encryption(recipients=recipients.parse(age_key.recipient))
    first, second = LocalStore(tmp_path / "a"), Unsure(tmp_path / "b")
    second.fails = "before"
    WalArchive(first, ORIGIN, encryption).put(*segment(1))  # by an earlier service

    def copier() -> Copier:
        return Copier(first, second, ORIGIN, lambda: None, pauses=(0.01,))

    def names(store: LocalStore) -> list[str]:
        return sorted(item.name for item in store.items())

    copying = copier()
    with service(tmp_path / "s", [first], ORIGIN, [copying]) as socket:
        for number in (2, 3):
            file = tmp_path / segment(number)[0]
            file.write_bytes(segment(number)[1])
            assert send(socket, file).returncode == 0
        eventually(lambda: copying.error, "the failure is not known")
        assert not copying.complete
        second.fails = None
        eventually(lambda: names(second) == names(first), "nothing was copied")
        eventually(lambda: copying.complete, "")
        assert copying.error is None
    assert len(names(first)) == 3
    first.delete(names(first)[0])  # by retention
    assert missing_in(names(first), names(second)) == []
    other = stored_name(segment(2)[0], "f" * 32, None)
    with pytest.raises(e.Differs, match="with other contents"):
        missing_in([other], names(second))
