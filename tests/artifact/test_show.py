"""What is inside a backup: shown from its index, and written as plain SQL."""

import gzip
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pgkeep.artifact.file import Artifact
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalSource
from tests.conftest import DatabaseFactory
from tests.support import invoke, launcher, servers
from tests.support.buckets import Buckets
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables

# The rows of `wide` need two members.
SHOP = r"""
create schema app;
create table app.wide (id int primary key, "Odd	name, too" text);
insert into app.wide select n, repeat(md5(n::text), 4) || E'\t' from generate_series(1, 140000) n;
create table app.orders
    (id serial primary key, note text, twice int generated always as (2) stored);
insert into app.orders (note) values (E'a\nb'), (null), ('ünï');
create table app."Orders" (a int);
create table app.a_table_with_a_name_that_is_as_long_as_any_that_is_allowed (a int);
create table "line
end" ();
insert into "line
end" select from generate_series(1, 2);
"""


@pytest.fixture(scope="module")
def shop(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A database and a backup of it, for reading."""
    with Disposables() as made:
        database = made.database(pg17, name=f"shop_{os.getpid()}")
        servers.psql(pg17, database, input=SHOP)
        yield database, invoke.backup(pg17, database, tmp_path_factory.mktemp("shop"))


def output(*args: str, code: int = 0, env: Mapping[str, str] | None = None) -> bytes:
    status, out, err = launcher.run_bytes(args, env or invoke.environment())
    assert status == code, err.decode()
    return out


def test_shows_what_is_inside(shop: tuple[str, Path]) -> None:
    database, artifact = shop
    said = invoke.run("show", str(artifact), env=invoke.environment())
    assert max(len(line) for line in said.replace(str(artifact), "").splitlines()) <= 80
    assert f"database   {database}, UTF8" in said
    assert "140,000" in said
    assert "5 tables, 140,005 rows" in said
    found = json.loads(invoke.run("show", str(artifact), "--json", env=invoke.environment()))
    rows = {(one["schema"], one["name"]): one["rows"] for one in found["tables"]}
    assert rows["app", "wide"] == 140000
    assert rows["public", "line\nend"] == 2
    assert found["types"]["TABLE"] == found["types"]["TABLE DATA"] == 5
    assert "objects" not in found
    wide = next(one for one in found["tables"] if one["name"] == "wide")
    data = [
        member
        for member in Artifact(LocalSource(artifact)).index.members
        if member.section == "data"
    ]
    assert 0.9 < wide["bytes"] / sum(one.length for one in data) <= 1


def test_draws_a_tree(shop: tuple[str, Path]) -> None:
    """By schema and type; what is cut into parts stands there once, its rows with the table."""
    database, artifact = shop
    lines = invoke.run("show", str(artifact), "--tree", env=invoke.environment()).splitlines()
    drawn = [(len(line) - len(line.lstrip("│├└─ ")), line.lstrip("│├└─ ")) for line in lines]
    assert drawn[0] == (0, database)
    places = [
        drawn.index(one)
        for one in (
            (4, "app"), (8, "sequence (1)"), (12, "orders_id_seq"), (8, "table (4)"),
            (12, "wide, 140,000 rows"), (4, "public"), (12, "line end"),
        )
    ]  # fmt: skip
    assert places == sorted(places)
    assert sum("wide" in name and "wide_pkey" not in name for _, name in drawn) == 1


def test_shows_every_object_by_section(shop: tuple[str, Path]) -> None:
    lines = invoke.run("show", str(shop[1]), "--objects", env=invoke.environment()).splitlines()
    before, rows, after = (
        lines.index(one) for one in ("before the rows", "rows", "after the rows")
    )
    assert before < lines.index("  table app.orders") < rows
    assert rows < lines.index("  sequence set app.orders_id_seq") < after
    assert after < lines.index("  constraint app.wide wide_pkey")


def test_head_prints_the_first_rows(pg17: Server, shop: tuple[str, Path]) -> None:
    """As COPY writes them, also where they go on in the next member."""
    database, artifact = shop
    found = output("show", str(artifact), "--table=app.orders", "--head=2")
    assert found == b"id\tnote\n1\ta\\nb\n2\t\\N\n"
    assert output("show", str(artifact), "--table=orders", "--head=0") == b"id\tnote\n"
    assert output("show", str(artifact), "--table=app.orders", "--head=9").count(b"\n") == 4
    names, _, rows = output("show", str(artifact), "--table=wide", "--head=139000").partition(b"\n")
    assert names == b"id\tOdd\\tname, too"
    copied = servers.psql_bytes(
        pg17, database, ["-c", "copy (select * from app.wide where id <= 139000) to stdout"]
    )
    assert sorted(rows.split(b"\n")) == sorted(copied.split(b"\n"))


def test_cat_writes_the_whole_file(shop: tuple[str, Path]) -> None:
    artifact = shop[1]
    whole, _, comments = gzip.decompress(artifact.read_bytes()).partition(b"--\n-- pgkeep index")
    assert comments
    assert output("cat", str(artifact)) == whole


def test_cat_of_schema_and_tables_restores(
    pg17: Server, shop: tuple[str, Path], database: DatabaseFactory
) -> None:
    """E1: psql loads the definitions, then the rows of the tables that are named."""
    source, artifact = shop
    target = database(pg17)
    servers.psql_bytes(pg17, target, script=output("cat", str(artifact), "--schema-only"))
    assert servers.sql(pg17, target, "select count(*) from app.wide") == [(0,)]
    args = ["--table=app.*", '--table="line\nend"']
    rows = output("cat", str(artifact), *args)
    servers.psql_bytes(pg17, target, script=rows)
    setval = "select setval('app.orders_id_seq', 3)"  # a sequence is no table's row
    servers.sql(pg17, target, setval)
    assert_same_database(pg17, source, pg17, target, ignore_database=True)
    assert b"app.wide" not in output("cat", str(artifact), "--table=app.orders")


def test_closed_pipe_ends_without_a_word(shop: tuple[str, Path]) -> None:
    """As SIGPIPE would: the code tells `set -o pipefail`, nobody else is bothered."""
    for args in (["cat", str(shop[1])], ["show", str(shop[1]), "--table=wide", "--head=130000"]):
        process = subprocess.Popen(
            [invoke.PGKEEP, *args],
            env=invoke.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(2)
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(60) == 141


def test_damage_is_told(shop: tuple[str, Path], tmp_path: Path) -> None:
    """Of what is damaged nothing is written; what needs it not, is."""
    artifact = Artifact(LocalSource(shop[1]))
    wide = next(entry for entry in artifact.index.objects if entry.name == "wide" and entry.rows)
    member = artifact.index.members[wide.member]
    data = bytearray(shop[1].read_bytes())
    data[member.offset + member.length // 2] ^= 1
    damaged = tmp_path / shop[1].name
    damaged.write_bytes(data)
    invoke.run("show", str(damaged), env=invoke.environment())
    assert output("cat", str(damaged), "--table=app.orders").count(b"COPY") == 1
    for args in (["cat"], ["cat", "--table=wide"], ["show", "--table=wide", "--head=1"]):
        assert b"\tc4ca4238" not in output(args[0], str(damaged), *args[1:], code=5)
    damaged.write_bytes(data[:-100])
    assert "no end marker" in invoke.run("show", str(damaged), env=invoke.environment(), code=5)


def test_what_makes_no_sense_is_refused(
    pg17: Server, shop: tuple[str, Path], tmp_path: Path
) -> None:
    database, artifact = shop
    env = invoke.environment()
    plain = tmp_path / "plain.sql.gz"
    plain.write_bytes(gzip.compress(servers.dump(pg17, database, "--schema-only")))
    for command in ("show", "cat"):
        assert f"pgkeep index {plain}" in invoke.run(command, str(plain), env=env, code=9)
    several = invoke.run("show", str(artifact), "--table=app.*", "--head=1", env=env, code=2)
    assert "matches 4 tables" in several
    for args in (
        ["show", "--table=Orderz", "--head=1"],
        ["cat", "--table=app.nothing"],
        ["cat", "--table=app.wide", "--schema-only"],
        ["show", "--head=1"],
        ["show", "--table=a.b.c", "--head=1"],
        ["show", "--table=wide", "--head=1", "--json"],
    ):
        invoke.run(args[0], str(artifact), *args[1:], env=env, code=2)


def test_reads_a_bucket(
    pg17: Server, database: DatabaseFactory, buckets: Buckets, tmp_path: Path
) -> None:
    """The same by URL and by name; a dump in a bucket is indexed from there."""
    source = database(pg17)
    servers.psql(pg17, source, input=SHOP.replace("140000", "14"))
    bucket = buckets.bucket()
    there = buckets.environment(bucket)
    artifact = invoke.backup(pg17, source, tmp_path / "here", **there)
    url = f"s3://{bucket}/backups/manual/{artifact.name}"
    artifact.unlink()
    there["BACKUP_DIR"] = str(tmp_path / "here")
    env = invoke.environment(None, None, **there)
    assert "5 tables, 19 rows" in invoke.run("show", url, env=env)
    found = invoke.run("show", artifact.name, "--table=app.orders", "--head=1", env=env)
    assert found == "id\tnote\n1\ta\\nb\n"
    assert b"COPY app.orders" in output("cat", url, "--table=app.orders", env=env)
    old = servers.dump(pg17, source, "--table=app.orders")
    buckets.client().put_object(Bucket=bucket, Key="old/app-20260506.sql", Body=old)
    dump = f"s3://{bucket}/old/app-20260506.sql"
    args = ["--database=app", f"--output=s3://{bucket}/indexed"]
    only = {name: value for name, value in env.items() if name != "BACKUP_S3_BUCKET"}
    assert "1 table, 3 rows" in invoke.run("index", dump, *args, env=only)
    name = "app_manual_20260506T000000Z.sql.gz"
    indexed = f"s3://{bucket}/indexed/manual/{name}"
    assert b"COPY app.orders" in output("cat", indexed, env=env)
    catalog = tmp_path / "catalog"
    assert "has its index" in invoke.run("index", indexed, *args, env=only, code=9)
    invoke.run("index", dump, "--database=app", f"-o{catalog}", env=env)
    invoke.run("sync", f"--dir={catalog}", env=env)
    assert b"COPY app.orders" in output("cat", f"s3://{bucket}/backups/manual/{name}", env=env)


def test_cat_prints_the_globals(
    pg17: Server, database: DatabaseFactory, buckets: Buckets, disposables: Disposables,
    tmp_path: Path,
) -> None:  # fmt: skip
    """A3.1: the roles of a lost server, with nothing but the bucket and its keys."""
    source = database(pg17)
    disposables.role(pg17, name='a "role"; 1', password="secret")
    bucket = buckets.bucket()
    artifact = invoke.backup(pg17, source, tmp_path, **buckets.environment(bucket))
    file = artifact.with_name(artifact.name.replace(".sql.gz", ".globals.sql.gz"))
    roles = gzip.decompress(file.read_bytes())
    assert b"SCRAM-SHA-256" in roles
    place = f"s3://{bucket}/backups"
    alone = {**buckets.environment(bucket), "BACKUP_S3_BUCKET": ""}
    env = invoke.environment(None, None, **alone)
    for args in (
        ["--latest", f"--dir={place}"],
        ["--latest", f"--database={source}", f"--dir={place}"],
        [f"{place}/manual/{artifact.name}"],
        [f"{place}/manual/{file.name}"],
        [str(artifact), f"--dir={tmp_path}"],
    ):
        assert output("cat", "--globals", *args, env=env) == roles
    assert output("cat", "--latest", f"--dir={place}", env=env) == output("cat", str(artifact))
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    key = f"backups/manual/{file.name}"
    buckets.client().put_object(Bucket=bucket, Key=key, Body=bytes(damaged))
    said = invoke.run("cat", "--globals", "--latest", f"--dir={place}", env=env, code=5)
    assert f"{file.name} is damaged: it differs from the manifest" in said
    buckets.client().delete_object(Bucket=bucket, Key=key)
    said = invoke.run("cat", "--globals", "--latest", f"--dir={place}", env=env, code=6)
    assert f"{artifact.name} has no globals in {place}" in said
    for wrong in ([], ["--latest", "FILE"], ["--globals", "--table=t", "--latest"]):
        invoke.run("cat", *wrong, env=env, code=2)
    manifest = artifact.with_name(artifact.name.replace(".sql.gz", ".manifest.json"))
    facts = {**json.loads(manifest.read_text()), "role_passwords": False}
    del facts["manifest_sha256"]
    manifest.write_text(json.dumps(facts))
    here = f"--dir={tmp_path}"
    said = invoke.outputs("cat", "--globals", "--latest", here, env=env)[1]
    assert "the globals contain no passwords" in said
