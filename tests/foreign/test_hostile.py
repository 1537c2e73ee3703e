"""Dumps and backup files that somebody made to harm (traps G1)."""

import gzip
import hashlib
import itertools
import random
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from pgkeep import errors as e
from pgkeep import processes
from pgkeep.artifact import compression, verify
from pgkeep.artifact.file import (
    INDEX_LIMIT,
    MEMBER_LIMIT,
    Artifact,
    Index,
    Marker,
    Member,
    Object,
    _encode_index,
    _read_marker,
)
from pgkeep.foreign import index
from pgkeep.foreign.names import Guess
from pgkeep.model.manifest import Grant
from pgkeep.model.naming import Compression
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.restore.plan import RestoreOptions
from pgkeep.restore.planning import make_plan
from pgkeep.restore.restore import execute
from pgkeep.sql import dialect, script
from pgkeep.sql.scanner import Scanner
from pgkeep.stores.memory import MemorySource, MemoryStore
from tests.conftest import DatabaseFactory
from tests.support import invoke
from tests.support import servers as servers_module
from tests.support.servers import Servers, drop, load_objects, programs_for, run

TIME = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)

# What psql would execute, with the path that shows it.
COMMANDS = (
    "\\! touch P",
    "\\o |touch P",
    "\\copy (select 1) to program 'touch P'",
    "\\g |touch P",
    "\\i P",
    "\\setenv PAGER touch",
    "\\connect postgres",
    "\\set x `touch P`",
)
# Where psql takes a command: anywhere outside of quotes, comments and the rows of a COPY.
PLACES = (
    "%s\n",
    " %s\n",
    "\t%s\n",
    "SELECT 1; %s\n",
    "SELECT 1 %s\n",
    ";%s\n",
    "/* a */ %s\n",
    "SELECT 'a' %s\n",
    "SELECT $$a$$ %s\n",
    'SELECT 1 AS "a" %s\n',
)
# Ways to have the scanner, but not psql, believe that a command stands within quotes or rows.
DISGUISES = (
    "SET standard_conforming_strings TO off;\nSELECT 'a\\'' %s --';\n",
    "SET Standard_Conforming_Strings = 'off';\nSELECT 'a\\'' %s --';\n",
    "SET SESSION standard_conforming_strings = off;\nSELECT 'a\\'' %s --';\n",
    "SELECT set_config('standard_conforming_strings','off',false);\nSELECT 'a\\'' %s --';\n",
    "SELECT E'a'\n'b\\'' %s '\n;\n",
    "SELECT E'a' -- a\n  'b\\'' %s '\n;\n",
    "SELECT 1$a$'$a$ %s --'\n;\n",
    "SELECT $1$a$'$a$ %s --'\n;\n",
    "SELECT a$b$'$b$ %s --'\n;\n",
    "-- a\r%s\n",
    "-- '\rSELECT 1 -- ' %s\n",
    "COPY t (a) FROM stdin;\n\\.\r\n%s\n\\.\n",
    "copy t (a) FROM stdin;\n'\n\\.\n%s --'\n",
    "COPY t (a) FROM stdin WITH (FORMAT text);\n'\n\\.\n%s --'\n",
    "\\restrict abc %s\n\\unrestrict abc\n",
    "\\restrict abc\n\\unrestrict abc %s\n",
    "\\unrestrict abc\n%s\n",
    "\\connect postgres %s\n",
    "\\connect `touch P`\n",
    "\\connect -reuse-previous=on \"dbname='x' host='evil'\"\n",
    "\\encoding SQL_ASCII %s\n",
    "SELECT :'LAST_ERROR_MESSAGE' %s\n",
    "SELECT :LAST_ERROR_MESSAGE;\n",
    'SELECT :"SQLSTATE";\n',
    "SELECT :{?ERROR};\n",
    "SELECT 1;\0 %s\n",
)


def spellings() -> Iterator[str]:
    for place, command in itertools.product(PLACES, COMMANDS):
        yield place % command
    for disguise in DISGUISES:
        yield disguise % COMMANDS[0] if "%s" in disguise else disguise


def test_enough_spellings() -> None:
    assert len(set(spellings())) >= 100


@pytest.fixture(scope="module")
def dump(servers: Servers) -> Iterator[bytes]:
    """A plain dump of pg_dump with a place for something else in it."""
    server = servers(17)
    servers_module.sql(server, "postgres", "create database hostile_source")
    try:
        servers_module.sql(
            server, "hostile_source", "create table t (a int); insert into t values (1), (2)"
        )
        yield servers_module.dump(server, "hostile_source")
    finally:
        drop(server, "hostile_source")


