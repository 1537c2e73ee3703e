"""pgkeep status: one look, one exit code, the same answer as a value."""

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from pgkeep.catalog.catalog import Backup
from pgkeep.model.manifest import UNKNOWN_CLUSTER, Drill, Manifest, ServerFacts
from pgkeep.monitor import metrics, overview, status
from pgkeep.monitor.status import Goals
from pgkeep.stores.memory import MemoryStore
from tests.support import invoke, planted
from tests.support.invoke import on_terminal

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)  # a Tuesday
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
GOALS = Goals(max_age=26 * 3600)
CONTROL = re.compile(r"\x1b\[[0-9;]*m")


def judge(
    *manifests: Manifest, goals: Goals = GOALS, missing: bool = False, **target: Any
) -> dict[str, status.Database]:
    place = overview.Target(store=MemoryStore(), **target)
    contents = {place.store.url: [Backup(manifest, missing) for manifest in manifests]}
    judged = status.judge(place, contents, goals, NOW, UTC)
    return {one.database: one for one in judged}


def drilled(*drills: Drill) -> Manifest:
    return msgspec.structs.replace(planted.manifest(NOW - HOUR), drills=list(drills))


@pytest.mark.parametrize(
    ("manifests", "problems"),
    [
        ([planted.manifest(NOW - 26 * HOUR)], []),
        ([planted.manifest(NOW - 27 * HOUR)],
         ["its newest backup is 27 h old, BACKUP_MAX_AGE is 26 h"]),
        ([planted.manifest(NOW - 75 * HOUR), planted.manifest(NOW - HOUR, schema=True)],
         ["its newest backup is 3 d 3 h old, BACKUP_MAX_AGE is 26 h"]),
        ([planted.manifest(NOW - HOUR, "manual", verified=False)], []),
    ],
)  # fmt: skip
def test_the_newest_backup_that_can_be_restored_is_judged(
    manifests: list[Manifest], problems: list[str]
) -> None:
    assert judge(*manifests)["app"].problems == problems
    assert judge(*manifests, missing=True)["app"].problems == ["no backup"]


def test_drills_are_judged_only_where_a_goal_is_set() -> None:
    """F7, E6: age of the last green one, result and time of the last one."""
    goals = Goals(max_age=26 * 3600, drill_max_age=7 * 86400, rto=60)
    green = Drill(NOW - 2 * DAY, True, {"start": 500, "load": 30, "index": 30, "check": 500}, 0)
    old = Drill(NOW - 8 * DAY, True, {"load": 61}, 0)
    red = Drill(NOW - DAY, False, {"load": 1}, 3)
    assert judge(drilled(green), goals=goals)["app"].problems == []
    assert judge(drilled(old), goals=goals)["app"].problems == [
        "its last passed drill was 8 d ago, BACKUP_DRILL_MAX_AGE is 7 d",
        "its recovery took 1 min, BACKUP_RTO is 1 min",
    ]
    assert judge(drilled(green, red), goals=goals)["app"].problems == [
        "its last drill failed (findings: 3)",
        "no drill has measured the recovery time (BACKUP_RTO)",
    ]
    assert judge(drilled(), goals=goals)["app"].problems == [
        "no drill has succeeded",
        "no drill has measured the recovery time (BACKUP_RTO)",
    ]
    assert judge(drilled(old, red))["app"].problems == ["its last drill failed (findings: 3)"]
    assert judge(drilled(red, green))["app"].problems != []
    assert judge(drilled(old))["app"].problems == []
    quick = Goals(max_age=26 * 3600, rto=60)
    failed = Drill(NOW, False, {"verify": 1}, 1)
    assert "no drill has measured the recovery time (BACKUP_RTO)" in (
        judge(drilled(old, failed), goals=quick)["app"].problems
    )


def test_the_future_is_no_backup() -> None:
    """B6, F1: what a wrong clock has dated neither is the newest nor hides that none is."""
    goals = Goals(max_age=26 * 3600, drill_max_age=7 * 86400)
    ahead = Drill(NOW + 9 * DAY, True, {"load": 1}, 0)
    problems = ["1 backup is from the future: a clock is wrong, or was", "no drill has succeeded"]
    assert (
        judge(drilled(ahead), planted.manifest(NOW + DAY), goals=goals)["app"].problems == problems
    )
    (found,) = judge(planted.manifest(NOW + DAY), planted.manifest(NOW + 2 * DAY)).values()
    assert found.problems == [
        "no backup",
        "2 backups are from the future: a clock is wrong, or was",
    ]
    assert found.newest is None
    assert judge(planted.manifest(NOW + timedelta(minutes=1)))["app"].problems == []


