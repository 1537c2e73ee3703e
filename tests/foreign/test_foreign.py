"""Plain dumps of others: indexed they are artifacts, and bring back the same database."""

import gzip
import json
import os
import shutil
import subprocess
import time as clock
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from pgkeep.artifact.compression import zstd
from pgkeep.artifact.file import Artifact
from pgkeep.foreign.index import IndexOptions, when
from pgkeep.foreign.names import Guess, guess
from pgkeep.model.naming import BackupType
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalSource, LocalStore
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables

APP = r"""
create schema app;
create table app.orders (id int primary key, note text, price float8);
insert into app.orders select n, repeat(md5(n::text), 6), n / 8.0 from generate_series(1, 90000) n;
create table app."Two
lines" (a text);
insert into app."Two
lines" values (E'a;\n-- Name: x; Type: TABLE; Schema: app; Owner: -\n'), (null), (E'\\.');
create sequence app.number;
select setval('app.number', 42);
create function app.f() returns text language sql
    as $$ select 'COPY app.orders FROM stdin;' || E'\n\\connect elsewhere\n' $$;
create view app.v as select id from app.orders;
"""
NAME = "old_20260506_070809.sql.gz"


@pytest.fixture(scope="module")
def app(pg17: Server) -> Iterator[str]:
    """A database with rows for two members, and names that look like something else."""
    with Disposables() as made:
        name = made.database(pg17, name=f"app_{os.getpid()}")
        servers.sql(pg17, name, APP)
        yield name


@pytest.fixture(scope="module")
def plain(pg17: Server, app: str) -> bytes:
    return servers.dump(pg17, app)


def index(dump: Path, catalog: Path, *args: str) -> Path:
    """Index a dump; return the artifact's path."""
    env = invoke.environment(BACKUP_DIR=str(catalog))
    return Path(invoke.run("index", str(dump), *args, env=env).splitlines()[0])


def refused(dump: Path, *args: str, code: int) -> str:
    """Index a dump that cannot be indexed; return what is said. Nothing is left."""
    catalog = dump.parent / "catalog"
    before = dump.read_bytes()
    said = invoke.run(
        "index", str(dump), *args, env=invoke.environment(BACKUP_DIR=str(catalog)), code=code
    )
    assert invoke.left_over(catalog) == []
    assert dump.read_bytes() == before
    return said


def members(data: bytes) -> bytes:
    """Compress as several processes would, in members that end anywhere."""
    step = len(data) // 3 + 1
    return b"".join(gzip.compress(data[at : at + step], 1) for at in range(0, len(data), step))


WAYS: dict[int, tuple[list[str], Callable[[bytes], bytes]]] = {
    15: (["--clean", "--if-exists"], members),
    17: (["--create", "--verbose"], zstd.compress),
    18: ([], bytes),
}


def test_indexed_dump_restores(server: Server, objects: str, tmp_path: Path) -> None:
    """A2.1, A3.7, B27, D19: as pg_dump of its major writes it, by pgkeep and by hand."""
    options, compress = WAYS[servers.major_of(server)]
    dump = tmp_path / "old_20260506_070809.dump"
    dump.write_bytes(compress(servers.dump(server, objects, *options)))
    database = [] if "--create" in options else [f"--database={objects}"]
    artifact = index(dump, tmp_path / "catalog", *database)
    invoke.run("verify", str(artifact), env=invoke.environment())
    major = servers.major_of(server)
    try:
        invoke.restore(server, artifact, f"indexed {major}")
        assert_same_database(server, objects, server, f"indexed {major}", ignore_database=True)
        if major != 18:  # with --clean, psql stops at views that it wants to replace
            return
        servers.sql(server, "postgres", f'create database "by hand {major}" template template0')
        invoke.restore_by_hand(server, artifact, f"by hand {major}")
        assert_same_database(server, objects, server, f"by hand {major}", ignore_database=True)
    finally:
        servers.drop(server, f"indexed {major}")
        servers.drop(server, f"by hand {major}")