def with_text(dump: bytes, text: str, *, at_end: bool) -> bytes:
    """Put something between two entries: before the rows, or before the ending."""
    mark = b"--\n-- PostgreSQL database dump complete" if at_end else b"--\n-- Data for Name: t;"
    before, found, after = dump.partition(mark)
    assert found
    return before + text.encode() + found + after


@pytest.mark.parametrize("at_end", [False, True])
def test_psql_commands_are_refused_by_verify(dump: bytes, *, at_end: bool) -> None:
    """G1.1, A1.8: verify reads them all; none may pass."""
    for text in spellings():
        data = with_text(dump, text, at_end=at_end)
        try:
            report = verify.verify_source(MemorySource("x", data), jobs=1, progress=lambda _: None)
        except e.VerificationFailed:
            continue
        finally:
            store = MemoryStore()
            options = index.IndexOptions(jobs=1, guess=Guess("app"), modified=TIME)
            with pytest.raises((e.VerificationFailed, e.Refused)):
                index.index(MemorySource("x", data), store, options, Silent())
            assert store.files == {}
        # The SQL that changes how strings are read is no psql command: it is listed.
        assert report.statements or (report.connects and text == "\\connect postgres\n"), text


# Parts from which texts are made that psql and a scanner might read differently.
WORDS = "' '' \" E' e' U&' U&\" B' N' $$ $a$ $1 1 a _ \\ \\' \\\\ -- /* */ ( ) ; : :: :' a:b = é &"
PARTS = (
    *WORDS.split(" "),
    *" \n\t\r\f",
    *("SELECT ", "CREATE FUNCTION f() ", "BEGIN ATOMIC\n", "END;", ":USER"),
    *("COPY t (a) FROM stdin;\n", "\\.\n"),
    *(before + "\\! touch P\n" for before in ("", " ", "'", "; ", "--'")),
)