@pytest.mark.parametrize(
    ("ages", "problems"),
    [
        ({"1": [3, 2], "2": [1, 0]}, []),  # one was replaced by the other
        ({"1": [3, 1], "2": [2, 0]},
         ["2 clusters back it up to the same store: use a separate BACKUP_DIR for each"]),
        ({"1": [1], "2": [0], "0": [2]}, []),  # a dump of others has no cluster
        ({"1": [40, 0], "2": [35]}, []),
    ],
)  # fmt: skip
def test_clusters_that_take_turns_hide_each_other(
    ages: dict[str, list[int]], problems: list[str]
) -> None:
    """C26: where one no longer has backups, those of the other look like them."""
    found = [
        planted.manifest(NOW - days * DAY, cluster=cluster)
        for cluster, each in ages.items()
        for days in each
    ]
    assert judge(*found)["app"].problems == problems


def test_databases_that_should_be_there_are_judged() -> None:
    """F2: without any backup too; one that was taken off the list is only shown."""
    found = judge(planted.manifest(NOW), planted.manifest(NOW - 99 * DAY, database="old"),
                  named=["app", "new"])  # fmt: skip
    assert {name: (one.expected, one.problems) for name, one in found.items()} == {
        "app": (True, []), "new": (True, ["no backup"]), "old": (False, []),
    }  # fmt: skip
    assert judge(connected="first")["first"].problems == ["no backup"]


def test_pending_copies_are_counted_once() -> None:
    place = overview.Target(store=MemoryStore(), copy=MemoryStore())
    assert place.copy is not None
    one = msgspec.structs.replace(planted.manifest(NOW), pending=[place.copy.url])
    contents = {place.store.url: [Backup(one, False), Backup(planted.manifest(NOW - DAY), False)]}
    (judged,) = status.judge(place, contents, GOALS, NOW, UTC)
    assert (judged.pending_copies, judged.backups, judged.problems) == (1, 2, [])
    later = NOW + 27 * HOUR
    contents[place.store.url].append(Backup(planted.manifest(later), False))
    (judged,) = status.judge(place, contents, GOALS, later, UTC)
    assert judged.problems == [f"the copy to {place.copy.url} has been pending for 27 h"]


def test_the_calendar_has_the_highest_tier_of_each_day() -> None:
    """In the zone in which days begin, from a Monday until today."""
    zone = ZoneInfo("Europe/Berlin")
    place = overview.Target(store=MemoryStore())
    taken = [
        ("manual", datetime(2026, 3, 10, 1, tzinfo=UTC)),
        ("daily", datetime(2026, 3, 10, 2, tzinfo=UTC)),
        ("manual", datetime(2026, 3, 10, 3, tzinfo=UTC)),
        ("weekly", datetime(2026, 3, 8, 23, 30, tzinfo=UTC)),  # Monday in Berlin
        ("monthly", datetime(2026, 3, 2, 2, tzinfo=UTC)),
    ]
    backups = [Backup(planted.manifest(when, kind), False) for kind, when in taken]
    (judged,) = status.judge(place, {place.store.url: backups}, GOALS, NOW, zone)
    none = [None] * 7
    assert status.calendar(judged.days, date(2026, 3, 10), weeks=3) == [
        none, ["monthly", *none[1:]], ["weekly", "daily"],
    ]  # fmt: skip