@pytest.mark.parametrize("server", [12, 16], ids=lambda major: f"pg{major}", indirect=True)
def test_dump_of_another_major_restores(
    server: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    source = database(server)
    servers.load_objects(server, source, rows=500)
    dump = tmp_path / NAME
    dump.write_bytes(gzip.compress(servers.dump(server, source)))
    artifact = index(dump, tmp_path / "catalog", "--database=app")
    target = f"indexed {servers.major_of(server)}"
    try:
        invoke.restore(server, artifact, target)
        assert_same_database(server, source, server, target, ignore_database=True)
    finally:
        servers.drop(server, target)


def test_insert_dump_restores(
    pg17: Server, database: DatabaseFactory, disposables: Disposables, tmp_path: Path
) -> None:
    """Rows with line ends and semicolons, in several members, are INSERTed in their order."""
    source, by_psql = database(pg17), database(pg17)
    servers.sql(pg17, source, """create table "o'hara" (id int, note text)""")
    note = "repeat(md5(n::text), 6) || E';\\n''--' || n"
    servers.sql(
        pg17, source, f"""insert into "o'hara" select n, {note} from generate_series(1, 20000) n"""
    )
    script = servers.dump(pg17, source, "--inserts", "--rows-per-insert=50")
    dump = tmp_path / NAME
    dump.write_bytes(gzip.compress(script, 1))
    artifact = index(dump, tmp_path / "catalog", "--database=app")
    objects = Artifact(LocalSource(artifact)).index.objects
    assert len([entry for entry in objects if entry.type == "TABLE DATA"]) > 2
    (manifest,) = (tmp_path / "catalog").glob("*.manifest.json")
    assert "INSERT statements, which are not counted" in manifest.read_text()
    target = disposables.name(pg17)
    invoke.restore(pg17, artifact, target)
    servers.psql_bytes(pg17, by_psql, script=script)
    assert_same_database(pg17, by_psql, pg17, target, ignore_database=True)


def test_sql_stays_as_it_is(plain: bytes, tmp_path: Path) -> None:
    """Without our first comment, and where a table was cut, it is the dump byte for byte."""
    dump = tmp_path / NAME
    dump.write_bytes(plain)
    artifact = index(dump, tmp_path / "catalog", "--database=app")
    done = subprocess.run(
        [invoke.PGKEEP, "cat", str(artifact)],
        env=invoke.environment(),
        capture_output=True,
        check=True,
    )
    _, beginning, rest = done.stdout.partition(b"--\n-- PostgreSQL database dump\n--\n")
    again = rb"\." + b"\nCOPY app.orders (id, note, price) FROM stdin;\n"
    assert rest.count(again) == 1
    assert beginning + rest.replace(again, b"") == plain
    assert dump.read_bytes() == plain
    assert b"Two\nlines" in plain
    names = {row.name for row in Artifact(LocalSource(artifact)).index.table_rows()}
    assert names == {"orders", "Two\nlines"}
    table = ["cat", str(artifact), '--table="Two\nlines"']
    rows = invoke.run(*table, env=invoke.environment())  # a little of a member that is large
    statement = plain[plain.index(b'COPY app."Two') :]
    statement = statement[: statement.index(b"\n\\.\n") + 6]
    assert rows[rows.index("COPY ") :].encode() == statement


def test_indexed_dump_is_drilled(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """Also with an extension, whose version the dump does not say."""
    source = database(pg17)
    servers.sql(pg17, source, "create extension hstore; create table t (a hstore)")
    servers.sql(pg17, source, "insert into t values ('a=>1'), (null)")
    dump = tmp_path / NAME
    dump.write_bytes(servers.dump(pg17, source))
    artifact = index(dump, tmp_path / "catalog", "--database=app")
    said = invoke.run("drill", f"--backup={artifact}", "--json", env=invoke.environment(pg17))
    assert "hstore has version" not in said


def test_manifest_says_what_is_known(pg17: Server, plain: bytes, app: str, tmp_path: Path) -> None:
    """A3.6: what the dump does not say is not made up."""
    dump = tmp_path / NAME
    dump.write_bytes(plain)
    catalog = tmp_path / "catalog"
    env = invoke.environment(BACKUP_DIR=str(catalog), BACKUP_TIMEZONE="Europe/Berlin")
    args = ["--database=app", "--type=weekly", "--json"]
    manifest = json.loads(invoke.run("index", str(dump), *args, env=env))
    assert manifest["artifact"]["name"] == "app_weekly_20260506T050809Z.sql.gz"
    assert manifest["server"]["version"] == manifest["client_version"]
    assert manifest["server"]["version_num"] // 10000 == 17
    assert manifest["server"]["system_identifier"] == "0"
    assert manifest["database"] == {
        "name": "app", "owner": "", "encoding": "UTF8", "collate": "", "ctype": "",
    }  # fmt: skip
    assert manifest["verified"]
    assert sorted(manifest["tables"]) == [["app", "Two\nlines", 3], ["app", "orders", 90000]]
    (listed,) = json.loads(invoke.run("list", "--json", env=env))
    assert listed["manifest"] == manifest
    subprocess.run(
        ["sha256sum", "-c", "--quiet", *catalog.glob("*.sha256")], cwd=catalog, check=True
    )
    said = invoke.run("index", str(dump), *args, env=env, code=9)
    assert "app_weekly_20260506T050809Z.sql.gz exists already in" in said


def test_create_gives_locale_and_owner(
    pg17: Server, disposables: Disposables, database: DatabaseFactory, tmp_path: Path
) -> None:
    r"""A3.6, A3.7: \connect leads nowhere, settings of the database are named as left out."""
    owner, reader = disposables.role(pg17), disposables.role(pg17)
    source = database(pg17, f"encoding latin1 locale 'C' owner {owner}")
    servers.sql(
        pg17, source, f"alter database {source} set work_mem = '5MB'; create table t (a int)"
    )
    servers.sql(pg17, source, f"grant select on t to {reader} with grant option")
    dump = tmp_path / NAME
    dump.write_bytes(servers.dump(pg17, source, "--create"))
    artifact = index(dump, tmp_path / "catalog")
    target = disposables.name(pg17)
    invoke.restore(pg17, artifact, target)
    facts = (
        "select datdba::regrole::text, encoding, datcollate from pg_database where datname = %(n)s"
    )
    assert servers.sql(pg17, "postgres", facts, n=target) == servers.sql(
        pg17, "postgres", facts, n=source
    )
    assert servers.sql(pg17, target, "select count(*) from t") == [(0,)]
    manifest = json.loads(next((tmp_path / "catalog").glob("*.manifest.json")).read_text())
    assert reader in manifest["roles"]
    assert "\\connect, DATABASE, DATABASE PROPERTIES" in str(manifest["warnings"][-1])


def test_unknown_locale_is_the_servers_own(
    pg17: Server, disposables: Disposables, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A3.6: that of template0, or C where it does not fit the encoding."""
    facts = """select pg_encoding_to_char(encoding), datcollate, datctype
               from pg_database where datname = %(n)s"""
    own = servers.sql(pg17, "postgres", facts, n="template0")
    for encoding, expected in (("UTF8", own), ("LATIN1", [("LATIN1", "C", "C")])):
        source = database(pg17, f"encoding {encoding} locale 'C'")
        servers.sql(pg17, source, "create table t (a text); insert into t values ('\u00fc')")
        dump = tmp_path / f"{encoding}_20260506_070809.sql"
        dump.write_bytes(servers.dump(pg17, source))
        artifact = index(dump, tmp_path / "catalog", f"--database={encoding}")
        target = disposables.name(pg17)
        invoke.restore(pg17, artifact, target)
        assert servers.sql(pg17, "postgres", facts, n=target) == expected
        assert servers.sql(pg17, target, "select a from t") == [("\u00fc",)]


def test_pg_dumpall_of_one_database(tmp_path: Path) -> None:
    """Roles go to the globals, which create them again and drop nothing."""
    with Server(servers.bin_folder(17)) as server:
        servers.sql(server, "postgres", "create role app_owner")
        servers.sql(server, "postgres", "create database app owner app_owner")
        servers.sql(server, "app", "create table t (a int); alter table t owner to app_owner")
        servers.sql(server, "app", "insert into t values (1), (2)")
        for options in ([], ["--clean", "--if-exists"]):
            way = "clean" if options else "plain"
            dump = tmp_path / way / NAME
            dump.parent.mkdir()
            dump.write_bytes(
                gzip.compress(servers.run(server, "postgres", ["pg_dumpall", *options]))
            )
            which = ["--database=app"] if options else []  # by then there is another one
            artifact = index(dump, tmp_path / way / "catalog", *which)
            roles = gzip.decompress(
                artifact.with_name(artifact.name.replace(".sql", ".globals.sql")).read_bytes()
            )
            assert b"CREATE ROLE app_owner" in roles
            assert b"\nDROP " not in roles
            servers.psql_bytes(server, "postgres", script=roles)
            invoke.restore(server, artifact, f"copy_{way}")
            assert_same_database(server, "app", server, f"copy_{way}", ignore_database=True)
        servers.sql(server, "postgres", "create database by_hand template template0")
        invoke.restore_by_hand(server, artifact, "by_hand")
        assert_same_database(server, "app", server, "by_hand", ignore_database=True)
        several = tmp_path / NAME
        several.write_bytes(servers.run(server, "postgres", ["pg_dumpall"]))
        assert "databases: app, by_hand, copy_clean, copy_plain" in refused(several, code=9)


# As pg_dump before 15 writes it: the schema public is dropped and made anew.
CLEAN_14 = rb"""--
-- PostgreSQL database dump
--

-- Dumped from database version 14.2 (Debian 14.2-1.pgdg110+1)
-- Dumped by pg_dump version 14.2

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET row_security = off;

DROP TABLE%b public.t;
DROP SCHEMA%b public;
--
-- Name: public; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA public;


SET default_tablespace = '';

--
-- Name: t; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.t (
    a integer
);


--
-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.t (a) FROM stdin;
7
\.


--
-- PostgreSQL database dump complete
--

"""


@pytest.mark.parametrize("condition", [b"", b" IF EXISTS"], ids=["always", "if exists"])
def test_clean_dump_restores(
    pg17: Server, disposables: Disposables, tmp_path: Path, condition: bytes
) -> None:
    dump = tmp_path / NAME
    dump.write_bytes(CLEAN_14 % (condition, condition))
    artifact = index(dump, tmp_path / "catalog", "--database=app")
    target = disposables.name(pg17)
    invoke.restore(pg17, artifact, target)
    assert servers.sql(pg17, target, "select a from public.t") == [(7,)]
    (manifest,) = (tmp_path / "catalog").glob("*.manifest.json")
    assert ("DROP statements fail in a new database" in manifest.read_text()) == (not condition)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda sql: gzip.compress(b""), "the dump is empty"),
    "cut gzip": (lambda sql: gzip.compress(sql, 1)[:-100_000], "truncated gzip data"),
    "changed": (lambda sql: _flip(gzip.compress(sql, 1)), "damaged gzip data"),
    "cut zstd": (lambda sql: zstd.compress(sql)[:-9], "truncated zstd data"),
    "cut in a COPY": (lambda sql: sql[: len(sql) // 2], "ends inside the data of a COPY"),
    "no ending": (lambda sql: sql.replace(b"dump complete", b"dump comp"), "truncated dump"),
    "open quote": (lambda sql: sql.replace(b"as integer", b"", 1) + b"'", "quoted string"),
    "a command": (lambda sql: sql.replace(b"\nCOPY ", b"\n\\! id\nCOPY ", 1), "psql command"),
    "not announced": (lambda sql: sql.replace(b"-- Data for Name", b"-- D", 1), "announces"),
    "not SQL": (lambda _: os.urandom(1000), "not a plain dump"),
}


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_dump_is_refused(plain: bytes, tmp_path: Path, damage: str) -> None:
    """A2.1, A2.2, B27: with the place, and nothing is written."""
    change, message = DAMAGE[damage]
    dump = tmp_path / NAME
    dump.write_bytes(change(plain))
    said = refused(dump, "--database=app", code=5)
    assert message in said
    assert ("byte" in said) == (damage != "not SQL")


def test_what_cannot_become_an_artifact_is_refused(
    pg17: Server, plain: bytes, app: str, tmp_path: Path
) -> None:
    """Each with what was found and what to do."""
    dump = tmp_path / NAME

    def attempt(data: bytes, *args: str) -> str:
        dump.write_bytes(data)
        return refused(dump, *args, code=9)

    assert "does not contain the name of its database" in attempt(plain)
    old = plain.replace(b"set_config('search_path', '', false)", b"now()")
    assert "the dump was edited" in attempt(old, "--database=app")
    authorization = servers.dump(pg17, app, "--use-set-session-authorization")
    assert "--use-set-session-authorization" in attempt(authorization, "--database=app")
    triggers = servers.dump(pg17, app, "--data-only", "--disable-triggers")
    assert "--disable-triggers" in attempt(triggers, "--database=app")
    created = servers.dump(pg17, app, "--create")
    assert f"holds database {app}, not other" in attempt(created, "--database=other")
    artifact = invoke.backup(pg17, app, tmp_path / "ours")
    assert "is a backup file of pgkeep" in attempt(artifact.read_bytes())


def test_runs_of_one_database_keep_out_of_each_others_way(plain: bytes, tmp_path: Path) -> None:
    """B11: a backup would take the other's unfinished files for those of a killed run."""
    dump = tmp_path / NAME
    dump.write_bytes(plain)
    with LocalStore(tmp_path / "catalog").lock(".app.lock") as alone:
        assert alone
        assert "already running" in refused(dump, "--database=app", code=10)


BERLIN = ZoneInfo("Europe/Berlin")
WEEKLY, MONTHLY, DAILY = BackupType.WEEKLY, BackupType.MONTHLY, BackupType.DAILY


@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("x", "backup_2024_05_06T07_08_09.sql.gz", (None, None, "2024-05-06 07:08:09", None)),
        ("last", "my-app-20240506-070809.sql.gz",
         ("my-app", BackupType.MANUAL, "2024-05-06 07:08:09", None)),
        ("daily", "app-20240506.sql.gz", ("app", DAILY, "2024-05-06", "2024-05-07")),
        ("weekly", "app-202419.sql.gz", ("app", WEEKLY, "2024-05-06", "2024-05-13")),
        ("weekly", "app-202405.sql.gz", ("app", WEEKLY, "2024-01-29", "2024-02-05")),
        ("monthly", "app-202405.sql.gz", ("app", MONTHLY, "2024-05-01", "2024-06-01")),
        ("monthly", "app-202413.sql.gz", ("app", MONTHLY, None, None)),
        ("x", "app-202405.sql.gz", (None, None, None, None)),
        ("x", "app-2024-05-06.sql", (None, None, "2024-05-06", "2024-05-07")),
        ("x", "20240506T0708.sql.zst", (None, None, "2024-05-06 07:08", None)),
        ("x", "app_20241399.sql", (None, None, None, None)),
        ("x", "nightly.sql", (None, None, None, None)),
    ],
)  # fmt: skip
def test_names_tell_database_tier_and_time(
    folder: str, name: str, expected: tuple[str | None, BackupType | None, str | None, str | None]
) -> None:
    database, kind, *times = expected
    begin, end = (
        None if time is None else datetime.fromisoformat(time).replace(tzinfo=BERLIN)
        for time in times
    )
    assert guess(name, folder, BERLIN) == Guess(database, kind, begin, end)


def test_our_own_names_are_read() -> None:
    found = guess("app_weekly_20240506T070809Z.sql.zst", "daily", BERLIN)
    assert found == Guess("app", WEEKLY, datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC))