def what_passes(dump: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield dumps that the scanner accepts, made of random parts."""
    chance = random.Random(seed)  # noqa: S311
    while count:
        parts = chance.choices(PARTS, k=chance.randint(3, 14))
        text = "".join([*parts, "\\! touch P\n", *chance.choices(PARTS, k=chance.randint(0, 8))])
        for end in ("", "'\n", "'\n;\n", "$$\n;\n", "$a$;\n", '";\n', "*/\n", ");\n", "\\.\n"):
            data = with_text(dump, text + end, at_end=True)
            try:
                verify.verify_source(MemorySource("x", data), jobs=1, progress=lambda _: None)
            except e.VerificationFailed:
                continue
            yield data
            count -= 1
            break


def test_psql_agrees_about_what_is_quoted(
    dump: bytes, pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G1.1: what the scanner lets pass runs nothing in psql."""
    check_with_psql(dump, pg17, database(pg17), tmp_path, seed=7, count=25)


def check_with_psql(
    dump: bytes, server: Server, name: str, folder: Path, *, seed: int, count: int
) -> None:
    sign = folder / "sign"
    psql = [programs_for(17).program("psql"), "-X", "-q", "-d", name]
    environment = {f"PG{key.upper()}": value for key, value in server.params.items()}
    for data in what_passes(dump, seed, count):
        # Without \\restrict, as from an older pg_dump, and without an end at the first error.
        text = re.sub(rb"(?m)^\\\\(?:un)?restrict .*\n", b"", data)
        text = text.replace(b"touch P", b"touch " + bytes(sign))
        subprocess.run(
            psql,
            input=text,
            env=processes.environment(environment),
            capture_output=True,
            check=False,
        )
        assert not sign.exists(), data


def test_connect_goes_nowhere(dump: bytes, pg17: Server, tmp_path: Path) -> None:
    r"""G1.1: only pg_dump -C writes a \\connect, and only to the database that it has created."""
    file = tmp_path / "app_20260506T070809.sql"
    file.write_bytes(with_text(dump, "\\connect postgres\n", at_end=False))
    env = invoke.environment(pg17, "postgres", BACKUP_DIR=str(tmp_path / "backups"))
    assert "\\connect among" in invoke.run("index", str(file), env=env, code=5)
    restore = ["restore", f"--backup={file}", "--target-db=hostile_target"]
    assert "\\connect" in invoke.run(*restore, "--allow-statements", env=env, code=9)


def test_psql_commands_run_nowhere(dump: bytes, pg17: Server, tmp_path: Path) -> None:
    """G1.1: through verify, index and restore, each as a command of its own."""
    sign = tmp_path / "sign"
    chosen = ["SELECT 1; \\! touch P\n", *(one % COMMANDS[0] for one in DISGUISES[:6])]
    for number, text in enumerate(chosen):
        file = tmp_path / f"app{number}_20260506T070809.sql"
        file.write_bytes(with_text(dump, text.replace("P", str(sign)), at_end=False))
        env = invoke.environment(pg17, "postgres", BACKUP_DIR=str(tmp_path / "backups"))
        said = invoke.run(
            "index",
            str(file),
            env=env,
            code=9 if text.startswith("SET") or "set_config" in text else 5,
        )
        assert "psql command" in said or "does not write" in said or "continues" in said, said
        said = invoke.run(
            "restore", f"--backup={file}", "--target-db=hostile_target", env=env,
            code=9 if "standard" in text.lower() else 5,
        )  # fmt: skip
        assert not sign.exists()
        assert invoke.left_over(tmp_path / "backups") == []
    assert (
        servers_module.sql(
            pg17, "postgres", "select 1 from pg_database where datname ~ '^hostile_t'"
        )
        == []
    )


def test_a_dump_is_loaded_without_psql(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G1.1: what the loader of plain dumps makes is what psql makes."""
    objects = database(pg17)
    load_objects(pg17, objects, rows=500)
    file = tmp_path / "plain.sql"
    # The database's own time zone is not in the dump.
    command, utc = ["pg_dump", "--schema-only"], {"PGTZ": "UTC"}
    counts, schema = table_counts(pg17, objects), run(pg17, objects, command, environment=utc)
    for number, options in enumerate((["--inserts"], ["--clean"], ["--clean", "--if-exists"], [])):
        file.write_bytes(servers_module.dump(pg17, objects, *options))
        target = f"{objects}_{number}"
        try:
            invoke.restore(pg17, file, target)
            assert table_counts(pg17, target) == counts
            copied = run(pg17, target, command, environment=utc)
            assert restricted(copied) == restricted(schema)
        finally:
            drop(pg17, target)


def table_counts(server: Server, dbname: str) -> list[tuple[str, int]]:
    query = (
        "select format('%I.%I', n.nspname, relname) from pg_class c"
        " join pg_namespace n on n.oid = relnamespace where relkind = 'r'"
        " and n.nspname !~ '^(pg_|information_schema)' and relname !~ 'by_mood' order by 1"
    )
    found = []
    with servers_module.connect(server, dbname) as connection:
        for (name,) in connection.execute(query).fetchall():
            counted = connection.execute(f"select count(*) from only {name}").fetchone()
            assert counted is not None
            found.append((name, counted[0]))
    return found


def restricted(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if not line.startswith((b"\\", b"-- Dumped"))]


def test_index_leaves_out_what_drops_the_database(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G1.2: pg_dump -C -c begins with DROP DATABASE, which must reach no other database."""
    live = database(pg17)
    servers_module.sql(pg17, live, "create table t as select generate_series(1, 10) a")
    for number, options in enumerate((["-C", "-c"], ["-C", "-c", "--if-exists"])):
        file = tmp_path / f"dump{number}.sql"
        file.write_bytes(servers_module.dump(pg17, live, *options))
        assert b"DROP DATABASE" in file.read_bytes()
        backups = tmp_path / f"backups{number}"
        env = invoke.environment(pg17, "postgres", BACKUP_DIR=str(backups))
        invoke.run("index", str(file), "--type=manual", env=env)
        (artifact,) = backups.glob("*.sql.gz")
        assert b"DROP DATABASE" not in gzip.decompress(artifact.read_bytes())
        for restore in (invoke.restore, invoke.restore_by_hand):
            target = database(pg17)
            if restore is invoke.restore:
                drop(pg17, target)
            restore(pg17, artifact, target)
            for name in (live, target):
                assert servers_module.sql(pg17, name, "select count(*) from t") == [(10,)]


class Changing(MemorySource):
    """A file that is another one when it is read again."""

    changed = False

    def read(self, start: int, length: int) -> bytes:
        data = super().read(start, length)
        return data.replace(b"\n1\n2\n", b"\n1\n3\n") if self.changed else data


def test_a_changed_file_is_not_loaded(dump: bytes, pg17: Server, database: DatabaseFactory) -> None:
    """G1.3: the second reading must find the bytes of the first."""
    target = database(pg17)
    drop(pg17, target)
    source = Changing("x", dump)
    plan = make_plan(Endpoint(pg17.params), source, RestoreOptions(jobs=1, target=target))
    progress = Late(source)
    with pytest.raises(e.VerificationFailed, match="x has changed since it was checked"):
        execute(plan, progress)
    assert progress.steps == ["checking the file", "loading"]
    assert (
        servers_module.sql(
            pg17, "postgres", f"select 1 from pg_database where datname ^@ '{target}'"
        )
        == []
    )


class Late(Silent):
    """Change a file when loading begins."""

    def __init__(self, source: Changing) -> None:
        self._source = source
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)
        self._source.changed = text == "loading"


STATEMENTS = {
    "DROP DATABASE app;": False,
    "CREATE ROLE x SUPERUSER;": False,
    "ALTER SYSTEM SET archive_command = 'x';": False,
    "DO $$ begin end $$;": False,
    "COPY t TO PROGRAM 'x';": False,
    "SELECT pg_catalog.lo_export(1, '/tmp/x');": False,
    "SELECT pg_catalog.setval('s', (SELECT f()), true);": False,
    "SELECT pg_catalog.setval('public.s', 7, true);": True,
    "SELECT pg_catalog.set_config('search_path', '', false);": True,
    "SELECT pg_catalog.set_config('role', 'postgres', false);": False,
    "SET role = postgres;": False,
    "SET client_encoding = 'UTF8';": True,
    "CREATE TABLE t AS SELECT f();": False,
    "CREATE TABLE t (a) AS (SELECT f());": False,
    "CREATE TABLE t (a text DEFAULT 'x AS SELECT');": True,
    "CREATE MATERIALIZED VIEW v AS\n SELECT f()\n  WITH NO DATA;": True,
    "CREATE MATERIALIZED VIEW v AS SELECT f();": False,
    "CREATE SCHEMA s CREATE TABLE t (a int);": False,
    "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p WITH (connect = true, a);": False,
    "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (connect = false, a = b);": True,
    "ALTER SUBSCRIPTION s ENABLE;": False,
    "GRANT postgres TO mallory;": False,
    "GRANT ALL ON DATABASE x TO mallory;": False,
    "GRANT SELECT ON TABLE public.t TO PUBLIC;": True,
    "INSERT INTO public.t VALUES (1, 'a', NULL, B'101', -1.5e+10, true);": True,
    "INSERT INTO public.t SELECT f();": False,
    "INSERT INTO public.t VALUES (f());": False,
    "INSERT INTO public.t VALUES ((SELECT 1));": False,
    "TRUNCATE t;": False,
    "DELETE FROM t;": False,
    "VACUUM;": False,
    "COMMENT ON DATABASE x IS 'y';": False,
    "COMMENT ON TABLE public.t IS 'it''s';": True,
    "LOAD 'x';": False,
    "CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public;": True,
    "PREPARE TRANSACTION 'x';": False,
    "LISTEN x;": False,
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_statements_that_pg_dump_writes(statement: str) -> None:
    assert dialect.is_known(statement.encode()) == STATEMENTS[statement]


# The rows of the large tables take long, above all a statement for each, and add no kind of one.
SMALL = ["--exclude-table-data=app.big*", "--exclude-table-data=app.updated"]
SMALL += ["--exclude-table-data=app.wide", "--exclude-table-data=app.toasted"]


@pytest.mark.parametrize("major", [15, 17, 18])
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-c", *SMALL],
        ["-c", "--if-exists", *SMALL],
        ["--inserts", *SMALL],
        ["--disable-triggers", "-a", *SMALL],
        ["--verbose", *SMALL],
    ],
)
def test_all_that_pg_dump_writes_is_known(servers: Servers, major: int, options: list[str]) -> None:
    server = servers(major)
    source = MemorySource("x", servers_module.dump(server, servers.objects(major), *options))
    report = verify.verify_source(source, jobs=1, progress=lambda _: None)
    assert report.statements == []


