"""A drill of a cluster recovers points of a real archive, and finds what is damaged."""

import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pgkeep import errors as e
from pgkeep.config import load
from pgkeep.crypt.options import Encryption
from pgkeep.drill import pitr_result, points, recovered_checks
from pgkeep.drill.archive_source import ArchiveSource
from pgkeep.drill.pitr_result import Engine, PitrDrillResult
from pgkeep.drill.points import Facts, PointOptions, Window
from pgkeep.drill.recovered_checks import Wanted
from pgkeep.pitr import location, target_directory
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from pgkeep.stores.store import write_file
from tests.support import invoke, servers

MEMORY = servers.data_folder()
WAL = {"max_slot_wal_keep_size": "1GB"}

# Its index stays the same; the expression raises an error once the row exists.
HOSTILE = """
create role owner login;
grant create on schema public to owner;
create table public.marker (a int);
grant select on public.marker to owner;
set role owner;
create table public.hostile (a int);
insert into public.hostile values (1);
create function public.f(a int) returns int immutable language plpgsql as $$
begin
    if exists (select from public.marker) then
        raise exception 'the expression ran as %', current_user;
    end if;
    return a;
end $$;
create index on public.hostile (public.f(a));
reset role;
create extension amcheck schema public;
set role owner;
-- pg_amcheck passes an oid: a better match than amcheck's own function.
create function public.bt_index_check("index" oid, heapallindexed boolean) returns void
language plpgsql as $$ begin raise exception 'overloaded, as %', current_user; end $$;
reset role;
insert into public.marker values (1);
create function public.spy(file text) returns text security definer language sql
as $$ select pg_read_file(file, 0, 9, true) $$;
create function public.on_command() returns event_trigger language plpgsql as $$
begin raise exception 'an event trigger ran'; end $$;
create event trigger t on ddl_command_start execute function public.on_command();
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the user of the server can enter."""
    with tempfile.TemporaryDirectory(prefix="pitr-", dir=MEMORY) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def environment(server: Server, major: int, folder: Path) -> dict[str, str]:
    (folder / "backups").mkdir()
    path = f"{servers.bin_folder(major)}:{invoke.environment()['PATH']}"
    own = {
        "TMPDIR": str(folder),
        "BACKUP_DIR": str(folder / "backups"),
        "PATH": path,
        "BACKUP_WAL_MAX_LAG": "1s",
    }
    return invoke.environment(server, "postgres") | own


def receive(server: Server, env: dict[str, str]) -> None:
    """Store all WAL that a server has written."""
    (row,) = servers.sql(server, "postgres", "select pg_current_wal_lsn()::text")
    invoke.run("pitr", "stream", f"--until={row[0]}", env=env)


