"""Drills pass for an equal restore, name every difference, and leave nothing behind."""

import dataclasses
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import markupsafe
import msgspec
import pytest
from psycopg.conninfo import make_conninfo

from pgkeep import errors as e
from pgkeep.artifact import verify
from pgkeep.artifact.file import Artifact
from pgkeep.catalog import side_files
from pgkeep.drill import assertions, drill, examine, scratch
from pgkeep.drill.result import DrillResult
from pgkeep.drill.rows import compare
from pgkeep.model import cluster, naming
from pgkeep.model.manifest import Drill, decode, encode
from pgkeep.postgres import programs
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.conftest import DatabaseFactory
from tests.support import invoke
from tests.support.buckets import Buckets
from tests.support.disposable import Disposables
from tests.support.servers import Servers, drop, major_of, programs_for, psql, sql

SHOP = """
create schema app;
create table app.orders (
    id int generated always as identity primary key, a text, b text, at timestamptz
);
insert into app.orders (a, b, at)
select 'a' || i, 'b' || i, timestamptz '2024-01-01 00:00:00+00' + i * interval '13 hours'
from generate_series(1, 2000) as i;
create index orders_a on app.orders (a);
alter table app.orders add constraint positive check (id > 0);
create table app.old (id int);
insert into app.old values (-1);
alter table app.old add constraint never check (id > 0) not valid;
create table app.elder (id int);
alter table app.elder add constraint above check (id > 0) not valid;
create table app.younger () inherits (app.elder);  -- where it is valid
create sequence app.down increment -1;
create table app.countdown (n int primary key default nextval('app.down'));
alter sequence app.down owned by app.countdown.n;
insert into app.countdown select from generate_series(1, 3);
create sequence app.former increment -1 owned by app.countdown.n;  -- which does not use it any more
create materialized view app.totals as select count(*) as n from app.orders;
create table app.plain (id int);
insert into app.plain values (1), (2), (3);
create extension hstore;
select lo_from_bytea(700000, 'large');
select lo_from_bytea(600000, decode(repeat('c0ffee00', 700000), 'hex'));  -- in several pieces
select lo_create(500000);
"""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A backup, and a database that was restored from it."""

    artifact: Path
    server: Server
    database: str


@pytest.fixture(scope="module")
def restored(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    name = f"drilled_{os.getpid()}_{major_of(server)}"
    sql(server, "postgres", f"create database {name} template template0")
    psql(server, name, input=SHOP)
    artifact = invoke.backup(server, name, tmp_path_factory.mktemp("backups"), "--verify")
    invoke.restore(server, artifact, f"{name}_back")
    yield Restored(artifact, server, f"{name}_back")
    drop(server, f"{name}_back")
    drop(server, name)


def examined(restored: Restored, database: str) -> examine.Examined:
    """Compare a database with the backup as the command does."""
    store = LocalStore(restored.artifact.parent)
    artifact = Artifact(store.open(restored.artifact.name))
    return examine.examine(
        Endpoint({**restored.server.params, "dbname": database}), artifact,
        side_files.read(store, restored.artifact.name).manifest,
        jobs=2, progress=Silent(),
    )  # fmt: skip


def test_the_zone_of_a_backup_may_be_unknown(shop: Path, pg17: Server) -> None:
    """A5.25: of files that do not tell it, and of others' dumps; a change is found all the same."""
    store = LocalStore(shop.parent)
    artifact = Artifact(store.open(shop.name))
    assert artifact.index.meta.timezone == "Europe/Berlin"
    artifact.index.meta = msgspec.structs.replace(artifact.index.meta, timezone=None)
    with scratch.on(Endpoint({**pg17.params, "dbname": "postgres"})) as there:
        drill.restore(artifact.source, verify.SideFiles(), there, 2, Silent())
        assert rows_of(there.scratch, artifact) == []
        update = "update app.orders set at = at + interval '1 hour' where id = 7"
        sql(pg17, there.database, "set event_triggers = off; " + update)
        assert rows_of(there.scratch, artifact) == [NOT_THOSE]
    assert scratch_databases(pg17) == []


