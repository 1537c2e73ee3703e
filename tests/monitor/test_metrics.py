"""Metrics: right after every run, of whatever outcome, and never at the run's cost."""

import fcntl
import json
import os
import re
import signal
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psycopg
import pytest

from pgkeep import errors as e
from pgkeep.catalog.catalog import Catalog
from pgkeep.model import cluster
from pgkeep.model.manifest import Drill, Manifest
from pgkeep.monitor import metrics, overview
from pgkeep.monitor.metrics import Sample, Series
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore
from pgkeep.stores.memory import MemoryStore
from tests.support import invoke, launcher, planted, servers
from tests.support.buckets import Buckets
from tests.support.exposition import check, clusters, steady, values
from tests.support.invoke import run_python
from tests.support.listeners import listening, never_ending, refusing

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def test_every_run_writes_what_its_manifest_says(pg17: Server, app: str, tmp_path: Path) -> None:
    """F9, F11: for node_exporter, which runs as somebody else, whatever the umask."""
    path = tmp_path / "m" / "pgkeep.prom"
    path.parent.mkdir()
    backups = tmp_path / "b"
    env = invoke.environment(pg17, app, BACKUP_DIR=str(backups), BACKUP_METRICS_FILE=str(path))
    before = time.time()
    process = invoke.start("backup", "--type=weekly", "--json", env=env, umask=0o077)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, "warning" in err) == (0, False), err
    manifest = json.loads(out)["backups"][0]
    text = path.read_text()
    check(text)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [one.name for one in path.parent.iterdir()] == ["pgkeep.prom"]
    found = values(text)
    labels = (app, str(backups), "weekly")

    def of(name: str) -> float:
        return found[f"backup_{name}", *labels]

    assert of("size_bytes") == of("store_bytes") == manifest["artifact"]["size"]
    assert of("raw_bytes") == manifest["raw_bytes"]
    assert (of("rows"), of("tables"), of("verified_backups")) == (1001, 2, 1)
    assert (of("last_exit_code"), of("drift_warnings"), of("prune_removed")) == (0, 0, 0)
    snapshot = datetime.fromisoformat(manifest["snapshot"]).timestamp()
    assert of("newest_timestamp_seconds") == of("oldest_timestamp_seconds") == snapshot
    times = [before, of("last_success_timestamp_seconds"), of("last_attempt_timestamp_seconds")]
    assert times == sorted(times)
    assert times[-1] <= time.time()
    assert of("duration_seconds") >= of("snapshot_seconds") > 0
    assert found["store_free_bytes", str(backups)] > 0
    assert found["backup_last_success_timestamp_seconds", app, str(backups), "daily"] == 0


