"""Damaged and foreign files: refused with a reason before anything is touched, or whole."""

import contextlib
import gzip
import hashlib
import json
import os
import random
import re
import resource
import secrets
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.artifact import verify
from pgkeep.artifact.file import MARKER_SIZES, Artifact
from pgkeep.catalog import side_files
from pgkeep.crypt.opening import Keys
from pgkeep.model.naming import Compression
from pgkeep.postgres.server import Server
from pgkeep.sql import script
from pgkeep.sql.scanner import Scanner
from pgkeep.stores.local import LocalStore
from pgkeep.stores.memory import MemorySource
from tests.conftest import DatabaseFactory
from tests.support import invoke
from tests.support import servers as servers_module
from tests.support.compare import assert_same_database
from tests.support.servers import Servers, drop, execute, major_of, programs_for, psql, run, sql

MARKER_SIZE = MARKER_SIZES[Compression.GZIP]
SEED = int(os.environ.get("DAMAGE_SEED") or secrets.randbits(32))
TIMES = 400
COMPLETE = b"-- PostgreSQL database dump complete\n"
GIB = 1 << 30

# Rows, strings and bodies that look like the structure of a dump (trap A2.4).
FOREIGN = r"""
create table t (id int primary key, v text);
insert into t values (1, E'--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict x\n'),
  (2, E'\\.\n\\.\n'), (3, E'it''s \\'), (4, null), (5, E'\tCOPY t (id, v) FROM stdin;\r\n');
create table "a;
 FROM stdin;" ("b""c" int references t, d text default E'x\'y\\');
insert into "a;
 FROM stdin;" select 1 from generate_series(1, 300);
create table "last" (v text);
insert into "last" values (E'\n--\n-- PostgreSQL database dump complete\n--\n');
create function f() returns text language sql as $f$
select '
--
-- PostgreSQL database dump complete
--

$$ '' $x$';
$f$;
comment on function f() is E'\n--\n-- PostgreSQL database dump complete\n--\n';
create materialized view mv as select count(*) from t;
create index on mv (count);
create view vw as select '--', v from t;
create sequence sq;
select nextval('sq'), lo_from_bytea(4711, 'large object');
analyze;
"""


# Large enough for a worker of its own.
WIDE = """
create table wide as
select n, md5(n::text) || md5((-n)::text) as v from generate_series(1, 12000) as n;
"""


def noise() -> random.Random:
    """Every run damages in other places; the seed is told when a test fails."""
    print(f"DAMAGE_SEED={SEED}")  # noqa: T201
    return random.Random(SEED)  # noqa: S311


def reason(data: bytes) -> str:
    """Verify a file from its bytes alone; return why it is refused."""
    try:
        report = verify.verify_source(MemorySource("FILE", data), jobs=2, progress=lambda _: None)
    except e.VerificationFailed as error:
        return str(error)
    raise AssertionError(f"taken for whole: {report}")


def holds(packed: bytes, expected: bytes) -> bool:
    """Whether gzip data is what it was all the same."""
    try:
        return gzip.decompress(packed) == expected
    except (OSError, EOFError, zlib.error):
        return False


def whole(data: bytes) -> verify.VerificationReport:
    return verify.verify_source(MemorySource("FILE", data), jobs=2, progress=lambda _: None)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture(scope="module")
