"""Names and encodings that are legal, and that tools nevertheless break on."""

import gzip
import json
import subprocess
from pathlib import Path

import pytest
from psycopg import sql

from pgkeep.postgres.server import Server
from tests.support import invoke, servers
from tests.support.backups import globals_of
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables

TABLE = "create table t (id int primary key, note text); insert into t values (1, 'a'), (2, 'b')"

NAMES = {
    "conninfo": "a=b host=nowhere",
    "uri": "postgresql://x",
    "parent": "../../x",
    "dots": "..",
    "folder": "a/b",
    "quotes": "sp ace'q\"\\",
    "option": "-h",
    "percent": "a%41",
    "tilde": "~root",
    "glob": "*?[a]",
    "newline": "two\nlines",
    "escape": "\x1b[31mred",
    "dollar": "$(x)`x`$pgkeep$",
    "63 bytes": "界" * 21,
}


def stem(artifact: Path) -> str:
    return artifact.name.removesuffix(".sql.gz")


def test_databases_may_be_called_anything(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """A7.2, B16: backed up, listed, checked by sha256sum elsewhere, and restored."""
    for name in NAMES.values():
        servers.sql(pg17, disposables.database(pg17, name=name), TABLE)
    env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path / "made"))
    several = env | {"BACKUP_DATABASES": json.dumps([*NAMES.values()])}
    invoke.run("backup", "--type=monthly", env=several)
    moved = (tmp_path / "made").rename(tmp_path / "moved")
    assert sorted(tmp_path.iterdir()) == [moved]
    sums = sorted(f"./{path.name}" for path in moved.glob("*.sha256"))
    assert len(sums) == len(NAMES)
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", *sums],
        cwd=moved, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    env["BACKUP_DIR"] = str(moved)
    listed = json.loads(invoke.run("list", "--json", env=env))
    assert sorted(one["manifest"]["database"]["name"] for one in listed) == sorted(NAMES.values())
    shown = invoke.run("list", env=env)
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 1 + 2 * len(NAMES)
    for name in NAMES.values():
        servers.sql(pg17, name, "drop table t")
        invoke.run("restore", "--latest", f"--database={name}", "--drop-existing", "--discard-old",
                 "--yes", "--no-analyze", env=env)  # fmt: skip
        assert servers.sql(pg17, name, "select * from t order by 1") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("kind", ["63 bytes", "option", "uri"])
def test_one_database_may_be_called_anything(
    pg17: Server, disposables: Disposables, tmp_path: Path, kind: str
) -> None:
    """B16: also in the longest name that a file can get, and new on the server."""
    name = NAMES[kind]
    servers.sql(pg17, disposables.database(pg17, name=name), TABLE)
    env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path))
    invoke.run("backup", f"--database={name}", "--type=monthly", "--schema-only", env=env)
    (listed,) = json.loads(invoke.run("list", f"--database={name}", "--json", env=env))
    assert listed["manifest"]["database"]["name"] == name
    servers.drop(pg17, name)
    invoke.run("restore", f"--backup={listed['manifest']['artifact']['name']}", env=env)
    assert servers.sql(pg17, name, "select count(*) from t") == [(0,)]


def test_backups_of_names_that_begin_alike_are_told_apart(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """B9, B16: also where they differ by case, or look like a backup's own name."""
    names = ["app", "app_x", "app-2", "app_daily", "APP", "app_daily_20260101T000000Z", "app%20"]
    for name in names:
        servers.sql(pg17, disposables.database(pg17, name=name), TABLE)
        servers.sql(pg17, name, f"insert into t values (3, '{name}')")
    env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path))
    invoke.run("backup", "--type=daily", env=env | {"BACKUP_DATABASES": ",".join(names)})
    for name in names:
        target = disposables.name(pg17)
        invoke.run("restore", "--latest", f"--database={name}", f"--target-db={target}", env=env)
        assert servers.sql(pg17, target, "select note from t where id = 3") == [(name,)]
    (listed,) = json.loads(invoke.run("list", "--database=app", "--json", env=env))
    assert listed["manifest"]["database"]["name"] == "app"
    said = invoke.run("restore", "--latest", "--target-db=never", env=env, code=9)
    for name in names:
        assert name in said
    invoke.run("restore", "--latest", "--database=ap", "--target-db=never", env=env, code=9)


