"""pgkeep pitr enable and disable: what prevents it, what it leaves, the service that it writes."""

import configparser
import dataclasses
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from pgkeep.model.wal import Lsn
from pgkeep.pitr import checks, providers, service_files
from pgkeep.pitr.checks import ServerFacts
from pgkeep.pitr.slot import SlotState
from pgkeep.postgres.server import Server
from tests.support import invoke, servers

ROLE = 'back "up"'


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="enable-") as made:
        yield Path(made)


def running(major: int, settings: Mapping[str, str] = {}, user: str = "postgres") -> Server:
    """Return a server with small segments, in memory where possible."""
    small = ["--wal-segsize=1", "--no-sync"]
    folder = servers.data_folder()
    programs = servers.bin_folder(major)
    return Server(programs, settings=settings, initdb=small, directory=folder, user=user)


def environment(server: Server, folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user who has the programs of the server's major version."""
    (folder / "backups").mkdir(exist_ok=True)
    programs = servers.bin_folder(servers.major_of(server))
    return invoke.environment(
        server, "postgres", BACKUP_DIR=str(folder / "backups"), BACKUP_WAL_MAX_LAG="1s",
        PATH=f"{programs}:{invoke.environment()['PATH']}", **more,
    )  # fmt: skip


def slots(server: Server) -> list[str]:
    return [row[0] for row in servers.sql(server, "postgres", "select slot_name from"
                                          " pg_replication_slots where not temporary")]  # fmt: skip


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return parser


@pytest.mark.parametrize("major", [15, 18])
def test_the_printed_lines_fix_all_problems(major: int, folder: Path) -> None:
    """Traps H3, H11: all problems at once; what is printed is executed as it is, and is enough."""
    settings = {"wal_level": "minimal", "max_wal_senders": "0", "max_replication_slots": "1"}
    with Server(servers.bin_folder(major), settings=settings, initdb=["--wal-segsize=1"]) as server:
        role = servers.quoted(ROLE)
        servers.sql(server, "postgres", f"create role {role} login")
        ((name,),) = servers.sql(server, "postgres", "show hba_file")
        hba = Path(name)
        hba.write_text("local all all trust\nlocal replication postgres trust\n")
        servers.sql(server, "postgres", "select pg_reload_conf()")
        env = environment(server, folder, PGUSER=ROLE)
        error = invoke.run("pitr", "enable", env=env, code=9)
        assert "not possible yet (problems: 6)\n" in error
        assert "wal_level is minimal, expected replica\n" in error
        assert "max_wal_senders is 0, and 0 are in use: expected 3 free ones\n" in error
        assert "max_replication_slots is 1, and 0 are in use: expected 2 free ones\n" in error
        assert f"role {ROLE} does not have REPLICATION\n" in error
        assert "no free sender: whether pg_hba.conf allows" in error
        assert "max_slot_wal_keep_size has no limit" in error
        (line,) = re.findall(r"^ +(local replication .*)$", error, re.MULTILINE)
        # Version 15 cannot be asked for the method; the default of Debian's package is peer.
        assert line == f"local replication {role} {'trust' if major > 15 else 'peer'}"
        for statement in re.findall(r"^ +([A-Z].*;)$", error, re.MULTILINE):
            servers.sql(server, "postgres", statement)
        server.stop()
        server.start()
        hba.write_text("local replication all reject\nlocal all all trust\n")
        servers.sql(server, "postgres", "select pg_reload_conf()")
        error = invoke.run("pitr", "enable", env=env, code=9)
        assert "(problems: 1)\n    a replication connection is refused: " in error
        assert line in error
        hba.write_text(f"{line.replace('peer', 'trust')}\n{hba.read_text()}")
        servers.sql(server, "postgres", "select pg_reload_conf()")
        out = invoke.run("pitr", "enable", "--service=none", env=env)
        assert "the server keeps up to 10GB of WAL while no receiver runs\n" in out
        assert re.search(r"done: any second since \S+ \S+[+-]\d\d:\d\d can be restored\n$", out)
        assert ("summarize_wal is off" in out) == (major > 15)
        assert "pgkeep pitr stream  # as a service" in out


def test_service_and_disable(folder: Path) -> None:
    """Idempotent; nothing is overwritten; the unit runs with no more than systemd gives it."""
    settings = {"max_slot_wal_keep_size": "1GB", "summarize_wal": "on"}
    with running(17, settings) as server:
        env = environment(server, folder, PGPASSWORD="correct horse", BACKUP_CLUSTER="shop")
        options = ("--service=systemd", f"--service-dir={folder}/units")
        limit = "alter system {} max_slot_wal_keep_size"
        servers.sql(server, "postgres", f"{limit.format('set')} = -1")
        servers.sql(server, "postgres", "select pg_reload_conf()")
        code, shown = invoke.on_terminal("pitr", "enable", env=env, answers={"Accept it?": "n"})
        assert (code, "max_slot_wal_keep_size has no limit" in shown) == (9, True), shown
        servers.sql(server, "postgres", limit.format("reset"))
        servers.sql(server, "postgres", "select pg_reload_conf()")
        first = json.loads(invoke.run("pitr", "enable", *options, "--json", env=env))
        names = ["base.service", "base.timer", "stream.service"]
        units = [folder / "units" / f"pgkeep-pitr-{name}" for name in names]
        secret = folder / "units" / "pgkeep-pitr.env"
        assert {*map(Path, first["files"])} == {*units, secret}
        assert (secret.stat().st_mode & 0o777, first["advice"]) == (0o600, [])
        assert all("correct horse" not in path.read_text() for path in [*units, secret])
        assert "#PGPASSWORD=\n" in secret.read_text()
        units[1].write_text("changed")
        out, err = invoke.outputs("pitr", "enable", *options, env=env)
        assert "is enabled already" in out
        assert f"{units[1]} exists with other contents" in err
        assert units[1].read_text() == "changed"
        again = json.loads(invoke.run("pitr", "enable", *options, "--json", env=env))
        assert again == {**first, "base": None}
        units[1].write_text(service_files._TIMER)
        assert verified(units) == []
        with Receiver(units[2], secret, env["PATH"]) as ready:
            assert ready.startswith(b"READY=1")
            assert json.loads(invoke.run("pitr", "enable", "--json", env=env))["receiving"]
            error = invoke.run("pitr", "disable", env=env, code=9)
            assert "Stop pgkeep pitr stream first" in error
        document = json.loads(invoke.run("pitr", "disable", "--json", env=env))
        assert (document["dropped"], document["slot"], slots(server)) == (True, first["slot"], [])
        assert document["kept"][0]["bases"] == 1
        assert "did not exist" in invoke.run("pitr", "disable", env=env)
        state = json.loads(invoke.complete("status", "--json", env=env)[1])
        (cluster,) = state["clusters"]
        assert (cluster["expected"], cluster["receiver"]) == (False, None), "it has ended"
    error = invoke.run("pitr", "disable", env=env, code=3)
    assert f"SELECT pg_drop_replication_slot('{first['slot']}');" in error


def verified(units: list[Path]) -> list[str]:
    """Return what systemd says of the units; nothing where it is not installed."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return []
    done = subprocess.run(
        [program, "verify", "--man=no", *units],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return [line for line in done.stderr.splitlines() if "pgkeep-pitr" in line]


class Receiver:
    """Run the command of a unit as systemd does; yields its notifications."""

    def __init__(self, path: Path, settings: Path, programs: str) -> None:
        self.service = unit(path)["Service"]
        assert self.service["Type"] == "notify"
        assert self.service["Restart"] == "always"
        lines = [line for line in settings.read_text().splitlines() if not line.startswith("#")]
        self.settings = {
            name: shlex.split(value)[0]
            for name, _, value in (line.partition("=") for line in lines)
        }
        self.settings["PATH"] = programs

    def __enter__(self) -> bytes:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = tempfile.mktemp(prefix="notify-")  # noqa: S306 - a name for a socket
        self.socket.bind(address)
        self.socket.settimeout(60)
        self.process = subprocess.Popen(
            shlex.split(self.service["ExecStart"]),
            env={
                **self.settings, "NOTIFY_SOCKET": address,
                "WATCHDOG_USEC": f"{self.service['WatchdogSec']}000000",
            }, cwd="/",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        told = b""
        while b"WATCHDOG=1" not in told:
            told += self.socket.recv(1000) + b"\n"
        Path(address).unlink()
        return told

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        output = self.process.communicate(timeout=60)[0]
        self.socket.close()
        assert self.process.returncode == 0, output


def test_a_run_that_ends_early_leaves_no_slot_unnoticed(folder: Path) -> None:
    """^C and failures drop the slot; after a kill the next run goes on; a lost slot is replaced.

    Traps H3, H4, H13: nobody would receive the WAL, and the server would keep it.
    """
    settings = {"max_slot_wal_keep_size": "1GB", "wal_keep_size": "0"}
    with (
        running(17, settings) as server,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        env = environment(server, folder)
        bucket = {
            "BACKUP_S3_BUCKET": "copies",
            "BACKUP_S3_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        }
        for number, left in ((signal.SIGINT, 0), (signal.SIGKILL, 1)):
            process = invoke.start("pitr", "enable", env={**env, **bucket})
            deadline = time.monotonic() + 60
            while not slots(server) and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
            assert len(slots(server)) == left, err
            assert ("was dropped again" in err) == (number == signal.SIGINT)
        out = invoke.run("pitr", "enable", "--service=none", env=env)
        assert "can be restored" in out
        invoke.run("pitr", "disable", env=env)
        closed = {**env, **bucket, "BACKUP_S3_ENDPOINT": "http://127.0.0.1:1"}
        err = invoke.run("pitr", "enable", env=closed, code=6)
        assert ("was dropped again" in err, slots(server)) == (True, []), "a store is unreachable"
        # A slot that is lost, and a spool whose last position the server no longer has.
        invoke.run("pitr", "enable", "--service=none", env=env)
        servers.sql(server, "postgres", "alter system set max_slot_wal_keep_size = '1MB'")
        servers.sql(server, "postgres", "select pg_reload_conf()")
        for _ in range(5):
            servers.sql(server, "postgres", "create table t (); drop table t")
            servers.sql(server, "postgres", "select pg_switch_wal()")
        servers.sql(server, "postgres", "checkpoint")
        status = servers.sql(server, "postgres", "select wal_status from pg_replication_slots")
        assert status == [("lost",)]
        out, err = invoke.outputs("pitr", "enable", "--service=none", env=env)
        assert "is lost: WAL is missing, and a new window begins" in err
        assert "base backup 2" in out


FACTS = ServerFacts(
    version="17.4", version_num=170004, standby=False, role="app", quoted_role='"app"',
    may_replicate=True, senders=0, slots=0, client="2001:db8::7/128", method="scram-sha-256",
    settings={"wal_level": "replica", "max_wal_senders": "10", "max_replication_slots": "10",
              "max_slot_wal_keep_size": "10240", "summarize_wal": "on"},
    fixed=frozenset(), bytes=0,
)  # fmt: skip


def test_other_problems() -> None:
    """Standbys, old servers, settings of the command line, senders and slots that are in use."""
    slot = SlotState(Lsn(0), "reserved", 1, active=True)

    def problems(slot: SlotState | None = None, **changed: object) -> str:
        facts = dataclasses.replace(FACTS, **changed)  # type: ignore[arg-type]
        return "\n".join(map(str, checks.server_problems(facts, slot)))

    assert problems() == ""
    assert "is a standby" in problems(standby=True)
    assert "14.9, expected 15" in problems(version="14.9", version_num=140009)
    assert "8 are in use: expected 3 free" in problems(senders=8)
    assert problems(slot, senders=8, slots=9) == "", "it has one of them already"
    assert "9 are in use: expected 2 free" in problems(slots=9)
    minimal = {**FACTS.settings, "wal_level": "minimal"}
    assert "-c wal_level=replica" in problems(settings=minimal, fixed=frozenset({"wal_level"}))
    lines = checks.hba_lines(FACTS)
    assert lines[1] == 'host replication "app" 2001:db8::7/128 scram-sha-256'
    assert "SHOW hba_file" in lines[0]


def test_managed_servers_are_refused(folder: Path) -> None:
    """By the role of initdb, which no dump brings along; else by the name of the host."""
    with running(17, user="rdsadmin") as server:
        error = invoke.run("pitr", "enable", env=environment(server, folder), code=9)
    assert "is not possible on Amazon RDS or Aurora" in error
    assert "Run pgkeep backup every hour" in error
    found = providers.provider_of("postgres", "db.abc.supabase.co")
    assert found is not None
    assert found.name == "Supabase"
    assert providers.provider_of("postgres", "db.example.com") is None


def test_files_for_containers(folder: Path) -> None:
    """Compose and Kubernetes read them; settings with spaces and quotes stay what they are."""
    facts = service_files.ServiceFacts(
        program="/usr/bin/pgkeep", user="app", target="shop", folder=str(folder),
        settings={"BACKUP_DIR": "/b", "BACKUP_CLUSTER": 'a "b" $c'}, secrets=["PGPASSWORD"],
        writable=["/b"],
    )  # fmt: skip
    for manager in service_files.Manager:
        for name, text in service_files.files(manager, facts).items():
            (folder / name).write_text(text)
    script = f'set -a; . {folder}/pgkeep-pitr-shop.env; printf %s "$BACKUP_CLUSTER"'
    assert subprocess.check_output(["sh", "-c", script], env={}) == b'a "b" $c'
    compose = yaml.safe_load((folder / "compose.pitr-shop.yml").read_text())
    assert compose["services"]["stream"]["command"][-1] == "--target=shop"
    documents = [*yaml.safe_load_all((folder / "pgkeep-pitr-shop.yaml").read_text())]
    assert [entry["kind"] for entry in documents] == [
        "PersistentVolumeClaim", "Deployment", "CronJob"
    ]  # fmt: skip