def backup(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small backup, one member of it with rows copied by a worker."""
    sql(pg17, "postgres", "create database damaged template template0")
    psql(pg17, "damaged", input=FOREIGN + WIDE)
    yield invoke.backup(pg17, "damaged", tmp_path_factory.mktemp("backup"), BACKUP_JOBS="2")
    drop(pg17, "damaged")


@pytest.fixture(scope="module")
def data(backup: Path) -> bytes:
    return backup.read_bytes()


@pytest.fixture(scope="module")
def other(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The backup of another database."""
    sql(pg17, "postgres", "create database other template template0")
    psql(pg17, "other", input=FOREIGN)
    made = invoke.backup(pg17, "other", tmp_path_factory.mktemp("other")).read_bytes()
    drop(pg17, "other")
    return made


class Parts:
    """An artifact taken apart."""

    def __init__(self, data: bytes) -> None:
        index = Artifact(MemorySource("FILE", data)).index
        self.members = [
            data[member.offset : member.offset + member.length] for member in index.members
        ]
        end = sum(map(len, self.members))
        self.sql = data[:end]
        self.index = data[end:-MARKER_SIZE]
        self.marker = data[-MARKER_SIZE:]

    def joined(self, *members: bytes) -> bytes:
        return b"".join([*members, self.index, self.marker])


def test_every_cut_is_reported(data: bytes) -> None:
    """B28, D19: anywhere, between two members, before the index, in the end marker."""
    parts = Parts(data)
    assert len(parts.members) > 3
    places = {0, 1, len(parts.sql), len(parts.sql + parts.index)}
    places |= {
        sum(map(len, parts.members[:n])) + k for n in range(len(parts.members)) for k in (0, 1)
    }
    places |= set(range(len(data) - MARKER_SIZE, len(data)))
    random_places = noise()
    places |= {random_places.randrange(len(data)) for _ in range(TIMES)}
    for length in places:
        assert reason(data[:length]), length


def test_every_flipped_bit_is_reported(data: bytes) -> None:
    """B28: anywhere, and each bit of the end marker."""
    whole(data)
    marker = range((len(data) - MARKER_SIZE) * 8, len(data) * 8)
    random_bits = noise()
    for bit in [*marker, *(random_bits.randrange(len(data) * 8) for _ in range(TIMES))]:
        assert reason(flipped(data, bit)), bit


CHANGES: dict[str, tuple[Callable[[Parts, bytes], bytes], str]] = {
    "members swapped": (
        lambda p, _: p.joined(p.members[1], p.members[0], *p.members[2:]),
        "SHA-256 differs",
    ),
    "member twice": (
        lambda p, _: p.joined(p.members[0], *p.members),
        "according to its end marker",
    ),
    "member left out": (
        lambda p, _: p.joined(*p.members[:-1]),
        "according to its end marker",
    ),
    "index and end of another": (
        lambda p, other: p.sql + Parts(other).index + Parts(other).marker,
        "according to its end marker",
    ),
    "index of another": (
        lambda p, other: p.sql + Parts(other).index + p.marker,
        "according to its end marker",
    ),
    "index without end marker": (lambda p, _: p.sql + p.index, "end marker is missing"),
    "only the SQL": (lambda p, _: p.sql, "end marker is missing"),
    "only the end": (lambda p, _: p.marker, "according to its end marker"),
    "two end markers": (
        lambda p, _: p.joined(*p.members) + p.marker,
        "according to its end marker",
    ),
    "zero appended": (
        lambda p, _: p.joined(*p.members) + b"\0",
        "unknown|no end marker|end marker is missing|damaged",
    ),
    "line end appended": (
        lambda p, _: p.joined(*p.members) + b"\n",
        "unknown|no end marker|end marker is missing|damaged",
    ),
    "page of zeros appended": (lambda p, _: p.joined(*p.members) + bytes(4096), "zero bytes after"),
    "empty member appended": (
        lambda p, _: p.joined(*p.members) + gzip.compress(b""),
        "made by pgkeep, but the end marker is missing",
    ),
    "two artifacts": (lambda p, other: p.joined(*p.members) + other, "according to its end marker"),
    "an artifact and a dump": (
        lambda p, _: p.joined(*p.members) + gzip.compress(b"-- PostgreSQL database dump\n" * 9),
        "end marker is missing",
    ),
    "compressed anew": (
        lambda p, _: gzip.compress(gzip.decompress(p.joined(*p.members)), 1),
        "made by pgkeep, but the end marker is missing",
    ),
    "compressed twice": (
        lambda p, _: gzip.compress(p.joined(*p.members), 1),
        "not a plain dump|no end marker",
    ),
    "page of zeros inside": (
        lambda p, _: p.sql[:4096] + bytes(4096) + p.sql[8192:] + p.index + p.marker,
        "SHA-256 differs",
    ),
    "zeros instead of the end": (
        lambda p, _: (p.sql + p.index)[:-4096] + bytes(4096 + len(p.marker)),
        "end marker is missing .*gzip data",
    ),
    "nothing": (lambda *_: b"", "the dump is empty"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_happens_to_files_is_reported(data: bytes, other: bytes, change: str) -> None:
    """B27, B28: with the reason."""
    make, said = CHANGES[change]
    assert re.search(said, reason(make(Parts(data), other)))


def test_unpacked_backup_is_whole(data: bytes) -> None:
    """D19: `zcat FILE > plain.sql`."""
    unpacked = gzip.decompress(data)
    report = whole(unpacked)
    assert (report.kind, report.rows) == ("plain", whole(data).rows)
    assert reason(unpacked[: unpacked.rindex(COMPLETE)])


def some_damage(data: bytes, other: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    random_places = noise()
    for _ in range(count):
        place = random_places.randrange(len(data))
        yield f"cut at {place}", data[:place]
        bit = random_places.randrange(len(data) * 8)
        yield f"bit {bit}", flipped(data, bit)
    for name in ("members swapped", "two artifacts", "compressed anew", "page of zeros inside"):
        yield name, CHANGES[name][0](Parts(data), other)


def test_command_reports_damage(data: bytes, other: bytes, tmp_path: Path) -> None:
    """Exit code 5 and one line, through the command as well."""
    for name, damaged in some_damage(data, other, 5):
        path = tmp_path / "damaged_manual_20261122T020000Z.sql.gz"
        path.write_bytes(damaged)
        said = invoke.run("verify", str(path), env=invoke.environment(), code=5)
        assert f"error: {path}" in said, name


def test_restore_of_damage_touches_nothing(
    data: bytes, other: bytes, pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A2.1, A2.8: the database that it should replace keeps its rows, no other one is left."""
    target = database(pg17)
    psql(pg17, target, input="create table kept as select generate_series(1, 10) as n")
    before = databases(pg17)
    path = tmp_path / "damaged.sql.gz"
    for name, damaged in some_damage(data, other, 6):
        path.write_bytes(damaged)
        args = ["restore", f"--backup={path}", f"--target-db={target}", "--drop-existing", "--yes"]
        said = invoke.run(*args, env=invoke.environment(pg17), code=5)
        assert f"error: {path}" in said, name
        assert sql(pg17, target, "select sum(n) from kept") == [(55,)], name
        assert databases(pg17) == before, name


def databases(server: Server) -> set[str]:
    return {name for (name,) in sql(server, "postgres", "select datname from pg_database")}


# --- side files


def beside(backup: Path, folder: Path) -> tuple[Path, Path, Path]:
    """Return copies of a backup's artifact, checksum and manifest; the globals are copied too."""
    copies = []
    for suffix in (".sql.gz", ".sql.gz.sha256", ".manifest.json", ".globals.sql.gz"):
        name = backup.name.removesuffix(".sql.gz") + suffix
        copies.append(folder / name)
        copies[-1].write_bytes((backup.parent / name).read_bytes())
    return copies[0], copies[1], copies[2]


def test_side_files_that_disagree(backup: Path, other: bytes, tmp_path: Path) -> None:
    """B28: the file itself is whole, and not what was written beside it."""
    path, checksum, manifest = beside(backup, tmp_path)
    env = invoke.environment()
    assert "SHA-256, manifest" in invoke.run("verify", str(path), env=env)
    # Without its own hash, as of an older version: it would be said to be damaged.
    of = re.sub(r',\s*"manifest_sha256": "\w+"', "", manifest.read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rows = re.sub(r'(\[\s*"public",\s*"wide",\s*)\d+', r"\g<1>7", of)
    changes = [
        (checksum, "0" * 64 + f"  {path.name}\n", "its .sha256 file has 0000"),
        (checksum, "", "its .sha256 file has"),
        (checksum, b"\xff\xfe".decode("latin-1"), "its .sha256 file has"),
        (manifest, of.replace(digest, "1" * 64), "its manifest has 1111"),
        (manifest, manifest.read_text().replace(digest, "1" * 64), "is damaged: SHA-256 is"),
        (manifest, rows, "table public.wide has [0-9]+ rows, its manifest has 7"),
        (manifest, '{"format": 2, "all": "different"}', "has format 2, this pgkeep reads up to 1"),
        (manifest, "{}", "is not a manifest of pgkeep"),
        (manifest, of[:100], "is not a manifest of pgkeep"),
        (manifest, "", "is not a manifest of pgkeep"),
    ]
    for side, text, said in changes:
        good = side.read_bytes()
        assert text.encode() != good
        side.write_text(text)
        with pytest.raises(e.VerificationFailed, match=said):
            side_files.verify(
                LocalStore(tmp_path), path.name, keys=Keys(), jobs=1, progress=lambda _: None
            )
        side.write_bytes(good)
    path.write_bytes(other)
    assert "SHA-256 is" in invoke.run("verify", str(path), env=env, code=5)


# --- what is no backup at all


def test_what_is_no_file(tmp_path: Path) -> None:
    """A directory, nothing, a pipe that nobody writes to: exit code 6, and at once."""
    os.mkfifo(tmp_path / "pipe.sql.gz")
    (tmp_path / "directory.sql.gz").mkdir()
    env = invoke.environment()
    for name, command, said in (
        ("pipe", "verify", "is not a file"),
        ("directory", "show", "is a directory, expected a file"),
        ("nothing", "verify", "No such file"),
    ):
        path = tmp_path / f"{name}.sql.gz"
        assert said in invoke.run(command, str(path), env=env, code=6, timeout=20)


def test_gigabytes_of_nothing(tmp_path: Path) -> None:
    """A small gzip file, and a disk image, that would not fit into memory."""
    zeros = gzip.compress(bytes(64 << 20), 1)
    packed, image = tmp_path / "zeros.sql.gz", tmp_path / "image.sql"
    packed.write_bytes(zeros * 128)
    with image.open("wb") as file:
        file.truncate(8 * GIB)
    for path in (packed, image):
        process = invoke.start(
            "verify",
            str(path),
            env=invoke.environment(),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 * GIB, 2 * GIB)),
        )
        _, said = process.communicate(timeout=60)
        assert process.returncode == 5, said
        assert "not a plain dump" in said


# --- plain dumps of any origin


@pytest.fixture(scope="module")
def plain_databases(servers: Servers) -> Iterator[Callable[[Server], str]]:
    """The name of a small database that is hard to read, on any server."""
    made: list[Server] = []

    def of(server: Server) -> str:
        if server not in made:
            sql(server, "postgres", "create database plain template template0")
            psql(server, "plain", input=FOREIGN)
            made.append(server)
        return "plain"

    yield of
    for server in made:
        drop(server, "plain")


PlainDatabases = Callable[[Server], str]


@pytest.fixture
def plain(pg17: Server, plain_databases: PlainDatabases) -> bytes:
    return servers_module.dump(pg17, plain_databases(pg17))


OPTIONS: list[list[str]] = [
    [],
    ["--inserts"],
    ["--column-inserts", "--rows-per-insert=2"],
    ["--schema-only"],
    ["--data-only", "--disable-triggers"],
    ["--create", "--clean", "--if-exists"],
    ["--verbose"],
    ["--quote-all-identifiers"],
    ["--section=data"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
def test_plain_dumps_are_whole_and_cut_ones_are_not(
    server: Server, plain_databases: PlainDatabases, options: list[str]
) -> None:
    """A1.6, A2.3, A2.4, B1, E7: SQL cut at the end of a line, or anywhere, and packed after."""
    dump = servers_module.dump(server, plain_databases(server), *options)
    report = whole(dump)
    copied = not {"--inserts", "--rows-per-insert=2", "--schema-only"} & {*options}
    assert report.rows == (306 if copied else 0)
    assert report.connects == ("--create" in options)
    assert whole(gzip.compress(dump, 9)).rows == report.rows
    # Behind this line there are comments at most.
    end = dump.rindex(b"\n\\unrestrict ") + 1
    random_places = noise()
    lines = [match.end() for match in re.finditer(rb"\n", dump) if match.end() <= end]
    places = {random_places.randrange(end) for _ in range(100)}
    places |= {*random_places.sample(lines, 50), *lines[-20:]}
    for place in places:
        assert reason(dump[:place]), dump[max(place - 80, 0) : place]
    for place in [*places][:10]:
        assert reason(gzip.compress(dump[:place], 1))


def old_style(dump: bytes) -> bytes:
    """As pg_dump wrote it before 13.22, 14.19, 15.14, 16.10, 17.6."""
    return re.sub(rb"\\(un)?restrict \w{63}\n\n", b"", dump)


def test_ending_of_old_versions(server: Server, plain_databases: PlainDatabases) -> None:
    r"""A1.6: without \unrestrict."""
    name = plain_databases(server)
    dump = servers_module.dump(server, name)
    old = old_style(dump)
    assert len(old) == len(dump) - 2 * 65 - len(r"\restrict " + r"\unrestrict ")
    assert whole(old).rows == 306
    end = old.rindex(COMPLETE) + len(COMPLETE)
    for place in [match.end() for match in re.finditer(rb"\n", old) if match.end() < end]:
        assert reason(old[:place]), old[max(place - 80, 0) : place]
    # All is there but the last line end, which an editor may have taken.
    assert whole(old[: end - 1]).rows == 306


def test_restrict_key_must_be_the_same(plain: bytes) -> None:
    """A1.6: the ending of another dump."""
    changed = re.sub(rb"\\unrestrict \w", rb"\\unrestrict -", plain)
    assert "unexpected psql command" in reason(changed)


def test_escaping_strings_of_old_settings(pg17: Server, plain_databases: PlainDatabases) -> None:
    """A2.4: standard_conforming_strings off, where a backslash quotes."""
    name = plain_databases(pg17)
    off = {"PGOPTIONS": "-c standard_conforming_strings=off"}
    dump = run(pg17, name, ["pg_dump", "--inserts"], environment=off)
    assert b"SET standard_conforming_strings = off;" in dump
    assert whole(dump).entries == whole(servers_module.dump(pg17, name, "--inserts")).entries
    for place in [match.end() for match in re.finditer(rb"complete\n", dump)][:-1]:
        assert reason(dump[:place])


def pg_dumpall(server: Server, *options: str) -> bytes:
    params = server.params
    program = programs_for(major_of(server)).program("pg_dumpall")
    where = ["-h", params["host"], "-p", params["port"], "-U", params["user"]]
    return execute([program, *map(str, where), *options])


def test_dump_of_all_databases(
    server: Server, plain_databases: PlainDatabases, database: DatabaseFactory
) -> None:
    """Each database has an ending of its own: cut behind one, the others are missing.

    A name that psql has to be told with care is announced with one more command.
    """
    plain_databases(server)
    database(server, name="odd \"name' \\")
    dump = pg_dumpall(server)
    report = whole(dump)
    assert report.connects
    assert report.rows >= 306
    assert whole(pg_dumpall(server, "--globals-only")).rows == 0
    end = dump.rindex(b"-- PostgreSQL database cluster dump complete\n")
    for match in re.finditer(
        rb"^(-- PostgreSQL database dump complete|\\unrestrict .*)\n", dump, re.M
    ):
        assert match.end() < end
        assert reason(dump[: match.end()])
    assert reason(dump[:end])


@pytest.mark.parametrize("options", [["--create"], ["all"]], ids=["pg_dump -C", "pg_dumpall"])
def test_dump_that_connects_elsewhere_is_not_restored(
    pg17: Server, plain_databases: PlainDatabases, tmp_path: Path, options: list[str]
) -> None:
    """A3.7: into a copy it would write into the original."""
    name = plain_databases(pg17)
    before = databases(pg17)
    path = tmp_path / "dump.sql"
    path.write_bytes(
        pg_dumpall(pg17) if options == ["all"] else servers_module.dump(pg17, name, *options)
    )
    args = ["restore", f"--backup={path}", "--target-db=copy"]
    assert "\\connect" in invoke.run(*args, env=invoke.environment(pg17), code=9)
    assert databases(pg17) == before
    assert sql(pg17, name, "select count(*) from t") == [(5,)]


def test_other_kinds_of_files_are_named(
    pg17: Server, plain_databases: PlainDatabases, plain: bytes
) -> None:
    name = plain_databases(pg17)
    custom, tar = servers_module.dump(pg17, name, "-Fc"), servers_module.dump(pg17, name, "-Ft")
    for kind, said in (
        (custom, r"not a plain dump: custom format of pg_dump (PGDMP), expected plain SQL"),
        (gzip.compress(custom), "custom format of pg_dump (PGDMP)"),
        (tar, "a tar archive"),
        (plain.decode().encode("utf-16"), "text in UTF-16"),
        (b"\x1f", "not a plain dump of pg_dump"),
    ):
        assert said in reason(kind)
    assert "the dump is empty" in reason(gzip.compress(b""))  # B1: pg_dump failed in a pipe
    assert "CR LF line ends" in reason(plain.replace(b"\n", b"\r\n"))
    for more in (b"garbage", b"DROP TABLE t;\n", b"COPY t FROM stdin;\n1\n\\.\n"):
        assert re.search("truncated dump|after the end|semicolon", reason(plain + more))
    assert reason(plain[plain.index(b"CREATE") :])  # without its beginning


def piped(command: list[str], data: bytes) -> bytes:
    return execute(command, data)


def test_gzip_of_any_program(plain: bytes) -> None:
    """B27: by gzip and pigz, in several members, cut between lines and within one."""
    third = len(plain) // 3
    parts = [plain[:third], plain[third : 2 * third], plain[2 * third :]]
    members = [
        piped(["gzip", "-9"], parts[0]),
        piped(["pigz", "-p2", "-b128"], parts[1]),
        piped(["pigz", "--independent", "-1"], b""),
        piped(["gzip", "-1", "--name"], parts[2]),
    ]
    packed = b"".join(members)
    assert whole(packed).raw_bytes == len(plain)
    for keep_members in (members[:1], members[1:], members[:3], [members[0], *members[2:]]):
        assert reason(b"".join(keep_members))
    for garbage in (b"\0", b"\n", bytes(512), b"garbage", b"\x1f\x8b", members[0][:20], plain):
        assert re.search("damaged gzip|truncated gzip|zero bytes", reason(packed + garbage))
    for length in (-1, -4, -8, -9):
        assert "truncated gzip data" in reason(packed[:length])
    # What can change without a trace holds nothing: the header's time, flags and system, the bits
    # that fill up the last byte ahead of CRC and length, and the lengths of codes that no symbol
    # uses.
    packed = gzip.compress(plain, 6, mtime=0)
    bits = [*range(10 * 8, (len(packed) - 9) * 8), *range((len(packed) - 8) * 8, len(packed) * 8)]
    for bit in noise().sample(bits, 300):
        damaged = flipped(packed, bit)
        assert holds(damaged, plain) or reason(damaged), bit


# --- restoring them


def restored(server: Server, dump: bytes, folder: Path, target: str, **extra: str) -> None:
    path = folder / "dump.sql"
    path.write_bytes(dump)
    invoke.restore(server, path, target, **extra)


@pytest.mark.parametrize("kind", ["plain", "gzip", "members", "inserts", "old", "verbose", "off"])
def test_plain_dump_arrives_whole(
    pg17: Server, plain_databases: PlainDatabases, plain: bytes, tmp_path: Path, kind: str
) -> None:
    """A2.6, A2.7: whatever somebody's psqlrc says."""
    name = plain_databases(pg17)
    off = {"PGOPTIONS": "-c standard_conforming_strings=off"}
    dumps: dict[str, Callable[[], bytes]] = {
        "plain": lambda: plain,
        "gzip": lambda: gzip.compress(plain, 9),
        "members": lambda: gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]),
        "inserts": lambda: servers_module.dump(pg17, name, "--column-inserts"),
        "old": lambda: old_style(plain),
        "verbose": lambda: servers_module.dump(pg17, name, "--verbose"),
        "off": lambda: run(pg17, name, ["pg_dump", "--inserts"], environment=off),
    }
    (tmp_path / ".psqlrc").write_text("\\set AUTOCOMMIT off\n\\set ON_ERROR_STOP off\n")
    home = {"HOME": str(tmp_path), "PSQLRC": str(tmp_path / ".psqlrc")}
    with dropped(pg17, "arrived"):
        restored(pg17, dumps[kind](), tmp_path, "arrived", **home)
        assert_same_database(pg17, name, pg17, "arrived", ignore_database=True)


@contextlib.contextmanager
def dropped(server: Server, name: str) -> Iterator[None]:
    try:
        yield
    finally:
        drop(server, name)


@pytest.mark.parametrize("server", [18], indirect=True)
def test_plain_dump_of_everything_arrives_whole(
    server: Server, objects: str, tmp_path: Path
) -> None:
    """A foreign dump of the database with one of everything."""
    with dropped(server, "everything"):
        restored(
            server, gzip.compress(servers_module.dump(server, objects), 1), tmp_path, "everything"
        )
        assert_same_database(server, objects, server, "everything", ignore_database=True)


def cut_inside_rows(dump: bytes) -> Iterator[bytes]:
    """In a row, between two, behind a COPY that looks closed, before the indexes."""
    scanner = Scanner()
    at = 0
    for piece in [*scanner.feed(dump), *scanner.close()]:
        if isinstance(piece, script.Rows) and len(piece.data) > 500:
            yield dump[: at + 203]
            yield dump[: at + piece.data.index(b"\n", 100) + 1]
            yield dump[: at + len(piece.data) + len(script.COPY_DATA_END)]
        if not isinstance(piece, script.Entry):
            at += len(piece.data)
    yield dump[: dump.index(b"CREATE INDEX")]
    yield dump[: dump.index(COMPLETE, dump.index(b"CREATE INDEX"))]


def test_cut_plain_dump_leaves_no_database(
    pg17: Server, plain: bytes, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A2.1, A2.2, A2.3: psql would take the end of the file for the end of the rows."""
    target = database(pg17)
    psql(pg17, target, input="create table kept as select 1 as n")
    before = databases(pg17)
    path = tmp_path / "cut.sql.gz"
    cuts = [*cut_inside_rows(plain), *cut_inside_rows(old_style(plain))]
    assert len(cuts) == 10
    for number, cut in enumerate(cuts):
        path.write_bytes(gzip.compress(cut) if number % 2 else cut)
        more = ["--drop-existing", "--yes", f"--target-db={target}"]
        for args in (["--target-db=new"], more) if number < 1 else (more,):
            said = invoke.run(
                "restore", f"--backup={path}", *args, env=invoke.environment(pg17), code=5
            )
            assert "dump" in said
            assert databases(pg17) == before
    assert sql(pg17, target, "select n from kept") == [(1,)]


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (
            (b"\nCREATE INDEX ", b"\nCREATE INDEX nowhere ON public.nothing (x);\nCREATE INDEX "),
            'relation "public.nothing" does not exist',
        ),
        ((b"\n2\t", b"\n1\t"), "could not create unique index"),
        ((b"\n2\t", b"\ntwo\t"), "invalid input syntax for type integer"),
        ((b"ADD CONSTRAINT t_pkey", b"ADD CONSTRAINT"), "syntax error"),
    ],
    ids=["statement", "duplicate key", "row", "syntax"],
)
def test_plain_dump_that_the_server_refuses(
    pg17: Server,
    plain: bytes,
    database: DatabaseFactory,
    tmp_path: Path,
    broken: tuple[bytes, bytes],
    error: str,
) -> None:
    """A2.5, A2.6: exit code 8, what the server said, and no database of half the dump."""
    assert plain.count(broken[0]) >= 1
    target = database(pg17)
    psql(pg17, target, input="create table kept as select 1 as n")
    before = databases(pg17)
    path = tmp_path / "broken.sql"
    path.write_bytes(plain.replace(*broken, 1))
    whole(path.read_bytes())
    for args in (["--target-db=new"], [f"--target-db={target}", "--drop-existing", "--yes"]):
        said = invoke.run(
            "restore", f"--backup={path}", *args, env=invoke.environment(pg17), code=8
        )
        assert error in said
        assert databases(pg17) == before
    assert sql(pg17, target, "select n from kept") == [(1,)]


def test_rows_without_tables_are_refused_by_the_server(
    pg17: Server, plain_databases: PlainDatabases, tmp_path: Path
) -> None:
    """A2.5: pg_dump --data-only into a new database."""
    path = tmp_path / "rows.sql"
    path.write_bytes(servers_module.dump(pg17, plain_databases(pg17), "--data-only"))
    before = databases(pg17)
    args = ["restore", f"--backup={path}", "--target-db=new"]
    assert "does not exist" in invoke.run(*args, env=invoke.environment(pg17), code=8)
    assert databases(pg17) == before


def test_plain_dump_of_another_encoding_arrives(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A3.14: the server's own locale does not fit the dump's encoding."""
    source = database(pg17, "encoding latin1 locale 'C'")
    sql(pg17, source, "create table t as select 'é'::text as word")
    dump = tmp_path / "latin1.sql"
    dump.write_bytes(servers_module.dump(pg17, source))
    target = f"{source}_copy"
    try:
        invoke.restore(pg17, dump, target)
        assert sql(pg17, target, "select word from t") == [("é",)]
        assert sql(pg17, target, "show server_encoding") == [("LATIN1",)]
    finally:
        drop(pg17, target)


def test_roles_are_not_restored_as_a_database(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """Globals change roles of the whole server."""
    artifact = invoke.backup(pg17, database(pg17), tmp_path)
    roles = artifact.with_name(artifact.name.replace(".sql.gz", ".globals.sql.gz"))
    args = ("restore", f"--backup={roles}", "--target-db=no_such_database")
    assert "roles" in invoke.run(*args, env=invoke.environment(pg17), code=9)


def test_roles_belong_to_a_backup(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """A3.2: damage to them is found, by whom they are read, and as what it is."""
    artifact = invoke.backup(pg17, database(pg17), tmp_path)
    env = invoke.environment(BACKUP_DIR=str(tmp_path))
    roles = artifact.with_name(artifact.name.replace(".sql.gz", ".globals.sql.gz"))
    assert "roles" in json.loads(invoke.run("verify", str(artifact), "--json", env=env))["checked"]
    data = bytearray(roles.read_bytes())
    data[len(data) // 2] ^= 1
    roles.write_bytes(data)
    for command in (["verify", str(artifact)], ["drill", f"--backup={artifact}"]):
        assert f"{roles.name} is damaged: it differs from the manifest" in invoke.run(
            *command, env=env, code=5
        )
    manifest = artifact.with_name(artifact.name.replace(".sql.gz", ".manifest.json"))
    manifest.rename(tmp_path / "lost")
    assert "damaged" in invoke.run("drill", f"--backup={artifact}", env=env, code=5)
    (tmp_path / "lost").rename(manifest)
    roles.unlink()
    assert f"{roles.name} is missing" in invoke.run("verify", str(artifact), env=env, code=5)