# An encoding, text that it can write, and names for everything.
ENCODINGS = {
    "LATIN1": "façade ÿ£",
    "EUC_JP": "日本語テーブル",
    "WIN1251": "таблица",
    "SQL_ASCII": "façade 界",
}


def wide(word: str, rows: int) -> list[sql.Composed]:
    """Fill a database whose every name holds the word; with many rows it is cut into slices."""
    name = sql.Identifier(word)
    return [
        sql.SQL("create table {} (id int primary key, {} text)").format(name, name),
        sql.SQL("alter table {} alter {} set storage plain").format(name, name),
        sql.SQL("insert into {} select n, n || repeat({}, 1900 / octet_length({}))"
                " from generate_series(1, {}) n").format(name, word, word, rows),
        sql.SQL("create schema {n}").format(n=name),
        sql.SQL("create sequence {n}.{n}").format(n=name),
        sql.SQL("create domain {n}.{d} as text default {w}").format(
            n=name, d=sql.Identifier(word + "d"), w=word),
        sql.SQL("create view {n}.{v} as select {n} from {n} where {n} <> {w}").format(
            n=name, v=sql.Identifier(word + "v"), w=word),
        sql.SQL("create index {i} on {n} (lower({n})) where id < 0").format(
            i=sql.Identifier(word + "i"), n=name),
        sql.SQL("comment on table {n} is {w}").format(n=name, w=word),
        sql.SQL("create function {n}.{n}() returns text language sql as {b}").format(
            n=name, b=f"select '{word}\\n'::text"),
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_encoding_is_kept_byte_by_byte(
    pg17: Server, disposables: Disposables, tmp_path: Path, encoding: str
) -> None:
    """A3.14, B32: names and data that are not UTF-8, in slices too; by pgkeep and by hand."""
    word = ENCODINGS[encoding]
    database = disposables.database(pg17, f"encoding '{encoding}' locale 'C'")
    with servers.connect(pg17, database, client_encoding="utf8") as connection:
        for statement in wide(word, 20_000 if encoding == "EUC_JP" else 9_000):
            connection.execute(statement)
        if encoding == "SQL_ASCII":
            # Bytes that are no text in any encoding, as data, as a name and as a comment.
            connection.execute("set client_encoding = latin1")
            connection.execute(b'create table "odd \xe9\xff" ("\xe9" text)')
            connection.execute(b"insert into \"odd \xe9\xff\" values (E'\xff\xfe\xe9 \\\\ \xe3')")
            connection.execute(b"comment on table \"odd \xe9\xff\" is '\xe9'")
            connection.execute(b'create index "bad \xe9" on "odd \xe9\xff" ("\xe9")')
            connection.execute(
                b"update pg_index set indisvalid = false where indexrelid ="
                b" (select oid from pg_class where relname like 'bad %')"
            )
    artifact = invoke.backup(pg17, database, tmp_path, "--verify", BACKUP_JOBS="2")
    if encoding == "EUC_JP":
        content = gzip.decompress(artifact.read_bytes())
        assert content.count(b"\nCOPY public." + f'"{word}"'.encode("euc_jp")) > 1
    target, by_hand = (
        disposables.name(pg17),
        disposables.database(pg17, f"encoding '{encoding}' locale 'C'"),
    )
    invoke.restore(pg17, artifact, target)
    assert_same_database(pg17, database, pg17, target)
    invoke.restore_by_hand(pg17, artifact, by_hand)
    assert_same_database(pg17, database, pg17, by_hand, ignore_database=True)


def test_names_of_the_cluster_are_utf8_whatever_a_database_is(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """A3.14: roles and databases are shared: their bytes are not in this database's encoding."""
    owner, guest = disposables.role(pg17, name="Besitzer Ü"), disposables.role(pg17, name="gäst")
    database = disposables.database(pg17, "encoding 'LATIN1' locale 'C'", name="Größe")
    servers.sql(
        pg17,
        "postgres",
        f"alter database {servers.quoted(database)} owner to {servers.quoted(owner)}",
    )
    servers.sql(pg17, "postgres", f"alter role {servers.quoted(guest)}"
        f" in database {servers.quoted(database)}"
          " set work_mem = '7MB'")  # fmt: skip
    servers.sql(
        pg17,
        "postgres",
        f"grant create on database {servers.quoted(database)} to {servers.quoted(guest)}",
    )
    # Seen from a LATIN1 database the roles' names are other characters, of the same bytes.
    seen = owner.encode().decode("latin-1"), guest.encode().decode("latin-1")
    servers.sql(pg17, database, f"{TABLE}; alter table t owner to {servers.quoted(seen[0])};"
          f"grant select on t to {servers.quoted(seen[1])}")  # fmt: skip
    artifact = invoke.backup(pg17, database, tmp_path)
    env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path))
    (listed,) = json.loads(invoke.run("list", f"--database={database}", "--json", env=env))
    assert listed["manifest"]["database"]["owner"] == owner
    assert {owner, guest} <= set(listed["manifest"]["roles"])
    target = disposables.name(pg17)
    invoke.restore(pg17, artifact, target)
    assert_same_database(pg17, database, pg17, target)
    servers.drop(pg17, database)
    invoke.run("restore", "--latest", f"--database={database}", env=env)
    assert_same_database(pg17, database, pg17, target)