def test_a_failed_run_writes_its_exit_code(pg17: Server, app: str, tmp_path: Path) -> None:
    """F1, F2: the last success stays; a database that has never been backed up is there too."""
    path = tmp_path / "x.prom"
    env = invoke.environment(
        pg17, "postgres", BACKUP_DIR=str(tmp_path / "b"), BACKUP_METRICS_FILE=str(path),
        BACKUP_DATABASES=f"{app},no such database",
    )  # fmt: skip
    store = str(tmp_path / "b")
    invoke.run("backup", "--type=auto", env=env | {"PGHOST": "/proc/nowhere"}, code=3)
    assert clusters(path.read_text()) == {""}
    assert values(path.read_text())["backup_last_exit_code", app, store, "auto"] == 3
    invoke.run("backup", "--type=daily", env=env, code=11)
    short = cluster.short_form(planted.cluster_of(pg17))
    assert clusters(path.read_text()) == {short}  # and nothing of the run that did not know it
    first = values(path.read_text())
    check(path.read_text())
    code, success = "backup_last_exit_code", "backup_last_success_timestamp_seconds"
    assert first[code, app, store, "daily"] == 0
    assert first[code, "no such database", store, "daily"] == 3
    assert first[success, "no such database", store, "daily"] == 0
    invoke.run("backup", "--type=auto", env=env | {"PGHOST": "/proc/nowhere"}, code=3)
    second = values(path.read_text())
    assert second[success, app, store, "daily"] == first[success, app, store, "daily"] > 0
    for name in (app, "no such database"):
        assert second[code, name, store, "auto"] == 3
    attempt = "backup_last_attempt_timestamp_seconds"
    assert second[attempt, app, store, "auto"] > second[attempt, app, store, "daily"]
    assert second[code, app, store, "daily"] == 0
    assert clusters(path.read_text()) == {short}
    # Neither does a run that can read neither server nor store, of one name from then on.
    (tmp_path / "b").rename(tmp_path / "away")
    (tmp_path / "b").write_text("not a directory")
    invoke.run("backup", "--type=auto", env=env, code=2)
    assert clusters(path.read_text()) == {short}
    assert values(path.read_text())[code, app, store, "auto"] == 2
    (tmp_path / "b").unlink()
    (tmp_path / "away").rename(tmp_path / "b")
    env["BACKUP_CLUSTER"] = "prod-1"
    invoke.run("backup", "--type=daily", env=env | {"PGHOST": "/proc/nowhere"}, code=3)
    assert clusters(path.read_text()) == {"prod-1"}
    listed = json.loads(invoke.run("list", "--json", env=env))
    assert {one["cluster"] for one in listed} == {short}  # as they were made
    state = json.loads(invoke.complete("status", "--json", env=env)[1])
    assert {one["cluster"] for one in state["databases"]} == {"prod-1"}


def test_a_run_that_is_ended_writes_it_too(pg17: Server, app: str, tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path / "b"), BACKUP_DATABASES=app,
                           BACKUP_METRICS_FILE=str(path))  # fmt: skip
    with psycopg.connect(**pg17.params, dbname=app) as blocker:  # type: ignore[arg-type]
        blocker.execute("lock table t in access exclusive mode")
        process = launcher.start(["backup"], env)
        query = "select count(*) from pg_locks where not granted and relation = 't'::regclass"
        deadline = time.monotonic() + 60
        while servers.sql(pg17, app, query) != [(1,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    found = values(path.read_text())
    labels = (app, str(tmp_path / "b"), "manual")
    assert found["backup_last_exit_code", *labels] == 128 + signal.SIGTERM


def test_a_run_does_not_depend_on_who_is_told(pg17: Server, app: str, tmp_path: Path) -> None:
    """F12: a gateway that is down, one that never ends its answer, a directory that is gone."""
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path / "b"))
    with never_ending() as slow, listening(500) as broken:
        for variable, value, said in (
            ("BACKUP_PUSHGATEWAY", refusing(), "Connection refused"),
            ("BACKUP_PUSHGATEWAY", slow, "no answer in time"),
            ("BACKUP_PUSHGATEWAY", broken.url, "HTTP Error 500"),
            ("BACKUP_METRICS_FILE", str(tmp_path / "none" / "x.prom"), "No such file or directory"),
        ):
            code, out, err = invoke.complete("backup", env=env | {variable: value})
            assert code == 0, err
            assert re.search(rf"^warning: {variable}: .*{said}", err, re.MULTILINE), err
            assert out.splitlines()[-1].startswith("done: ")
    assert len([*(tmp_path / "b").glob("*.manifest.json")]) == 4


def test_metrics_that_cannot_be_made_out_change_nothing(
    pg17: Server, app: str, tmp_path: Path
) -> None:
    """F12: whatever is wrong with them; the backup and its exit code are what they are."""
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path / "b"),
                           BACKUP_METRICS_FILE=str(tmp_path / "x.prom"))  # fmt: skip
    done = run_python("import pgkeep.monitor.metrics as m; m.of_target = None", "backup", env=env)
    assert done.returncode == 0, done.stderr
    assert "warning: metrics: TypeError: " in done.stderr
    assert done.stdout.splitlines()[-1].startswith("done: ")
    assert len([*(tmp_path / "b").glob("*.manifest.json")]) == 1