def rows_of(endpoint: Endpoint, artifact: Artifact) -> list[str]:
    return compare(endpoint, artifact, zone=None, jobs=2, progress=Silent()).findings


def test_what_is_restored_is_green(restored: Restored) -> None:
    found = examined(restored, restored.database)
    assert found.findings == []
    checked = {check.name: check.checked for check in found.checks}
    assert checked["rows"] == checked["manifest"] == 6
    assert (checked["extensions"], checked["large objects"]) == (1, 3)
    assert checked["sequences"] == 3
    assert min(checked["indexes"], checked["constraints"], checked["roles"]) > 0
    true, false = (
        assertions.Assertion(
            file="a.sql", number=number, statement=f"select count(*) = {count} from app.orders"
        )
        for number, count in ((1, 2000), (2, 1999))
    )
    there = Endpoint({**restored.server.params, "dbname": restored.database})
    (finding,) = assertions.check(there, [true, false], 60).findings
    assert finding == (
        "assertion a.sql, statement 2 (select count(*) = 1999 from app.orders): it is false"
    )


SUBSCRIBE = """
create subscription s connection 'host=/proc/none dbname=x' publication p with (connect = false);
alter subscription s enable
"""
NOT_THOSE = "table app.orders: its 2000 rows are not those of the backup: at least one differs"


DAMAGE = [
    ("update app.orders set b = 'B7' where a = 'a7'", NOT_THOSE),
    ("update app.orders set a = b, b = a where id = 7", NOT_THOSE),
    ("delete from app.orders where id = 7",
     "table app.orders has 1999 rows, the backup has 2000"),
    ("update pg_index set indisvalid = false where indexrelid = 'app.orders_a'::regclass",
     "index app.orders_a is invalid"),
    ("select setval('app.orders_id_seq', 1999)",
     "sequence app.orders_id_seq is behind app.orders.id: at 1999, the column is at 2000"),
    ("drop extension hstore", "extension hstore is missing, the backup has version"),
]  # fmt: skip
MORE = [
    ("update app.orders set b = case id when 7 then 'b8' else 'b7' end where id in (7, 8)",
     NOT_THOSE),
    ("update app.orders set at = at + interval '1 us' where id = 7", NOT_THOSE),
    ("delete from app.plain where id = 1; insert into app.plain values (2)",
     "table app.plain: its 3 rows are not those of the backup: at least one differs"),
    ("drop table app.plain", "table app.plain is missing"),
    ("alter table app.old rename id to other",
     'table app.old cannot be read: ERROR:  column "id" of relation "old" does not exist'),
    ("create table app.new (id int)", "table app.new is not in the backup"),
    ("drop index app.orders_a", "index app.orders_a is missing"),
    ("alter table app.orders drop constraint orders_pkey",
     "constraint app.orders orders_pkey is missing"),
    ("update pg_constraint set convalidated = false where conname = 'positive'",
     "constraint app.orders positive is not valid, in the backup it is"),
    ("select setval('app.orders_id_seq', 2000, false)",
     "sequence app.orders_id_seq is behind app.orders.id: at 2000, the column is at 2000"),
    ("select setval('app.orders_id_seq', 2001)",
     "sequence app.orders_id_seq is at 2001, the backup has 2000"),
    ("select setval('app.down', -2)",
     "sequence app.down is behind app.countdown.n: at -2, the column is at -3"),
    ("refresh materialized view app.totals with no data",
     "materialized view app.totals is not populated, in the backup it is"),
    ("drop materialized view app.totals", "materialized view app.totals is missing"),
    ("select lo_unlink(700000)", "2 large objects, the backup has 3"),
    ("select lo_put(600000, 2799999, 'x')",
     "large objects are not those of the backup: at least one from 599808 to 600063"),
    ("select lo_put(700000, 5, 'r'), lo_put(600000, 0, 'x')",
     "large objects are not those of the backup: at least one from 599808 to 600063, and of 1"),
    ("select lo_unlink(500000), lo_create(500001)", "large objects are not those of the backup"),
    (SUBSCRIBE, "subscription s is enabled"),
]  # fmt: skip


