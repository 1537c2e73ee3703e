"""Every option of every command does what its help says; every mistake gets a sentence."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pgkeep.postgres.server import Server
from tests.support import invoke, servers
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables
from tests.support.invoke import on_terminal, run_python

SHOP = """
create table customers (id int primary key, name text not null);
insert into customers select n, 'customer ' || n from generate_series(1, 200) n;
create table orders (id serial primary key, customer int not null references customers, day date);
insert into orders (customer, day) select 1 + n % 200, date '2026-01-01' + n % 300
from generate_series(1, 1000) n;
create index on orders (day);
create table log (what text);
create function note() returns trigger language plpgsql as
    $$begin insert into public.log values ('trigger'); return new; end$$;
"""
TRIGGER = "create trigger noted after insert on customers execute function note();"


@pytest.fixture(scope="module")
def shop(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A database and a backup of it, for reading."""
    with Disposables() as made:
        database = made.database(pg17)
        servers.sql(pg17, database, SHOP)
        yield database, invoke.backup(pg17, database, tmp_path_factory.mktemp("shop"))


def databases(server: Server) -> list[tuple[Any, ...]]:
    return servers.sql(server, "postgres", "select oid, datname from pg_database order by 1")


# -- backup


@pytest.mark.parametrize("kind", ["daily", "weekly", "monthly", "manual"])
def test_type_is_in_the_name_and_the_manifest(
    pg17: Server, shop: tuple[str, Path], tmp_path: Path, kind: str
) -> None:
    artifact = invoke.backup(pg17, shop[0], tmp_path, f"--type={kind}")
    assert re.fullmatch(rf"{shop[0]}_{kind}_\d{{8}}T\d{{6}}Z\.sql\.gz", artifact.name)
    manifest = json.loads(next(tmp_path.glob("*.manifest.json")).read_bytes())
    assert manifest["type"] == kind
    assert len(invoke.left_over(tmp_path)) == 4


def test_schema_only_backups_have_no_rows_and_are_never_the_latest(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables, tmp_path: Path
) -> None:
    artifact = invoke.backup(pg17, shop[0], tmp_path, "--schema-only", "--verify")
    assert artifact.name.endswith("_schema.sql.gz")
    target = disposables.name(pg17)
    invoke.restore(pg17, artifact, target)
    assert servers.sql(pg17, target, "select count(*) from orders") == [(0,)]
    source, restored = (servers.dump(pg17, name, "--schema-only") for name in (shop[0], target))
    assert _without_key(source) == _without_key(restored)
    env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path))
    said = invoke.run("restore", "--latest", "--target-db=never", env=env, code=9)
    assert "no backup" in said
    # Not each of them is the month's, even if a month begins between two of them.
    args = ("--schema-only", "--type=auto")
    nights = [invoke.backup(pg17, shop[0], tmp_path / "tiers", *args).name for _ in range(3)]
    assert "_monthly_" in nights[0]
    assert any("_daily_" in name for name in nights), nights


def _without_key(dump: bytes) -> bytes:
    return re.sub(rb"(?m)^\\(un)?restrict .*$", b"", dump)


def test_options_win_over_the_environment(
    pg17: Server, shop: tuple[str, Path], tmp_path: Path
) -> None:
    """--dsn, --database, --dir and --jobs of backup, doctor and restore."""
    env = invoke.environment(
        pg17, "no such database", BACKUP_DIR=str(tmp_path / "not here"), BACKUP_JOBS="zero"
    )
    dsn = f"host={pg17.host} user=postgres dbname=postgres"
    options = (f"--dsn={dsn}", f"--database={shop[0]}", f"--dir={tmp_path / 'here'}", "--jobs=2")
    invoke.run("backup", *options, env=env)
    assert len(invoke.left_over(tmp_path / "here")) == 4
    assert not (tmp_path / "not here").exists()
    report = json.loads(invoke.run("doctor", "--json", *options, env=env))
    assert list(report["databases"]) == [shop[0]]
    assert list(report["stores"]) == [str(tmp_path / "here")]
    plan = json.loads(
        invoke.run("restore", "--latest", "--target-db=x", "--dry-run", "--json", *options, env=env)
    )
    assert "by 2 connections" in "\n".join(plan["steps"])
    listed = invoke.run("list", f"--database={shop[0]}", f"--dir={tmp_path / 'here'}", "--json",
                      env=env | {"BACKUP_JOBS": "1"})  # fmt: skip
    assert len(json.loads(listed)) == 1