def test_roles_whose_names_are_no_text_in_a_database(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """A3.14: they are dumped through `postgres`, or, where that is out of reach, as they can be."""
    role = disposables.role(pg17, name="Rôle Ü")
    database = disposables.database(pg17, "encoding 'EUC_JP' locale 'C'")
    servers.sql(pg17, database, TABLE)
    artifact = invoke.backup(pg17, database, tmp_path)
    script = globals_of(artifact)
    assert b"client_encoding = 'UTF8'" in script
    assert f'CREATE ROLE "{role}"'.encode() in script
    target = disposables.name(pg17)
    invoke.restore(pg17, artifact, target)
    assert_same_database(pg17, database, pg17, target)


def test_roles_without_a_way_to_postgres(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """A3.3, A3.14: a database of another encoding does without it."""
    role = disposables.role(pg17)
    database = disposables.database(
        pg17, f"encoding 'LATIN1' locale 'C' owner {servers.quoted(role)}"
    )
    servers.sql(pg17, database, f"{TABLE}; alter table t owner to {servers.quoted(role)}")
    servers.sql(pg17, "postgres", "revoke connect on database postgres from public")
    try:
        artifact = invoke.backup(pg17, database, tmp_path, PGUSER=role)
    finally:
        servers.sql(pg17, "postgres", "grant connect on database postgres to public")
    script = globals_of(artifact)
    assert b"client_encoding = 'LATIN1'" in script
    assert f"CREATE ROLE {role}".encode() in script
    target = disposables.name(pg17)
    invoke.restore(pg17, artifact, target)
    assert_same_database(pg17, database, pg17, target)


def test_backslashes_survive_old_fashioned_strings(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """A1.10: with standard_conforming_strings off a backslash escapes in every string."""
    role = disposables.role(pg17, "superuser")
    database = disposables.database(pg17)
    for what in (f"database {database}", f"role {role}"):
        servers.sql(pg17, "postgres", f"alter {what} set standard_conforming_strings = off")
    servers.sql(
        pg17,
        database,
        r"""
        create table "back\slash" (id int primary key, "a\b" text default E'c:\\new\\table',
                                   check ("a\b" <> 'it''s \\'));
        insert into "back\slash" values (1, 'tab\there'), (2, E'\\.'), (3, '\\N'), (4, '\\\\n''');
        comment on table "back\slash" is 'c:\\temp';
        create function path() returns text language sql as $$select 'c:\temp\new'::text$$;
        create function quoted() returns text language sql as 'select ''\\\\x''::text';
        create view v as select 'a\\b'::text as c;
        """,
    )
    before = servers.sql(pg17, database, "select path(), quoted(), v.c from v")
    artifact = invoke.backup(pg17, database, tmp_path, PGUSER=role)
    assert "standard_conforming_strings is off" in manifest_text(artifact)
    target, by_hand = disposables.name(pg17), disposables.database(pg17)
    invoke.restore(pg17, artifact, target, PGUSER=role)
    assert_same_database(pg17, database, pg17, target)
    assert servers.sql(pg17, target, "select path(), quoted(), v.c from v") == before
    servers.sql(pg17, "postgres", f"alter database {by_hand} set standard_conforming_strings = off")
    invoke.restore_by_hand(pg17, artifact, by_hand)
    assert_same_database(pg17, database, pg17, by_hand)


def manifest_text(artifact: Path) -> str:
    return artifact.with_name(stem(artifact) + ".manifest.json").read_text()
