"""Pings and the webhook: in their order, after everything, without secrets, at nobody's cost."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from pgkeep.monitor import notify
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, launcher, servers
from tests.support.listeners import Listener, listening, never_ending, refusing, speaking

SECRET = "s3cret & long/%"
KEY = "key of a bucket"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as one:
        yield one


@pytest.fixture
def app(pg17: Server, database: DatabaseFactory) -> str:
    name = database(pg17)
    servers.sql(pg17, name, "create table t as select generate_series(1, 1000) a")
    return name


def pings(listener: Listener) -> list[str]:
    """Return the paths, after the token, of what has come; all are of one run."""
    found = [urlsplit(request.path) for request in listener.requests]
    assert len({parse_qs(one.query)["rid"][0] for one in found}) == 1
    assert all(parse_qs(one.query)["create"] == ["1"] for one in found)
    return [one.path.removeprefix("/token") for one in found]


def settings(listener: Listener, directory: Path) -> dict[str, str]:
    return {"BACKUP_PING_URL": f"{listener.url}/token?create=1", "BACKUP_DIR": str(directory)}


def test_begin_and_end_are_told(pg17: Server, app: str, listener: Listener, tmp_path: Path) -> None:
    """F13: the end when the backup is published, and read back."""
    env = invoke.environment(pg17, app, **settings(listener, tmp_path))
    invoke.run("backup", "--type=daily", env=env)
    assert pings(listener) == ["/start", ""]
    assert len([*tmp_path.glob("*.manifest.json")]) == 1


def test_the_end_never_overtakes_the_beginning(listener: Listener, tmp_path: Path) -> None:
    """F13: or the service would wait for the end of a run that is over."""
    env = invoke.environment(None, None, PGHOST="/proc/nowhere", **settings(listener, tmp_path))
    listener.delays["start"] = 1.5
    invoke.run("backup", env=env, code=3)
    assert pings(listener) == ["/start", "/fail"]


def test_a_failure_is_told_with_exit_code_and_log(
    pg17: Server, listener: Listener, tmp_path: Path
) -> None:
    """F13, A7: what somebody else's machine gets has no password in it."""
    env = invoke.environment(pg17, **settings(listener, tmp_path), POSTGRES_PASSWORD=SECRET,
                           BACKUP_DATABASES=f"postgres,{SECRET}")  # fmt: skip
    invoke.run("backup", "--type=daily", env=env, code=11)
    assert pings(listener) == ["/start", "/fail"]
    body = listener.requests[-1].body
    assert body.splitlines()[0] == "exit code 11"
    assert "\nerror: 1 of 2 databases failed: " in body
    assert "info: postgres: dumping" in body
    assert SECRET not in body
    assert "********" in body


def test_a_run_that_is_killed_is_no_success(
    pg17: Server, app: str, listener: Listener, tmp_path: Path
) -> None:
    """F13: ended by SIGTERM it says so; ended by SIGKILL it says nothing."""
    env = invoke.environment(pg17, app, **settings(listener, tmp_path))
    waiting = "select count(*) from pg_locks where not granted and relation = 't'::regclass"
    for number in (signal.SIGTERM, signal.SIGKILL):
        listener.requests.clear()
        with psycopg.connect(**pg17.params, dbname=app) as blocker:  # type: ignore[arg-type]
            blocker.execute("lock table t in access exclusive mode")
            process = launcher.start(["backup"], env)
            deadline = time.monotonic() + 60
            while servers.sql(pg17, app, waiting) != [(1,)] or not listener.requests:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(number)
            process.communicate(timeout=60)
        if number == signal.SIGTERM:
            assert pings(listener) == ["/start", "/fail"]
            assert listener.requests[-1].body.startswith("exit code 143\n")
        else:
            assert pings(listener) == ["/start"]