def test_lock_timeout_is_how_long_a_locked_table_is_waited_for(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """A6.2."""
    database = disposables.database(pg17)
    servers.sql(pg17, database, "create table busy (id int)")
    env = invoke.environment(pg17, database, BACKUP_DIR=str(tmp_path))
    with servers.connect(pg17, database) as connection, connection.transaction():
        connection.execute("lock table busy in access exclusive mode")
        began = time.monotonic()
        said = invoke.run("backup", "--lock-timeout=0.3", env=env, code=4)
        assert time.monotonic() - began < 10
    assert "public.busy" in said
    assert invoke.left_over(tmp_path) == []


# -- restore


def test_dry_run_changes_nothing(pg17: Server, shop: tuple[str, Path], tmp_path: Path) -> None:
    """E15."""
    database, artifact = shop
    env = invoke.environment(pg17)
    before = databases(pg17), invoke.left_over(artifact.parent)
    for args in ([], ["--drop-existing"], ["--drop-existing", "--discard-old"], ["--schema-only"]):
        target = database if "--drop-existing" in args else "not there"
        shown = invoke.run(
            "restore", f"--backup={artifact}", f"--target-db={target}", "--dry-run", *args, env=env
        )
        assert target in shown
        assert ("out of the way" in shown) is ("--drop-existing" in args)
        assert ("drop the old database" in shown) is ("--discard-old" in args)
        assert ("schema and rows" in shown) is ("--schema-only" not in args)
    assert (databases(pg17), invoke.left_over(artifact.parent)) == before


def test_verify_only_needs_no_server(shop: tuple[str, Path], tmp_path: Path) -> None:
    env = invoke.environment(PGHOST="/proc/nowhere")
    said = invoke.run("restore", f"--backup={shop[1]}", "--verify-only", env=env)
    assert said.startswith("ok: ")
    report = json.loads(
        invoke.run("restore", f"--backup={shop[1]}", "--verify-only", "--json", env=env)
    )
    assert report["rows"] == 1200
    damaged = tmp_path / shop[1].name
    damaged.write_bytes(shop[1].read_bytes()[:-100])
    invoke.run("restore", f"--backup={damaged}", "--verify-only", env=env, code=5)


def test_replacing_keeps_the_old_database_unless_told_to_discard_it(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables
) -> None:
    """A2.10, E2, E16."""
    target = disposables.database(pg17)
    servers.sql(pg17, target, "create table precious as select 1 as id")
    env = invoke.environment(pg17)
    args = ("restore", f"--backup={shop[1]}", f"--target-db={target}")
    assert "exists" in invoke.run(*args, env=env, code=9)
    assert "--yes" in invoke.run(*args, "--drop-existing", env=env, code=9)
    assert servers.sql(pg17, target, "select id from precious") == [(1,)]
    result = json.loads(invoke.run(*args, "--drop-existing", "--yes", "--json", env=env))
    old = disposables.name(pg17, result["old_database"])
    assert re.fullmatch(rf"{target}__old_\d{{8}}T\d{{6}}Z", old)
    assert servers.sql(pg17, old, "select id from precious") == [(1,)]
    assert_same_database(pg17, shop[0], pg17, target)
    servers.sql(pg17, target, "create table later (id int)")
    names = {name for _, name in databases(pg17)}
    result = json.loads(
        invoke.run(*args, "--drop-existing", "--discard-old", "--yes", "--json", env=env)
    )
    assert result.get("old_database") is None
    assert {name for _, name in databases(pg17)} == names
    assert_same_database(pg17, shop[0], pg17, target)


def test_a_subscription_goes_with_the_database_that_is_discarded(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables
) -> None:
    """A4.11: and the publisher's slot, which pgkeep does not touch, is told."""
    target = disposables.database(pg17)
    servers.sql(
        pg17,
        target,
        "create subscription s connection 'host=nowhere' publication p with (connect = false)",
    )
    servers.sql(pg17, target, f"select pg_create_logical_replication_slot('{target}', 'pgoutput')")
    names = {name for _, name in databases(pg17)}
    args = ("--drop-existing", "--discard-old", "--yes", "--json", "--accept-replication-loss")
    result = json.loads(invoke.restore(pg17, shop[1], target, *args))
    assert result.get("old_database") is None
    said = "".join(result["warnings"])
    assert "its replication slot s stays on the publisher" in said
    assert f"logical replication slot {target} was dropped with the old database" in said
    assert {name for _, name in databases(pg17)} == names


def test_an_old_database_that_cannot_be_dropped_is_kept(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables
) -> None:
    """The restore has succeeded, and says so."""
    target = disposables.database(pg17, "is_template true")
    args = ("--drop-existing", "--discard-old", "--yes", "--json")
    result = json.loads(invoke.restore(pg17, shop[1], target, *args))
    old = disposables.name(pg17, result["old_database"])
    servers.sql(pg17, "postgres", f"alter database {servers.quoted(old)} is_template false")
    assert result["warnings"] == [
        "could not drop the old database: cannot drop a template database"
    ]
    assert_same_database(pg17, shop[0], pg17, target)


def test_statistics_are_collected_unless_told_not_to(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables
) -> None:
    """A5.22."""
    query = "select count(*) > 0 from pg_stats where schemaname = 'public'"
    for args, there in (((), True), (("--no-analyze",), False)):
        target = disposables.name(pg17)
        invoke.restore(pg17, shop[1], target, *args)
        assert servers.sql(pg17, target, query) == [(there,)]


def test_schema_and_rows_one_after_the_other(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables
) -> None:
    """A5.4, E10: the orders come before the customers that they refer to in any naive order."""
    target = disposables.name(pg17)
    invoke.restore(pg17, shop[1], target, "--schema-only")
    assert servers.sql(pg17, target, "select count(*) from orders") == [(0,)]
    env = invoke.environment(pg17)
    args = ("restore", f"--backup={shop[1]}", f"--target-db={target}", "--data-only")
    assert "--yes" in invoke.run(*args, env=env, code=9)
    invoke.run(*args, "--yes", env=env)
    assert_same_database(pg17, shop[0], pg17, target)
    said = invoke.run(*args, "--yes", env=env, code=9)
    assert "table public.customers is not empty" in said
    assert "table public.orders is not empty" in said
    servers.sql(pg17, target, "drop table orders, customers")
    said = invoke.run(*args, "--yes", env=env, code=9)
    assert "table public.customers does not exist" in said
    assert "table public.orders does not exist" in said
    servers.sql(pg17, target, "create view orders as select 1 / 0 as id")
    assert "public.orders is not a table" in invoke.run(*args, "--yes", env=env, code=9)


def test_triggers_fire_unless_disabled(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables
) -> None:
    """A5.5, G4.4: one that adds rows to a table of the backup is an error."""
    target = disposables.name(pg17)
    invoke.restore(pg17, shop[1], target, "--schema-only")
    servers.sql(pg17, target, TRIGGER)
    args = ("restore", f"--backup={shop[1]}", f"--target-db={target}", "--data-only", "--yes")
    said = invoke.run(*args, env=invoke.environment(pg17), code=8)
    assert "table public.log has 1 rows after loading, the backup has 0" in said
    assert servers.sql(pg17, target, "select count(*) from orders") == [(0,)]
    invoke.restore(pg17, shop[1], target, "--data-only", "--yes", "--disable-triggers")
    assert servers.sql(pg17, target, "select count(*) from log") == [(0,)]
    assert servers.sql(pg17, target, "select count(*) from orders") == [(1000,)]


# Referring tables first by name, by size and by creation; circles; a table that refers to itself
# and is large enough to come in several parts; partitions on either side.
CIRCLES = """
create table "Z" (id int primary key);
create table a (id int primary key, z int references "Z");
create table "0" (id int primary key, a int references a, filler text);
create table chicken (id int primary key, egg int);
create table egg (id int primary key, chicken int references chicken);
alter table chicken add constraint "Laid!" foreign key (egg) references egg
    deferrable initially immediate;
create table tree (id int primary key, parent int constraint "up" references tree, filler text);
alter table tree alter filler set storage plain;
create table sales (id int, day date, tree int references tree, primary key (id, day))
    partition by range (day);
create table sales_1 partition of sales for values from ('2026-01-01') to ('2026-02-01');
create table sales_2 partition of sales for values from ('2026-02-01') to ('2026-03-01');
create table b_refunds (id int primary key, sale int, day date,
                        foreign key (sale, day) references sales);
insert into "Z" values (1), (2);
insert into a values (1, 1), (2, 2);
insert into "0" select n, 1 + n % 2, repeat('y', 1000) from generate_series(1, 2000) n;
insert into chicken select n from generate_series(1, 50) n;
insert into egg select n, n from generate_series(1, 50) n;
update chicken set egg = 51 - id;
insert into tree select n, nullif(20001 - n, 0) % 20001, repeat('x', 1900)
from generate_series(1, 20000) n;
insert into sales select n, date '2026-01-01' + n % 50, n from generate_series(1, 1000) n;
insert into b_refunds select id, id, day from sales;
"""


def test_rows_go_into_tables_whose_foreign_keys_make_circles(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """A5.4: and the constraints are afterwards what they were before."""
    database = disposables.database(pg17)
    servers.sql(pg17, database, CIRCLES)
    owner = disposables.role(pg17)
    artifact = invoke.backup(pg17, database, tmp_path)
    target = disposables.name(pg17)
    invoke.restore(pg17, artifact, target, "--schema-only")
    invoke.restore(pg17, artifact, target, "--data-only", "--yes")
    assert_same_database(pg17, database, pg17, target)
    # A role without the right to alter the tables hears how it can be done.
    second = disposables.name(pg17)
    invoke.restore(pg17, artifact, second, "--schema-only")
    servers.sql(pg17, second, f"grant select, insert on all tables in schema public to {owner}")
    env = invoke.environment(pg17, PGUSER=owner)
    args = ("restore", f"--backup={artifact}", f"--target-db={second}", "--data-only", "--yes")
    assert "must be owner of table" in invoke.run(*args, env=env, code=8)
    assert servers.sql(pg17, second, 'select count(*) from "Z"') == [(0,)]
    assert "session_replication_role" in invoke.run(*args, "--disable-triggers", env=env, code=8)


def test_rows_that_violate_a_foreign_key_are_not_kept(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """A deferred check is a check all the same."""
    database = disposables.database(pg17)
    servers.sql(pg17, database, CIRCLES)
    servers.sql(
        pg17, database, "set session_replication_role = replica; delete from egg where id = 7"
    )
    artifact = invoke.backup(pg17, database, tmp_path)
    target = disposables.database(pg17)
    servers.sql(pg17, target, CIRCLES)
    tables = 'tree, chicken, egg, "0", a, "Z", sales, b_refunds'
    servers.sql(pg17, target, f"truncate {tables}")
    env = invoke.environment(pg17)
    said = invoke.run("restore", f"--backup={artifact}", f"--target-db={target}", "--data-only",
                    "--yes", env=env, code=8)  # fmt: skip
    assert '"Laid!"' in said
    assert servers.sql(pg17, target, "select count(*) from tree") == [(0,)]


@pytest.mark.parametrize("server", [15, 18], ids="pg{}".format, indirect=True)
def test_large_objects_and_sequences_are_rows_too(
    server: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """E10: of --data-only, and of none of --schema-only."""
    database = disposables.database(server)
    servers.sql(server, database, SHOP)
    servers.sql(server, database, r"select lo_from_bytea(4711, '\x00ff'), lo_from_bytea(4712, 'x')")
    servers.sql(server, database, "comment on large object 4711 is 'two bytes'")
    servers.sql(server, database, "grant select on large object 4712 to public")
    artifact = invoke.backup(server, database, tmp_path)
    target = disposables.name(server)
    invoke.restore(server, artifact, target, "--schema-only")
    assert servers.sql(server, target, "select is_called from orders_id_seq") == [(False,)]
    assert servers.sql(server, target, "select count(*) from pg_largeobject_metadata") == [(0,)]
    invoke.restore(server, artifact, target, "--data-only", "--yes")
    assert_same_database(server, database, server, target)


@pytest.mark.parametrize("option", ["--drop-existing", "--in-place", "--data-only"])
def test_on_a_terminal_the_question_is_asked(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables, option: str
) -> None:
    """E16: `n` changes nothing, `y` does it."""
    target = disposables.database(pg17)
    if option == "--data-only":
        servers.sql(pg17, target, re.sub("(?m)^(insert|from|select).*\n", "", SHOP))
    args = ("restore", f"--backup={shop[1]}", f"--target-db={target}", option)
    env = invoke.environment(pg17)
    before = databases(pg17)
    question = f"Change database {target}?"
    code, shown = on_terminal(*args, env=env, answers={question: "n"})
    assert (code, databases(pg17)) == (9, before)
    assert "error: cancelled" in shown
    code, shown = on_terminal(*args, "--discard-old" if option == "--drop-existing" else "--jobs=2",
                              env=env, answers={question: "y"})  # fmt: skip
    assert code == 0, shown
    assert "done: " in shown
    assert_same_database(pg17, shop[0], pg17, target)


def test_problems_are_told_before_the_question(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables
) -> None:
    """Nobody is asked for a consent that leads to a refusal."""
    target = disposables.database(pg17)
    servers.sql(pg17, target, "create table t (id int)")
    said = invoke.run("restore", f"--backup={shop[1]}", f"--target-db={target}", "--in-place",
                    env=invoke.environment(pg17), code=9)  # fmt: skip
    assert "not empty" in said
    assert "--yes" not in said


def test_a_backup_can_be_named_by_its_file_name_alone(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables
) -> None:
    target = disposables.name(pg17)
    env = invoke.environment(pg17, BACKUP_DIR=str(shop[1].parent))
    invoke.run("restore", f"--backup={shop[1].name}", f"--target-db={target}", env=env)
    assert_same_database(pg17, shop[0], pg17, target)
    assert invoke.run("verify", shop[1].name, "--jobs=1", env=env).startswith("ok: ")


# -- what people and programs read


def test_json_is_one_document_with_a_stable_shape(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables, tmp_path: Path
) -> None:
    env = invoke.environment(pg17, shop[0], BACKUP_DIR=str(tmp_path))

    def keys(*args: str) -> set[str]:
        found = json.loads(invoke.run(*args, "--json", env=env))
        return set(found[0] if isinstance(found, list) else found)

    assert {"backups", "failed", "excluded"} <= keys("backup")
    assert keys("list") == {"id", "name", "cluster", "missing", "stores", "manifest"}
    artifact = next(tmp_path.glob("*Z.sql.gz"))
    report = {"file", "kind", "raw_bytes", "tables", "rows", "checked"}
    assert report <= keys("verify", str(artifact))
    report = {"databases", "server", "address", "role", "client", "stores", "findings"}
    assert report <= keys("doctor")
    target = disposables.name(pg17)
    restore = ("restore", f"--backup={artifact}", f"--target-db={target}")
    plan = {"file", "kind", "source", "snapshot", "target", "mode", "steps", "problems"}
    assert plan <= keys(*restore, "--dry-run")
    assert {"database", "rows", "tables", "seconds", "warnings"} <= keys(*restore)
    code, out, err = invoke.complete(*restore, "--json", env=env)
    record = json.loads(out)
    assert set(record) == {"error", "hint", "exit_code"}
    assert record["exit_code"] == code == 9
    assert "error: " + record["error"] in err


def test_a_bar_on_a_terminal(pg17: Server, shop: tuple[str, Path], tmp_path: Path) -> None:
    env = invoke.environment(pg17, shop[0], BACKUP_DIR=str(tmp_path))
    code, shown = on_terminal("backup", "--verify", env=env)
    assert code == 0, shown
    assert "\u2501" in shown  # what bars are drawn with
    assert "verifying" in shown
    assert "\x1b[?25h" in shown  # the cursor is back
    assert not re.search(r"^\d\d:\d\d:\d\d ", shown, re.MULTILINE)


def test_lines_elsewhere(pg17: Server, disposables: Disposables, tmp_path: Path) -> None:
    """E11: a line a step, and one every few seconds, here of no length."""
    database = disposables.database(pg17)
    servers.sql(pg17, database, "create table big as select repeat('x', 1900) f from"
          " generate_series(1, 20000)")  # fmt: skip
    often = "import pgkeep.progress as p; p.Lines.__init__.__defaults__ = (None, 0.0)"
    env = invoke.environment(pg17, database, BACKUP_DIR=str(tmp_path))
    done = run_python(often, "backup", "--verify", env=env)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines), lines
    steps = list(dict.fromkeys(line[9:] for line in lines))
    assert [step for step in steps if step in ("locking tables", "dumping", "verifying")] == [
        "locking tables", "dumping", "verifying",
    ]  # fmt: skip
    assert any(re.search(r"dumping, \d+% of \d+.* left", line) for line in steps), lines
    assert any(re.search(r"verifying, \d+% of \d+.*/s", line) for line in steps), lines
    assert "\x1b" not in done.stderr
    target = f"--target-db={disposables.name(pg17)}"
    done = run_python(often, "restore", "--latest", target, env=env)
    assert re.search(r"loading rows, \d+% of \d+.*/s", done.stderr), done.stderr


@pytest.mark.parametrize("args", [[], ["--json"]], ids=["text", "json"])
def test_output_that_cannot_be_written_ends_no_run(
    pg17: Server, shop: tuple[str, Path], tmp_path: Path, args: list[str]
) -> None:
    """B25, B31: every target is backed up, and a failure of one is told before the full disk is."""
    path = tmp_path / "pgkeep.toml"
    lines = [f"[targets.{name}]\nbackup_dir = '{tmp_path / name}'\n" for name in "ab"]
    path.write_text("".join(lines))
    env = invoke.environment(pg17, shop[0], PGKEEP_CONFIG=str(path))
    with Path("/dev/full").open("w") as full:
        run = partial(subprocess.run, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
                      check=False, stdin=subprocess.DEVNULL)  # fmt: skip
        done = run([invoke.PGKEEP, "backup", *args], env=env)
        assert done.returncode == 1, done.stderr
        assert done.stderr.endswith("error: could not write: [Errno 28] No space left on device\n")
        assert [len(invoke.left_over(tmp_path / name)) for name in "ab"] == [4, 4]
        path.write_text(f"{lines[0]}postgres_db = 'no such database'\n{lines[1]}")
        done = run([invoke.PGKEEP, "backup", *args], env=env)
        assert done.returncode == 11, done.stderr
        assert "error: 1 of 2 databases failed: no such database\n" in done.stderr
        assert [len(invoke.left_over(tmp_path / name)) for name in "ab"] == [4, 8]
        done = run([invoke.PGKEEP, "backup", *args, "--jobs=0"], env=env)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


@pytest.mark.parametrize(
    "command",
    ["", "backup", "restore", "verify", "list", "prune", "config", "adopt", "doctor", "init"],
)
def test_help_names_options_and_examples(command: str) -> None:
    shown = invoke.run(*command.split(), "--help", env=invoke.environment())
    assert "Usage: pgkeep" in shown
    assert "--help" in shown
    options = shown.partition("Options:")[2].partition("\n\n")[0]
    assert max(map(len, options.splitlines())) <= 80


# -- mistakes

MISTAKES: dict[str, tuple[list[str], dict[str, str], str]] = {
    "no command": ([], {}, "Usage: pgkeep"),
    "unknown command": (["bakcup"], {}, "no such command 'bakcup'"),
    "unknown option": (["backup", "--frobnicate"], {}, "--frobnicate"),
    "type": (["backup", "--type=hourly"], {}, "daily"),
    "extra argument": (["backup", "app"], {}, "unexpected extra argument"),
    "no backup": (["restore"], {}, "either --backup or --latest"),
    "two backups": (["restore", "--backup=x", "--latest"], {}, "either --backup or --latest"),
    "discard": (["restore", "--latest", "--discard-old"], {}, "requires --drop-existing"),
    "triggers": (["restore", "--latest", "--disable-triggers"], {}, "requires --data-only"),
    "both": (
        ["restore", "--latest", "--schema-only", "--data-only"],
        {},
        "cannot be used together",
    ),
    "where": (
        ["restore", "--latest", "--in-place", "--drop-existing"],
        {},
        "cannot be used together",
    ),
    "which": (["restore", "--backup=x", "--database=y"], {}, "--target-db is the name"),
    "no file": (["verify"], {}, "either FILE, --latest or --all is required"),
    "jobs": (["backup"], {"BACKUP_JOBS": "zero"}, "BACKUP_JOBS: expected a whole number"),
    "no jobs": (["backup", "--jobs=0"], {}, "got '0' from the command line"),
    "minus": (["backup", "--jobs=-1"], {}, "got '-1' from the command line"),
    "lock": (["backup", "--lock-timeout=soon"], {}, "a number of seconds above 0"),
    "secret": (
        ["backup"],
        {"POSTGRES_PASSWORD_FILE": "/proc/none/secret"},
        "could not read /proc/none/secret",
    ),
    "folder": (["backup"], {"POSTGRES_PASSWORD_FILE": "/"}, "could not read /"),
    "twice": (["list"], {"BACKUP_DIR": "x", "BACKUP_DIR_FILE": "y"}, "are both set"),
    "bucket": (["verify", "s3://bucket"], {}, "s3://bucket names no file: expected s3://BUCKET/"),
    "folder of a bucket": (["show", "s3://bucket/backups/"], {}, "expected s3://BUCKET/KEY"),
    "url": (["backup"], {"DATABASE_URL": "postgresql://a:secret@[::1/x"}, "is not valid"),
    "newline": (["backup"], {"POSTGRES_PASSWORD": "a\nb"}, "newline"),
    "no copies": (["sync"], {"BACKUP_DIR": "."}, "no copies are configured"),
    "one dump": (["adopt", "a.sql", "--type=daily"], {}, "--database and --type require a folder"),
    "no keys": (["rekey"], {"BACKUP_DIR": "."}, "rekey requires public keys"),
    "no token": (
        ["serve", "--listen=0.0.0.0:1"],
        {"BACKUP_DIR": "."},
        "0.0.0.0:1 can be reached from other machines, and BACKUP_SERVE_TOKEN is not set",
    ),
    "two files": (["pitr", "push", "a", "b"], {}, "found 2 arguments, expected FILE"),
    "no socket": (
        ["pitr", "push", "a"],
        {"BACKUP_DIR": "s3://bucket"},
        "neither --socket nor BACKUP_SPOOL_DIR is set",
    ),
}


@pytest.mark.parametrize(("args", "settings", "sentence"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], settings: dict[str, str],
    sentence: str,
) -> None:  # fmt: skip
    env = invoke.environment() | {"BACKUP_DIR": str(tmp_path / "b")} | settings
    monkeypatch.chdir(tmp_path)
    out, err = invoke.outputs(*args, env=env, code=2)
    assert sentence in out + err
    assert "secret@" not in out + err
    assert invoke.left_over(tmp_path / "b") == []


def test_all_problems_of_the_settings_are_told_at_once(tmp_path: Path) -> None:
    env = invoke.environment(
        BACKUP_JOBS="zero", POSTGRES_PASSWORD_FILE="/proc/none/secret", BACKUP_LOCK_TIMEOUT="-1",
        POSTGRES_USER="a", POSTGRES_USER_FILE="/b",
    )  # fmt: skip
    said = invoke.run("backup", env=env, code=2)
    for variable in ("BACKUP_JOBS", "POSTGRES_PASSWORD_FILE", "BACKUP_LOCK_TIMEOUT",
                     "POSTGRES_USER and POSTGRES_USER_FILE are both set"):  # fmt: skip
        assert variable in said
    assert "hint: " in said


@pytest.mark.parametrize("command", ["backup", "doctor", "restore"])
def test_a_server_that_is_down_is_exit_code_3(
    shop: tuple[str, Path], tmp_path: Path, command: str
) -> None:
    args = [command, f"--backup={shop[1]}"] if command == "restore" else [command]
    env = invoke.environment(
        PGHOST=str(tmp_path), PGUSER="postgres", BACKUP_DIR=str(tmp_path / "b"), PGDATABASE="app"
    )
    said = invoke.run(*args, env=env, code=3)
    assert str(tmp_path) in said
    assert "hint: " in said
    assert invoke.left_over(tmp_path / "b") == []


def test_files_that_are_missing_or_no_backups_are_told_apart(pg17: Server, tmp_path: Path) -> None:
    env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path))
    for command in (["verify", "nothing.sql.gz"], ["restore", "--backup=nothing.sql.gz"]):
        assert "nothing.sql.gz" in invoke.run(*command, env=env, code=6)
    assert "no backup" in invoke.run("restore", "--latest", env=env, code=9)
    (tmp_path / "text.sql.gz").write_text("hello")
    invoke.run("verify", "text.sql.gz", env=env, code=5)
    (tmp_path / "plain.sql").write_text("--\n-- PostgreSQL database dump\n--\n")
    said = invoke.run("restore", "--backup=plain.sql", env=env, code=2)
    assert "--target-db=NAME" in said
    invoke.run("restore", "--backup=text.sql.gz", "--target-db=never", env=env, code=5)
    (tmp_path / "void").mkdir()
    assert "no backups" in invoke.run("list", f"--dir={tmp_path / 'void'}", env=env)


def test_what_the_system_refuses_is_told_with_its_place(
    pg17: Server, shop: tuple[str, Path], tmp_path: Path
) -> None:
    """B24: of files that cannot be opened, of locks, of what no command thinks of."""
    (tmp_path / "file").touch()
    for file, reason in ((tmp_path / "file" / "a.sql.gz", "Not a directory"),
                         ("y" * 300, "File name too long")):  # fmt: skip
        said = invoke.run(
            "verify", str(file), env=invoke.environment(BACKUP_DIR=str(tmp_path)), code=6
        )
        assert f"{file}: {reason}" in said
    env = invoke.environment(pg17, shop[0], BACKUP_DIR=str(tmp_path / "b"))
    prelude = (
        "import fcntl\ndef fail(*_): raise OSError(37, 'No locks available')\nfcntl.flock = fail"
    )
    done = run_python(prelude, "backup", env=env)
    assert (done.returncode, invoke.left_over(tmp_path / "b")) == (6, []), done.stderr
    assert re.search(r"could not lock .*/\..*\.lock: No locks available", done.stderr)
    said = invoke.run("adopt", "y" * 300, env=env, code=1)
    assert said.startswith("error: could not use yyy")


def test_files_may_be_named_as_reports_do_and_several_at_once(
    pg17: Server, disposables: Disposables, tmp_path: Path
) -> None:
    """One that is damaged does not hide what is said of the others."""
    database = disposables.database(pg17)
    servers.sql(pg17, database, "create table t as select 1 a")
    artifact = invoke.backup(pg17, database, tmp_path)
    env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path))
    stem = artifact.name.removesuffix(".sql.gz")
    assert invoke.run("list", "--names", env=env) == f"{stem}\n"
    assert invoke.run("list", "--names", "--database=x", env=env) == ""
    assert "cannot be used together" in invoke.run("list", "--names", "--json", env=env, code=2)
    assert "ok: " in invoke.run("verify", stem, env=env)
    everything = sorted(map(str, tmp_path.glob("*.sql.gz")))
    assert len(everything) == 2
    assert len(invoke.run("verify", *everything, env=env).splitlines()) == 2
    assert len(json.loads(invoke.run("verify", "--json", *everything, env=env))) == 2
    cut = tmp_path / "cut.sql.gz"
    cut.write_bytes(artifact.read_bytes()[:-100])
    status, out, err = invoke.complete("verify", str(cut), *everything, env=env)
    assert (status, out.count("ok: ")) == (5, 2)
    assert "error: 1 of 3 files failed: " in err
    plan = ["restore", f"--backup={stem}", "--dry-run"]
    status, out, err = invoke.complete(*plan, env=env)
    assert status == 9
    assert f"problem: database {database} exists" in out
    assert "    1. " in out
    assert f"database {database} exists" in invoke.run(*plan[:2], env=env, code=9)
    invoke.backup(pg17, database, tmp_path, "--schema-only")  # in whose place nobody wants it
    assert invoke.run("list", "--names", env=env) == f"{stem}\n"
    artifact.write_bytes(b"cut")
    assert invoke.run("list", "--names", env=env) == ""