def test_time_comes_from_the_dump_then_its_name_then_its_file() -> None:
    day = datetime(2024, 5, 6, tzinfo=UTC)
    options = IndexOptions(jobs=1, modified=day + timedelta(hours=3))
    inexact = Guess(time=day, end=day + timedelta(days=1))
    verbose = b"--\n-- Started on 2024-05-06 07:08:09 %b\n\n"
    started = when(verbose % b"UTC", options)
    assert started is not None
    assert started.time == day.replace(hour=7, minute=8, second=9)
    foreign_zone = when(verbose % b"XST", options)
    assert foreign_zone is not None
    assert foreign_zone.time == options.modified
    for modified, time in ((options.modified, options.modified), (day - timedelta(days=9), day)):
        found = when(b"", IndexOptions(jobs=1, guess=inexact, modified=modified))
        assert found is not None
        assert found.time == time
    assert when(b"", IndexOptions(jobs=1)) is None


def test_folder_of_dumps_is_adopted(
    pg17: Server, app: str, disposables: Disposables, tmp_path: Path
) -> None:
    """B15, docker-postgres-backup-local: links once, damaged ones named, everything else done."""
    weekly = tmp_path / "weekly"
    (weekly / "below").mkdir(parents=True)
    whole = servers.dump(pg17, app, "-Z1", "--schema=app", "--blobs")
    (weekly / "app-202419.sql.gz").write_bytes(whole)
    (weekly / "app-202420.sql.gz").write_bytes(whole[:-5000])
    (weekly / "app-202421.sql.gz").write_bytes(gzip.compress(b""))
    (weekly / "app-latest.sql.gz").symlink_to("app-202419.sql.gz")
    (weekly / "below" / "app-202418.sql.gz").write_bytes(whole)
    (weekly / "README").write_text("hello")
    before = sorted(path.name for path in weekly.iterdir())
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "catalog"))
    said = invoke.run("adopt", str(weekly), env=env, code=5)
    assert "1 dump indexed, 2 damaged" in said
    assert "app-202420.sql.gz" in said
    ((artifact, database),) = [
        (load["manifest"]["artifact"]["name"], load["manifest"]["database"]["name"])
        for load in json.loads(invoke.run("list", "--json", env=env))
    ]
    assert (artifact, database) == ("app_weekly_20240506T000000Z.sql.gz", "app")
    target = disposables.name(pg17)
    invoke.restore(pg17, tmp_path / "catalog" / artifact, target)
    assert_same_database(pg17, app, pg17, target, ignore_database=True)
    (weekly / "app-202420.sql.gz").unlink()
    (weekly / "app-202421.sql.gz").unlink()
    outcomes = json.loads(invoke.run("adopt", str(weekly), "--json", env=env))
    assert {outcome["file"]: outcome["state"] for outcome in outcomes} == {
        "README": "other", "app-202419.sql.gz": "there", "app-latest.sql.gz": "link",
    }  # fmt: skip
    assert sorted(path.name for path in weekly.iterdir()) == [
        one for one in before if not one.startswith(("app-202420", "app-202421"))
    ]