def check_broken(restored: Restored, damage: str, finding: str) -> None:
    """This by itself is found, and nothing else is."""
    copy = f"{restored.database}_broken"
    drop(restored.server, copy)
    sql(restored.server, "postgres", f"create database {copy} template {restored.database}")
    try:
        psql(restored.server, copy, ["-o", os.devnull], damage)
        (found,) = examined(restored, copy).findings
        assert found.startswith(finding)
    finally:
        drop(restored.server, copy)


@pytest.mark.parametrize(("damage", "finding"), DAMAGE)
def test_what_is_broken_is_red(restored: Restored, damage: str, finding: str) -> None:
    """E6, E20, A5.23: a row changed, lost, swapped; an index, a sequence, an extension."""
    check_broken(restored, damage, finding)


@pytest.mark.parametrize("server", [17], ids=["pg17"], indirect=True, scope="module")
@pytest.mark.parametrize(("damage", "finding"), MORE)
def test_what_else_is_broken_is_red(restored: Restored, damage: str, finding: str) -> None:
    """E8, E20, A5.6, A5.23."""
    check_broken(restored, damage, finding)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for temporary files that a server's user can enter; it must be left empty."""
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    folder.chmod(0o755)
    yield folder
    left = [path.name for path in folder.iterdir()]
    shutil.rmtree(folder)
    assert left == []