def test_an_empty_maintenance_database_is_told(tmp_path: Path) -> None:
    """Whoever forgets to name a database backs up the one that everybody has."""
    with Server(servers.bin_folder(17)) as server:
        env = invoke.environment(server, "postgres", BACKUP_DIR=str(tmp_path))
        code, _, err = invoke.complete("backup", env=env)
        assert code == 0
        assert "warning: postgres: database postgres is empty: set PGDATABASE" in err
        for name in ("*", "postgres"):
            status, _, err = invoke.complete("backup", env=env | {"BACKUP_DATABASES": name})
            assert (status, "warning" in err) == (0, False), err
            assert " postgres: checking\n" in err
            assert " postgres: finished, 0 tables, 0 rows, " in err


def test_every_trap_that_is_named_can_be_looked_up() -> None:
    root = Path(__file__).parents[2]
    listed = set(re.findall(r"(?m)^- ([A-G][\d.]+): ", (root / "docs" / "traps.md").read_text()))
    assert len(listed) > 200
    texts = [path.read_text() for path in (root / "src").rglob("*.py")]
    texts += [path.read_text() for path in (root / "docs").glob("*.md")]
    cited = {
        one
        for text in texts
        for named in re.findall(r"\btraps?\s+((?:[A-G]\d+(?:\.\d+)?(?:, | and )?)+)", text)
        for one in re.findall(r"[A-G]\d+(?:\.\d+)?", named)
    }
    assert len(cited) > 40
    assert cited <= listed


