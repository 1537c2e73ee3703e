"""When a base backup is full, and what interrupted ones leave."""

import json
import re
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.crypt.options import Encryption
from pgkeep.model.wal import Lsn
from pgkeep.pitr import base_run, bases, configuration, copying, retention
from pgkeep.pitr.base_manifest import Kind
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.support import invoke, pitr_kills, servers
from tests.support.concurrency import until
from tests.support.pitr_cluster import Cluster
from tests.support.planted_wal import Planted, base


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the user of the server can enter."""
    with tempfile.TemporaryDirectory(prefix="pitr-", dir=servers.data_folder()) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_every_reason_for_a_full_one(open_folder: Path) -> None:
    """Rule 14, A14, on a real server; and what is kept of configuration and tablespaces."""
    programs = servers.bin_folder(17)
    outside = open_folder / "etc"
    (outside / "conf.d").mkdir(parents=True)
    (outside / "hba.conf").write_text("local all all trust\nlocal replication all trust\n")
    (outside / "conf.d" / "own.conf").write_text("work_mem = '5MB'\n")
    spaces = [open_folder / 'two = "odd" names', open_folder / "plain"]
    settings = {
        "summarize_wal": "on", "hba_file": str(outside / "hba.conf"),
        "include_dir": str(outside / "conf.d"), "max_wal_senders": "4", "wal_level": "replica",
    }  # fmt: skip
    with Server(
        programs, settings=settings, initdb=["--wal-segsize=1"], directory=servers.data_folder()
    ) as server:
        for space in spaces:
            space.mkdir()
            server._account.own(space)
        cluster = Cluster(server, programs, open_folder)
        for number, space in enumerate(spaces):
            servers.sql(server, "postgres", f"create tablespace s{number} location '{space}'")
            query = f"create table t{number} tablespace s{number} as select 'in {number}' as t"
            servers.sql(server, "postgres", query)
        full, reason = cluster.take()
        assert (full.kind, reason) == (Kind.FULL, "it is the first one")
        assert full.warnings == []
        child, reason = cluster.take()
        assert (child.kind, reason) == (Kind.INCREMENTAL, f"changes since {full.name}")
        own = cluster.location()
        other = replace(own, url="other", base=LocalStore(open_folder / "other"))
        base_run.copy_chain(own, other, child)
        assert [*other.bases().read()] == [full.name, child.name], "A13: its copy had failed"

        # Those between it and a later one, which is lost, are removed. The server makes new ones
        # only from there on.
        lost, _ = cluster.take()
        (cluster.store.directory / lost.files[0]).unlink()
        for summary in (server._data / "pg_wal" / "summaries").iterdir():
            summary.unlink()
        with pytest.raises(e.Refused, match="not possible: PostgreSQL refused an incremental one"):
            cluster.take("incremental")
        made, reason = cluster.take()
        assert made.kind is Kind.FULL
        assert "WAL summaries are required on timeline 1" in reason

        servers.sql(server, "postgres", "alter system set summarize_wal = off")
        servers.sql(server, "postgres", "select pg_reload_conf()")
        until(lambda: cluster.shows("summarize_wal") == "off")
        assert cluster.reason() == "summarize_wal is off"
        servers.sql(server, "postgres", "alter system reset summarize_wal")

        cluster.restart(standby=True)
        servers.sql(server, "postgres", "select pg_promote()")
        made, reason = cluster.take()
        assert reason == "the timeline changed from 1 to 2"
        (switch,) = made.history
        assert switch[0] == 1
        path = retention.paths([made])[2]
        assert path.includes(1, Lsn.parse(switch[1]))
        assert not path.includes(1, Lsn(Lsn.parse(switch[1]) + 1))

        server.stop()
        servers.execute([str(programs / "pg_checksums"), "--enable", "-D", str(server._data)])
        server._account.own(server._data)
        server.start()
        assert cluster.reason() == "data checksums were switched on or off"

        with cluster.endpoint.connect() as connection:
            with pytest.raises(e.Refused, match="free, the base backup needs"):
                copying.check_space(connection, open_folder, 1 << 60)
            copying.check_space(connection, open_folder, None)
            servers.sql(server, "postgres", "create role small replication login")
            connection.execute("set role small")
            copying.check_space(connection, open_folder, None)  # it may not ask: no refusal
            assert "cannot see where" in configuration.read(connection)[1][0]
    target = open_folder / "restored"
    chain = [full, child]
    bases.assemble(
        cluster.store, chain, programs, target, open_folder / "work", Encryption().keys, 2, Silent()
    )
    for file in (outside / "hba.conf", outside / "conf.d" / "own.conf"):
        kept = target / configuration.FOLDER / file.relative_to("/")
        assert kept.read_text() == file.read_text()
    tables = {path.read_bytes().count(b"in 0") for path in target.glob("pg_tblspc/*/PG*/*/*")}
    assert 1 in tables


def test_what_interrupted_runs_leave(open_folder: Path) -> None:
    """A3, A7: nothing is published, and the next run leaves no file of a killed one."""
    programs = servers.bin_folder(18)
    backups = open_folder / "backups"
    backups.mkdir()
    with Server(
        programs,
        settings={"wal_level": "replica"},
        initdb=["--wal-segsize=1"],
        directory=servers.data_folder(),
    ) as server:
        path = f"{programs}:{invoke.environment()['PATH']}"
        env = invoke.environment(server, "postgres", BACKUP_DIR=str(backups), PATH=path)
        slow = env | {"BACKUP_RATE_LIMIT": "40kB"}
        cluster = json.loads(invoke.run("pitr", "base", "--json", env=env))["system_identifier"]
        staging, store = (
            backups / "pitr/spool" / cluster / "base",
            backups / "pitr" / cluster / "base",
        )
        published = sorted(store.iterdir())

        def senders() -> int:
            query = "select count(*) from pg_stat_replication where state = 'backup'"
            count: int = servers.sql(server, "postgres", query)[0][0]
            return count

        def staged() -> list[Path]:
            return [path for path in staging.iterdir() if path.is_dir()]

        for number in (signal.SIGTERM, signal.SIGKILL, None):
            running = invoke.start("pitr", "base", env=slow)
            until(lambda: senders() == 1 and len(staged()) == 1)
            if number is None:
                assert "lock held in" in invoke.run("pitr", "base", env=env, code=10)
                assert "is being taken" in invoke.outputs("prune", env=env)[1]
                servers.sql(
                    server, "postgres",
                    "select pg_terminate_backend(pid) from pg_stat_replication",
                )  # fmt: skip
            else:
                running.send_signal(number)
            err = running.communicate()[1]
            if number is None:
                assert running.returncode == 4, err
                assert "pg_basebackup failed" in err
            assert sorted(store.iterdir()) == published, "nothing was published"
            assert bool(staged()) == (number is signal.SIGKILL)
            until(lambda: senders() == 0)
            if number is signal.SIGKILL:
                (left,) = staged()
                dead = re.sub(r"-[^-]*$", "", left.name)
                (store / f"{dead}.part00001.tar.gz").write_bytes(b"x")
                (store / f".{dead}.part00002.tar.gz.partial-00000000").write_bytes(b"x")
                (store / f"{dead[:-4]}incremental.part00001.tar.gz").write_bytes(b"x")
                invoke.run("pitr", "base", env=env)
                assert staged() == []
                (other,) = store.glob("*incremental*")  # it can belong to another host
                other.unlink()
                published = sorted(store.iterdir())
                bases = [json.loads(path.read_bytes()) for path in store.glob("*.base.json")]
                files = [base["backup_manifest"]["name"] for base in bases]
                files += [part["name"] for base in bases for part in base["parts"]]
                found = {path.name for path in published if path.suffix not in (".json", ".lock")}
                assert found == set(files), "no file of the killed run is left"
    kept = {path.name.partition(".")[0] for path in staging.glob("*.backup_manifest")}
    assert kept == {path.name.partition(".")[0] for path in store.glob("*.base.json")}
    assert all(path.stat().st_mode & 0o77 == 0 for path in staging.glob("*.backup_manifest"))


def test_kills_leave_what_is_listed_restorable() -> None:
    """A3: a sample; `python -m tests.support.pitr_kills 200` runs more."""
    with tempfile.TemporaryDirectory(dir=servers.data_folder()) as folder:
        found = pitr_kills.run(3, 7, Path(folder))
    assert len(found.checked) >= 3


def test_a_damaged_base_backup_is_not_copied(tmp_path: Path) -> None:
    """A5: damage does not spread to another store, and no manifest is there."""
    planted = Planted(tmp_path)
    planted.bases(base(1))
    target = LocalStore(tmp_path / "there")
    with pytest.raises(e.VerificationFailed, match="was not copied: its SHA-256 differs"):
        bases.copy(LocalStore(planted.folder / "base"), target, base(1))
    assert list(target.items()) == []