def test_a_dump_of_others_is_no_last_night(tmp_path: Path) -> None:
    """B4, F1: who knows what it holds; rows without tables are no backup at all."""
    indexed = planted.manifest(NOW, cluster=UNKNOWN_CLUSTER)
    found = judge(planted.manifest(NOW - 30 * HOUR), indexed)["app"]
    assert (found.problems, found.backups) == (
        ["its newest backup is 30 h old, BACKUP_MAX_AGE is 26 h"], 2,
    )  # fmt: skip
    assert judge(indexed)["app"].problems == []
    rows = msgspec.structs.replace(indexed, data_only=True)
    assert judge(rows)["app"].problems == ["no backup"]
    place = overview.Target(store=MemoryStore())
    contents = {place.store.url: [Backup(planted.manifest(NOW - 30 * HOUR), False),
                                  Backup(indexed, False)]}  # fmt: skip
    told = {
        one.value for one in metrics.of_target(place, contents, ["app"], NOW)
        if one.name.endswith("newest_timestamp_seconds") and one.label("type") == "daily"
    }  # fmt: skip
    assert told == {(NOW - 30 * HOUR).timestamp()}


def test_a_standby_that_was_behind_makes_old_backups() -> None:
    """D27, F1."""
    server = ServerFacts("17.2", 170002, "1", in_recovery=True, replay_lag=7 * 86400.0)
    late = msgspec.structs.replace(planted.manifest(NOW - HOUR), server=server)
    found = judge(late)["app"]
    assert found.snapshot == NOW - HOUR - 7 * DAY
    assert found.problems == ["its newest backup is 7 d 1 h old, BACKUP_MAX_AGE is 26 h"]


# -- the command


def store_with(directory: Path, *manifests: Manifest) -> dict[str, str]:
    for manifest in manifests:
        planted.plant(directory, manifest)
    return invoke.environment(BACKUP_DIR=str(directory))


def test_all_is_well(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    env = store_with(
        tmp_path,
        *(planted.manifest(now - n * DAY, "weekly" if n % 7 else "monthly") for n in range(60)),
        planted.manifest(now - HOUR, database="x" * 63, verified=False),
    )
    shown = invoke.run("status", env=env)
    lines = shown.splitlines()
    assert lines[0] == "ok: 2 databases are within the goals"
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown
    assert "not verified" in shown
    document = json.loads(invoke.run("status", "--json", env=env))
    assert document["ok"] is True
    by_name = {one["database"]: one for one in document["databases"]}
    assert (by_name["app"]["backups"], by_name["app"]["verified"]) == (60, True)
    code, coloured = on_terminal("status", env=env)
    assert code == 0
    assert "\x1b[32m" in coloured
    plain = CONTROL.sub("", coloured).splitlines()
    assert plain[0] == lines[0]
    assert "app  ok" in plain


def test_what_is_not_well_is_the_first_and_the_last_line(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    env = store_with(
        tmp_path,
        planted.manifest(now),
        planted.manifest(now - 3 * DAY, database="shop"),
    )
    code, out, err = invoke.complete("status", env=env)
    assert code == 5
    assert out.splitlines()[0] == "not ok: 1 of 2 databases: shop"
    assert err.splitlines()[-1] == (
        "error: shop: its newest backup is 3 d old, BACKUP_MAX_AGE is 26 h"
    )
    invoke.run("status", env=env | {"BACKUP_MAX_AGE": "4d"})
    invoke.run("status", env=env | {"BACKUP_DATABASES": "app"})
    for variable in ("BACKUP_DRILL_MAX_AGE", "BACKUP_RTO"):
        said = invoke.run("status", env=env | {"BACKUP_MAX_AGE": "4d", variable: "9w"}, code=5)
        assert "app: no drill" in said
    status, out, _ = invoke.complete("status", "--json", env=env)
    document = json.loads(out)
    assert (status, document["ok"]) == (5, False)
    many = ",".join(f"{n} of many databases with long names" for n in range(9))
    _, out, _ = invoke.complete("status", env=env | {"BACKUP_DATABASES": many})
    assert max(map(len, out.splitlines())) <= 80


def test_no_backup_at_all_is_not_well(tmp_path: Path) -> None:
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "none"))
    assert "error: no backup, and no database is configured by name" in invoke.run(
        "status", env=env, code=5
    )
    said = invoke.run("status", env=env | {"POSTGRES_DB": "app"}, code=5)
    assert said.splitlines()[-1] == "error: app: no backup"
    (tmp_path / "file").touch()
    invoke.run("status", f"--dir={tmp_path / 'file'}", env=env, code=6)