def test_a_drill(open_folder: Path) -> None:
    """A5, A11: two points are proved and recorded; a damaged or lost segment is named."""
    with Server(
        servers.bin_folder(18), settings=WAL, initdb=["--wal-segsize=1"], directory=MEMORY
    ) as server:
        env = environment(server, 18, open_folder)
        invoke.run("pitr", "enable", "--service=none", env=env)
        with servers.connect(server, "postgres") as connection:
            connection.execute("create table t (i int primary key)")
            for number in range(30):
                connection.execute("insert into t values (%s)", [number])
                if number % 10 == 0:
                    connection.execute("select pg_switch_wal()")
        receive(server, env)
    checks, report = open_folder / "checks.sql", open_folder / "drill.html"
    checks.write_text(
        "select count(*) = 30 from t;"
        " select not rolsuper from pg_roles where rolname = current_user"
    )
    asked = ("drill", "--pitr", f"--check={checks}", "--database=postgres", "--seed=526")
    (found,) = json.loads(invoke.run(*asked, "--json", f"--report={report}", env=env))
    assert found["passed"], found
    newest, second = found["points"]
    assert list(newest["seconds"]) == ["fetch", "assemble", "recover", "check", "clean"]
    assert "UTC" in second["target"]
    assert second["reached"] <= newest["reached"]
    assert found["recovery_seconds"] > 0
    assert found["lost_seconds"] >= 0
    counted = {check["name"]: check["checked"] for check in found["checks"]}
    assert counted["assertions"] == 2
    assert counted["tables and indexes"] > 500
    page = report.read_text()
    assert newest["lsn"] in page
    assert json.loads(report.with_suffix(".json").read_text()) == [found]
    place = open_folder / "backups" / "pitr" / found["system_identifier"]
    (noted,) = (place / "drill").iterdir()
    assert json.loads(noted.read_text()) == found
    (record,) = json.loads(invoke.run("history", "--kind=drill", "--json", env=env))
    assert record["exit_code"] == 0

    (cluster,) = json.loads(invoke.complete("status", "--json", env=env)[1])["clusters"]
    assert cluster["drill"]["recovery_seconds"] == found["recovery_seconds"]
    assert "pgkeep_pitr_drill_rto_seconds{" in invoke.run("metrics", env=env)

    segments = sorted((place / "wal").glob("*.gz"))
    damaged = segments[len(segments) // 2]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    err = invoke.run("drill", "--pitr", "--cluster=9", env=env, code=9)
    assert "no cluster has base backups or WAL here" in err
    status, _, err = invoke.complete("drill", "--pitr", f"--cluster={place.name}", env=env)
    assert status == 5
    assert damaged.name in err.splitlines()[-1]
    damaged.unlink()
    (config,) = load(env)
    (stored,) = location.known(config)
    (finding,) = ArchiveSource(stored, Encryption()).window().findings
    assert finding == f"WAL segment {damaged.name[:24]} is missing in {place}/wal"
    wrong = open_folder / "none.sql"
    wrong.write_text("select false")
    status, _, err = invoke.complete("drill", "--pitr", f"--check={wrong}", env=env)
    assert (status, "--database" in err) == (2, True)


def test_damage_and_hostile_code(open_folder: Path) -> None:
    """A2: pg_amcheck finds damaged pages; code of an owner has no way out (A1.9).

    An expression of an index runs as its owner, an event trigger does not run, and a function that
    a superuser has made for everybody cannot read the files of this machine.
    """
    # Before 17, no setting prevents that event triggers fire.
    major, options = 15, ["--wal-segsize=1"]
    with Server(
        servers.bin_folder(major), settings=WAL, initdb=options, directory=MEMORY
    ) as server:
        env = environment(server, major, open_folder)
        servers.sql(server, "postgres", HOSTILE)
        with servers.connect(server, "postgres") as connection:
            connection.execute("alter event trigger t disable")
            connection.execute("create table heap as select i from generate_series(1, 99) i")
            connection.execute("create table indexed as select i from generate_series(1, 999) i")
            connection.execute("create index broken on indexed (i)")
            connection.execute("alter event trigger t enable; checkpoint")
            paths = [
                connection.execute("select pg_relation_filepath(%s::regclass)", [name]).fetchone()
                for name in ("heap", "broken")
            ]
        server.stop()
        pointer = (101 | 1 << 15 | 28 << 17).to_bytes(4, "little")  # its offset is not aligned
        for row, position, damage in zip(paths, (24, 8192 + 24), (pointer, bytes(40)), strict=True):
            assert row is not None
            file = server._data / row[0]
            data = bytearray(file.read_bytes())
            data[position : position + len(damage)] = damage
            file.write_bytes(data)
        server.start()
        invoke.run("pitr", "enable", "--service=none", env=env)
        receive(server, env)
        endpoint = Endpoint({**server.params, "dbname": "postgres"})
        (missing,) = recovered_checks.check(endpoint, open_folder, Wanted()).unproved
        assert missing == f"tables and indexes: {open_folder} has no pg_amcheck"
    secret, checks = open_folder / "secret", open_folder / "checks.sql"
    secret.write_text("secret")
    secret.chmod(0o644)
    checks.write_text(
        f"select public.spy('{secret}') is null; select public.spy('PG_VERSION') > '';"
        " select pg_sleep(60) is null"
    )
    asked = (
        "drill", "--pitr", f"--check={checks}", "--database=postgres", "--check-timeout=0.5",
    )  # fmt: skip
    status, out, err = invoke.complete(*asked, "--json", env=env)
    assert status == 5, err
    (found,) = json.loads(out)
    assert found["isolation"] == ["user", "namespaces"]
    (slow,) = found["checks"][-1]["findings"]
    assert "no answer within 0.5 s" in slow
    text = "\n".join(found["findings"])
    assert 'heap table "postgres.public.heap"' in text
    assert 'btree index "postgres.public.broken"' in text
    assert "the expression ran as owner" in text
    assert "event trigger ran" not in text + err
    assert "overloaded" not in text + err


class Huge:
    """A source of a cluster that fits nowhere."""

    facts = Facts(Engine.PGKEEP, "1", None, "somewhere")

    def window(self) -> Window:
        return Window(needed=1 << 60)

    def recovered(self, _target: Any, directory: Path, *_: Any) -> Any:
        target_directory.check_space(directory.parent, 1 << 60)


class Growing(Huge):
    """Another one, which shows that only when the point is known."""

    def window(self) -> Window:
        return Window()


def test_space_is_checked_before() -> None:
    """A7: nothing is fetched into a directory that is too small."""
    options = PointOptions(wanted=Wanted(), seed=1)
    with pytest.raises(e.Refused, match="free, the drill requires 1152921") as refused:
        points.run(Huge(), options, Silent())
    assert "TMPDIR" in str(refused.value.hint)
    with pytest.raises(e.NoSpace, match="the restore needs"):  # it is no finding
        points.run(Growing(), options, Silent())


def test_results_that_are_kept(tmp_path: Path) -> None:
    """C10: the newest 30 results are kept; a newer format and damage are errors, not results.

    B7: names from the future, where a clock was wrong, neither push out results nor hide them.
    """
    store = LocalStore(tmp_path)
    result = PitrDrillResult(
        passed=True, engine=Engine.PGKEEP, system_identifier="1", name=None, place="", server=None,
        began=datetime(2026, 1, 1, tzinfo=UTC), pgkeep="", seed=1, recovery_seconds=1.0,
        lost_seconds=None, points=[], checks=[], findings=[],
    )  # fmt: skip
    assert pitr_result.last(store) is None
    future = {tmp_path / f"29991231T{hour:02}0000Z.drill.json" for hour in range(24)}
    for path in future:
        path.touch()
    for hour in range(32):
        made = msgspec.structs.replace(
            result, began=result.began + timedelta(hours=hour), passed=hour < 30
        )
        assert pitr_result.record([store], made) == []
    assert len(set(tmp_path.iterdir()) - future) == 30
    last = pitr_result.last(store)
    assert last is not None
    assert (last.when, last.passed) == (made.began, False)
    assert last.last_passed == made.began - timedelta(hours=2)
    for data in (b"{}", b'{"format": 2}', msgspec.json.encode(made).replace(b"1,", b"2,", 1)):
        write_file(store, pitr_result.name_of(made), data)
        with pytest.raises(e.VerificationFailed):
            pitr_result.last(store)