def test_metrics_are_pushed_by_database_type_and_store(
    pg17: Server, app: str, tmp_path: Path
) -> None:
    """F12: on success and on failure; what other jobs have pushed stays."""
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path / "b"))
    with listening() as gateway:
        env["BACKUP_PUSHGATEWAY"] = gateway.url
        invoke.run("backup", "--type=daily", env=env)
        invoke.run("backup", "--type=daily", env=env | {"PGDATABASE": "none"}, code=3)
    assert all(request.path.startswith("/metrics/job/pgkeep/") for request in gateway.requests)
    posts = [request for request in gateway.requests if request.method == "POST"]
    removed = {request.path for request in gateway.requests if request.method == "DELETE"}
    assert {request.method for request in gateway.requests} == {"POST", "DELETE"}
    name = cluster.short_form(planted.cluster_of(pg17))
    paths = {request.path for request in posts}
    assert all(f"/cluster/{name}/" in path for path in paths)
    # What an earlier version pushed, without a cluster, must not stay and grow too old.
    assert removed == {path.replace(f"/cluster/{name}", "") for path in paths}
    pushed: dict[tuple[str, ...], float] = {}
    for one in posts:
        if f"/database/{app}/" in one.path and one.path.endswith("/type/daily"):
            pushed |= values(one.body)
        elif "/database/none/" in one.path and one.path.endswith("/type/daily"):
            assert values(one.body)["backup_last_exit_code", "none", str(tmp_path / "b"),
                                    "daily"] == 3  # fmt: skip
    labels = (app, str(tmp_path / "b"), "daily")
    assert pushed["backup_last_exit_code", *labels] == 0
    assert pushed["backup_rows", *labels] == 1001


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """`pgkeep metrics --listen` over a directory, and the address that it says."""
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "b"))
    process = invoke.start("metrics", "--listen=0", env=env)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"serving (http://127\.0\.0\.1:[0-9]+/metrics)$", line)
    assert found is not None, line
    yield found[1], tmp_path / "b"
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (128 + signal.SIGTERM, False), err


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())


def test_scrapes_are_answered_from_the_manifests(served: tuple[str, Path]) -> None:
    url, directory = served
    assert "pgkeep_backup" not in get(url)
    one = planted.plant(directory, planted.manifest(NOW))
    (directory / one.artifact.name).write_bytes(b"longer than its manifest says")
    text = get(url)
    check(text)
    printed = invoke.run("metrics", env=invoke.environment(BACKUP_DIR=str(directory)))
    assert steady(printed) == steady(text)
    labels = ("app", str(directory), "daily")
    assert values(text)["backup_last_success_timestamp_seconds", *labels] == 0
    assert values(text)["backup_age_seconds", *labels] == pytest.approx(time.time(), abs=600)
    planted.plant(directory, planted.manifest(NOW + DAY))
    found = values(get(url))
    assert found["backup_verified_backups", *labels] == 1
    age = time.time() - (NOW + DAY).timestamp()
    assert found["backup_age_seconds", *labels] == pytest.approx(age, abs=600)
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(url.replace("/metrics", "/etc/passwd"))
    with caught.value as refused:
        assert refused.code == 404
    foreign = urllib.request.Request(url, headers={"Host": "evil.example"})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(foreign, timeout=30)  # noqa: S310
    with caught.value as refused:
        assert refused.code == 421


def test_a_mistake_in_the_address(tmp_path: Path) -> None:
    env = invoke.environment(BACKUP_DIR=str(tmp_path))
    for address in ("host", "99999", "a:b:1", "127.0.0.1:"):
        assert "expected HOST:PORT" in invoke.run("metrics", f"--listen={address}", env=env, code=2)
    assert "could not listen on 192.0.2.1:1" in invoke.run(
        "metrics", "--listen=192.0.2.1:1", env=env, code=2
    )


