"""The restored directory: nothing of the source is touched, and its server starts."""

import contextlib
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.pitr import target_directory
from pgkeep.pitr.plan import make_plan
from pgkeep.pitr.restore import RestoreOptions, recovered
from pgkeep.pitr.target import Target, TargetKind
from pgkeep.postgres import isolation
from pgkeep.postgres.server import UNPRIVILEGED, Account
from pgkeep.progress import Silent
from tests.support import servers
from tests.support.faults import synced_names
from tests.support.wal_source import wal_source

LATEST = Target(TargetKind.LATEST)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the users of servers can enter."""
    with tempfile.TemporaryDirectory(prefix="pitr-", dir=servers.data_folder()) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def started(programs: Path, data: Path, owner: str, run: Path) -> Iterator[list[str]]:
    """Start a server as a person would, and yield the beginning of a psql command."""
    entry = pwd.getpwnam(owner)
    os.chown(run, entry.pw_uid, entry.pw_gid)
    user: dict[str, Any] = {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": [],
        "cwd": "/",
    }
    control = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-s"]
    options = f"-k {run} -p 5433 -c listen_addresses="
    subprocess.run([*control, "-l", str(run / "log"), "-o", options, "start"], check=True, **user)
    try:
        psql = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        yield [*psql, str(programs / "psql"), "-XAtq", "-h", str(run), "-p", "5433"]
    finally:
        subprocess.run([*control, "-m", "fast", "stop"], check=True, **user)


def ask(psql: list[str], user: str, database: str, query: str) -> str:
    done = subprocess.run(
        [*psql, "-U", user, "-d", database, "-c", query], capture_output=True, text=True,
        check=True, cwd="/",
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize("major", [15, 17, 18])
def test_tablespaces_and_owners_of_databases(
    major: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A14: a tablespace from before the base backup, and one that the WAL creates.

    On the source's own host, recovery would use the live directory of the second one. What owners
    of roles and databases have set runs nowhere (rule 18), and the restored server starts.
    """
    before, after, disk = place / "before", place / "af ter", place / "disk"
    for folder in (before, after):
        folder.mkdir()
        Account.choose().own(folder)
    secret = place / "secret"
    secret.write_text("key")
    secret.chmod(0o644)
    with wal_source(major, user="boss") as source:
        sql = source.connection.execute
        sql(f"create tablespace early location '{before}'".encode())
        sql("create database app tablespace early")
        servers.sql(source.server, "app", "create table a as select generate_series(1, 100) i")
        base = source.base()
        assert (base.superuser, base.timezone) == ("boss", "Europe/Berlin")
        if major >= 17:
            servers.sql(source.server, "app", "insert into a values (101)")
            base = source.base(base)
        sql(f"create tablespace late location '{after}'".encode())
        trigger = (
            "create function stop() returns event_trigger language plpgsql as"
            " $$ begin raise 'no login'; end $$;"
            " create event trigger t on login execute function stop();"
            " alter event trigger t enable always;"
        )
        servers.sql(
            source.server,
            "app",
            "create table b tablespace late as select * from a; insert into a values (102);"
            f"{trigger if major >= 17 else ''}"
            " alter database postgres allow_connections false;"
            " alter database app set session_preload_libraries = 'none'",
        )
        sql("alter role boss set session_preload_libraries = 'none'")
        assert source.ship()
        rows = "select count(*), max(i) from public.a, lateral (select count(*) from public.b) x"
        live = contents(before) | contents(after)
        plan = make_plan(source.location, LATEST, Encryption())
        assert len(plan.chain) == (2 if major >= 17 else 1)
        data = place / "data"
        if major == 15:
            with monkeypatch.context() as patch:
                patch.setattr(isolation, "is_installed", lambda: False)
                with (
                    pytest.raises(e.Refused, match="creates a tablespace"),
                    recovered(plan, data, Encryption(), 2, Silent()),
                ):
                    pass
            assert not data.exists()
        mapping = RestoreOptions(tablespaces={str(before): disk} if major == 18 else {})
        synced = synced_names(monkeypatch)
        with recovered(plan, data, Encryption(), 2, Silent(), mapping) as found:
            assert "namespaces" in found.server.isolation
            with found.server.endpoint.to("app").connect() as connection:
                row = connection.execute(rows).fetchone()
                assert row is not None
                with pytest.raises(Exception, match="No such file"):
                    connection.execute("select pg_read_file(%s)", [str(secret)])
            found.server.promote()
        assert str(place) in synced, "B3: the name of the directory is durable too"
        if major == 18:  # initdb --sync-only flushes the others
            moved = {path.name for path in disk.rglob("*")}
            assert {Path(name).name for name in synced} >= {*moved, disk.name}
        assert row[0] >= 101
        assert contents(before) | contents(after) == live, "the live tablespaces are untouched"
        run = place / "run"
        run.mkdir()
        owner = data.owner()
        assert owner == found.owner != "root"
        with started(source.programs, data, owner, run) as psql:
            options = "dbname=app options='-c session_preload_libraries= -c event_triggers=off'"
            options = options if major >= 17 else options.replace(" -c event_triggers=off", "")
            assert ask(psql, "boss", options, rows) == f"{row[0]}|{row[1]}"
            ask(psql, "boss", options, "create table c tablespace late as select * from a")
            assert ask(psql, "boss", options, "show archive_mode") == "off"
        assert contents(before) | contents(after) == live
    links = {path.name: path.is_symlink() for path in (data / "pg_tblspc").iterdir()}
    assert sorted(links.values()) == ([False, True] if major == 18 else [False, False])
    assert disk.exists() == (major == 18)
    assert (data / "postgresql.auto.conf").read_text() == ""
    assert "session" not in (data / "postgresql.conf").read_text()
    assert (data / "postgresql.conf.source").exists()
    left = {path.name for path in (*place.iterdir(), *data.iterdir(), *run.iterdir())}
    assert not [name for name in left if "pgkeep" in name or name.startswith("recovery")]


