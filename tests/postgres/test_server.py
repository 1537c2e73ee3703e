"""A temporary server starts, answers, restarts, and leaves nothing behind however it ends."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import pgkeep
from pgkeep import errors as e
from pgkeep.postgres.server import PROGRAMS, STOP_SECONDS, UNPRIVILEGED, Server
from tests.support import servers
from tests.support.servers import DEFAULT

DEBIAN = servers.DEBIAN[15]
PACKAGE = Path(pgkeep.__file__).parents[1]


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="pgkeep test-", dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has reaped yet does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> set[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children}


@pytest.mark.parametrize("major", DEFAULT, ids=lambda major: f"pg{major}")
def test_starts_answers_and_leaves_nothing(major: int) -> None:
    with Server(servers.bin_folder(major)) as server:
        folder, pid = Path(server.host), server.pid
        ((version, listens, encoding, ctype),) = servers.sql(
            server,
            "postgres",
            "select current_setting('server_version_num')::int / 10000,"
            " current_setting('listen_addresses'), pg_encoding_to_char(encoding), datctype"
            " from pg_database where datname = 'postgres'",
        )
        assert (version, listens, encoding, ctype) == (major, "", "UTF8", "C.UTF-8")
        assert server.params == {"host": str(folder), "port": "5432", "user": "postgres"}
        assert "ready to accept connections" in server.log.read_text()
        processes = {pid, *descendants(pid)}
        assert len(processes) > 3
    assert not folder.exists()
    assert not any(is_running(process) for process in processes)


def test_nothing_is_left_when_the_block_fails() -> None:
    server = Server(DEBIAN)

    def fail() -> int:
        with server:
            assert is_running(server.pid)
            raise RuntimeError(str(server.pid))

    with pytest.raises(RuntimeError) as caught:
        fail()
    folder, pid = Path(server.host), int(str(caught.value))
    assert not folder.exists()
    assert not is_running(pid)


@pytest.mark.parametrize("immediate", [False, True])
def test_restart_keeps_the_data(immediate: bool) -> None:
    with Server(DEBIAN) as server:
        before = server.pid
        servers.sql(server, "postgres", "create table t as select 1 as a")
        server.stop(immediate=immediate)
        with pytest.raises(e.PgkeepError, match="not running"):
            _ = server.pid
        with pytest.raises(psycopg.OperationalError):
            servers.sql(server, "postgres", "select 1")
        server.stop()  # again: nothing to do
        server.start()
        server.start()
        assert server.pid != before
        assert servers.sql(server, "postgres", "select a from t") == [(1,)]


def test_a_connected_client_does_not_hold_up_the_end() -> None:
    started = time.monotonic()
    with Server(DEBIAN) as server:
        connection = servers.connect(server, "postgres")
        with contextlib.closing(connection):
            server.stop()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select 1")
    assert time.monotonic() - started < STOP_SECONDS


def test_killed_with_a_computing_backend_it_recovers() -> None:
    with Server(DEBIAN) as server:
        servers.sql(server, "postgres", "create table t as select 1 as a")

        def compute() -> None:
            with contextlib.suppress(psycopg.OperationalError):
                servers.sql(server, "postgres", "do $$ begin loop end loop; end $$")

        client = threading.Thread(target=compute)
        client.start()
        busy = "select pid from pg_stat_activity where query ~ '^do' and state = 'active'"
        assert eventually(lambda: bool(servers.sql(server, "postgres", busy)))
        processes = descendants(server.pid)
        server.kill()
        client.join()
        assert not any(is_running(process) for process in processes)
        server.kill()  # again: nothing to do
        server.start()
        assert servers.sql(server, "postgres", "select a from t") == [(1,)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_parent(number: signal.Signals) -> None:
    script = (
        "import sys, time; from pathlib import Path; from pgkeep.postgres.server import Server\n"
        f"with Server(Path({str(DEBIAN)!r})) as s:\n"
        "    print(s.pid, s.host, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, host = parent.stdout.readline().decode().split()
        assert is_running(int(pid))
        parent.send_signal(number)
    assert eventually(lambda: not is_running(int(pid)))
    assert eventually(lambda: not Path(host).exists())


def test_settings_override_ours() -> None:
    odd = r"it's \ odd"
    with Server(DEBIAN, settings={"fsync": "on", "my.setting": odd, "port": "7777"}) as server:
        shown = [
            servers.sql(server, "postgres", f"show {name}")
            for name in ("fsync", "my.setting", "jit")
        ]
        assert shown == [[("on",)], [(odd,)], [("off",)]]
        assert server.params["port"] == "7777"


def test_arguments_of_initdb_override_ours() -> None:
    arguments = ["-E", "LATIN1", "--locale=C", "--auth=peer", "-U", "somebody"]
    with Server(DEBIAN, initdb=arguments) as server:
        hba = (server.log.parent / "data" / "pg_hba.conf").read_text()
        assert "peer" in hba
        assert not any(line.endswith("trust") for line in hba.splitlines())
        server.stop()
        ours = (server.log.parent / "data" / "pg_hba.conf").write_text("local all all trust\n")
        assert ours
        server.start()
        ((encoding, collate, user),) = servers.sql(
            server,
            "postgres",
            "select pg_encoding_to_char(encoding), datcollate, current_user"
            " from pg_database where datname = current_database()",
        )
        assert (encoding, collate, user) == ("LATIN1", "C", "postgres")


@pytest.mark.parametrize("name", ["x" * 150, 'a b, "c"', "ünïcode"])
def test_any_temporary_folder_will_do(public: Path, name: str) -> None:
    folder = public / name
    folder.mkdir()
    folder.chmod(0o777)
    with Server(DEBIAN, directory=folder) as server:
        assert server.log.is_relative_to(folder)
        assert len(os.fsencode(f"{server.host}/.s.PGSQL.5432")) <= 107
        assert servers.sql(server, "postgres", "select 1") == [(1,)]
        host = Path(server.host)
    assert not host.exists()
    assert list(folder.iterdir()) == []


def test_private_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own TMPDIR may be closed to the user that the server runs as."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Server(DEBIAN) as server:
        assert servers.sql(server, "postgres", "select 1") == [(1,)]
    assert list(tmp_path.iterdir()) == []


def test_programs_in_a_folder_that_the_server_cannot_read(tmp_path: Path) -> None:
    original = servers.bin_folder(18).parents[1]
    private = tmp_path / "private"
    for source in (original, original.with_name(f"{original.name}.libs")):
        shutil.copytree(source, private / source.name, symlinks=True)
    private.chmod(0o700)
    with Server(private / original.name / "pginstall" / "bin") as server:
        assert servers.sql(server, "postgres", "select 1") == [(1,)]
        host = Path(server.host)
        assert (host / "installation").is_dir() == (os.geteuid() == 0)
        # All of it came along: encodings and extensions are loaded from there.
        servers.sql(server, "postgres", "create extension hstore")
    assert not host.exists()


def test_not_as_root() -> None:
    """Somebody else than root needs no other user, and gets none."""
    nobody = pwd.getpwnam("nobody")
    # Dropped after the imports, as nobody may not be able to read this interpreter.
    drop = f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})"
    script = (
        "import os; from pathlib import Path; from pgkeep.postgres.server import Server\n"
        f"if os.geteuid() == 0: {drop}\n"
        f"with Server(Path({str(DEBIAN)!r})) as s:\n"
        "    owner = Path(f'/proc/{s.pid}').stat().st_uid\n"
        "    assert os.geteuid() == owner != 0, (os.geteuid(), owner)\n"
        "    s.stop(); s.start(); s.kill(); s.start()\n"
        "    print(s.host)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd="/", check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(done.stdout.strip()).exists()


def test_as_root_it_runs_as_somebody_else() -> None:
    with Server(DEBIAN) as server:
        owner = Path(f"/proc/{server.pid}").stat().st_uid
    assert owner != 0
    assert owner == (os.geteuid() or pwd.getpwnam(UNPRIVILEGED).pw_uid)


def leftovers() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("pgkeep-*"))


@pytest.mark.parametrize(
    ("server", "message", "hint"),
    [
        (Server(DEBIAN, settings={"nonsense": "1"}), "did not start", "nonsense"),
        (Server(DEBIAN, initdb=["--nonsense"]), "initdb failed", "nonsense"),
        (Server(Path("/proc/none/bin")), "/proc/none/bin/initdb", ""),
        (Server(DEBIAN, directory=Path("/proc/none")), "cannot enter /proc/none", ""),
    ],
    ids=["setting", "initdb", "programs", "directory"],
)
def test_failures_say_why(
    server: Server, message: str, hint: str, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(public))
    with pytest.raises(e.PgkeepError, match=message) as caught, server:
        pass
    assert hint in (caught.value.hint or "")
    assert leftovers() == set()


def test_a_full_disk_is_no_unexpected_error(public: Path) -> None:
    """It was exit code 1, that of a bug."""
    (public / "initdb").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit\n'
        "echo 'FATAL:  could not write to file \"pg_wal/xlogtemp.7\": No space left on device'\n"
        "exit 1\n"
    )
    (public / "initdb").chmod(0o755)
    (public / "postgres").symlink_to(DEBIAN / "postgres")
    with pytest.raises(e.NoSpace, match="initdb failed") as caught, Server(public):
        pass
    assert "No space left on device" in (caught.value.hint or "")


def test_broken_programs(public: Path) -> None:
    """Programs that exist, but fail to run here and in a copy too."""
    for name in ("bin", "lib", "share"):
        (public / "pkg" / "install" / name).mkdir(parents=True)
    for name in PROGRAMS:
        shutil.copy("/bin/false", public / "pkg" / "install" / "bin" / name)
    with pytest.raises(e.PgkeepError, match="nor a copy"), Server(public / "pkg/install/bin"):
        pass