def test_folder_of_cookiecutter_django_is_adopted(plain: bytes, tmp_path: Path) -> None:
    """Its names have no database: without --database nothing is guessed."""
    folder = tmp_path / "backups"
    folder.mkdir()
    for day in (6, 7):
        dump = folder / f"backup_2024_05_0{day}T07_08_09.sql.gz"
        dump.write_bytes(gzip.compress(plain, 1))
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "catalog"))
    assert "does not contain the name of its database" in invoke.run(
        "adopt", str(folder), env=env, code=9
    )
    args = ["--database=app", "--type=daily"]
    said = invoke.run("adopt", str(folder), *args, env=env)
    assert said.endswith("done: 2 dumps indexed\n")
    assert max(len(line) for line in said.splitlines()) <= 80
    listed = json.loads(invoke.run("list", "--json", env=env))
    assert [one["manifest"]["taken"] for one in listed] == [
        "2024-05-06T07:08:09Z", "2024-05-07T07:08:09Z",
    ]  # fmt: skip


def test_what_a_dump_of_others_holds_is_not_taken_for_more(
    pg15: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """One table is no database, and rows alone are nothing: beside a backup neither is the newest.

    Their drill is green where they come back: large objects of old-fashioned strings too, and rows
    that are INSERT statements, which are not compared, as a warning says.
    """
    app = database(pg15)
    servers.sql(
        pg15, app, "create table a as select generate_series(1, 10) i; create table b (i int)"
    )
    servers.sql(pg15, app, "select lo_from_bytea(4711, '\\xc0ffee')")
    servers.sql(
        pg15, app, f"alter database {servers.quoted(app)} set standard_conforming_strings = off"
    )
    place = tmp_path / "b"
    env = invoke.environment(pg15, app, BACKUP_DIR=str(place))
    own = invoke.backup(pg15, app, place, "--verify")
    dumps = {"rows": ["-a"], "one": ["-t", "a", "--inserts"], "all": []}
    for number, (name, options) in enumerate(dumps.items(), 1):
        file = tmp_path / f"{name}.sql"
        file.write_bytes(servers.dump(pg15, app, *options))
        os.utime(file, (clock.time() + 60 * number,) * 2)  # newer
        invoke.run("index", str(file), f"--database={app}", f"--output={tmp_path / name}", env=env)
        for path in (tmp_path / name).glob("*.*"):
            if name != "all":
                shutil.copy(path, place)
    states = [line.split()[-1] for line in invoke.run("list", env=env).splitlines()[2:]]
    assert sorted(states) == ["indexed", "only", "verified"]
    plan = json.loads(
        invoke.run("restore", "--latest", "--target-db=x", "--dry-run", "--json", env=env)
    )
    assert plan["file"] == str(own)
    assert f"no backup of database {app}" in invoke.run(
        "restore", "--latest", f"--database={app}", f"--dir={tmp_path / 'rows'}", env=env, code=9
    )
    assert json.loads(invoke.run("status", "--json", env=env))["databases"][0]["newest"] in str(own)
    for name in ("all", "one"):
        status, out, err = invoke.complete("drill", f"--dir={tmp_path / name}", env=env)
        assert status == 0, out + err
        assert ("INSERT statements" in err) is (name == "one")