def test_a_directory_that_stays_in_recovery(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 18: without --promote, it starts at the point again, from the WAL in itself."""
    with wal_source(17) as source:
        source.base()
        source.run("create table ledger (n int)")
        xid, _ = source.run("insert into ledger values (1)")
        source.run("insert into ledger values (2)")
        source.ship()
        plan = make_plan(source.location, Target(TargetKind.XID, xid=xid), Encryption())
        data, run = place / "data", place / "run"
        run.mkdir()
        data.mkdir(mode=0o700)  # such as a mount point
        synced = synced_names(monkeypatch)
        with recovered(plan, data, Encryption(), 2, Silent()) as found:
            assert found.proof.timeline == 1
        assert synced == [str(data)] * 2, "B3: before PG_VERSION is moved, and after it"
        with started(source.programs, data, found.owner, run) as psql:
            state = "select pg_is_in_recovery(), max(n) from ledger"
            assert ask(psql, "postgres", "postgres", state) == "t|1"
            ask(psql, "postgres", "postgres", "select pg_promote(true, 60)")
            ask(psql, "postgres", "postgres", "insert into ledger values (3)")
            assert ask(psql, "postgres", "postgres", state) == "f|3"
        assert not (data / "recovery.signal").exists()


def test_an_ordinary_user_has_the_files_already(place: Path) -> None:
    """Its group need not be that of its account: in containers, and with setpriv."""
    folder = place / "data"
    folder.mkdir()
    entry = pwd.getpwnam(UNPRIVILEGED)
    os.chown(folder, entry.pw_uid, os.getegid())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setuid(entry.pw_uid)
            name, account = target_directory.owner_of(folder, None)
            account.own(folder)
            status = 0 if name == UNPRIVILEGED else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert target_directory.owner_of(folder, None)[1].uid == entry.pw_uid, "the parent's owner"