@pytest.fixture(scope="module")
def shop(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A backup whose owners are roles that a new server lacks; of one there is a tablespace."""
    name, owner, reader = (f"drill_{one}_{os.getpid()}" for one in ("shop", "owner", "reader"))
    space = Path(tempfile.mkdtemp(prefix="drill-space-"))
    shutil.chown(space, "nobody") if os.geteuid() == 0 else None
    sql(pg17, "postgres", f"create role {owner}; create role {reader}; grant {reader} to {owner}")
    sql(pg17, "postgres", f"create tablespace {name} location '{space}'")
    sql(pg17, "postgres", f"create database {name} template template0 owner {owner}")
    psql(pg17, name, input=SHOP)
    psql(
        pg17,
        name,
        input=f"""
        create table app.elsewhere (id int) tablespace {name};
        alter materialized view app.totals owner to {owner};
        grant select on app.orders to {reader};
        grant usage on schema app to {owner};
        alter database {name} set search_path = app;
        create function app.fired() returns event_trigger language plpgsql as 'begin
            raise exception ''fired''; end';
        create event trigger loud on ddl_command_start execute function app.fired();
        alter event trigger loud enable always;
        """,
    )
    try:
        # Time stamps look otherwise in another zone, also where it is summer.
        artifact = invoke.backup(
            pg17, name, tmp_path_factory.mktemp("shop"), "--verify", PGTZ="Europe/Berlin"
        )
        yield artifact
    finally:
        drop(pg17, name)
        sql(pg17, "postgres", f"drop tablespace {name}")
        sql(pg17, "postgres", f"drop role {owner}, {reader}")
        shutil.rmtree(space)


def scratch_databases(server: Server) -> list[str]:
    query = "select datname from pg_database where datname ^@ %(prefix)s"
    return [row[0] for row in sql(server, "postgres", query, prefix=scratch.PREFIX)]


def processes(folder: Path) -> list[str]:
    """Return which processes name a folder in their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def environment(artifact: Path, place: Path) -> dict[str, str]:
    return invoke.environment(BACKUP_DIR=str(artifact.parent), TMPDIR=str(place))


def noted(artifact: Path) -> list[Drill]:
    path = Path(str(artifact).replace(".sql.gz", ".manifest.json"))
    return decode(path.read_bytes(), path.name).drills


def drilled_by_command(artifact: Path, place: Path, *options: str) -> dict[str, Any]:
    """Run a drill that must pass and leave nothing; return what it says."""
    found = json.loads(invoke.run("drill", "--json", *options, env=environment(artifact, place)))
    assert (found["findings"], found["passed"]) == ([], True)
    assert found["tables"] == next(
        check["checked"] for check in found["checks"] if check["name"] == "rows"
    )
    assert list(found["seconds"]) == [
        "start", "verify", "load", "index", "analyze", "check", "clean",
    ]  # fmt: skip
    assert processes(place) == []
    (drilled,) = noted(artifact)
    assert (drilled.passed, drilled.findings, drilled.seconds) == (True, 0, found["seconds"])
    return dict(found)


def test_one_of_everything_is_green(
    server: Server, objects: str, tmp_path: Path, place: Path
) -> None:
    """E6, E8, A5.8, A5.15: on a given server, which keeps nothing; with subscriptions."""
    artifact = invoke.backup(server, objects, tmp_path, "--verify")
    dsn = make_conninfo("", **server.params)
    found = drilled_by_command(artifact, place, f"--server={dsn}")
    assert not found["temporary"]
    assert scratch_databases(server) == []


def test_one_of_everything_is_green_on_a_server_of_its_own(
    pg18: Server, servers: Servers, tmp_path: Path, place: Path
) -> None:
    """A5.7: an extension that the server finds by a setting only."""
    artifact = invoke.backup(pg18, servers.objects(18), tmp_path, "--verify")
    path = f"$system:{servers.extension()}"
    found = drilled_by_command(artifact, place, f"--setting=extension_control_path={path}")
    assert found["temporary"]


def test_an_extension_that_must_be_preloaded(
    pg18: Server, servers: Servers, database: DatabaseFactory, tmp_path: Path, place: Path
) -> None:
    """A5.7: the finding says how."""
    name = database(pg18)
    psql(pg18, name, input="set pgkeep.preloaded = 'yes'; create extension pgkeep_preloaded")
    artifact = invoke.backup(pg18, name, tmp_path)
    setting = f"--setting=extension_control_path=$system:{servers.extension()}"
    env = environment(artifact, place)
    err = invoke.run("drill", f"--backup={artifact}", setting, env=env, code=5)
    assert err.splitlines()[-1].endswith(
        "extension pgkeep_preloaded: pgkeep_preloaded can only be loaded via"
        " shared_preload_libraries; --setting shared_preload_libraries=pgkeep_preloaded loads"
        " it"
    )


def test_money_and_subscriptions_on_a_server_of_its_own(
    pg15: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Money as the source wrote it; before 16 the owners of subscriptions are superusers."""
    bin_folder = programs_for(15).bin
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    with Disposables() as disposables:
        owner = disposables.role(pg15, "superuser")
        name = disposables.database(pg15)
        psql(pg15, name, input=f"""
            create table prices (price money);
            insert into prices values (1.50);
            create subscription s connection 'host=x' publication p with (connect = false);
            alter subscription s owner to {owner};
        """)  # fmt: skip
        path = invoke.backup(pg15, name, tmp_path, PGOPTIONS="-c lc_monetary=POSIX")
        artifact = Artifact(LocalStore(tmp_path).open(path.name))
        assert artifact.index.meta.lc_monetary == "POSIX"
        with scratch.temporary_server(artifact.index, None) as there:
            drill.restore(artifact.source, verify.SideFiles(), there, 2, Silent())
            with there.scratch.connect() as connection:
                found = connection.execute("select price::text, version() from public.prices")
                price, version = found.fetchone() or ("", "")
                assert (price, version.split()[1][:3]) == ("$1.50", "15.")
                assert connection.execute("show lc_monetary").fetchone() == ("POSIX",)
                way, (warning,) = scratch.with_money(connection, there.endpoint, "xx_XX")
    assert (there.warnings, way) == ([], there.endpoint)
    assert warning.startswith("the backup's money is written in the locale xx_XX, which is not")


def test_the_newest_verified_backup_is_drilled(shop: Path, place: Path, tmp_path: Path) -> None:
    """A3.1, A3.9, A5.18, A5.25, E5: missing roles and tablespaces, another time zone."""
    for path in shop.parent.glob("*.*"):
        shutil.copy(path, tmp_path)
    (path,) = tmp_path.glob("*.manifest.json")
    newer = msgspec.structs.replace(
        decode(path.read_bytes(), path.name),
        verified=None,
        taken=datetime(2099, 1, 1, tzinfo=UTC),
        globals=None,
    )
    facts = msgspec.structs.replace(newer.artifact, name=newer.name.artifact)
    newer = msgspec.structs.replace(newer, artifact=facts)
    (tmp_path / newer.name.manifest).write_bytes(encode(newer))
    shutil.copy(shop, tmp_path / newer.name.artifact)
    artifact = tmp_path / shop.name
    said = invoke.run("drill", env=environment(artifact, place))
    assert f"{artifact}\n" in said
    assert re.search(r"^    ok +rows +7$", said, re.MULTILINE)
    assert f"done: drill of {artifact}: passed" in said
    assert max(len(line) for line in said.splitlines() if str(tmp_path) not in line) <= 80
    assert [one.passed for one in noted(artifact)] == [*(one.passed for one in noted(shop)), True]
    artifact.with_name(path.name).unlink()
    said = invoke.run("drill", env=environment(artifact, place), code=9)
    assert "no verified backup in" in said


QUESTIONS = """\
-- All orders: are there; any?
select count(*) = 2000 from orders;
select 'it''s; <b>false</b>' = $$true;$$;
select true, true; select true from generate_series(1, 2); select true where false;
select null::bool; select 1;
insert into app.old values (1) returning true; select /* ; /* */ */ 1 / 0 = 1;
select pg_sleep(100) is not null;
set search_path = nowhere
"""


def test_assertions_are_asked(shop: Path, place: Path, tmp_path: Path, pg17: Server) -> None:
    """E6: all of them, whichever fail; in the report for people names are but names."""
    questions = tmp_path / "ask.sql"
    questions.write_text("select n = 2000 from totals; " + QUESTIONS)
    report = tmp_path / "report.html"
    said = invoke.run(
        "drill", f"--backup={shop}", f"--check={questions}", "--check-timeout=3",
        f"--report={report}", "--json", env=environment(shop, place), code=5,
    )  # fmt: skip
    outcome = json.loads(report.with_suffix(".json").read_text())
    (check,) = [one for one in outcome["checks"] if one["name"] == "assertions"]
    assert (check["checked"], outcome["passed"], len(outcome["findings"])) == (12, False, 10)
    problems = [finding.rpartition("): ")[2] for finding in check["findings"]]
    assert problems == [
        "it is false", "1 rows of 2 columns, expected one true value",
        "2 rows of 1 columns, expected one true value",
        "0 rows of 1 columns, expected one true value", "it is null", "it is not a boolean",
        "cannot execute INSERT in a read-only transaction", "division by zero",
        "no answer within 3 s", "it returns no rows",
    ]  # fmt: skip
    assert (
        f"the drill of {shop} failed: 10 findings, the first: assertion ask.sql, statement 3"
        in said
    )
    page = report.read_text()
    assert "<b>false</b>" not in page
    assert str(markupsafe.escape("it''s; <b>false</b>")) in page
    assert not re.search(r"(src|href)=(?!\"data:,\")|url\(|@import|https?:", page)
    assert page.count("<rect") == len(outcome["seconds"]) == 7
    assert not noted(shop)[-1].passed


def test_a_drill_of_a_copy_in_a_bucket(
    place: Path, pg17: Server, buckets: Buckets, database: DatabaseFactory
) -> None:
    """E14: fetched once, the time taken, the result in the bucket's manifest."""
    name = database(pg17)
    psql(pg17, name, input=SHOP)
    bucket = buckets.bucket()
    cloud = buckets.environment(bucket)
    del cloud["BACKUP_S3_BUCKET"]
    extra = {"BACKUP_DIR": f"s3://{bucket}/kept", "TMPDIR": str(place), **cloud}
    env = invoke.environment(pg17, name, **extra)
    invoke.run("backup", "--verify", env=env)
    outcome = json.loads(invoke.run("drill", "--json", env=env))
    assert outcome["passed"]
    assert outcome["downloaded"] == outcome["size"] > 0
    assert next(iter(outcome["seconds"])) == "download"
    (listed,) = json.loads(invoke.run("list", "--json", env=env))
    (drilled,) = listed["manifest"]["drills"]
    assert drilled["passed"]
    assert drilled["seconds"] == outcome["seconds"]


@pytest.mark.parametrize("given", [True, False], ids=["given server", "own server"])
def test_an_interrupted_drill_leaves_nothing(
    shop: Path, place: Path, tmp_path: Path, pg17: Server, given: bool
) -> None:
    """B12: no server, no data, no database, whatever it was doing."""
    questions = tmp_path / "slow.sql"
    questions.write_text("select pg_sleep(600) is null")
    options = ["--server", make_conninfo("", **pg17.params)] if given else []
    process = invoke.start(
        "drill", f"--backup={shop}", f"--check={questions}", "--check-timeout=600", *options,
        env=environment(shop, place),
    )  # fmt: skip
    assert process.stderr is not None
    try:
        said = next(iter(line for line in process.stderr if "asking assertions" in line), "")
        assert said, process.communicate()
        assert scratch_databases(pg17) if given else processes(place)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert scratch_databases(pg17) == []
    assert processes(place) == []


def test_a_damaged_backup_is_red(shop: Path, place: Path, tmp_path: Path) -> None:
    """A2.1: also of one whose index is whole."""
    for path in shop.parent.glob("*.*"):
        shutil.copy(path, tmp_path)
    artifact = tmp_path / shop.name
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    code, out, err = invoke.complete("drill", "--json", env=environment(artifact, place))
    assert code == 5
    assert "1 finding, the first:" in err
    (finding,) = json.loads(out)["findings"]
    assert "SHA-256" in finding
    *_, drilled = noted(artifact)
    assert (drilled.passed, drilled.findings) == (False, 1)


def test_metrics_have_its_result_at_once(shop: Path, place: Path, tmp_path: Path) -> None:
    """F7: without waiting for the next backup, whose last outcome stays."""
    for path in shop.parent.glob("*.*"):
        shutil.copy(path, tmp_path)
    file = tmp_path / "pgkeep.prom"
    name = naming.parse(shop.name)
    assert name is not None
    manifest = decode((tmp_path / name.manifest).read_bytes(), name.manifest)
    label = cluster.short_form(manifest.server.system_identifier)
    labels = f'cluster="{label}",database="{name.database}",store="{tmp_path}",type="daily"'
    attempt = f"pgkeep_backup_last_exit_code{{{labels}}} 4.0"
    file.write_text(
        f"{attempt}\npgkeep_backup_last_attempt_timestamp_seconds{{{labels}}} {time.time()}\n"
    )
    env = environment(tmp_path / shop.name, place) | {"BACKUP_METRICS_FILE": str(file)}
    invoke.run("drill", env=env)
    text = file.read_text()
    assert attempt in text
    (rto,) = re.findall(r"^pgkeep_drill_rto_seconds{.*} (.*)$", text, re.MULTILINE)
    assert 0 < float(rto) < 300
    env["BACKUP_METRICS_FILE"] = str(tmp_path / "none" / "x.prom")
    code, out, err = invoke.complete("drill", env=env)
    assert (code, out.splitlines()[-1][:5]) == (0, "done:")
    assert "warning: BACKUP_METRICS_FILE: could not write" in err


def test_numpy_is_asked_for(shop: Path, place: Path, tmp_path: Path) -> None:
    """Other commands do without."""
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('none', name='numpy')")
    env = environment(shop, place) | {"PYTHONPATH": str(tmp_path)}
    assert "pip install 'pgkeep[drill]'" in invoke.run("drill", env=env, code=2)
    invoke.run("verify", str(shop), env=env)


def test_the_last_results_are_kept(shop: Path, tmp_path: Path) -> None:
    for path in shop.parent.glob("*.*"):
        shutil.copy(path, tmp_path)
    store = LocalStore(tmp_path)
    (path,) = tmp_path.glob("*.manifest.json")
    manifest = decode(path.read_bytes(), path.name)
    for number in range(12):
        outcome = DrillResult(
            passed=True, backup="", database=None, taken=None, server=None, temporary=True,
            began=datetime(2026, 1, 1 + number, tzinfo=UTC), pgkeep="", seconds={}, size=0,
            downloaded=0, raw_bytes=0, tables=0, rows=0, checks=[], findings=[],
        )  # fmt: skip
        assert drill.record(store, manifest, outcome) is None
    assert [one.when.day for one in noted(tmp_path / shop.name)] == list(range(3, 13))
    path.unlink()
    assert (
        drill.record(store, manifest, outcome)
        == f"the result is not recorded: {path} no longer exists"
    )
    assert not path.exists()


def test_what_a_drill_needs_is_named(shop: Path, place: Path, tmp_path: Path, pg17: Server) -> None:
    """A5.7, B47: before anything is begun."""
    plain = tmp_path / "plain.sql"
    plain.write_bytes(b"--\n-- PostgreSQL database dump\n--\n" + b"\n" * 1000)
    empty = tmp_path / "empty.sql"
    empty.write_text("-- nothing; /* at all; */")
    none = tmp_path / "none"
    env = environment(shop, place)
    for options, sentence in [
        ([f"--backup={plain}"], "is a plain dump without an index"),
        ([f"--check={empty}"], "has no statement"),
        ([f"--check={none}.sql"], f"could not read {none}.sql: No such file"),
        ([f"--report={none}/x.html"], f"directory {none} does not exist"),
        ([f"--report={tmp_path}/x.json"], "would be overwritten by the JSON"),
        (["--setting=fsync"], "is not NAME=VALUE"),
        (["--setting=a=b", "--server=x"], "cannot be used together"),
        (["--backup=x", "--database=y"], "cannot be used together"),
    ]:
        assert sentence in invoke.run("drill", *options, env=env, code=2)
    found = [programs.Installation((16, 1), Path("/proc/none"))]
    with pytest.raises(e.UsageError, match="no server of 17 or newer is installed"):
        scratch.server_programs(17, found)
    ours = programs_for(18), programs_for(15), programs_for(17)
    assert scratch.server_programs(16, ours).major == 17
    assert scratch.server_programs(15, ours).major == 15


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("select 1; select 2", ["select 1", "select 2"]),
        ("select ';'; select \";\"", ["select ';'", 'select ";"']),
        ("select $a$;$$;$a$;;", ["select $a$;$$;$a$"]),
        ("select E'\\';'; select '\\'; select 1", ["select E'\\';'", "select '\\'", "select 1"]),
        ("-- a;\nselect 1 -- b;\n; -- c;", ["-- a;\nselect 1 -- b;"]),
        ("/* a; /* b; */ c; */ select 1;", ["/* a; /* b; */ c; */ select 1"]),
        ("select a$b$, c$b$ from t; select 1", ["select a$b$, c$b$ from t", "select 1"]),
        ("; /* ; */ ; --", []),
    ],
)
def test_statements_are_told_apart(script: str, statements: list[str]) -> None:
    assert list(assertions.split(script)) == statements
