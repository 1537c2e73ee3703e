"""Whatever fails while a restore runs, people find what they had, or all of what they wanted."""

import contextlib
import gzip
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, servers
from tests.support.faults import Run

ROWS = 3000

# A restore can be held while it loads rows or while it builds indexes: PGOPTIONS says where, and
# for how long.
FILL = f"""
create function hold(text) returns boolean language plpgsql immutable as $$
begin
    if $1 = current_setting('faults.hold', true) then
        perform pg_sleep(current_setting('faults.seconds')::float);
    end if;
    return true;
end $$;
create table marks (of text);
insert into marks values ('new');
create table held (id int check (public.hold('rows')), filler text);
insert into held select i, repeat('x', 100) from generate_series(1, {ROWS}) as i;
create table indexed (id int);
insert into indexed values (1);
create index on indexed ((public.hold('indexes')));
"""


@pytest.fixture(scope="module")
def artifact(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = f"faults_source_{os.getpid()}"
    servers.sql(pg17, "postgres", f"create database {name} template template0")
    try:
        servers.sql(pg17, name, FILL)
        return invoke.backup(pg17, name, tmp_path_factory.mktemp("backups"))
    finally:
        servers.drop(pg17, name)


@pytest.fixture
def target(pg17: Server) -> Iterator[str]:
    """A name for a database; it and all that are derived from it are dropped."""
    name = f"faults_{secrets.token_hex(4)}"
    yield name
    for one in derived(pg17, name):
        servers.sql(pg17, "postgres", f"drop database if exists {servers.quoted(one)} with (force)")


def derived(server: Server, name: str, kind: str = "") -> list[str]:
    """Return the databases whose names begin like this one."""
    query = "select datname from pg_database where starts_with(datname, %(prefix)s) order by 1"
    return [row[0] for row in servers.sql(server, "postgres", query, prefix=name + kind)]


def make_old(server: Server, name: str, owner: str = "postgres") -> None:
    servers.sql(
        server,
        "postgres",
        f"create database {servers.quoted(name)} template template0 owner {owner}",
    )
    servers.sql(server, name, "create table marks as select 'old' as of")


def mark(server: Server, name: str) -> str:
    """Say which database this is: the old one or the restored one, which must be complete."""
    ((of,),) = servers.sql(server, name, "select of from marks")
    if of == "new":
        complete = "select (select count(*) from held), to_regclass('indexed_hold_idx') is not null"
        assert servers.sql(server, name, complete) == [(ROWS, True)]
    return str(of)


Begin = Callable[..., Run]


@pytest.fixture
def begin(pg17: Server, artifact: Path, target: str) -> Iterator[Begin]:
    """Start a restore of the artifact to the target, held in a phase."""
    with contextlib.ExitStack() as stack:

        def start(
            *args: str,
            hold: str = "nowhere",
            seconds: float = 60,
            file: Path = artifact,
            **options: Any,
        ) -> Run:
            env = {"PGOPTIONS": f"-c faults.hold={hold} -c faults.seconds={seconds}"}
            env |= {"BACKUP_JOBS": "2", **options.pop("env", {})}
            to = [f"--backup={file}", f"--target-db={target}"]
            run = Run(pg17, "postgres", "restore", *to, *args, env=env, **options)
            return stack.enter_context(run)

        yield start


SWAP = ("--drop-existing", "--yes")

# Each with what holds it there, and what shows that it is there.
PHASES = {
    "creating": "query like 'CREATE DATABASE%%' and wait_event_type = 'Lock'",
    "rows": "query like 'COPY %%held%%' and wait_event = 'PgSleep'",
    "indexes": "query like '%%CREATE INDEX%%' and wait_event = 'PgSleep'",
    "swapping": "query like 'ALTER DATABASE%%' and wait_event_type = 'Lock'",
}


@contextlib.contextmanager
def held_in(
    server: Server, begin: Begin, target: str, phase: str, *args: str, **options: Any
) -> Iterator[tuple[Run, list[int]]]:
    """Run a restore until it is in a phase, which it does not leave by itself."""
    with contextlib.ExitStack() as stack:
        if phase == "creating":
            # Only for the time of this transaction; CREATE DATABASE waits for its end.
            rename = "alter database template0 rename to template0_renamed"
            stack.enter_context(faults.statement(server, "postgres", rename))
        if phase == "swapping":
            # The lock of a session in another database, which nobody ends.
            lock = f"comment on database {target} is 'locked'"
            stack.enter_context(faults.statement(server, "postgres", lock))
            args = (*args, "--max-outage=60")
        run = begin(*args, hold=phase, **options)
        condition = PHASES[phase]
        # Of this restore only: a session of a killed one sleeps on until its database is dropped.
        loading = target if phase in ("rows", "indexes") else ""
        backends = faults.eventually(
            lambda: faults.sessions(server, loading, condition), f"the phase of {phase}"
        )
        yield run, backends


CASES = [
    ("creating", False),
    ("rows", False),
    ("rows", True),
    ("indexes", True),
    ("swapping", True),
]


def assert_as_before(server: Server, target: str, *, replace: bool) -> None:
    if replace:
        assert mark(server, target) == "old"
    else:
        assert target not in derived(server, target)


def finished(server: Server, target: str, phase: str) -> list[str]:
    """Return the database that is complete and kept for a later swap: where the swap has begun."""
    kept = derived(server, target, "__restored_")
    assert [mark(server, name) for name in kept] == ["new"] * (phase == "swapping")
    return kept


@pytest.mark.parametrize(
    ("phase", "replace", "number"),
    [(*case, signal.SIGTERM) for case in CASES] + [("rows", True, signal.SIGINT)],
)
def test_a_signal_ends_everything(
    pg17: Server, begin: Begin, target: str, phase: str, replace: bool, number: signal.Signals
) -> None:
    """A6.9, B20, D24: within seconds, and no half database stays under any name."""
    if replace:
        make_old(pg17, target)
    with held_in(pg17, begin, target, phase, *(SWAP if replace else ())) as (run, _):
        run.process.send_signal(number)
        assert f"ended by {number.name}" in run.ends(128 + number, seconds=20)
        assert derived(pg17, target, "__") == finished(pg17, target, phase)
        faults.leaves_no_session(pg17, target)
    assert_as_before(pg17, target, replace=replace)


@pytest.mark.parametrize(("phase", "replace"), CASES)
def test_killed(pg17: Server, begin: Begin, target: str, phase: str, replace: bool) -> None:
    """A6.9, D24: half a database may stay, under a name that tells so; the next drops it."""
    if replace:
        make_old(pg17, target)
    with held_in(pg17, begin, target, phase, *(SWAP if replace else ())) as (run, _):
        run.kill()
        faults.leaves_no_session(pg17, target)
        faults.eventually(
            lambda: not faults.sessions(pg17, "", PHASES[phase]), "the end of the sessions"
        )
    assert_as_before(pg17, target, replace=replace)
    left = finished(pg17, target, phase) or derived(pg17, target, "__restore_")
    assert derived(pg17, target, "__") == left
    faults.leaves_no_session(pg17, "postgres")
    begin(*(SWAP if replace else ())).ends(0)
    assert mark(pg17, target) == "new"
    assert derived(pg17, target, "__restore_") == []


def test_a_restore_at_work_is_left_alone(pg17: Server, begin: Begin, target: str) -> None:
    """D24: what another one drops as a left-over is not what somebody is just loading."""
    with held_in(pg17, begin, target, "rows") as (run, _):
        (loading,) = derived(pg17, target, "__restore_")
        begin().ends(0)
        assert derived(pg17, target, "__restore_") == [loading]
        run.kill()
        faults.leaves_no_session(pg17, target)
    assert mark(pg17, target) == "new"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_ended_at_any_moment(
    pg17: Server, begin: Begin, target: str, number: signal.Signals
) -> None:
    """D24, E2: the target is the old database or the new one, at every moment."""
    make_old(pg17, target)
    started = time.monotonic()
    begin(*SWAP).ends(0)
    whole = time.monotonic() - started
    for moment in range(8):
        servers.sql(pg17, target, "update marks set of = 'old'")
        run = begin(*SWAP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(whole * (0.3 + 0.75 * moment / 7))
        run.process.send_signal(number)
        _, err = run.process.communicate(timeout=30)
        assert run.process.returncode in (-number, 128 + number, 0), err
        assert "Traceback" not in err, err
        assert mark(pg17, target) in ("old", "new")
        if number == signal.SIGTERM:
            assert derived(pg17, target, "__restore_") == []
    faults.leaves_no_session(pg17, target)


@pytest.mark.parametrize(("phase", "replace"), [case for case in CASES if case[0] != "creating"])
def test_a_session_ended(
    pg17: Server, begin: Begin, target: str, phase: str, replace: bool
) -> None:
    """D24, B31: the failure of one session is told, and what it was doing."""
    if replace:
        make_old(pg17, target)
    with held_in(pg17, begin, target, phase, *(SWAP if replace else ())) as (run, backends):
        servers.sql(pg17, "postgres", f"select pg_terminate_backend({backends[0]})")
        # While rows are sent, the kernel may discard the server's last message with the connection.
        said = run.ends(8)
        assert re.search("terminating connection due to admin|lost the connection to the", said)
        # All was in it: what could not be renamed is kept (trap G3.6).
        kept = derived(pg17, target, "__")
        assert [mark(pg17, name) for name in kept] == ["new"] * (phase == "swapping")
    assert_as_before(pg17, target, replace=replace)


def test_the_server_crashes(artifact: Path, tmp_path: Path) -> None:
    """A6.8, D24: the old database is there when the server is there again; so is its backup."""
    with Server(servers.bin_folder(17)) as server:
        make_old(server, "app")
        servers.sql(
            server,
            "app",
            "create table rows as select repeat('x', 2000) from generate_series(1, 30000)",
        )
        servers.sql(server, "app", "alter table rows alter repeat set storage external")
        env = {"BACKUP_DIR": str(tmp_path / "backups"), "BACKUP_JOBS": "2", "BACKUP_RETRIES": "0"}
        with Run(server, "app", "backup", env=env) as run:
            with run.frozen_in_copy(server, "rows"):
                server.stop(immediate=True)
            run.ends(4)
            run.leaves_no_child()
            assert invoke.left_over(tmp_path / "backups") == []
            server.start()
        env = {"PGOPTIONS": "-c faults.hold=rows -c faults.seconds=60"}
        args = [f"--backup={artifact}", "--target-db=app", *SWAP]
        with Run(server, "postgres", "restore", *args, env=env) as run:
            faults.eventually(lambda: faults.sessions(server, "app", PHASES["rows"]), "loading")
            server.stop(immediate=True)
            run.ends(8)
        server.start()
        assert mark(server, "app") == "old"
        assert invoke.backup(server, "app", tmp_path / "backups", "--verify").exists()
        assert "done" in invoke.restore(server, artifact, "app", *SWAP)
        assert mark(server, "app") == "new"


@pytest.fixture(scope="module")
def plain(artifact: Path) -> Path:
    """A dump from elsewhere: restored by psql."""
    path = artifact.with_name("plain.sql")
    index = b"\n-- pgkeep"
    with gzip.open(artifact) as file:
        text = file.read()
    assert index in text
    path.write_bytes(text)
    return path


def test_session_ended_inside_a_plain_dump(
    pg17: Server, begin: Begin, target: str, plain: Path
) -> None:
    """A2.1, D24, B31."""
    make_old(pg17, target)
    with held_in(pg17, begin, target, "rows", *SWAP, file=plain) as (run, backends):
        servers.sql(pg17, "postgres", f"select pg_terminate_backend({backends[0]})")
        assert "terminating connection" in run.ends(8)
        run.leaves_no_child()
    assert derived(pg17, target, "__") == []
    assert mark(pg17, target) == "old"


def test_ended_inside_a_plain_dump(pg17: Server, begin: Begin, target: str, plain: Path) -> None:
    """A2.1, B20: the end of its input must not look like the end of the rows."""
    make_old(pg17, target)
    with held_in(pg17, begin, target, "rows", *SWAP, file=plain) as (run, _):
        run.process.send_signal(signal.SIGTERM)
        run.ends(143, seconds=20)
        run.leaves_no_child()
        faults.leaves_no_session(pg17, target)
    assert derived(pg17, target, "__") == []
    assert mark(pg17, target) == "old"


def test_killed_inside_a_plain_dump(pg17: Server, begin: Begin, target: str, plain: Path) -> None:
    """A2.1, D24: half of it lies in a database that nobody will use."""
    make_old(pg17, target)
    with held_in(pg17, begin, target, "rows", *SWAP, file=plain, seconds=3) as (run, _):
        run.kill()
        run.leaves_no_child()
        faults.leaves_no_session(pg17, target)
    assert mark(pg17, target) == "old"
    assert derived(pg17, target, "__") == derived(pg17, target, "__restore_")


def test_clients_that_come_back_at_once(pg17: Server, begin: Begin, target: str) -> None:
    """E2, E3: they are shut out for a moment, then find the restored database and no other."""
    make_old(pg17, target)
    seen: list[str] = []
    done = threading.Event()

    def client() -> None:
        while not done.is_set():
            with (
                contextlib.suppress(psycopg.OperationalError),
                servers.connect(pg17, target) as connection,
            ):
                for _ in range(20):
                    ((of,),) = connection.execute("select of from marks").fetchall()
                    seen.append(of)

    def exporter() -> None:
        while not done.is_set():
            for name in derived(pg17, target):
                with (
                    contextlib.suppress(psycopg.OperationalError),
                    servers.connect(pg17, name) as connection,
                ):
                    connection.execute("select pg_sleep(0.05)")

    clients = [threading.Thread(target=client, daemon=True) for _ in range(4)]
    clients.append(threading.Thread(target=exporter, daemon=True))
    # These do not come back by themselves, and one of them is at work.
    idle = [servers.connect(pg17, target) for _ in range(3)]
    idle[0].execute("begin")
    idle[0].execute("lock table marks in row exclusive mode")
    for thread in clients:
        thread.start()
    try:
        faults.eventually(lambda: "old" in seen, "the first answer")
        begin(*SWAP).ends(0)
        faults.eventually(lambda: "new" in seen, "the first answer of the new database")
    finally:
        done.set()
        for thread in clients:
            thread.join()
        for connection in idle:
            connection.close()
    assert seen == sorted(seen, reverse=True)  # once new, never old again
    assert mark(pg17, target) == "new"
    (old,) = derived(pg17, target, "__")
    assert old.startswith(f"{target}__old_")
    assert mark(pg17, old) == "old"


def test_a_swap_at_a_chosen_moment(pg17: Server, artifact: Path, begin: Begin, target: str) -> None:
    """B5, G3.6: what prevents a swap is in the plan; what comes later costs no restore."""
    make_old(pg17, target)
    env = invoke.environment(pg17)
    to = ("restore", f"--backup={artifact}", f"--target-db={target}")
    slot = "select pg_create_logical_replication_slot(%(name)s, 'pgoutput')"
    servers.sql(pg17, target, slot, name=target)
    try:
        plan = json.loads(invoke.outputs(*to, *SWAP, "--dry-run", "--json", env=env, code=9)[0])
        assert [finding["kind"] for finding in plan["findings"]] == ["logical replication slot"]
        assert "--accept-replication-loss" in plan["remedies"][-1]
        assert "stays with the old database" in begin(*SWAP).ends(9)
        result = json.loads(invoke.run(*to, "--no-swap", "--json", env=env))
    finally:
        servers.sql(pg17, target, "select pg_drop_replication_slot(%(name)s)", name=target)
    first = result["database"]
    assert (mark(pg17, target), mark(pg17, first)) == ("old", "new")
    assert result["swap"] == f"pgkeep swap --from={first} {target}"
    # A transaction that is prepared while rows are loaded.
    run = begin(*SWAP, "--max-outage=1", hold="rows", seconds=1)
    faults.eventually(lambda: faults.sessions(pg17, target, PHASES["rows"]), "loading")
    servers.sql(pg17, target, "begin; create table x (); prepare transaction 'in the way'")
    try:
        with servers.connect(pg17, target) as session:
            said = run.ends(8)
            assert session.execute("select of from marks").fetchall() == [("old",)]
    finally:
        servers.sql(pg17, target, "rollback prepared 'in the way'")
    assert "prepared transaction in the way of role postgres is open" in said
    second = derived(pg17, target, "__restored_")[-1]
    assert derived(pg17, target, "__") == [first, second]
    (command,) = re.findall("pgkeep (swap .*)", said)
    invoke.run(*shlex.split(command), "--yes", env=env)
    assert mark(pg17, target) == "new"
    assert len(derived(pg17, target, "__old_")) == 1


@pytest.fixture
def restorer(pg17: Server) -> Iterator[str]:
    """A role that may create databases, and may not end other roles' sessions."""
    name = f"restorer_{secrets.token_hex(4)}"
    servers.sql(pg17, "postgres", f"create role {name} login createdb")
    yield name
    for (database,) in servers.sql(
        pg17,
        "postgres",
        "select datname from pg_database where pg_get_userbyid(datdba) = %(name)s",
        name=name,
    ):
        servers.drop(pg17, database)
    servers.sql(pg17, "postgres", f"drop role {name}")


OURS = ("--no-owner", "--no-privileges")


def test_a_session_that_may_not_be_ended(
    pg17: Server, begin: Begin, target: str, restorer: str
) -> None:
    """E3: refused, with what helps."""
    make_old(pg17, target, restorer)
    with servers.connect(pg17, target):
        planned = begin(*SWAP, *OURS, "--dry-run", env={"PGUSER": restorer}).process
        assert "warning: the role is not allowed to end a session" in planned.communicate()[0]
        swap = ("--max-outage=1", *SWAP)
        said = begin(*swap, *OURS, env={"PGUSER": restorer}).ends(8)
    assert f"the role is not allowed to end a session of database {target}" in said
    assert "pg_signal_backend" in said
    assert "no session was ended" in said
    assert mark(pg17, target) == "old"
    (kept,) = derived(pg17, target, "__")  # trap G3.6
    assert mark(pg17, kept) == "new"
    assert f"database {kept} is complete, but could not be renamed to {target}" in said


def test_a_database_of_somebody_else(
    pg17: Server, begin: Begin, target: str, restorer: str
) -> None:
    """E3: that it cannot be renamed is known before hours of loading; a member of its owner can."""
    make_old(pg17, target)
    env = {"PGUSER": restorer}
    for dry in (["--dry-run"], []):
        said = begin(*SWAP, *OURS, *dry, env=env).ends(9)
        assert f"the role is not the owner of database {target}" in said
    servers.sql(pg17, "postgres", f"alter database {target} owner to pg_monitor")
    servers.sql(pg17, "postgres", f"grant pg_monitor to {restorer}")
    begin(*SWAP, *OURS, env=env).ends(0)
    assert mark(pg17, target) == "new"


def test_a_session_that_leaves_by_itself(
    pg17: Server, begin: Begin, target: str, restorer: str
) -> None:
    """E3: then nobody needs the right to end it, and done is done."""
    make_old(pg17, target, restorer)
    with servers.connect(pg17, target):
        run = begin(*SWAP, "--max-outage=60", *OURS, env={"PGUSER": restorer})
        faults.eventually(lambda: derived(pg17, target, "__restored_"), "what waits for the swap")
    run.ends(0)
    assert mark(pg17, target) == "new"
    (old,) = derived(pg17, target, "__")
    assert mark(pg17, old) == "old"


def test_too_few_connections(pg17: Server, begin: Begin, target: str, restorer: str) -> None:
    """A6.10: found only when the database to load into is there; it does not stay."""
    make_old(pg17, target, restorer)
    servers.sql(pg17, "postgres", f"alter role {restorer} connection limit 2")
    env = {"PGUSER": restorer, "BACKUP_JOBS": "4"}
    assert "too many connections" in begin(*SWAP, *OURS, env=env).ends(3)
    assert derived(pg17, target) == [target]
    assert mark(pg17, target) == "old"


LONG = "ä" * 31 + "x"  # 63 bytes, the most there can be


def test_a_long_name(pg17: Server, artifact: Path, database: DatabaseFactory) -> None:
    """B16: the temporary and the old name are derived from it, and must be its own."""
    database(pg17, name=LONG)
    servers.sql(pg17, LONG, "create table marks as select 'old' as of")
    invoke.restore(pg17, artifact, LONG, *SWAP)
    assert mark(pg17, LONG) == "new"
    (old,) = (name for name in derived(pg17, "ää", "") if name != LONG)
    assert "__old_" in old
    assert mark(pg17, old) == "old"
    servers.drop(pg17, old)


def test_a_name_that_is_too_long(pg17: Server, artifact: Path) -> None:
    """B16: the server would cut it, silently, and perhaps to that of another database."""
    env = invoke.environment(pg17)
    args = [f"--backup={artifact}", f"--target-db={LONG}y"]
    assert "64 bytes long, PostgreSQL allows 63" in invoke.run("restore", *args, env=env, code=2)


@pytest.mark.parametrize("replace", [False, True])
def test_two_at_once(pg17: Server, begin: Begin, target: str, replace: bool) -> None:
    """D24: neither spoils the other; one that comes too late for a new name fails."""
    if replace:
        make_old(pg17, target)
    runs = [begin(*(SWAP if replace else ()), hold="rows", seconds=seconds) for seconds in (1, 2.5)]
    faults.eventually(lambda: len(faults.sessions(pg17, "", PHASES["rows"])) == 2, "both at work")
    runs[0].ends(0)
    said = runs[1].ends(0 if replace else 8)
    assert mark(pg17, target) == "new"
    if not replace:
        (left,) = derived(pg17, target, "__restored_")  # trap G3.6
        assert f"database {left} is complete, but could not be renamed to {target}" in said
    if replace:
        assert derived(pg17, target, "__restore_") == []
        kept = [mark(pg17, name) for name in derived(pg17, target, "__old_")]
        assert sorted(kept) == ["new", "old"]
    else:
        assert "already exists" in said