def test_the_webhook_gets_the_outcome(
    pg17: Server, app: str, listener: Listener, tmp_path: Path
) -> None:
    """F14: of every run, failed ones too; without secrets."""
    env = invoke.environment(pg17, "postgres", BACKUP_DIR=str(tmp_path), POSTGRES_PASSWORD=SECRET,
                           BACKUP_WEBHOOK=f"{listener.url}/hook", AWS_SECRET_ACCESS_KEY=KEY,
                           BACKUP_DATABASES=app)  # fmt: skip
    invoke.run("backup", "--type=daily", env=env)
    invoke.run("backup", "--type=daily", env=env | {"BACKUP_DATABASES": f"{app},{KEY}"}, code=11)
    invoke.run("backup", env=env | {"PGHOST": "/proc/nowhere"}, code=3)
    well, partly, badly = (json.loads(request.body) for request in listener.requests)
    assert {request.path for request in listener.requests} == {"/hook"}
    assert (well["event"], well["type"], well["ok"], well["exit_code"]) == (
        "backup", "daily", True, 0,
    )  # fmt: skip
    (one,) = well["databases"]
    assert (one["database"], one["ok"], one["rows"], one["verified"]) == (app, True, 1000, True)
    assert (tmp_path / f"{one['backup']}.manifest.json").exists()
    assert (partly["ok"], partly["exit_code"]) == (False, 11)
    assert [each["exit_code"] for each in partly["databases"]] == [0, 3]
    assert (badly["ok"], badly["exit_code"], badly["databases"]) == (False, 3, [])
    assert "/proc/nowhere" in badly["error"]
    assert "does not exist" in partly["databases"][1]["error"]
    assert KEY not in partly["error"] + partly["databases"][1]["error"]


def test_of_several_targets_each_has_its_own_switch(pg17: Server, app: str, tmp_path: Path) -> None:
    with listening() as good, listening() as bad:
        (tmp_path / "pgkeep.toml").write_text(
            f"backup_dir = '{tmp_path}/b'\n"
            f"[targets.up]\npostgres_db = '{app}'\nbackup_ping_url = '{good.url}/token'\n"
            f"[targets.down]\npostgres_db = 'none'\nbackup_ping_url = '{bad.url}/token'\n"
        )
        env = invoke.environment(pg17, PGKEEP_CONFIG=str(tmp_path / "pgkeep.toml"))
        invoke.run("backup", env=env, code=11)
    assert [urlsplit(request.path).path for request in good.requests] == ["/token/start", "/token"]
    assert [urlsplit(request.path).path for request in bad.requests] == [
        "/token/start",
        "/token/fail",
    ]
    assert bad.requests[-1].body.startswith("exit code 3\n")


def test_nobody_who_is_told_can_spoil_a_run(pg17: Server, app: str, tmp_path: Path) -> None:
    """F13: down, never ending, or refusing; the warning does not tell the URL."""
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path))
    with never_ending() as slow, listening(404) as refused, speaking(b"SSH-2.0\r\n") as ssh:
        for variable, url, said in (
            ("BACKUP_PING_URL", refusing(), "Connection refused"),
            ("BACKUP_WEBHOOK", refused.url, "HTTP Error 404"),
            ("BACKUP_WEBHOOK", ssh, "BadStatusLine"),
            ("BACKUP_PING_URL", slow, "no answer in time"),
        ):
            code, out, err = invoke.complete("backup", env=env | {variable: f"{url}/token"})
            assert code == 0, err
            assert re.search(rf"^warning: {variable}: .*{said}", err, re.MULTILINE), err
            assert out.splitlines()[-1].startswith("done: ")
            assert "token" not in err
            assert "Traceback" not in err
    assert len([*tmp_path.glob("*.manifest.json")]) == 4


def test_urls_that_are_keys_are_not_shown(tmp_path: Path) -> None:
    env = invoke.environment(BACKUP_PING_URL="https://hc/token", BACKUP_WEBHOOK="https://hc/token")
    shown = invoke.run("config", env=env) + invoke.run("config", "--json", env=env)
    assert "token" not in shown
    assert shown.count("********") == 4


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p%20w@host/db", "postgresql://u:********@host/db"),
        (r"a password='it\'s' b", "a password=******** b"),
        ("password=abc host=x", "password=******** host=x"),
        ("the word secret and more secrets", "the word ******** and more ********s"),
        ("nothing", "nothing"),
        ("12:30:00 info: dumping user@host", "12:30:00 info: dumping user@host"),
    ],
)
def test_what_looks_like_a_password_is_hidden(text: str, shown: str) -> None:
    assert notify.redact(text, ["secret", ""]) == shown


def test_a_long_log_keeps_its_end(listener: Listener) -> None:
    notify.ping(f"{listener.url}/x/", "fail", "1", 5, "a" * 20_000 + "end")
    (one,) = listener.requests
    assert (len(one.body), one.body[-4:]) == (notify.LONGEST, "aend")
    assert one.path == "/x/fail?rid=1"
