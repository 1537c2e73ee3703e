"""The log for machines: every line is one JSON object, one event a line."""

import json
import re
import signal
import uuid
from pathlib import Path
from typing import Any

from pgkeep import progress
from pgkeep.cli.events import Event
from pgkeep.model import cluster
from pgkeep.postgres.server import Server
from tests.support import faults, invoke, launcher, planted, servers
from tests.support.invoke import run_python
from tests.support.listeners import listening

ROOT = Path(__file__).parents[2]
KEYS = ["time", "level", "event", "run", "target", "cluster", "database", "message"]


def events(err: str) -> list[dict[str, Any]]:
    """Return the events of a log; each has the same first fields, in their order."""
    found = [json.loads(line) for line in err.splitlines()]
    assert all(list(one)[: len(KEYS)] == KEYS for one in found)
    assert len({one["run"] for one in found}) == 1
    return found


def test_events_are_documented() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    _, _, section = text.partition("## Log for machines\n")
    section, _, _ = section.partition("\n## ")
    assert re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE) == list(Event)


def test_results_are_events_when_they_happen(pg17: Server, app: str, tmp_path: Path) -> None:
    """F14, F15: of several databases, with the same run everywhere."""
    with listening() as hook:
        env = invoke.environment(
            pg17, "postgres", BACKUP_DIR=str(tmp_path / "b"), PGKEEP_LOG_FORMAT="json",
            BACKUP_DATABASES=f"{app},no such database", BACKUP_WEBHOOK=hook.url,
        )  # fmt: skip
        code, _, err = invoke.complete("backup", env=env)
        (request,) = hook.requests
    assert code == 11, err
    found = events(err)
    first, *_, last = found
    assert (first["event"], first["message"]) == ("run_started", "pgkeep backup")
    assert (last["event"], last["exit_code"], last["database"]) == ("error", 11, None)
    name = cluster.short_form(planted.cluster_of(pg17))
    (finished,) = (one for one in found if one["event"] == "database_finished")
    assert (finished["database"], finished["cluster"], finished["rows"]) == (app, name, 1001)
    (failed,) = (one for one in found if one["event"] == "database_failed")
    assert (failed["database"], failed["level"]) == ("no such database", "error")
    assert "does not exist" in failed["message"]
    order = [one["event"] for one in found]
    assert order.index("database_finished") < order.index("database_failed")
    steps = [one for one in found if one["event"] == "step"]
    assert {one["database"] for one in steps} == {app}
    assert not [one for one in found if one["event"] == "warning" and "no such" in one["message"]]
    run = json.loads(request.body)["run"]
    assert str(uuid.UUID(run)).startswith(f"{first['run']}-")


def test_the_run_is_that_of_the_sessions(pg17: Server, app: str, tmp_path: Path) -> None:
    """The id in the log is in pg_stat_activity; a signal is an event too."""
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path))
    query = (
        "select distinct application_name from pg_stat_activity"
        " where datname = current_database() and application_name like 'pgkeep %'"
    )
    with servers.connect(pg17, app) as blocker, blocker.transaction():
        blocker.execute("lock table t in access exclusive mode")
        process = launcher.start(["--log-format=json", "backup"], env)
        names = faults.eventually(lambda: servers.sql(pg17, app, query), "a session of pgkeep")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    found = events(err)
    assert names == [(f"pgkeep {found[0]['run']}",)]
    assert (found[-1]["event"], found[-1]["exit_code"]) == ("error", 128 + signal.SIGTERM)


STRAY = """
import logging, threading, warnings
import pgkeep.cli.list as module
from pgkeep.cli import list as listing

def stray(*_args, **_more):
    warnings.warn("of Python\\nin two lines")
    logging.getLogger("psycopg").warning("of psycopg")
    logging.getLogger("botocore.retries").warning("of botocore")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    if FAILS:
        raise KeyError("unexpected")
    return []

module.catalogs = stray
"""


def test_every_line_is_json_whoever_prints_it(tmp_path: Path) -> None:
    """F15, G6.14: psycopg, botocore, Python's warnings, threads, and a bug."""
    env = invoke.environment(BACKUP_DIR=str(tmp_path), PGKEEP_LOG_FORMAT="json")
    done = run_python(STRAY.replace("FAILS", "False"), "list", env=env)
    found = events(done.stderr)
    assert done.returncode == 0
    said = [one["message"] for one in found if one["event"] == "warning"]
    assert "of Python\nin two lines" in said[0]
    assert said[1:] == ["of psycopg", "of botocore", "ZeroDivisionError: division by zero"]
    assert [one["event"] for one in (found[0], found[-1])] == ["run_started", "run_finished"]
    done = run_python(STRAY.replace("FAILS", "True"), "list", env=env)
    last = events(done.stderr)[-1]
    assert (last["event"], last["exit_code"], done.returncode) == ("error", 1, 1)
    assert last["message"] == "KeyError: 'unexpected'"
    assert last["traceback"][0].startswith("Traceback")


def test_errors_of_usage_are_events(tmp_path: Path) -> None:
    env = invoke.environment(PGKEEP_LOG_FORMAT="json", BACKUP_DIR=str(tmp_path))
    for arguments in (["--log-format=json"], ["list", "--none"], ["none"]):
        code, _, err = invoke.complete(*arguments, env=env)
        (error,) = events(err)
        assert (code, error["event"], error["exit_code"]) == (2, "error", 2)
    code, _, err = invoke.complete("--log-format=text", "list", "--none", env=env)
    assert err.startswith("error: ")
    code, _, err = invoke.complete("--quiet", "list", env=env)
    assert (code, err) == (0, "")


def test_progress_is_rare_in_a_log() -> None:
    """E11: a line every five seconds of a nightly backup is what somebody pays for."""
    said: list[str] = []
    lines = progress.Lines(said.append)
    lines.step("dumping")
    lines._told -= progress.LOG_EVERY - 1
    lines.wrote(10, 1)
    assert said == ["dumping"]
    lines._told -= 1
    lines.wrote(20, 2)
    assert said == ["dumping", "dumping, 20 B of SQL in 2 B"]