# -- what the stores tell


def store_with(tmp_path: Path, *manifests: Manifest) -> LocalStore:
    store = LocalStore(tmp_path / "b")
    for manifest in manifests:
        planted.plant(store.directory, manifest)
    return store


def of_target(target: overview.Target) -> dict[tuple[str, ...], float]:
    contents = {store.url: Catalog(store).backups() for store in target.stores}
    found = metrics.of_target(target, contents, overview.expected(target, contents), NOW + 9 * DAY)
    return values(metrics.render(found).decode())


def test_pending_copies_drills_and_drift(tmp_path: Path) -> None:
    """F7: a database's whole history in numbers."""
    copy = MemoryStore()
    drills = [
        Drill(NOW, True, {"start": 9, "download": 1, "load": 2, "index": 4, "check": 50}, 0),
        Drill(NOW + DAY, False, {"start": 8, "download": 2, "load": 3, "index": 5}, 7),
    ]
    one = planted.manifest(NOW - DAY, verified=False)
    two = msgspec.structs.replace(
        planted.manifest(NOW), pending=[copy.url], drift=["a", "b"], drills=drills
    )
    schema = planted.manifest(NOW + DAY, schema=True)
    store = store_with(tmp_path, one, two, schema)
    target = overview.Target(store=store, copy=copy, connected="new")
    found = of_target(target)

    def of(name: str, database: str = "app", place: str = store.url, kind: str = "daily") -> float:
        return found[name, database, place, kind]

    assert of("backup_pending_copies", place=copy.url) == 1
    assert of("backup_pending_copies", "new", copy.url) == 0
    assert of("backup_last_success_timestamp_seconds", place=copy.url) == 0
    assert of("backup_last_success_timestamp_seconds") == NOW.timestamp()
    assert of("backup_oldest_timestamp_seconds") == (NOW - DAY).timestamp()
    assert of("backup_verified_backups") == 1
    assert of("backup_drift_warnings") == 2
    assert of("backup_store_bytes") == 3
    assert of("backup_last_success_timestamp_seconds", "new", kind="monthly") == 0
    assert of("drill_last_success_timestamp_seconds") == NOW.timestamp()
    assert of("drill_last_success_timestamp_seconds", "new") == 0
    assert of("drill_last_findings") == 7
    assert of("drill_rto_seconds") == 10
    assert found["drill_duration_seconds", "app", "index", store.url, "daily"] == 5


def test_only_databases_that_are_named_are_expected(tmp_path: Path) -> None:
    """One that was taken off the list must not be reported as too old for ever."""
    store = store_with(tmp_path, planted.manifest(NOW), planted.manifest(NOW, database="old"))
    found = of_target(overview.Target(store=store, named=["app", "new"]))
    name = "backup_last_success_timestamp_seconds"
    assert {labels[1] for labels in found if labels[0] == name} == {"app", "new"}
    assert found["backup_store_bytes", "old", store.url, "daily"] == 1
    found = of_target(overview.Target(store=store, tiers=["weekly"]))
    assert (name, "app", store.url, "weekly") in found
    assert (name, "app", store.url, "monthly") not in found


def test_each_database_has_one_cluster(tmp_path: Path) -> None:
    """F16: two machines with databases of the same name, in stores of the same name."""
    named = msgspec.structs.replace(planted.manifest(NOW, cluster="10"), cluster="prod-1")
    store = store_with(
        tmp_path,
        planted.manifest(NOW - DAY, cluster="10"),
        named,
        planted.manifest(NOW + DAY, database="of another", cluster="11"),
        planted.manifest(NOW + DAY, database="indexed", cluster="0"),
    )

    def of(cluster: str | None = None) -> dict[str, str]:
        target = overview.Target(store=store, named=["app", "new", "indexed"], cluster=cluster)
        contents = {store.url: Catalog(store).backups()}
        wanted = overview.expected(target, contents)
        samples = list(metrics.of_target(target, contents, wanted, NOW + 9 * DAY))
        values(metrics.render(samples).decode())  # without two clusters of a database
        return {sample.label("database"): sample.label("cluster") for sample in samples}

    everything = {"app": "prod-1", "new": "prod-1", "indexed": "prod-1", "": "prod-1"}
    assert of() == {**everything, "of another": "0000000b"}
    renamed = dict.fromkeys(everything, "prod-2")
    assert of(cluster="prod-2") == {**renamed, "of another": "0000000b"}


