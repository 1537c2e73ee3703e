"""pgkeep swap and pgkeep undo: both databases or none, for a short time, and nothing is lost."""

import contextlib
import json
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgkeep.postgres.database_names import State
from pgkeep.postgres.server import Server
from pgkeep.restore.swap_plan import Candidate, candidates
from tests.support import faults, invoke, servers
from tests.support.servers import connect, quoted, sql

LONG = "ä" * 31 + "x"  # 63 bytes, the most there can be
TIME = "20261122T020000Z"


def derived(server: Server, beginning: str) -> list[str]:
    """Return the databases whose names begin like this."""
    query = "select datname from pg_database where starts_with(datname, %(name)s) order by 1"
    return [row[0] for row in sql(server, "postgres", query, name=beginning)]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for a database; it and all that are derived from it are dropped on every server."""
    chosen = f"swap_{secrets.token_hex(4)}"
    yield chosen
    for major in servers.DEFAULT:
        if f"pg{major}" in request.fixturenames or "server" in request.fixturenames:
            drop_all(request.getfixturevalue("servers")(major), chosen)


def drop_all(server: Server, beginning: str) -> None:
    for found in derived(server, beginning):
        servers.drop(server, found)


def make(server: Server, database: str, mark: str, options: str = "") -> None:
    sql(server, "postgres", f"create database {quoted(database)} template template0 {options}")
    sql(server, database, f"create table marks as select '{mark}' as of")


def mark(server: Server, database: str) -> str:
    return str(sql(server, database, "select of from marks")[0][0])


def comment(server: Server, database: str) -> str | None:
    query = "select shobj_description(oid, 'pg_database') from pg_database where datname = %(name)s"
    text: str | None = sql(server, "postgres", query, name=database)[0][0]
    return text


def pgkeep(server: Server, *args: str, code: int = 0, **variables: str) -> str:
    return invoke.run(*args, env=invoke.environment(server, "postgres", **variables), code=code)


def swapped(server: Server, *args: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(pgkeep(server, args[0], "--yes", "--json", *args[1:]))
    return result


def dry_run(server: Server, *args: str) -> dict[str, Any]:
    """Return the plan of a swap that would be refused."""
    env = invoke.environment(server, "postgres")
    out, err = invoke.outputs("swap", "--dry-run", "--json", *args, env=env, code=9)
    plan: dict[str, Any] = json.loads(out)
    assert "this swap would be refused: " + plan["problems"][0] in err
    return plan


@pytest.mark.parametrize(
    ("server", "kind"), [(15, "odd"), (17, "long"), (18, "odd")], indirect=["server"]
)
def test_swap_and_undo(server: Server, name: str, kind: str) -> None:
    """E2, E3, B16: sessions of both are ended, both are renamed, and back; comments stay."""
    target = f"{name}'\" %s\\ä--" if kind == "odd" else name + LONG[len(name) :]
    restored = target.encode()[: 63 - 27].decode("utf-8", "ignore") + f"__restored_{TIME}"
    make(server, target, "old")
    make(server, restored, "new")
    for database in (target, restored):
        sql(
            server,
            "postgres",
            f"comment on database {quoted(database)} is 'line 1\nof {database[:9]}'",
        )
    if kind == "long":
        # Its dated name contains only its beginning.
        assert "no restored database waits" in pgkeep(server, "swap", "--", target, code=9)
        chosen = [f"--from={restored}"]
    else:
        make(server, f"{target}__restored_20251122T020000Z", "older")
        chosen = []
    plan = json.loads(pgkeep(server, "swap", "--dry-run", "--json", *chosen, "--", target))
    assert (plan["incoming"], plan["problems"], mark(server, target)) == (restored, [], "old")
    idle = [connect(server, database) for database in (target, target, restored)]
    result = swapped(server, "swap", *chosen, "--", target)
    for session in idle:
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
        session.close()
    old = result["old_database"]
    assert 0 < result["outage"] < 5
    assert "__old_" in old
    assert (mark(server, target), mark(server, old)) == ("new", "old")
    assert comment(server, target) == f"line 1\nof {target[:9]}"
    assert (comment(server, old) or "").endswith(f"line 1\nof {target[:9]}")
    result = swapped(server, "undo", "--", target)
    assert result["incoming"] == old
    assert (mark(server, target), mark(server, result["old_database"])) == ("old", "new")
    assert comment(server, target) == f"line 1\nof {target[:9]}"
    assert "no database that was replaced" in pgkeep(server, "undo", "--", target, code=9)
    assert swapped(server, "swap", "--", target)["incoming"] == result["old_database"]
    assert mark(server, target) == "new"


def waiting(server: Server, name: str) -> str:
    """Make a database and a restored one that waits for its swap; return the name of that."""
    make(server, name, "old")
    make(server, f"{name}__restored_{TIME}", "new")
    return f"{name}__restored_{TIME}"


def eventually_rows(server: Server, database: str, query: str, rows: list[tuple[Any, ...]]) -> None:
    faults.eventually(lambda: sql(server, database, query) == rows, f"{rows} of {query}")


@pytest.fixture
def subscribed(server: Server, name: str) -> Iterator[tuple[Server, str, str]]:
    """A publisher, and a subscriber with a restored copy that waits; in one cluster."""
    publisher, subscriber = f"{name}_pub", f"{name}_sub"
    make(server, publisher, "publisher")
    make(server, subscriber, "old")
    sql(server, publisher, "create table t (a int); create publication p for table t")
    sql(server, subscriber, "create table t (a int)")
    sql(server, publisher, f"select pg_create_logical_replication_slot('{name}', 'pgoutput')")
    where = " ".join(f"{key}={value}" for key, value in server.params.items() if key != "dbname")
    create = f"create subscription s connection '{where} dbname={publisher}' publication p with"
    start = f"{create} (slot_name = {name}, create_slot = false, copy_data = false)"
    sql(server, subscriber, start)
    sql(server, publisher, "insert into t values (1)")
    eventually_rows(server, subscriber, "select a from t", [(1,)])
    restored = f"{subscriber}__restored_{TIME}"
    make(server, restored, "new")
    as_dumped = f"{create} (connect = false, slot_name = {name})"
    sql(server, restored, f"create table t (a int); {as_dumped}")
    yield server, publisher, subscriber
    for database in derived(server, subscriber):
        servers.drop(server, database)
    sql(
        server,
        publisher,
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
        " where database = current_database()",
    )


def test_a_subscription_and_its_slot(subscribed: tuple[Server, str, str], name: str) -> None:
    """A4.11: refused; with the flag no row lands in the old database, and each step is said."""
    server, publisher, subscriber = subscribed
    said = pgkeep(server, "swap", subscriber, "--yes", code=9)
    assert "subscription s stays with the old database: it would go on writing there" in said
    shown = pgkeep(server, "swap", subscriber, "--dry-run", "--accept-replication-loss")
    assert f"disable the enabled subscriptions of {subscriber}" in shown
    result = swapped(server, "swap", subscriber, "--accept-replication-loss")
    old = result["old_database"]
    # Enabled, its worker would soon be started again, and would write into the old database.
    enabled = (
        "select subenabled from pg_subscription s join pg_database d on d.oid = subdbid"
        " where datname = %(name)s"
    )
    assert sql(server, "postgres", enabled, name=old) == [(False,)]
    sql(server, publisher, "insert into t values (2)")
    assert 'ALTER SUBSCRIPTION "s" DISABLE' in result["warnings"][0]
    assert f"subscription s of {subscriber} is disabled" in result["warnings"][1]
    assert mark(server, subscriber) == "new"
    # As the warning says; the tables are empty in this restored database.
    sql(server, subscriber, 'alter subscription "s" enable')
    sql(server, subscriber, 'alter subscription "s" refresh publication')
    eventually_rows(server, subscriber, "select a from t order by a", [(1,), (2,)])
    assert sql(server, old, "select a from t") == [(1,)]
    # The publisher's side: the slot belongs to its database.
    make(server, f"{publisher}__restored_{TIME}", "new")
    plan = dry_run(server, publisher)
    assert [(found["kind"], found["name"]) for found in plan["findings"]] == [
        ("logical replication slot", name)
    ]
    result = swapped(server, "swap", publisher, "--accept-replication-loss")
    assert f"pg_drop_replication_slot('{name}')" in result["warnings"][0]
    assert mark(server, publisher) == "new"
    # Swapped back, it goes on.
    swapped(server, "undo", publisher)
    sql(server, publisher, "insert into t values (3)")
    eventually_rows(server, subscriber, "select a from t order by a", [(1,), (2,), (3,)])
    assert "subscription s stays" in pgkeep(server, "undo", subscriber, "--yes", code=9)
    result = swapped(server, "undo", subscriber, "--accept-replication-loss")
    assert "it continues where it stopped" in result["warnings"][-1]
    sql(server, subscriber, "alter subscription s enable")
    sql(server, publisher, "insert into t values (4)")
    eventually_rows(server, subscriber, "select a from t order by a", [(1,), (4,)])


def test_what_prevents_a_swap_ends_no_session(pg17: Server, name: str) -> None:
    """B5, G3.6: prepared transactions in both, sessions of superusers, rights: all in one list."""
    restored = waiting(pg17, name)
    role = f"{name}_role"
    sql(pg17, "postgres", f"create role {role} login")
    sql(pg17, "postgres", f"alter database {name} owner to {role}")
    for database in (name, restored):
        sql(pg17, database, f"begin; create table x (); prepare transaction '{database}'")
    try:
        with connect(pg17, name) as session:
            plan = dry_run(pg17, name)
            assert [(found["kind"], found["name"]) for found in plan["findings"]] == [
                ("prepared transaction", name), ("prepared transaction", restored),
            ]  # fmt: skip
            assert f"Connect to database {name} as role postgres" in plan["remedies"][0]
            assert f"ROLLBACK PREPARED '{name}';" in plan["remedies"][0]
            env = invoke.environment(pg17, "postgres", PGUSER=role)
            said = invoke.run("swap", name, f"--from={restored}", "--yes", env=env, code=9)
            for problem in (
                f"the role is not the owner of database {restored}",
                "the role is not allowed to create databases, which renaming one requires",
                f"the role is not allowed to end a session of database {name}: process ",
            ):
                assert problem in said
            # What may end by itself is waited for, and then refused.
            said = pgkeep(pg17, "swap", name, "--yes", "--max-outage=1", code=9)
            assert "is open in database" in said
            assert "no session was ended" in said
            # A database of this role only looks like ours.
            sql(pg17, "postgres", f"alter database {quoted(restored)} owner to pg_monitor")
            assert "no restored database waits" in pgkeep(pg17, "swap", name, "--yes", code=9)
            assert session.execute("select of from marks").fetchall() == [("old",)]
    finally:
        for database in (name, restored):
            sql(pg17, database, f"rollback prepared '{database}'")
        drop_all(pg17, name)
        sql(pg17, "postgres", f"drop role {role}")


def test_other_databases_than_the_newest(pg17: Server, name: str) -> None:
    """One that is being loaded is refused; any complete one can be chosen; a target can lack."""
    for ending, said in {
        f"{name}__restore_0123abcd": "is incomplete: a restore loads it now, or was interrupted",
        f"{name}__restored_{TIME}": "accepts no connections",
    }.items():
        make(pg17, ending, "new", "allow_connections true")
        if "restored" in ending:
            sql(pg17, "postgres", f"alter database {quoted(ending)} allow_connections false")
        assert said in pgkeep(pg17, "swap", name, f"--from={ending}", "--yes", code=9)
    assert "with itself" in pgkeep(pg17, "swap", name, f"--from={name}", "--yes", code=2)
    make(pg17, f"{name}_copy", "new")
    result = swapped(pg17, "swap", name, f"--from={name}_copy")
    assert (result["old_database"], mark(pg17, name)) == (None, "new")
    make(pg17, f"{name}_copy", "newer")
    args = ("swap", name, f"--from={name}_copy")
    assert "Use --yes" in pgkeep(pg17, *args, code=9)
    env = invoke.environment(pg17, "postgres")
    code, shown = invoke.on_terminal(*args, env=env, answers={f"Swap database {name}?": "y"})
    assert (code, mark(pg17, name)) == (0, "newer")
    for line in (f"with     {name}_copy", "sessions were refused for ", "is kept as"):
        assert line in shown


def test_a_database_of_somebody_else_is_not_chosen() -> None:
    """Whoever may create databases can choose a name like ours, with a newer time."""
    ours = Candidate(name="app__restored_20261122T020000Z", comment=None, trusted=True)
    theirs = Candidate(name="app__restored_20261123T020000Z", comment=None, trusted=False)
    assert candidates([ours, theirs], "app", State.RESTORED) == [ours.name]


@contextlib.contextmanager
def locked(server: Server, name: str) -> Iterator[None]:
    """Hold a lock on a database that RENAME waits for, and nobody can end."""
    with faults.statement(server, "postgres", f"comment on database {name} is 'locked'"):
        yield


RENAMING = "query like 'ALTER DATABASE%%' and wait_event_type = 'Lock'"


def test_the_outage_is_bounded(pg17: Server, name: str) -> None:
    """B5: a second, then everything is as before, and the finished database is there."""
    restored = waiting(pg17, name)
    longest, done = 0.0, threading.Event()

    def client() -> None:
        nonlocal longest
        while not done.is_set():
            begun = time.monotonic()
            with contextlib.suppress(psycopg.OperationalError):
                connect(pg17, name).close()
            longest = max(longest, time.monotonic() - begun)

    thread = threading.Thread(target=client)
    with locked(pg17, name):
        thread.start()
        try:
            said = pgkeep(pg17, "swap", name, "--max-outage=1", "--yes", code=8)
        finally:
            done.set()
            thread.join()
    assert f"sessions of database {name} were refused for " in said
    assert "then everything was as before" in said
    assert longest < 3  # seconds; a connection waits for the lock
    assert (mark(pg17, name), mark(pg17, restored)) == ("old", "new")
    swapped(pg17, "swap", name)
    assert mark(pg17, name) == "new"


def test_a_stopped_process_does_not_prolong_the_outage(pg17: Server, name: str) -> None:
    """B5, G3.11: the server itself ends what pgkeep has begun."""
    waiting(pg17, name)
    with (
        locked(pg17, name),
        faults.Run(pg17, "postgres", "swap", name, "--yes", "--max-outage=1") as run,
    ):
        faults.eventually(lambda: faults.sessions(pg17, "", RENAMING), "the renaming")
        run.process.send_signal(signal.SIGSTOP)
        assert mark(pg17, name) == "old"  # as soon as the lock is released
        assert run.process.poll() is None


@pytest.mark.parametrize(
    ("server", "number"),
    [(15, signal.SIGKILL), (17, signal.SIGTERM), (18, signal.SIGKILL)],
    indirect=["server"],
)
def test_ended_between_the_renames(
    subscribed: tuple[Server, str, str], number: signal.Signals
) -> None:
    """G3.6: both or none; pgkeep swap is simply run again. Subscriptions go on, or it is said."""
    server, publisher, name = subscribed
    args = ["swap", name, "--accept-replication-loss", "--max-outage=60", "--yes"]
    with locked(server, name), faults.Run(server, "postgres", *args) as run:
        faults.eventually(lambda: faults.sessions(server, "", RENAMING), "the renaming")
        run.process.send_signal(number)
        said = run.process.communicate(timeout=20)[1]
    faults.leaves_no_session(server, "postgres")
    assert f"disabling subscription s of {name}" in said
    assert derived(server, name) == [name, f"{name}__restored_{TIME}"]
    assert mark(server, name) == "old"
    if number == signal.SIGTERM:
        sql(server, publisher, "insert into t values (2)")
        eventually_rows(server, name, "select a from t", [(1,), (2,)])
    else:
        plan = pgkeep(server, "swap", name, "--dry-run", "--json")
        (warning,) = json.loads(plan)["warnings"]
        assert f"subscription s of database {name} is disabled" in warning
        assert 'ALTER SUBSCRIPTION "s" ENABLE;' in warning
    result = swapped(server, "swap", name, "--accept-replication-loss")
    assert mark(server, name) == "new"
    assert mark(server, result["old_database"]) == "old"
