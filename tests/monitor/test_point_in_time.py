"""pgkeep status, metrics and the page of clusters whose WAL is archived."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pgkeep.cli import clusters
from pgkeep.config import load
from pgkeep.crypt.options import Encryption
from pgkeep.model.wal import Lsn
from pgkeep.monitor import point_in_time
from pgkeep.monitor.point_in_time import Cluster, Goals
from pgkeep.pitr import location, overview
from pgkeep.pitr.overview import ClusterState
from pgkeep.pitr.stream_state import Break, SlotProgress, StreamState
from tests.support import invoke, planted
from tests.support.exposition import values
from tests.support.planted_wal import BEGIN, HOUR, IDENTIFIER, SIZE, Planted, base, drilled

GOALS = Goals(window=7 * 86400, base_max_age=8 * 86400, wal_max_lag=60)
NOW = BEGIN + 12 * HOUR
SECOND = timedelta(seconds=1)


def stream(**changes: Any) -> StreamState:
    """Return the state of a receiver that has just stored everything."""
    return StreamState(**{
        "pid": 1, "written_at": NOW, "system_identifier": IDENTIFIER, "receiving": True,
        "position": str(Lsn(12 * SIZE)), "server": str(Lsn(12 * SIZE)), "complete_until": NOW,
        "seen_at": NOW,
        "timeline": 1, "slot": SlotProgress(name="s", status="reserved", safe_size=1 << 30,
                                            restart=str(Lsn(11 * SIZE))), **changes,
    })  # fmt: skip


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ClusterState]:
    """What is read of planted files."""
    planted_files = Planted(tmp_path, name="main")

    def state(found: StreamState | None = None) -> ClusterState:
        (config,) = load({"BACKUP_DIR": str(tmp_path)})
        (place,) = location.known(config)
        return overview.read(place, Encryption(), found)

    state.planted = planted_files  # type: ignore[attr-defined]
    return state


def judged(state: ClusterState, now: datetime = NOW) -> Cluster:
    return point_in_time.judge([state], [], GOALS, now)


def test_the_receiver(read: Any) -> None:
    """A8, A19: a receiver that stopped, that lags, whose slot is lost or nearly."""
    read.planted.bases(base(1))
    read.planted.segments(range(12))
    good = judged(read(stream()))
    assert (good.problems, good.running, good.rpo_seconds) == ([], True, 0)
    assert not judged(read()).problems, "nothing is known on another host"
    slot = stream().slot
    assert slot is not None
    lost = "WAL is missing since 2026-11-20 15:00 UTC: the slot was lost; a running receiver"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"written_at": NOW - 2 * HOUR}, "has not run for 2 h: start pgkeep pitr stream"),
        ({"complete_until": NOW - 181 * SECOND},
         "the last 3 min are possibly not stored, BACKUP_WAL_MAX_LAG is 1 min"),
        ({"complete_until": None}, "its receiver has stored nothing yet"),
        ({"slot": SlotProgress(name="s")}, "replication slot s does not exist"),
        ({"slot": msgspec.structs.replace(slot, status="lost")}, "slot s is lost"),
        ({"slot": msgspec.structs.replace(slot, status="unreserved")}, "slot s is unreserved"),
        ({"slot": msgspec.structs.replace(slot, status="extended", safe_size=SIZE // 5)},
         "near its limit: after 3 MiB more of WAL"),
        ({"broken": [Break(since=BEGIN + 3 * HOUR, reason="the slot was lost")]}, lost),
    ]  # fmt: skip
    for changes, text in cases:
        found = judged(read(stream(**changes)))
        assert len(found.problems) == 1, found.problems
        assert text in found.problems[0]
        assert found.critical
    by_command = {"slot": None, "complete_until": NOW - 9 * HOUR}
    pushed = judged(read(stream(**by_command)))
    assert pushed.rpo_seconds is None, "an idle server archives nothing"
    assert "archive_command stores its WAL" in " ".join(point_in_time.facts(pushed, NOW))
    starting = {"slot": SlotProgress(name="s"), "seen_at": None}
    for fine in (by_command, starting, {"complete_until": NOW - 179 * SECOND}, {"receiving": False},
                 {"broken": [Break(since=BEGIN, reason="another time")]}):  # fmt: skip
        assert not judged(read(stream(**fine))).problems, fine


def test_the_stores(read: Any) -> None:
    """A11: a gap counts while it is in the window, and is severe until a base backup follows."""
    read.planted.segments(range(4))
    assert judged(read()).problems == [f"{read().store} has no base backup of it"]
    read.planted.bases(base(6))
    assert "with the WAL after it" in judged(read()).problems[0]
    read.planted.bases(base(1))
    assert not judged(read()).problems
    read.planted.segments([5])
    found = judged(read())
    gap = f"in {read().store}, WAL is missing after 2026-11-20 16:00 UTC: 000000010000000000000004"
    assert found.problems == [
        f"in {read().store}, WAL after 0/4000000 is missing, and no base backup is newer", gap,
    ]  # fmt: skip
    assert found.critical
    read.planted.segments([6])
    found = judged(read())
    assert (found.problems, found.critical) == ([gap], False)
    later = NOW + timedelta(days=7)
    assert not judged(read(), later).problems, "it has left the window"
    (old,) = judged(read(), later + timedelta(days=1)).problems
    assert "is 8 d 5 h old, BACKUP_BASE_MAX_AGE is 8 d" in old


def test_clusters_that_are_not_checked(tmp_path: Path) -> None:
    """One that was disabled, until it is enabled again, and one whose name another one has."""
    env = invoke.environment() | {"BACKUP_DIR": str(tmp_path), "BACKUP_CLUSTER": "main"}
    former, other = Planted(tmp_path, "1", name="main"), Planted(tmp_path, "2", name="other")
    (config,) = load({"BACKUP_DIR": str(tmp_path)})
    places = {place.facts.system_identifier: place.facts for place in location.known(config)}

    def checked() -> dict[str, bool]:
        document = json.loads(invoke.complete("status", "--json", env=env)[1])
        return {found["system_identifier"]: found["expected"] for found in document["clusters"]}

    assert checked() == {"1": True, "2": True}
    location.end(config, places["2"], NOW)
    assert checked() == {"1": True, "2": False}
    assert "pgkeep pitr disable was run" in invoke.complete("status", env=env)[1]
    location.register(config, places["2"])
    assert checked() == {"1": True, "2": True}
    former.segments([1])
    other.segments([1])
    newer = Planted(tmp_path, "3", name="main")
    newer.segments([1, 2])
    assert checked() == {"1": False, "2": True, "3": True}


def test_commands(tmp_path: Path) -> None:
    """One exit code, one line, one document; others are not told of point in time."""
    now = datetime.now(UTC)
    env = invoke.environment() | {"BACKUP_DIR": str(tmp_path), "BACKUP_BASE_MAX_AGE": "100w",
                                  "BACKUP_WINDOW": "1h"}  # fmt: skip
    planted.plant(tmp_path, planted.manifest(now.replace(microsecond=0) - HOUR))
    before = json.loads(invoke.run("status", "--json", env=env))
    assert (before["ok"], before["clusters"]) == (True, [])
    files = Planted(tmp_path, name="main")
    files.bases(base(1))
    files.segments(range(12))
    out = invoke.run("status", env=env)
    assert "cluster main  ok" in out
    assert "any second since 2026-11-20 13:05:01 UTC" in " ".join(out.split())
    assert "newest base backup: 20261120T130000Z_full" in out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    listed = invoke.run("list", env=env)
    assert f"\ncluster {IDENTIFIER} has base backups and WAL in {tmp_path}\n" in listed
    assert "point in time" not in invoke.run("list", "--database=app", env=env)
    drilled(files.folder, now - 2 * HOUR, seconds=90)
    assert "last drill: passed 2 h ago, recovery in 1 min" in invoke.run("status", env=env)
    drilled(files.folder, now - HOUR, passed=False)
    goals = {"BACKUP_DRILL_MAX_AGE": "1h", "BACKUP_RTO": "1min"}
    err = invoke.complete("status", env=env | goals)[2]
    assert "its last drill failed (findings: 1)" in err
    assert "its last passed drill was 2 h ago, BACKUP_DRILL_MAX_AGE is 1 h" in err
    found = values(invoke.run("metrics", env=env))
    assert found["pitr_drill_last_findings",] == 1
    assert found["pitr_drill_last_success_timestamp_seconds",] == pytest.approx(
        (now - 2 * HOUR).timestamp(), abs=1
    )
    drilled(files.folder, now, seconds=90)
    files.receiver(tmp_path, written_at=now - HOUR, complete_until=now - HOUR)
    status, out, err = invoke.complete("status", env=env)
    assert (status, "has not run for 1 h" in err) == (5, True)
    assert "cluster main  not ok" in out
    assert out.startswith("not ok: point in time of main\n")
    status, out, _ = invoke.complete("status", "--nagios", env=env)
    assert (status, out.startswith("PGKEEP CRITICAL: point in time of main:")) == (2, True)
    assert "'main rpo'=36" in out
    assert invoke.run("status", "--database=app", env=env).startswith("ok: ")
    document = json.loads(invoke.complete("status", "--json", env=env)[1])
    assert document["clusters"][0]["critical"]
    (tmp_path / "pitr" / f"{IDENTIFIER}.cluster.json").write_text("{")
    status, _, err = invoke.complete("status", env=env)
    assert (status, "does not describe a cluster" in err) == (5, True)


def test_a_store_that_does_not_answer_in_time(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F3: with 100,000 segments on a busy machine, the command failed with an IndexError."""
    del read
    (config,) = load({"BACKUP_DIR": str(tmp_path)})
    complete, answered = overview.read, threading.Event()

    def slow(*args: Any) -> ClusterState:
        answered.wait(60)
        return complete(*args)

    monkeypatch.setattr(overview, "read", slow)
    monkeypatch.setattr(clusters, "READING", 0.3)
    try:
        found = clusters.clusters_of(config, {str(tmp_path)}, NOW)
    finally:
        answered.set()
    assert found == ([], [f"{tmp_path}: no answer in time"])