def test_statements_are_cut_as_the_server_cuts_them(pg17: Server, app: str) -> None:
    """Rules with several actions, bodies in SQL's own form, and semicolons in quotes."""
    servers_module.sql(
        pg17, app,
        """
        create function f(n int) returns int begin atomic
            select 1; select case when n > 0 then 1 else 2 end; end;
        create function g() returns text language sql as $$ select ';'; select 'BEGIN ATOMIC' $$;
        create rule r as on insert to u do also (delete from t where a = 7; notify x; )
        """,
    )  # fmt: skip
    text = servers_module.dump(pg17, app, "--schema-only")
    entries = text.split(b"\n--\n-- ")
    for name, count in ((b"FUNCTION", 1), (b"RULE", 1)):
        for entry in entries:
            if b"; Type: " + name in entry:
                sql = entry.partition(b"\n--\n")[2].partition(b"\n--\n-- Postgre")[0]
                found = list(dialect.statements_of(sql))
                assert len([one for one in found if one.startswith(b"CREATE")]) == count


# --- crafted backup files -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A backup of a small database."""
    server = servers(17)
    servers_module.sql(server, "postgres", "create database crafted_source")
    try:
        servers_module.sql(
            server, "crafted_source",
            "create table t as select generate_series(1, 1000) a; create index on t (a);"
            "create table u as select 1 a; create sequence q",
        )  # fmt: skip
        yield invoke.backup(server, "crafted_source", tmp_path_factory.mktemp("whole"))
    finally:
        drop(server, "crafted_source")