HIDDEN = "import pgkeep.postgres.programs as p; p.WHEELS = ()"
NONE = f"{HIDDEN}; p.FOLDERS = ()"


@pytest.mark.parametrize(
    ("args", "real", "place"),
    [([], "real", "pgkeep-demo"), (["--dir=x"], "s3://bucket/real", "x")],
)
def test_a_demo_is_not_among_real_backups(
    tmp_path: Path, args: list[str], real: str, place: str
) -> None:
    """B6: where no other of that database follows, status would have a problem with it."""
    env = invoke.environment(BACKUP_DIR=real, PATH=str(tmp_path))
    done = run_python(NONE, "demo", *args, env=env)  # so that it ends before it begins
    assert (done.returncode, "no PostgreSQL server" in done.stderr) == (2, True), done.stderr
    assert done.stdout == f"the backup goes to {place}, and stays there\n"


@pytest.mark.parametrize("found", ["none", "older"])
def test_client_programs_that_do_not_fit_are_named(
    pg18: Server, disposables: Disposables, tmp_path: Path, found: str
) -> None:
    """A1.1, A1.12: before anything is written, with the package to install."""
    prelude = NONE if found == "none" else HIDDEN
    path = str(tmp_path) if found == "none" else str(servers.bin_folder(15))
    env = invoke.environment(
        pg18, disposables.database(pg18), BACKUP_DIR=str(tmp_path / "b"), PATH=path
    )
    done = run_python(prelude, "backup", env=env)
    assert done.returncode == 2, done.stderr
    assert "server is PostgreSQL 18" in done.stderr
    assert ("found: none" if found == "none" else "found: 15.") in done.stderr
    assert "postgresql-client-18" in done.stderr
    assert invoke.left_over(tmp_path / "b") == []
    done = run_python(prelude, "doctor", env=env)
    assert done.returncode == 4
    assert "postgresql-client-18" in done.stdout