def test_what_cannot_be_read_is_not_well(tmp_path: Path) -> None:
    """A2, F1: a manifest that is damaged hides a database that nobody backs up any more."""
    now = datetime.now(UTC).replace(microsecond=0)
    env = store_with(
        tmp_path / "b",
        planted.manifest(now),
        planted.manifest(now - 30 * DAY, database="shop"),
    )
    (hidden,) = (tmp_path / "b").glob("shop_*.manifest.json")
    when = json.loads(hidden.read_text())
    odd = ("2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00",
           "9999-12-31T23:59:59-14:00")  # fmt: skip
    broken = [json.dumps(when | {"snapshot": one}).encode() for one in odd]
    for contents in (b"", b'{"format": 2}', *broken):
        hidden.write_bytes(contents)
        said = invoke.run("status", env=env, code=5)
        assert hidden.name in said.splitlines()[-1]
        document = json.loads(invoke.complete("status", "--json", env=env)[1])
        assert [hidden.name in one for one in document["reasons"]] == [True]
        _, out, _ = invoke.complete("status", env=env)
        assert "1 manifest cannot be read" in out.splitlines()[0]
        assert "warning: " in invoke.complete("metrics", env=env)[2]


def test_a_target_without_any_backup_is_not_hidden_by_others(tmp_path: Path) -> None:
    """F2: its disk may not be mounted."""
    planted.plant(tmp_path / "a", planted.manifest(datetime.now(UTC).replace(microsecond=0)))
    (tmp_path / "pgkeep.toml").write_text(
        f"[targets.one]\nbackup_dir = '{tmp_path}/a'\nbackup_databases = '*'\n"
        f"[targets.two]\nbackup_dir = '{tmp_path}/b'\nbackup_databases = '*'\n"
    )
    env = invoke.environment(PGKEEP_CONFIG=str(tmp_path / "pgkeep.toml"))
    code, out, err = invoke.complete("status", env=env)
    assert (code, out.splitlines()[0]) == (
        5, "not ok: no backup of target two",
    )  # fmt: skip
    assert err.splitlines()[-1].startswith("error: target two: no backup")


def test_every_target_has_its_own_goals(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for name in ("a", "b"):
        planted.plant(tmp_path / name, planted.manifest(now - 3 * DAY, database=name))
    (tmp_path / "pgkeep.toml").write_text(
        f"[targets.one]\nbackup_dir = '{tmp_path}/a'\nbackup_max_age = '1w'\n"
        f"[targets.two]\nbackup_dir = '{tmp_path}/b'\n"
    )
    env = invoke.environment(PGKEEP_CONFIG=str(tmp_path / "pgkeep.toml"))
    code, out, err = invoke.complete("status", env=env)
    assert (code, out.splitlines()[0]) == (5, "not ok: 1 of 2 databases: b")
    assert "target one" in out
    assert "a: " not in err
    assert "1 backup of cluster 00000001" in out
    invoke.run("status", "--target=one", env=env)


def test_databases_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """F16: of forty clusters, many have a database of the same name."""
    now = datetime.now(UTC).replace(microsecond=0)
    for n, name in enumerate(("a", "b"), 1):
        planted.plant(tmp_path / name, planted.manifest(now - n * DAY, cluster=str(n)))
    planted.plant(tmp_path / "b", planted.manifest(now, database="other", cluster="2"))
    (tmp_path / "pgkeep.toml").write_text(
        f"[targets.one]\nbackup_dir = '{tmp_path}/a'\n"
        f"[targets.two]\nbackup_dir = '{tmp_path}/b'\nbackup_cluster = 'prod-2'\n"
    )
    env = invoke.environment(PGKEEP_CONFIG=str(tmp_path / "pgkeep.toml"))
    code, out, err = invoke.complete("status", env=env)
    assert code == 5
    name = "app (target two, cluster prod-2)"
    assert out.splitlines()[0] == f"not ok: 1 of 3 databases: {name}"
    assert err.splitlines()[-1].startswith(f"error: {name}: its newest backup is 2 d old")
    document = json.loads(invoke.complete("status", "--json", env=env)[1])
    assert [(one["database"], one["cluster"]) for one in document["databases"]] == [
        ("app", "00000001"), ("app", "prod-2"), ("other", "prod-2"),
    ]  # fmt: skip