def crafted(path: Path, change: "Change", target: Path) -> Path:
    """Write the file anew with another index or other members; all hashes fit."""
    data = path.read_bytes()
    artifact = Artifact(MemorySource(str(path), data))
    members = [artifact.read(number) for number in range(len(artifact.index.members))]
    index = artifact.index
    change(index, members)
    packed = b""
    found = []
    for member, text in zip(index.members, members, strict=True):
        part = compression.gzip(text)
        digest = hashlib.sha256(part).hexdigest()
        found.append(Member(member.section, len(packed), len(part), len(text), digest))
        packed += part
    encoded = _encode_index(Index(index.meta, found, index.objects), Compression.GZIP)
    marker = Marker(Compression.GZIP, len(packed), len(encoded), hashlib.sha256(encoded).digest())
    target.write_bytes(packed + encoded + marker.encoded())
    return target


class Change:
    def __call__(self, index: Index, members: list[bytes]) -> None: ...


def first(index: Index, kind: str) -> Object:
    return next(entry for entry in index.objects if entry.type == kind)


def replace_text(index: Index, members: list[bytes], kind: str, text: bytes) -> None:
    """Replace an object's last statement by one of the same length."""
    one = first(index, kind)
    data = members[one.member]
    end = one.start + one.length
    assert len(text) < one.length
    new = data[one.start : end - len(text) - 1] + b"\n" + text
    members[one.member] = data[: one.start] + new + data[end:]


def settings(index: Index, members: list[bytes]) -> None:
    first(index, "TABLE").settings = "SET default_x = ''; DROP DATABASE postgres;\n"


def other_settings(index: Index, members: list[bytes]) -> None:
    first(index, "TABLE").settings = "SET default_tablespace = other;\n"


def removed(index: Index, members: list[bytes]) -> None:
    index.objects.remove(next(entry for entry in index.objects if entry.rows is not None))


def renamed(index: Index, members: list[bytes]) -> None:
    first(index, "TABLE").name = "another"


def owner(index: Index, members: list[bytes]) -> None:
    first(index, "TABLE").owner = "another"


def shifted(index: Index, members: list[bytes]) -> None:
    first(index, "TABLE").start += 40


def shortened(index: Index, members: list[bytes]) -> None:
    first(index, "TABLE").length -= 40


def overlong(index: Index, members: list[bytes]) -> None:
    index.objects[-1].length += 100_000


def negative(index: Index, members: list[bytes]) -> None:
    first(index, "TABLE").length = -1


def behind_rows(index: Index, members: list[bytes]) -> None:
    one = next(entry for entry in index.objects if entry.rows is not None)
    members[one.member] += b"DROP TABLE t;\n"


def among_rows(index: Index, members: list[bytes]) -> None:
    one = next(entry for entry in index.objects if entry.rows is not None)
    members[one.member] += b"DROP TABLE t;\n"
    one.length += len(b"DROP TABLE t;\n")


