"""Records of runs: who did what, and why it failed; backups that are held."""

import json
import os
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pgkeep import errors as e
from pgkeep.catalog import catalog, holds, prune
from pgkeep.catalog.catalog import Catalog
from pgkeep.model import record, retention
from pgkeep.model.cluster import short_form
from pgkeep.model.manifest import Hold, Manifest
from pgkeep.model.record import DatabaseResult, Record
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore
from tests.support import invoke, planted, servers
from tests.support.disposable import Disposables

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
HOLD = Hold(reason="audit", by="me@here", since=NOW)


def history(env: dict[str, str], *args: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(invoke.run("history", "--json", *args, env=env))
    return found


def test_each_run_is_recorded_also_a_failed_one(
    pg17: Server, app: str, tmp_path: Path, disposables: Disposables
) -> None:
    """F2, F7: what was attempted, by whom, and why it failed, without a log; no secrets."""
    directory = tmp_path / "backups"
    env = invoke.environment(
        pg17, app, BACKUP_DIR=str(directory), SUDO_USER="alice", SSH_CONNECTION="10.1.2.3 1 x 22"
    )
    invoke.run("backup", "--type=auto", env=env)
    bad = "postgresql://nobody:hunter2@127.0.0.1:1/" + app
    invoke.run("backup", "--type=auto", f"--dsn={bad}", env=env, code=3)
    state = json.loads(invoke.run("status", "--json", env=env))
    failure = state["databases"][0]["last_failure"]
    assert failure["exit_code"] == 3
    assert "127.0.0.1" in failure["error"]
    out = invoke.run("status", env=env)
    words = " ".join(out.split())
    assert re.search(
        r" last run failed \d+ s ago \(.+ UTC\) on \S+, exit code 3: could not ", words
    )
    assert words.startswith(f"ok: 1 database is within the goals; last run failed: {app}")
    metrics = invoke.run("metrics", env=env)
    (code,) = [line for line in metrics.splitlines() if line.startswith("pgkeep_backup_last_exit_")]
    assert 'type="auto"' in code
    assert code.endswith(" 3.0")
    target = disposables.name(pg17)
    invoke.run("restore", "--latest", f"--target-db={target}", env=env)
    invoke.run("restore", "--latest", "--dry-run", "--target-db=x", env=env)
    invoke.run("backup", "--no-verify", env=env | {"BACKUP_CLUSTER": "north"})
    out = " ".join(invoke.run("status", env=env).split())
    assert "last run failed" not in out
    assert re.search(
        r" a run failed .* exit code 3: could not .*; another succeeded \d+ s ago", out
    )
    assert re.search(r" last run succeeded \d+ s ago on ", out)
    found = history(env)
    assert [(one["command"], one["exit_code"]) for one in found] == [
        ("backup", 0), ("restore", 0), ("backup", 3), ("backup", 0),
    ]  # fmt: skip
    for one in found:
        assert (one["login"], one["client"], one["pgkeep"]) == ("alice", "10.1.2.3", "0.1.0")
    own = short_form(planted.cluster_of(pg17))
    assert [one.get("cluster") for one in found] == ["north", None, None, own]
    assert found[0]["options"] == ["--no-verify"]
    assert found[1]["options"] == ["--latest", f"--target-db={target}"]
    assert found[1]["results"][0]["database"] == target
    assert found[2]["options"] == ["--type=auto", "--dsn=..."]
    assert found[3]["results"] == [{"database": app, "backup": found[1]["results"][0]["backup"]}]
    assert [one["command"] for one in history(env, "--kind=restore")] == ["restore"]
    assert [one["command"] for one in history(env, f"--database={target}")] == ["restore"]
    text = invoke.run("history", "--limit=3", env=env).splitlines()
    assert max(map(len, text)) <= 80
    assert text[0].startswith("FINISHED (UTC)")
    written = list((directory / "records").iterdir())
    assert len(written) == 4
    for path in written:
        assert "hunter2" not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_record_that_cannot_be_written_fails_nothing(
    pg17: Server, app: str, tmp_path: Path
) -> None:
    """B11: a full or foreign folder is a warning of a backup; of a restore not even that."""
    directory = tmp_path / "backups"
    directory.mkdir()
    (directory / "records").write_text("in the way")
    env = invoke.environment(pg17, app, BACKUP_DIR=str(directory))
    _, err = invoke.outputs("backup", env=env)
    assert err.count("warning: the run is not recorded in ") == 1
    name = f"copy_{os.getpid()}"
    try:
        _, err = invoke.outputs("restore", "--latest", f"--target-db={name}", env=env)
    finally:
        servers.drop(pg17, name)
    assert "warning" not in err
    assert err.count("the run is not recorded in ") == 1
    assert "no records in" in invoke.run("history", env=env)


def test_old_records_are_removed(tmp_path: Path) -> None:
    """B6: after 400 days, and nothing else in their folder."""
    planted.plant(tmp_path, planted.manifest(NOW))
    folder = tmp_path / "records"
    folder.mkdir()
    kept = [f"{NOW - 399 * DAY:%Y%m%dT%H%M%SZ}_backup_0_00000000.json", "notes.txt"]
    old = [f"{NOW - days * DAY:%Y%m%dT%H%M%SZ}_drill_5_00000000.json" for days in (401, 4000)]
    for name in (*kept, *old):
        (folder / name).write_text("{}")
    env = invoke.environment(BACKUP_DIR=str(tmp_path))
    invoke.run("prune", "--dry-run", env=env)
    assert sorted(path.name for path in folder.iterdir()) == sorted((*kept, *old))
    invoke.run("prune", env=env)
    assert {path.name for path in folder.iterdir()} - set(kept) == {
        path.name for path in folder.glob("*_prune_0_*.json")
    }


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"format": 2}', b"\xff", b"[" * 100_000, b'{"command": 1}']
)
def test_a_record_that_is_none(data: bytes) -> None:
    """G5.6: whatever lies there, it is reported or skipped."""
    with pytest.raises(e.VerificationFailed):
        record.decode(data, "x")
    assert record.parse("records/20261399T000000Z_backup_0_00000000.json") is None
    assert record.parse("20261122T000000Z_backup_0_00000000.json") is None


