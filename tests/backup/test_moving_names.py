"""Names that mean something else while a backup reads by them (G2)."""

import json
import re
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import concurrency, faults, invoke, launcher, servers
from tests.support.attacker import ROWS, WHOLE, Attacker, attacker, attempt, contents
from tests.support.buckets import Buckets
from tests.support.disposable import Disposables
from tests.support.private_keys import AgeKey


def held(
    server: Server, db: str, folder: Path, program: str
) -> tuple[concurrency.Gate, launcher.Process]:
    """Start a backup that stops before it starts one of its programs."""
    gate = concurrency.Gate(folder, server, program)
    env = invoke.environment(server, db, BACKUP_DIR=str(folder / "b"), BACKUP_JOBS="2")
    process = launcher.start(["backup", "--verify"], env | gate.environment)
    gate.wait()
    return gate, process


def artifact(folder: Path) -> Path:
    (path,) = [path for path in (folder / "b").glob("*.sql.gz") if "globals" not in path.name]
    return path


@pytest.mark.parametrize(
    ("server", "program", "kind"),
    [
        (15, "psql", "views"),
        (15, "pg_dump", "views"),
        (17, "psql", "tables"),
        (18, "psql", "indexed"),
        (18, "pg_dump", "tables"),
    ],
    ids=str,
    indirect=["server"],
)
def test_names_that_move_and_stay(
    server: Server, database: DatabaseFactory, tmp_path: Path, program: str, kind: str
) -> None:
    """G2.1, G2.2: another schema gets the name after the locks; all is dumped as of one moment."""
    db, copy = database(server), database(server)
    with attacker(server, db, copy) as one:
        gate, process = held(server, db, tmp_path, program)
        one.away(*{"tables": (), "views": one.views, "indexed": one.indexed}[kind])
        gate.open()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
        assert not one.has_run_code()
        servers.drop(server, copy)
        invoke.restore(server, artifact(tmp_path), copy)
        assert contents(server, copy, "hidden") == WHOLE


def lock_on_impostor(one: Attacker) -> bool:
    return concurrency.locks_of_backup(one.server, one.database, "mine.big") > 0


@pytest.mark.parametrize(
    ("server", "program"),
    [(15, "pg_dump"), (18, "psql")],
    ids=str,
    indirect=["server"],
)
def test_names_that_move_and_come_back(
    server: Server, database: DatabaseFactory, tmp_path: Path, program: str
) -> None:
    """G2.1: at the end every name means what it has meant in the beginning, and yet."""
    db, copy = database(server), database(server)
    with attacker(server, db, copy) as one:
        gate, process = held(server, db, tmp_path, program)
        one.away()
        gate.open()
        concurrency.until(lambda: process.poll() is not None or lock_on_impostor(one))
        with servers.connect(server, db) as connection:
            connection.execute("set lock_timeout = '20s'")
            connection.execute("alter schema mine rename to impostor")
            connection.execute("alter schema hidden rename to mine")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
        servers.drop(server, copy)
        invoke.restore(server, artifact(tmp_path), copy)
        names = {row[0] for row in servers.sql(server, copy, "select nspname from pg_namespace")}
        real = "hidden" if "hidden" in names else "mine"
        assert contents(server, copy, real) == WHOLE