def test_a_backup_from_the_future_is_not_the_newest(tmp_path: Path) -> None:
    """B6, F1: a clock that was wrong once must not keep the alerts quiet for years."""
    later = Drill(NOW + 99 * DAY, True, {"load": 1}, 0)
    old = msgspec.structs.replace(planted.manifest(NOW), drills=[later])
    store = store_with(tmp_path, old, planted.manifest(NOW + 99 * DAY))
    found = of_target(overview.Target(store=store))
    labels = ("app", store.url, "daily")
    for name in ("last_success", "newest"):
        assert found[f"backup_{name}_timestamp_seconds", *labels] == NOW.timestamp()
    assert found["backup_verified_backups", *labels] == 1
    assert found["backup_store_bytes", *labels] == 2
    assert found["drill_last_success_timestamp_seconds", *labels] == 0


def test_names_in_any_encoding() -> None:
    name = 'a"\\\n\udce9'
    text = metrics.render([Series("", name, "daily", "s").backup("rows", 1)]).decode()
    check(text)
    assert values(text) == {("backup_rows", 'a"\\\n\\udce9', "s", "daily"): 1}


# -- the file


def attempt(database: str, kind: str, store: str, when: datetime, code: int) -> list[Sample]:
    series = Series("one", database, kind, store)
    return [
        series.backup("last_attempt_timestamp_seconds", when.timestamp()),
        series.backup("last_exit_code", code),
    ]


def test_what_is_not_known_anew_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    old = [
        *attempt("a", "weekly", "here", NOW - 7 * DAY, 4),
        *attempt("a", "daily", "here", NOW - DAY, 4),
        *attempt("a", "monthly", "here", NOW - 41 * DAY, 4),
        *attempt("gone", "daily", "here", NOW - DAY, 4),
        Series("one", "a", "daily", "here").backup("rows", 1),
        Series("one", "a", "daily", "copy").backup("rows", 2),
        Series("one", "b", "daily", "elsewhere").backup("rows", 3),
        Sample("others_metric", (), 4),
    ]
    path.write_text("")
    path.write_bytes(metrics.render(one for one in old if one.name in metrics.HELP))
    new = attempt("a", "daily", "here", NOW, 0)
    metrics.write(path, new, ["copy"], NOW)
    code, rows = "backup_last_exit_code", "backup_rows"
    found = values(path.read_text())
    codes = {labels[1:]: value for labels, value in found.items() if labels[0] == code}
    assert codes == {("a", "here", "daily"): 0, ("a", "here", "weekly"): 4}
    assert {labels for labels in found if labels[0] == rows} == {(rows, "a", "copy", "daily")}
    path.write_bytes(metrics.render(one for one in old if one.name in metrics.HELP))
    metrics.write(path, new, [], NOW, others=True)
    found = values(path.read_text())
    assert {labels[2] for labels in found if labels[0] == rows} == {"copy", "elsewhere"}
    for damage in ("", "{", "pgkeep_backup_rows{a=", "\0", "pgkeep_backup_rows{} x"):
        path.write_text(damage)
        metrics.write(path, new, [], NOW)
        assert len(values(path.read_text())) == 2


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """F11: with several writers too."""
    path = tmp_path / "x.prom"
    samples = [Series("one", str(n), "daily", "s").backup("rows", n) for n in range(300)]
    metrics.write(path, samples, [], NOW)
    whole = path.read_text()

    def write() -> None:
        for _ in range(10):
            metrics.write(path, samples, [], NOW)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for one in writers:
        one.start()
    reads = 0
    while any(writer.is_alive() for writer in writers) or reads == 0:
        assert path.read_text() == whole
        reads += 1
    assert os.listdir(tmp_path) == ["x.prom"]  # noqa: PTH208