def drop_database(index: Index, members: list[bytes]) -> None:
    number = max(number for number, it in enumerate(index.members) if it.section == "pre")
    text = b"--\n-- Name: x; Type: TABLE; Schema: public; Owner: postgres\n--\n\nDROP DATABASE x;\n"
    index.objects.append(
        Object("TABLE", "public", "x", "postgres", number, len(members[number]), len(text))
    )
    members[number] += text


def connect(index: Index, members: list[bytes]) -> None:
    number = max(number for number, it in enumerate(index.members) if it.section == "pre")
    members[number] += b"\\connect postgres\n"


def between(index: Index, members: list[bytes]) -> None:
    number = max(number for number, it in enumerate(index.members) if it.section == "pre")
    members[number] += b"DROP TABLE public.t;\n"


def privilege(index: Index, members: list[bytes]) -> None:
    grant = Grant("postgres", "ALL", grantable=False)  # type: ignore[arg-type]
    facts = msgspec.structs.replace(index.meta.database, grants=[grant])
    index.meta = msgspec.structs.replace(index.meta, database=facts)


def database_name(index: Index, members: list[bytes]) -> None:
    facts = msgspec.structs.replace(index.meta.database, name="postgres")
    index.meta = msgspec.structs.replace(index.meta, database=facts)


CRAFTED = [
    settings, other_settings, removed, renamed, owner, shifted, shortened, overlong, negative,
    behind_rows, among_rows, drop_database, connect, between, privilege, database_name,
]  # fmt: skip


@pytest.mark.parametrize("change", CRAFTED, ids=lambda one: one.__name__)
def test_crafted_index_is_refused(
    whole: Path, change: "Change", pg17: Server, tmp_path: Path
) -> None:
    """G1.4: verify says no, and a restore changes nothing, though every hash fits."""
    file = crafted(whole, change, tmp_path / whole.name)
    env = invoke.environment(pg17, "postgres", BACKUP_DIR=str(tmp_path))
    invoke.run("verify", str(file), env=env, code=5)
    before = servers_module.sql(pg17, "postgres", "select count(*) from pg_database")
    # What only psql would see does no harm in a restore, which does not execute it.
    harmless = change in (other_settings, behind_rows, among_rows, connect, between)
    status, out, err = invoke.complete(
        "restore", f"--backup={file}", "--target-db=crafted_target", env=env
    )
    assert "Traceback" not in err
    assert (status == 0) <= harmless, out
    drop(pg17, "crafted_target")
    assert servers_module.sql(pg17, "postgres", "select count(*) from pg_database") == before


def test_the_unchanged_file_is_accepted(whole: Path, pg17: Server, tmp_path: Path) -> None:
    file = crafted(whole, lambda index, members: None, tmp_path / whole.name)  # type: ignore[arg-type]
    invoke.run("verify", str(file), env=invoke.environment(pg17, "postgres"))