def test_queries_on_tables_of_others_are_not_planned(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G2.2: the planner calls functions in expressions of indexes and of statistics, and checks."""
    db, copy = database(pg17), database(pg17)
    with attacker(pg17, db, copy) as one:
        one.execute(
            one.code,
            "create index on mine.big (i) where mine.code(1) > 0",
            "create statistics mine.s on (i + mine.code(1)), p from mine.big",
            "alter table mine.big add check (i > 0 or mine.code(1) > 0)",
            "create table mine.computed (i int, j int generated always as (i + 1) stored)",
            "insert into mine.computed values (1)",
            "create index on mine.computed (i) where mine.code(1) > 0",
            "create materialized view mine.view as select 1 i",
            "create index on mine.view (i) where mine.code(1) > 0",
        )
        servers.sql(pg17, db, f"alter database {db} set constraint_exclusion = on")
        path = invoke.backup(pg17, db, tmp_path, "--jobs=2")
        assert not one.has_run_code()
        said = path.with_name(path.name.replace(".sql.gz", ".manifest.json")).read_text()
        assert (
            "hashes of 2 materialized views or tables with generated columns were not recorded"
            in said
        )
        assert len(concurrency.parts(path, "big")) == 1
        # Whoever owns it may have it read in pieces.
        servers.sql(pg17, db, f"alter database {db} owner to {one.role}")
        servers.sql(pg17, db, f"grant pg_read_all_data to {one.role}")
        own = invoke.backup(pg17, db, tmp_path / "own", "--jobs=2", PGUSER=one.role)
        assert len(concurrency.parts(own, "big")) == 2


def test_functions_of_others_on_a_table_of_ours(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G2.2: an index of ours may use a function that its owner replaces."""
    db, copy = database(pg17), database(pg17)
    with attacker(pg17, db, copy) as one:
        servers.sql(
            pg17,
            db,
            f"create table ours (i int, p text) {concurrency.SPARSE};"
            f" insert into ours select g, repeat('x', 100) from generate_series(1, {ROWS}) g",
        )
        assert len(concurrency.parts(invoke.backup(pg17, db, tmp_path, "--jobs=2"), "ours")) == 2
        one.execute("create function mine.f(int) returns int immutable language sql return $1")
        servers.sql(pg17, db, "create index on public.ours (mine.f(i))")
        path = invoke.backup(pg17, db, tmp_path / "then", "--jobs=2")
        assert len(concurrency.parts(path, "ours")) == 1


@pytest.mark.parametrize("kind", ["tables", "views"])
def test_names_that_move_at_any_moment(
    pg17: Server, database: DatabaseFactory, tmp_path: Path, kind: str
) -> None:
    """G2.1: whenever it is, the backup is complete; one cycle of renaming is one attempt more."""
    db, copy = database(pg17), database(pg17)
    with attacker(pg17, db, copy) as one:
        for number in range(2):
            assert attempt(one, kind, copy, tmp_path / str(number), longest=1.5) == "complete"


def test_functions_that_are_dropped_meanwhile(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G2.6: pg_dump leaves out the arguments or the body of a function that has gone, silently."""
    db = database(pg17)
    servers.sql(
        pg17,
        db,
        "create function body() returns int return 1;"
        " create function arguments(a int) returns int language sql as 'select 1'",
    )
    for number, name in enumerate(("body", "arguments")):
        folder = tmp_path / str(number)
        folder.mkdir()
        gate, process = held(pg17, db, folder, "pg_dump")
        servers.sql(pg17, db, f"drop function {name}")
        gate.open()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
        text = invoke.run("cat", str(artifact(folder)), env=invoke.environment())
        assert f"FUNCTION public.{name}" not in text


def test_roles_that_are_dropped_meanwhile(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """A3.1, G2.6: of a dropped role the server shows pg_dump only the OID: GRANT ... TO "16400".

    Before pg_dump has read the privileges, the backup begins again. Afterwards the role is in the
    backup, and a restore creates it.
    """
    db = disposables.database(pg17)
    before, after = disposables.role(pg17), disposables.role(pg17)
    create = f"create table t as select 1 a; grant select on t to {before}, {after};"
    servers.sql(pg17, db, f"{create} create schema u authorization {after}")

    def leave(role: str) -> str:
        gone = f"reassign owned by {role} to current_user; drop owned by {role}; drop role {role}"
        return f"psql -X -q -d {db} -c '{gone}' >&2"

    scripts = {
        "pg_dump": f'if mkdir "{tmp_path}/once" 2>/dev/null; then {leave(before)}; fi;'
        ' exec "$real" "$@"',
        "pg_dumpall": f'if mkdir "{tmp_path}/twice" 2>/dev/null; then {leave(after)}; fi;'
        ' exec "$real" "$@"',
    }
    path = faults.path_with(tmp_path / "bin", pg17, scripts)
    made = invoke.backup(pg17, db, tmp_path / "b", PATH=path)
    text = invoke.run("cat", str(made), env=invoke.environment())
    assert f"TO {after};" in text
    assert f"ALTER SCHEMA u OWNER TO {after};" in text
    assert before not in text
    assert not re.search(r'TO "[0-9]+"', text)
    manifest = json.loads(made.with_name(made.name[:-7] + ".manifest.json").read_bytes())
    assert (after in manifest["roles"], before in manifest["roles"]) == (True, False)
    warning = f"roles were dropped during the backup and are not in its globals: {after}"
    assert warning in manifest["warnings"]
    target = disposables.name(pg17)
    env = invoke.environment(pg17)
    command = ("restore", f"--backup={made}", f"--target-db={target}")
    assert f"roles are missing on the server: {after}" in invoke.run(*command, env=env, code=9)
    invoke.run(*command, "--create-roles", env=env)
    query = "select nspowner::regrole::text from pg_namespace where nspname = 'u'"
    assert servers.sql(pg17, target, query) == [(after,)]


def test_no_connection_to_check_names_by(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G2.1: where the server has no room for one more, they are checked after the snapshot."""
    db, copy = database(pg17), database(pg17)
    with attacker(pg17, db, copy) as one:
        servers.sql(pg17, db, f"alter role {one.role} connection limit 3")
        gate = concurrency.Gate(tmp_path, pg17, "pg_dump")
        env = invoke.environment(pg17, db, BACKUP_DIR=str(tmp_path / "b"), PGUSER=one.role)
        process = launcher.start(["backup", "--schema-only", "--jobs=1"], env | gate.environment)
        gate.wait()
        one.away()
        with psycopg.connect(make_conninfo("", **pg17.params | {"user": one.role}, dbname=db)):
            gate.open()
            out, err = process.communicate(timeout=60)
        # It starts over; and the first look shows that there is still no room.
        assert process.returncode == 4, out + err
        assert err.count("checking") == 2
        assert f"role {one.role} can open 3 connections, the backup needs 4" in err
        assert invoke.left_over(tmp_path / "b") == []


@pytest.mark.parametrize("where", ["encrypted", "bucket", "encrypted in a bucket"])
def test_pg_dump_is_started_again_whatever_its_output_is_written_to(
    pg17: Server, app: str, tmp_path: Path, buckets: Buckets, age_key: AgeKey, where: str
) -> None:
    """Trap D5: a view was dropped while pg_dump read it, before it wrote anything.

    The first pg_dump ended all that its output would have gone through, so the second one failed.
    """
    said = "pg_dump: error: query failed: ERROR:  relation 7 does not exist"
    once = f'mkdir "{tmp_path}/begun" 2>/dev/null && {{ echo "{said}" >&2; exit 1; }}'
    script = f'{once}; exec "$real" "$@"'
    path = faults.path_with(tmp_path / "bin", pg17, {"pg_dump": script})
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path / "b"), PATH=path)
    if "bucket" in where:
        env |= buckets.environment(buckets.bucket())
        env["BACKUP_DIR"] = f"s3://{env.pop('BACKUP_S3_BUCKET')}/backups"
    if "encrypted" in where:
        env["BACKUP_ENCRYPT_TO"] = age_key.recipient
    invoke.run("backup", "--verify", env=env)
    assert (tmp_path / "begun").is_dir()