def test_of_which_database_a_run_was() -> None:
    made = Record(
        command="backup", pgkeep="1", user="u", host="h", started=NOW, finished=NOW, exit_code=3,
        error="no",
    )  # fmt: skip
    assert made.of("any") == DatabaseResult(database="any", exit_code=3, error="no")
    made = msgspec.structs.replace(made, results=[DatabaseResult(database="a")])
    assert made.of("a") == DatabaseResult(database="a")
    assert made.of("any") is None


# --- held backups


def held(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, hold=HOLD)


def kept(*manifests: Manifest, **policy: int) -> list[bool]:
    decisions = retention.decide(manifests, retention.Policy(**policy), NOW, 1.0)
    return [decision.keep for decision in decisions]


def test_retention_never_touches_a_held_backup() -> None:
    """B6: and it does not take the place of another one."""
    made = [planted.manifest(NOW - days * DAY) for days in range(5)]
    assert kept(*made, daily=1) == [True, False, False, False, False]
    made[3] = held(made[3])
    assert kept(*made, daily=1) == [True, False, False, True, False]
    made[0] = held(made[0])
    assert kept(*made, daily=1) == [True, True, False, True, False]
    (decision,) = [each for each in retention.decide(made, retention.Policy(daily=0), NOW, 1.0)
                   if each.manifest is made[3]]  # fmt: skip
    assert decision.reasons == (f"held since {NOW:%Y-%m-%d} by me@here: audit",)
    with pytest.raises(e.RetentionFailed, match="2 of 3 verified backups"):
        retention.decide(made, retention.Policy(daily=1), NOW)


def test_hold_and_release(tmp_path: Path) -> None:
    """B6, B10: in both stores; also where it is held after retention has decided."""
    here, there = LocalStore(tmp_path / "here"), LocalStore(tmp_path / "there")
    made = [planted.manifest(NOW - days * DAY) for days in range(5)]
    for one in made:
        planted.plant(here.directory, one)
    planted.plant(there.directory, made[2])
    env = invoke.environment(BACKUP_DIR=str(here.directory), BACKUP_RETENTION_DAILY="1")
    name = made[2].name.stem
    found = Catalog(here)
    decisions = retention.decide(found.whole(), retention.Policy(daily=1), NOW, 1.0)
    assert len(list(holds.change([here, there], made[2].name, holds.held(HOLD)))) == 2
    assert [one.hold for one in Catalog(there).whole()] == [HOLD]
    pruned = prune.prune(found, decisions)
    assert name not in [decision.manifest.name.stem for decision in pruned.removed]
    assert pruned.retained == [f"{name} is held since {NOW:%Y-%m-%d} by me@here: audit"]
    assert catalog.together([Catalog(here)])[0].state == "verified, held"
    invoke.run("hold", name + ".sql.gz", "--reason=the other audit", env=env)
    out = invoke.run("prune", "--dry-run", "--force", env=env)
    assert "the other audit" in out
    assert "verified, held" in invoke.run("list", env=env)
    (shown,) = [one["manifest"]["hold"] for one in invoke.listed(env) if "hold" in one["manifest"]]
    assert shown["reason"] == "the other audit"
    invoke.run("release", name, env=env)
    assert "held" not in invoke.run("list", env=env)
    assert "no backup" in invoke.run("release", made[4].name.stem, env=env, code=9)
    assert "is not the name of a backup" in invoke.run("hold", "x", "--reason=y", env=env, code=2)
    assert [one["command"] for one in history(env)] == ["hold", "release", "release", "hold"]