def test_two_runs_that_end_together_do_not_forget_each_other(tmp_path: Path) -> None:
    """The second one waits until it can read what the first has written."""
    path = tmp_path / "x.prom"
    directory = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    samples = attempt("a", "daily", "s", NOW, 0)
    writer = threading.Thread(target=metrics.write, args=(path, samples, [], NOW))
    writer.start()
    writer.join(0.3)
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    os.close(directory)
    writer.join()
    assert len(values(path.read_text())) == 2


def test_targets_of_one_store_are_written_once(pg17: Server, app: str, tmp_path: Path) -> None:
    """Prometheus takes nothing of a text that says something twice."""
    path = tmp_path / "x.prom"
    (tmp_path / "pgkeep.toml").write_text(
        f"backup_dir = '{tmp_path}/b'\nbackup_metrics_file = '{path}'\n"
        f"[targets.one]\npostgres_db = '{app}'\n[targets.two]\npostgres_db = 'postgres'\n"
    )
    env = invoke.environment(pg17, PGKEEP_CONFIG=str(tmp_path / "pgkeep.toml"))
    invoke.run("backup", env=env)
    check(path.read_text())
    assert len(metrics.parse(path.read_text())) == len(values(path.read_text()))
    invoke.run("backup", "--target=two", env=env)
    found = values(path.read_text())
    for name in (app, "postgres"):
        assert found["backup_last_exit_code", name, f"{tmp_path}/b", "manual"] == 0


def test_a_file_of_two_configurations_is_told(pg17: Server, app: str, tmp_path: Path) -> None:
    """F2: each would remove the other's metrics, and with them the alerts, without a word."""
    path = tmp_path / "x.prom"
    env = invoke.environment(pg17, app, BACKUP_METRICS_FILE=str(path))

    def said(directory: str) -> str:
        code, _, err = invoke.complete(
            "backup", env=env | {"BACKUP_DIR": str(tmp_path / directory)}
        )
        assert code == 0, err
        return err

    assert "had metrics of" not in said("one")
    assert f"BACKUP_METRICS_FILE: {path} had metrics of {tmp_path / 'one'}, which" in said("two")
    assert f"BACKUP_METRICS_FILE: {path} had metrics of {tmp_path / 'two'}, which" in said("one")
    assert "had metrics of" not in said("one")


def test_a_file_that_cannot_be_written_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(e.StoreError, match=r"could not write .*/x\.prom: No such file"):
        metrics.write(tmp_path / "none" / "x.prom", [], [], NOW)


def test_a_bucket_that_is_down_keeps_its_metrics(
    pg17: Server, app: str, tmp_path: Path, buckets: Buckets
) -> None:
    """What was known of the copies is better than nothing."""
    bucket = buckets.bucket()
    path = tmp_path / "x.prom"
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path / "b"),
                           BACKUP_METRICS_FILE=str(path)) | buckets.environment(bucket)  # fmt: skip
    invoke.run("backup", "--type=daily", env=env)
    first = values(path.read_text())
    copy = f"s3://{bucket}/backups"
    (labels,) = [one for one in first if one[0] == "backup_rows" and one[2].startswith("s3://")]
    assert labels[2].startswith(copy)
    env["BACKUP_S3_ENDPOINT"] = refusing()
    env["BACKUP_S3_TIMEOUT"] = "1"
    invoke.run("backup", "--type=daily", env=env)
    second = values(path.read_text())
    assert second[labels] == first[labels]
    assert second["backup_pending_copies", *labels[1:]] == 1
    assert second["backup_last_exit_code", app, str(tmp_path / "b"), "daily"] == 0