def test_edited_file_is_restored_when_that_is_allowed(
    whole: Path, pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G1.5: the file can be inspected and modified, and the change is not hidden."""
    text = gzip.decompress(whole.read_bytes()).replace(
        b"--\n-- PostgreSQL database dump complete",
        b"DELETE FROM public.t WHERE a > 10;\n\n--\n-- PostgreSQL database dump complete",
    )
    file = tmp_path / whole.name
    file.write_bytes(gzip.compress(text, 1))
    target = database(pg17)
    drop(pg17, target)
    env = invoke.environment(pg17, "postgres", BACKUP_DIR=str(tmp_path))
    said = invoke.run("verify", str(file), env=env, code=5)
    assert "DELETE FROM public.t WHERE a > 10;" in said
    said = invoke.run("restore", f"--backup={file}", f"--target-db={target}", env=env, code=5)
    assert "--allow-statements" in said
    invoke.restore(pg17, file, target, "--allow-statements")
    assert servers_module.sql(pg17, target, "select count(*) from t") == [(10,)]


# --- reasons --------------------------------------------------------------------------------------


def test_reasons_say_what_was_found(dump: bytes) -> None:
    """G1.6: what a file is, and what makes a plain dump of it."""

    def through(*command: str) -> bytes:
        return subprocess.run(command, input=dump, capture_output=True, check=True).stdout

    found = {
        "compressed with xz": through("xz", "-c"),
        "compressed with bzip2": through("bzip2", "-c"),
        "a zip archive": b"PK\x03\x04" + bytes(100),
        "compressed with lz4": through("lz4", "-c"),
        "encrypted with openssl": through("openssl", "enc", "-aes-256-cbc", "-pbkdf2", "-k", "x"),
        "encrypted with age": b"age-encryption.org/v1\n-> X25519 " + bytes(100),
        # The beginnings of `gpg -c`, of `gpg -e` with RSA and with Curve 25519, and of gpg 2.4.
        "encrypted with gpg": bytes.fromhex("8c0d0409030223af03b886849"[:24]),
        "not a plain dump: encrypted with gpg": bytes.fromhex("85018c03a1b2c3d4e5f60718010c00"),
        "plain dump: encrypted with gpg": bytes.fromhex("845e03a1b2c3d4e5f60718120740"),
        "dump: encrypted with gpg": bytes.fromhex("c15e03a1b2c3d4e5f60718120740"),
        r"custom format of pg_dump \(PGDMP\), expected plain SQL": b"PGDMP" + bytes(100),
        "text in UTF-16": dump.decode().encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + dump,
        "found a message of pg_dump in the dump": b"pg_dump: warning: a\n" + dump,
        "do not have its 1 columns": dump.replace(b"\n1\n2\n", b"\n1\npg_dump: a\tb\n2\n"),
        "zero bytes after the end": gzip.compress(dump) + bytes(512),
        "after the end of the dump: COMMIT": dump + b"COMMIT;\n",
    }
    for said, data in found.items():
        with pytest.raises(e.VerificationFailed, match=said):
            verify.verify_source(MemorySource("x", data), jobs=1, progress=lambda _: None)
    cut = dump.rstrip(b"\n")
    assert verify.verify_source(MemorySource("x", cut), jobs=1, progress=lambda _: None).rows == 2


def test_little_that_unpacks_to_much_is_not_kept() -> None:
    """G1.7: a line without an end, a member and an index that hold more than they say."""
    scanner = Scanner(statements=True)
    words = itertools.repeat(b"a" * (1 << 20), 200)
    with pytest.raises(e.VerificationFailed, match="without a line end"):
        list(itertools.chain.from_iterable(map(scanner.feed, words)))
    scanner = Scanner(statements=True)
    collected = dialect.Statements(1 << 20)
    list(scanner.feed(b"INSERT INTO t VALUES ('"))
    given = 0
    for _ in range(32):
        for piece in scanner.feed(b"a" * (1 << 20)):
            assert isinstance(piece, script.Text)
            given += len(piece.data)
            collected.add(piece)
    assert given > 30 << 20
    assert sum(map(len, collected._parts)) <= 1 << 20


def test_members_and_indexes_are_bounded(whole: Path) -> None:
    """G1.7: compressed zeros, 1,000 times as many as their bytes."""
    data = whole.read_bytes()
    marker = _read_marker(MemorySource("x", data))
    bomb = compression.gzip(bytes(INDEX_LIMIT + 1))
    assert len(bomb) < INDEX_LIMIT // 500
    digest = hashlib.sha256(bomb).digest()
    end = marker._replace(length=len(bomb), digest=digest).encoded()
    with pytest.raises(e.VerificationFailed, match="the index has more than 512 MiB"):
        Artifact(MemorySource("x", data[: marker.offset] + bomb + end))
    artifact = Artifact(MemorySource("x", data))
    big = msgspec.structs.replace(artifact.index.members[0], raw=MEMBER_LIMIT + 1)
    artifact.index.members[0] = big
    with pytest.raises(e.VerificationFailed, match="bytes of definitions, expected at most"):
        artifact.read(0)
    small = msgspec.structs.replace(big, raw=10)
    artifact.index.members[0] = small
    with pytest.raises(e.VerificationFailed, match="bytes of SQL, expected"):
        artifact.read(0)


def test_search_path_that_was_edited(dump: bytes) -> None:
    """G1.6: what is missing in a dump of 17 was taken out of it; no old pg_dump has made it."""
    line = b"SELECT pg_catalog.set_config('search_path', '', false);\n"
    assert line in dump
    options = index.IndexOptions(jobs=1, guess=Guess("app"), modified=TIME)
    for text, said in (
        (dump.replace(line, b""), "the dump was edited"),
        (re.sub(rb"pg_dump version \S+", b"pg_dump version 10.2", dump.replace(line, b"")), "10.3"),
    ):
        with pytest.raises(e.Refused, match=said):
            index.index(MemorySource("x", text), MemoryStore(), options, Silent())
