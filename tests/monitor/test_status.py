"""pgkeep status: one look, one exit code, the same answer as a value."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import msgspec
import pytest

from pgkeep.catalog.catalog import Backup
from pgkeep.cli.contents import contents_of
from pgkeep.model import naming, record
from pgkeep.model.manifest import UNKNOWN_CLUSTER, Drill, Manifest, ServerFacts
from pgkeep.model.record import DatabaseResult, Record
from pgkeep.monitor import attempts, metrics, overview, status
from pgkeep.monitor.status import Goals
from pgkeep.stores.local import LocalStore
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
    assert judge(*manifests, missing=True)["app"].problems[0] == "no backup"


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
        "no drill has passed",
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
    problems = ["1 backup is from the future: a clock is wrong, or was", "no drill has passed"]
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


# -- files

EXAMPLES = Path(__file__).parents[1] / "fixtures" / "backups"  # of which the weekly is the newest


def examined(*directories: Path) -> status.Database:
    """Return the state of a database with backups in a directory, and in a second one as copies."""
    store, *copies = map(LocalStore, directories)
    target = overview.Target(store=store, copy=copies[0] if copies else None, named=["shop"])
    found = contents_of([target])
    now = datetime(2026, 12, 1, tzinfo=UTC)
    goals = Goals(max_age=99 * 86400)
    (judged,) = status.judge(target, found.contents, goals, now, UTC, lost=found.lost)
    return judged


def overwrite(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"x" * length)


def test_good_backups_in_the_bucket_do_not_hide_other_files_here(tmp_path: Path) -> None:
    """A2, B11, F1: replaced, encrypted in part, without manifests, without files, removed."""
    copy = tmp_path / "copy"
    shutil.copytree(EXAMPLES, copy)
    daily, weekly = sorted(path.name for path in EXAMPLES.glob("shop_*Z.sql.gz"))
    only = f"{{}} has no complete backup of it, only {copy}"
    n = 0

    def local() -> Path:
        nonlocal n
        n += 1
        return Path(shutil.copytree(EXAMPLES, tmp_path / f"b{n}"))

    here = local()
    assert (examined(here, copy).problems, examined(here, copy).notes) == ([], [])
    # Other contents of the same size, and of another size.
    for name in (daily, weekly):
        overwrite(here / name, 0, (here / name).stat().st_size)
    every = f"in {here}, the files of 2 of its 2 backups are missing or are not those of their"
    assert examined(here, copy).problems == [
        f"{every} manifests, the newest: {weekly.removesuffix('.sql.gz')}", only.format(here),
    ]  # fmt: skip
    assert examined(here).problems[0] == "no backup"
    for name in (daily, weekly):
        (here / name).write_bytes(b"short")
    assert examined(here, copy).problems[1] == only.format(here)
    # The beginning alone, the end alone, the file is missing: of the newest.
    for start, length in ((0, 4096), (30883 - 60, 60), (0, 0)):
        here = local()
        if length:
            overwrite(here / weekly, start, length)
        else:
            (here / weekly).unlink()
        found = examined(here, copy)
        one = f"in {here}, the file of {weekly.removesuffix('.sql.gz')} is missing or is not"
        assert found.problems == [
            f"{one} that of its manifest", f"its newest backup is only in {copy}, not in {here}",
        ]  # fmt: skip
        assert (found.newest, found.backups) == (weekly.removesuffix(".sql.gz"), 2)
        alone = examined(here)
        assert (alone.newest, alone.backups) == (daily.removesuffix(".sql.gz"), 1)
    # Files without manifests, manifests that were removed with them, a disk that is not mounted.
    here = local()
    for path in here.glob("*.manifest.json"):
        path.unlink()
    found = examined(here, copy)
    assert found.problems == [only.format(here)]
    assert found.notes == [
        f"2 backup files have no manifest in {here}: {weekly}; pgkeep adopt FILE recreates it"
    ]
    assert examined(tmp_path / "none", copy).problems == [only.format(tmp_path / "none")]
    # The other way round: somebody has emptied the bucket.
    assert examined(copy, tmp_path / "none").problems == [only.format(tmp_path / "none")]
    # Contents in the middle are not read; docs/design.md says so.
    here = local()
    overwrite(here / weekly, 9000, 100)
    assert examined(here, copy).problems == []


# -- runs


def run(
    hours: float, code: int = 0, command: str = "backup", backup: str | None = None, **more: Any
) -> Record:
    """Return the record of a run that ended so many hours ago."""
    error = f"reason {code}" if code else None
    result = DatabaseResult(database="app", backup=backup, exit_code=code, error=error)
    return Record(**{
        "command": command, "pgkeep": "0", "user": "u", "host": "db1", "exit_code": code,
        "started": NOW - hours * HOUR, "finished": NOW - hours * HOUR, "results": [result],
        "error": error, **more,
    })  # fmt: skip


def with_runs(*runs: Record, manifests: Sequence[Manifest] = ()) -> status.Database:
    target = overview.Target(store=MemoryStore(), named=["app"])
    contents = {target.store.url: [Backup(manifest, False) for manifest in manifests]}
    judged = status.judge(target, contents, GOALS, NOW, UTC)
    attempts = {target.store.url: sorted(runs, key=lambda made: made.finished)}
    (found,) = status.with_runs(judged, target, contents, attempts, NOW, UTC)
    return found


def texts(database: status.Database) -> list[str]:
    return [text for found in database.failures for text in status.failure_texts(found, NOW)]


def test_a_failure_has_a_beginning_and_an_end() -> None:
    """F3: when, why, since when, and whether a later run succeeded."""
    made = planted.manifest(NOW - 60 * HOUR)
    failing = run(50, 3), run(26, 3), run(2, 10)
    found = with_runs(run(60), *failing, manifests=[made])
    assert texts(found) == [
        "last run failed 2 h ago (2026-03-10 10:00 UTC) on db1, exit code 10: reason 10",
        "3 runs in a row have failed, the first at 2026-03-08 10:00 UTC",
    ]
    assert found.last_attempt is not None
    assert (found.last_attempt.exit_code, found.last_failure) == (10, found.failures[0])
    assert status.summary([found]).startswith("not ok: ")
    # A backup is a success also where its run could leave no record.
    later = planted.manifest(NOW - 1 * HOUR)
    for ended in (
        with_runs(run(60), *failing, run(1), manifests=[made]),
        with_runs(run(60), *failing, manifests=[made, later]),
    ):
        (text,) = texts(ended)
        assert text == (
            "a run failed 2 h ago (2026-03-10 10:00 UTC) on db1, exit code 10: reason 10;"
            " another succeeded 1 h ago"
        )
        assert ended.last_failure is None
    between = with_runs(*failing, manifests=[planted.manifest(NOW - 30 * HOUR)])
    assert between.failures[0].runs == 2
    # Its backup is there, and the retention has failed each night: no success in between.
    nights = [planted.manifest(NOW - hours * HOUR - HOUR / 60) for hours in (50, 26, 2)]
    kept = [
        run(hours, 7, backup=each.name.stem)
        for hours, each in zip((50, 26, 2), nights, strict=True)
    ]
    found = with_runs(*kept, manifests=nights)
    assert (found.failures[0].runs, found.problems) == (3, [])
    assert status.summary([found]) == ("ok: 1 database is within the goals; last run failed: app")
    # Runs of another database say nothing of this one, also if they failed before a result.
    other = run(1, 3, results=[], options=["--database=other"])
    assert with_runs(other).failures == []
    assert with_runs(run(1, 3, results=[])).failures != []


def test_failed_drills_restores_and_prunes_are_shown() -> None:
    """F7, F8: which leave nothing in manifests; not what a user has mistyped or cancelled."""
    stem = planted.manifest(NOW - 60 * HOUR).name.stem
    found = with_runs(
        run(5, 8, "drill", stem), run(4, 8, "restore", stem), run(3, 9, "restore", stem),
        run(2, 130, "drill", stem), run(1, 5, "drill", "shop_daily_20260310T020000Z"),
    )  # fmt: skip
    assert [text.partition(" (")[0] for text in texts(found)] == [
        "last drill failed 5 h ago", "last restore failed 4 h ago",
    ]  # fmt: skip
    passed = msgspec.structs.replace(
        planted.manifest(NOW - 60 * HOUR), drills=[Drill(NOW - HOUR, True, {"load": 1}, 0)]
    )
    found = with_runs(run(5, 8, "drill", stem), manifests=[passed])
    assert [failure.succeeded for failure in found.failures] == [NOW - HOUR]
    assert with_runs(run(8 * 24, 8, "restore", stem)).failures == []
    target = overview.Target(store=MemoryStore())
    pruned = run(3, 7, "prune", results=[])
    failure = attempts.failed_prune(target, {target.store.url: [pruned]})
    assert failure is not None
    assert status.failure_texts(failure, NOW)[0].startswith("last prune failed 3 h ago")
    failure = attempts.failed_prune(target, {target.store.url: [pruned, run(1)]})
    assert failure is not None
    assert failure.succeeded == NOW - HOUR


def test_a_drill_that_cannot_connect_is_shown(tmp_path: Path) -> None:
    """F7: of the database whose backup it would have restored, though no manifest shows it."""
    shutil.copytree(EXAMPLES, tmp_path / "b")
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "b"), BACKUP_MAX_AGE="999w")
    invoke.run("drill", "--server=host=127.0.0.1 port=1 dbname=x", env=env, code=3)
    document = json.loads(invoke.run("status", "--json", env=env))
    (failure,) = document["databases"][0]["failures"]
    assert (failure["command"], failure["exit_code"], failure["runs"]) == ("drill", 3, 1)
    out = invoke.run("status", env=env)
    assert "\n  last drill failed " in out
    assert max(map(len, out.splitlines())) <= 80


def test_days_without_a_run_differ_from_removed_backups() -> None:
    """B6: what the records say of days that have no backup."""
    taken = {days: planted.manifest(NOW - days * DAY) for days in range(1, 6)}
    stem = {days: made.name.stem for days, made in taken.items()}
    found = with_runs(
        run(1, 3), run(24, backup=stem[1], removed=[stem[4]]), run(48, backup=stem[2]),
        run(72, 3), run(96, backup=stem[4]),
        manifests=[taken[1]],
    )  # fmt: skip
    day = {days: (NOW - days * DAY).date().isoformat() for days in range(6)}
    assert found.days == {day[1]: "daily"}
    assert found.gaps == {
        day[4]: "removed", day[3]: "failed", day[2]: "gone", day[0]: "failed",
    }  # fmt: skip


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
    assert f"\n  newest: {by_name['app']['newest_id']}, " in shown
    assert naming.is_whole_id(by_name["app"]["newest_id"])
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
    env = invoke.environment(BACKUP_DIR=str(tmp_path))
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


def test_the_calendar_shows_what_happened_on_each_day(tmp_path: Path) -> None:
    """B11: a week after the first removal, the command ended with a KeyError."""
    now = datetime.now(UTC).replace(microsecond=0)
    noon = (now - DAY).replace(hour=12, minute=0, second=0)  # yesterday
    last = planted.plant(tmp_path, planted.manifest(noon))
    made = {days: planted.manifest(noon - days * DAY).name.stem for days in (2, 3)}
    runs = [
        run(0, backup=last.name.stem, removed=[made[3]]),
        run(0, backup=made[2]),
        run(0, 4, started=noon - DAY),
    ]
    (tmp_path / "records").mkdir()
    for number, written in enumerate(runs):
        moved = msgspec.structs.replace(written, finished=now - number * HOUR)
        path = tmp_path / record.name_of(moved, number).file
        path.write_bytes(msgspec.json.encode(moved))
    shown = invoke.run("status", env=invoke.environment(BACKUP_DIR=str(tmp_path)))
    assert "-?xd." in shown.replace(" ", "")


# -- many databases


class Counted(list[Any]):
    """A list that counts how often its elements are looked through."""

    looks: ClassVar[list[str]] = []

    def __iter__(self) -> Iterator[Any]:
        self.looks.append("once")
        return super().__iter__()


def looks(databases: int) -> int:
    """Return how often all backups, records, their results and removals are looked through."""
    names = [f"d{number}" for number in range(databases)]
    found = [planted.manifest(NOW - HOUR, database=name) for name in names]
    removed = Counted(planted.manifest(NOW - DAY, database=name).name.stem for name in names)
    results = Counted(
        DatabaseResult(database=each.database.name, backup=each.name.stem) for each in found
    )
    target = overview.Target(store=MemoryStore(), named=names)
    contents = {target.store.url: Counted(Backup(each, False) for each in found)}
    lost = {target.store.url: Counted(each.name.artifact for each in found)}
    made = run(1, results=results, removed=removed)
    runs = {target.store.url: Counted([made])}
    Counted.looks = []
    judged = status.judge(target, contents, GOALS, NOW, UTC, lost=lost)
    judged = status.with_runs(judged, target, contents, runs, NOW, UTC)
    samples = [
        *attempts.samples(target, contents, runs, names, NOW),
        *attempts.key_checks(target, contents, runs, names),
        *metrics.of_target(target, contents, names, NOW),
    ]
    assert [state.backups for state in judged] == [1] * databases
    assert all(state.last_attempt is not None and state.notes for state in judged)
    assert {"removed"} == {*[day for state in judged for day in state.gaps.values()]}
    assert sum(sample.name.endswith("last_exit_code") for sample in samples) == databases
    return len(Counted.looks)


def test_no_database_looks_through_the_backups_of_all() -> None:
    """1,000 databases with the records of half a year: a page would take an hour."""
    assert looks(3) == looks(40)
