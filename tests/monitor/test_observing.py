"""What pgkeep tells of its backups, with the programs that hear it, and with those that fail."""

import json
import os
import re
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgkeep.model import cluster
from pgkeep.postgres.server import Server
from tests.support import faults, invoke, observers, planted, planted_wal, servers
from tests.support.buckets import Buckets
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables
from tests.support.exposition import check, values
from tests.support.faults import Run
from tests.support.listeners import Listener, listening, never_ending, refusing
from tests.support.observers import Program, settled
from tests.support.private_keys import GpgKey
from tests.support.servers import SETTINGS

DASHBOARD = observers.ROOT / "monitoring" / "dashboard.json"
DAILY = "--type=daily"
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SUCCESS = "backup_last_success_timestamp_seconds"
ATTEMPT = "backup_last_attempt_timestamp_seconds"
# What only runs can tell; and what changes by itself.
CLUSTER = "prod-1"
NEVER = "prod-2"  # of which no backup was ever attempted
OF_RUNS = {f"pgkeep_{ATTEMPT}", "pgkeep_backup_last_exit_code", "pgkeep_backup_prune_removed"}
FREE = "pgkeep_store_free_bytes"
AGE = "pgkeep_backup_age_seconds"  # which is another one each time
NOW = datetime.now(UTC).replace(microsecond=0)

Series = dict[frozenset[tuple[str, str]], float]


@pytest.fixture
def programs() -> Iterator[ExitStack]:
    """Where programs are entered, to be ended with the test."""
    with ExitStack() as stack:
        yield stack


# -- Prometheus


def backup(env: dict[str, str]) -> dict[str, Any]:
    """Back up the only database there is; return its manifest."""
    (manifest,) = json.loads(invoke.run("backup", DAILY, "--json", env=env))["backups"]
    return dict(manifest)


def stamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def told(prometheus: Program) -> dict[str, Series]:
    """Return what it knows, by job."""
    found: dict[str, Series] = {}
    for labels, value in prometheus.query('{__name__=~"pgkeep_.+"}'):
        job = labels.pop("job")
        labels.pop("instance", None)
        found.setdefault(job, {})[frozenset(labels.items())] = value
    return found


def agreed(prometheus: Program, newest: float, store: str) -> Series:
    """All three must tell of the newest backup, and the same; return what they tell.

    From the directory pgkeep can serve less than a run knows: nothing of copies. Of attempts, the
    record has a time that is some milliseconds later.
    """
    found = told(prometheus)
    node, pushed, served = (found.get(job, {}) for job in ("node", "pgkeep", "listen"))
    less = {
        labels: value
        for labels, value in node.items()
        if ("store", store) in labels and dict(labels)["__name__"] not in {*OF_RUNS, FREE}
    }
    served = {
        labels: one
        for labels, one in served.items()
        if dict(labels)["__name__"] not in {*OF_RUNS, FREE, AGE}
    }
    assert newest in node.values()
    assert not [*node.items() ^ pushed.items(), *less.items() ^ served.items()]
    return node


Shown = dict[str, list[tuple[dict[str, str], float]]]


def dashboard(prometheus: Program, cluster: str = CLUSTER, *, pitr: bool = False) -> Shown:
    """Return what each panel shows; of the cluster with backups, each query must have an answer.

    The panels of point in time are others.
    """
    found: Shown = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            if ("pgkeep_pitr_" in target["expr"]) != pitr:
                continue
            expression = target["expr"].replace("$database", ".*").replace("$store", ".*")
            answer = prometheus.query(expression.replace("$cluster", cluster))
            assert answer or cluster != CLUSTER, target["expr"]
            found.setdefault(panel["title"], []).extend(sorted(answer, key=str))
    return found


def looks(title: str, value: float) -> tuple[str | None, str]:
    """Return text and colour that Grafana gives a value: of the mapping, else of the threshold."""
    (panel,) = [p for p in json.loads(DASHBOARD.read_text())["panels"] if p["title"] == title]
    defaults = panel["fieldConfig"]["defaults"]
    for mapping in defaults.get("mappings", ()):
        options = mapping["options"]
        if mapping["type"] == "value" and f"{value:g}" in options:
            return options[f"{value:g}"]["text"], options[f"{value:g}"]["color"]
        if mapping["type"] == "range" and (
            options["from"] <= value <= (options["to"] or float("inf"))
        ):
            return options["result"]["text"], options["result"]["color"]
    steps = defaults["thresholds"]["steps"]
    reached = [step for step in steps if step["value"] is None or step["value"] <= value]
    return None, reached[-1]["color"]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Two backups with a drill between them, and the programs that have heard of them."""

    database: str
    store: str
    copy: str
    prometheus: Program
    jobs: dict[str, Program]
    first: dict[str, Any]
    last: dict[str, Any]
    drill: dict[str, float]  # seconds of each phase
    before: Series  # after the first backup
    found: Series

    def value(self, name: str, **labels: str) -> float:
        everything = {
            "cluster": CLUSTER,
            "database": self.database,
            "type": "daily",
            "store": self.store,
            **labels,
        }
        return self.found[frozenset({"__name__": f"pgkeep_{name}", **everything}.items())]

    @property
    def sizes(self) -> list[int]:
        return [manifest["artifact"]["size"] for manifest in (self.first, self.last)]


@pytest.fixture(scope="module")
def observed(
    pg17: Server, buckets: Buckets, tmp_path_factory: pytest.TempPathFactory, gpg_key: GpgKey
) -> Iterator[Observed]:
    """Back up, drill and back up while textfile, Pushgateway and --listen are scraped."""
    folder = tmp_path_factory.mktemp("observed")
    textfiles, store = folder / "textfiles", str(folder / "b")
    textfiles.mkdir()
    with ExitStack() as stack:
        start = stack.enter_context
        database = start(Disposables()).database(pg17)
        servers.sql(pg17, database, "create table t as select generate_series(1, 1000) a")
        servers.sql(pg17, database, "create table u as select 1 a")
        gateway = start(observers.pushgateway(folder / "gateway"))
        node = start(observers.node_exporter(folder / "node", textfiles))
        bare = invoke.environment(pg17, database, BACKUP_DIR=store, BACKUP_DATABASES=database,
                                  BACKUP_CLUSTER=CLUSTER, BACKUP_ENCRYPT_TO=str(gpg_key.public),
                                  **gpg_key.environment)  # fmt: skip
        served = start(observers.listen(folder / "listen", bare))
        (folder / "empty").mkdir()
        never = start(observers.listen(folder / "never", invoke.environment(
            BACKUP_DIR=str(folder / "empty"), BACKUP_DATABASES="app", BACKUP_CLUSTER=NEVER,
        )))  # fmt: skip
        jobs = {"node": node, "pushgateway": gateway, "listen": served, "never": never}
        prometheus = start(observers.prometheus(folder / "prometheus", jobs))
        bucket = buckets.bucket()
        env = bare | buckets.environment(bucket) | {
            "BACKUP_METRICS_FILE": str(textfiles / "pgkeep.prom"),
            "BACKUP_PUSHGATEWAY": gateway.url,
        }  # fmt: skip
        first = backup(env)
        before = settled(lambda: agreed(prometheus, stamp(first["snapshot"]), store))
        drill = json.loads(invoke.run("drill", "--json", env=bare))
        servers.sql(pg17, database, "insert into t select generate_series(1, 500)")
        last = backup(env)
        found = settled(lambda: agreed(prometheus, stamp(last["snapshot"]), store))
        yield Observed(
            database=database, store=store, copy=f"s3://{bucket}/backups", prometheus=prometheus,
            jobs=jobs, first=first, last=last, drill=drill["seconds"], before=before, found=found,
        )  # fmt: skip


def test_three_ways_give_the_same_series(observed: Observed) -> None:
    """F6, F8, F9: `agreed` compares the values; names and labels are those of the reference."""
    names = {name for labels in observed.found for name, _ in labels} - {"__name__"}
    assert names == {"cluster", "database", "type", "store", "phase"}
    new = {dict(labels)["__name__"] for labels in observed.found.keys() ^ observed.before.keys()}
    assert {name.partition("_")[2].partition("_")[0] for name in new} == {"drill"}
    for program in observed.jobs.values():
        lines = program.get("/metrics").splitlines(keepends=True)
        check("".join(line for line in lines if re.match("(# (HELP|TYPE) )?pgkeep_", line)))
    assert "\nnode_textfile_scrape_error 0\n" in observed.jobs["node"].get("/metrics")


def test_values_are_those_of_manifest_and_drill(observed: Observed) -> None:
    """F10, F11."""
    value, last = observed.value, observed.last
    taken, snapshot, finished = (
        datetime.fromisoformat(last[name]) for name in ("taken", "snapshot", "finished")
    )
    assert value("backup_raw_bytes") == last["raw_bytes"]
    assert value("backup_size_bytes") == observed.sizes[1]
    assert value("backup_store_bytes") == sum(observed.sizes)
    assert value("backup_snapshot_seconds") == (finished - snapshot).total_seconds()
    assert value("backup_duration_seconds") == (finished - taken).total_seconds()
    assert value("drill_duration_seconds", phase="load") == observed.drill["load"]


def test_no_rule_fails_on_three_sources(observed: Observed) -> None:
    (group,) = observed.prometheus.api("rules")["groups"]
    assert [rule["lastError"] for rule in group["rules"] if rule["health"] == "err"] == []


def test_the_dashboard_counts_three_sources_once(observed: Observed) -> None:
    """F16: each panel shows what manifests and drill say."""
    phases = observed.drill
    db = {"cluster": CLUSTER, "database": observed.database}
    daily = {**db, "type": "daily"}
    here, there = ({"cluster": CLUSTER, "store": url} for url in (observed.store, observed.copy))
    away = sum(phases[name] for name in phases.keys() - {"start", "check", "clean"})
    shown = {
        "Databases without a backup": [({}, 0)],
        "Size of the backups by store": [
            (here, sum(observed.sizes)), (there, sum(observed.sizes)),
        ],
        "Last exit code": [(daily, 0)],
        "Recovery time": [(db, pytest.approx(away))],
        "Findings of the last drill": [(db, 0)],
        "Size": [(daily, observed.sizes[1])],
        "Duration": [(daily, observed.value("backup_duration_seconds"))],
        "Rows": [(daily, 1501)],
        "Phases of the last drill": [
            (db | {"phase": name}, phases[name]) for name in sorted(phases)
        ],
        "Pending copies and verified backups": [(db | there, 0), (db | here, 2), (db | there, 2)],
        "Encrypted backups": [(db, 1)],
        "Backups not encrypted": [(db, 0)],
        "Recipients": [(db, 1)],
    }  # fmt: skip

    def look() -> None:
        panels = dashboard(observed.prometheus)
        for title in ("Newest restorable point", "Last passed drill"):
            ((labels, age),) = panels.pop(title)
            assert labels == db
            assert 0 < age < 600
            assert looks(title, age) == (None, "green")
        changes = panels.pop("Calendar of backups by tier")
        assert [(labels["type"], value > 0) for labels, value in changes] == [
            ("daily", True), ("monthly", False), ("weekly", False),
        ]  # fmt: skip
        ((labels, age),) = panels.pop("Last use of the private key")
        assert (labels, 0 < age < 600) == (db, True)
        left = [value for _, value in panels.pop("GPG key expires in")]
        assert left
        assert all(300 * 86400 < seconds < 366 * 86400 for seconds in left)
        ((place, free),) = panels.pop("Free space by store")
        assert place == here
        assert free > 0
        assert panels == shown

    settled(look)


def test_never_is_red_on_the_dashboard(observed: Observed) -> None:
    """F2: a database without backup, run or drill has a value in each panel that shows a state."""
    app = {"cluster": NEVER, "database": "app"}
    states = {
        "Newest restorable point": "never", "Last passed drill": "never",
        "Recovery time": "no drill", "Findings of the last drill": "no drill",
        "Last exit code": "no run",
    }  # fmt: skip

    def look() -> None:
        panels = dashboard(observed.prometheus, NEVER)
        for title, text in states.items():
            assert [labels for labels, _ in panels[title]] == [app]
            assert looks(title, panels[title][0][1]) == (text, "red")
        assert panels["Databases without a backup"] == [({}, 1)]

    settled(look)
    for title in ("Recovery time", "Findings of the last drill", "Last exit code"):
        ((_, value),) = dashboard(observed.prometheus)[title]
        assert looks(title, value) in ((None, "green"), ("ok", "green"))


def test_point_in_time_is_observed(tmp_path: Path, programs: ExitStack) -> None:
    """A8, A11: a real receiver, then a segment that somebody has removed."""
    start, major = programs.enter_context, servers.bin_folder(17)
    folder = Path(start(tempfile.TemporaryDirectory(prefix="pitr-")))
    folder.chmod(0o755)
    settings = {"max_slot_wal_keep_size": "1GB"}
    server = start(Server(major, settings=settings, initdb=["--wal-segsize=1"]))
    env = invoke.environment(
        server, "postgres", BACKUP_DIR=str(folder), BACKUP_CLUSTER=CLUSTER,
        PATH=f"{major}:{invoke.environment()['PATH']}",
    )  # fmt: skip
    invoke.run("pitr", "enable", env=env)
    receiver = invoke.start("pitr", "stream", env=env)
    programs.callback(receiver.communicate, timeout=30)
    programs.callback(receiver.terminate)
    for _ in range(4):
        servers.sql(server, "postgres", "create table if not exists t (); select pg_switch_wal()")
        servers.sql(server, "postgres", "create table u (); drop table u")
    (place_of_wal,) = folder.glob("pitr/*/wal")
    planted_wal.drilled(place_of_wal.parent, datetime.now(UTC), seconds=12)
    served = start(observers.listen(tmp_path / "listen", env))
    prometheus = start(observers.prometheus(tmp_path / "prometheus", {"listen": served}))
    cluster = {"cluster": CLUSTER}
    place = cluster | {"store": str(folder)}

    def values(name: str) -> list[float]:
        return [value for _, value in prometheus.query(f"pgkeep_pitr_{name}")]

    def good() -> None:
        panels = dashboard(prometheus, pitr=True)
        assert panels["Receiver"] == [(cluster, 1)]
        assert panels["Gaps in the WAL"] == [(place, 0), (place, 0)]
        assert values("segments")[0] >= 4
        assert values("base_chain_length") == [1]
        for title, shown in panels.items():
            kinds = [p for p in json.loads(DASHBOARD.read_text())["panels"] if p["title"] == title]
            if kinds[0]["type"] == "stat":
                assert {looks(title, value)[1] for _, value in shown} == {"green"}, title
        assert 0 < values("slot_safe_bytes")[0] <= values("slot_limit_bytes")[0] <= 1.1 * (1 << 30)

    def firing() -> set[str]:
        return {one["labels"]["alertname"] for one in prometheus.api("alerts")["alerts"]
                if one["state"] == "firing"}  # fmt: skip

    def ready() -> None:
        try:
            prometheus.query("up")
        except urllib.error.HTTPError as error:  # it reads its data
            raise AssertionError from error

    settled(ready)
    settled(good)
    assert firing() == set()
    segments = sorted(folder.glob("pitr/*/wal/[0-9]*.gz"))
    segments[-3].unlink()

    def alerted() -> None:
        assert dashboard(prometheus, pitr=True)["Gaps in the WAL"] == [(place, 1), (place, 0)]
        assert firing() == {"PgkeepWalMissing"}

    settled(alerted)


# -- Alertmanager


def alerts(hook: Listener, name: str, status: str) -> list[dict[str, Any]]:
    """Return what the webhook was told of one alert."""
    sent = [
        alert for request in list(hook.requests) for alert in json.loads(request.body)["alerts"]
    ]
    return [one for one in sent if (one["labels"]["alertname"], one["status"]) == (name, status)]


def test_an_alert_comes_when_backups_stop_and_ends_when_they_resume(
    pg17: Server, app: str, tmp_path: Path, programs: ExitStack
) -> None:
    """F1: by the rules as they are, through a real Alertmanager."""
    start = programs.enter_context
    hook = start(listening())
    alertmanager = start(observers.alertmanager(tmp_path / "alertmanager", hook.url))
    directory = tmp_path / "b"
    env = invoke.environment(pg17, app, BACKUP_DIR=str(directory))
    served = start(observers.listen(tmp_path / "listen", env))
    finished = datetime.now(UTC).replace(microsecond=0) - 26 * HOUR + timedelta(seconds=4)
    planted.plant(
        directory, planted.manifest(finished, database=app, cluster=planted.cluster_of(pg17))
    )  # fmt: skip
    start(observers.prometheus(tmp_path / "prometheus", {"listen": served}, alertmanager))

    name = "PgkeepBackupTooOld"
    faults.eventually(lambda: alerts(hook, name, "firing"), name, observers.PATIENCE)
    firing = alerts(hook, name, "firing")[0]
    assert datetime.fromisoformat(firing["startsAt"]) - finished > 26 * HOUR
    (group,) = yaml.safe_load(observers.RULES.read_text())["groups"]
    (rule,) = [one for one in group["rules"] if one["alert"] == name]
    said = rule["annotations"]["summary"].replace("{{ $labels.database }}", app)
    said = said.replace("{{ $labels.store }}", str(directory))
    said = said.replace("{{ $labels.cluster }}", cluster.short_form(planted.cluster_of(pg17)))
    before, _, after = said.partition("{{ $value | humanizeDuration }}")
    age = firing["annotations"]["summary"].removeprefix(before).removesuffix(after)
    assert re.fullmatch("1d 2h [0-9]+m [0-9]+s", age), firing
    assert firing["annotations"]["runbook_url"] == rule["annotations"]["runbook_url"]
    assert firing["labels"]["severity"] == "critical"

    resumed = datetime.now(UTC)
    invoke.run("backup", DAILY, env=env)
    end = faults.eventually(
        lambda: [alert for alert in alerts(hook, name, "resolved")
                 if datetime.fromisoformat(alert["endsAt"]) > resumed],
        f"the end of {name}", observers.PATIENCE,
    )  # fmt: skip
    assert end[0]["labels"] == firing["labels"]


# -- whoever is told may fail

# On a file system that is full, with the file of an earlier run.
FULL = """
mount -t tmpfs -o size=16k none "$1" && cd "$1" && echo earlier >pgkeep.prom || exit 99
cat /dev/zero >filler 2>/dev/null
"$2" backup --type=daily
code=$?
ls -A && cat pgkeep.prom && exit $code
"""


def test_a_backup_is_made_while_all_who_are_told_fail(
    pg17: Server, app: str, tmp_path: Path, programs: ExitStack, disposables: Disposables
) -> None:
    """F11, F12, F13: a full disk, a gateway that is stopped, an answer without end, nobody."""
    gateway = programs.enter_context(observers.pushgateway(tmp_path / "gateway"))
    full = tmp_path / "full"
    full.mkdir()
    env = invoke.environment(
        pg17, app, BACKUP_DIR=str(tmp_path / "b"), BACKUP_METRICS_FILE=str(full / "pgkeep.prom"),
        BACKUP_PUSHGATEWAY=gateway.url, BACKUP_PING_URL=refusing(),
        BACKUP_WEBHOOK=programs.enter_context(never_ending()),
    )  # fmt: skip
    os.kill(gateway.pid, signal.SIGSTOP)
    # Root can mount as it is, and its servers, which are somebody else's, let only root in.
    unshare = ["unshare"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    done = subprocess.run(
        [*unshare, "--mount", "/bin/sh", "-c", FULL, "sh", str(full), invoke.PGKEEP],
        env=env, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    left = done.stdout.partition("\ndone: 1 database")[2].splitlines()[1:]
    assert left == ["filler", "pgkeep.prom", "earlier"]
    warnings = re.findall(r"^warning: (\w+): .*?([^:]+)$", done.stderr, re.MULTILINE)
    assert {name: reason.strip() for name, reason in warnings} == {
        "BACKUP_METRICS_FILE": "No space left on device",
        "BACKUP_PUSHGATEWAY": "no answer in time",
        "BACKUP_PING_URL": "[Errno 111] Connection refused",
        "BACKUP_WEBHOOK": "no answer in time",
    }
    (artifact,) = (
        path for path in (tmp_path / "b").glob("*.sql.gz") if ".globals." not in path.name
    )
    target = disposables.name(pg17)
    invoke.restore(pg17, artifact, target)
    assert_same_database(pg17, app, pg17, target)


def test_a_gateway_that_refuses_changes_no_outcome(
    pg17: Server, app: str, tmp_path: Path, programs: ExitStack
) -> None:
    """F12: neither a good one nor a bad one."""
    gateway = programs.enter_context(observers.pushgateway(tmp_path / "gateway"))
    other = b"# TYPE pgkeep_backup_last_exit_code counter\npgkeep_backup_last_exit_code 1\n"
    url = f"{gateway.url}/metrics/job/other"
    with urllib.request.urlopen(url, other, timeout=30) as answer:  # noqa: S310
        assert answer.status == 200
    env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path / "b"), BACKUP_PUSHGATEWAY=gateway.url)
    for name, code in ((app, 0), ("none", 3)):
        status, _, said = invoke.complete("backup", DAILY, env=env | {"PGDATABASE": name})
        assert status == code, said
        # Newer gateways close the connection.
        refused = "^warning: BACKUP_PUSHGATEWAY: .*(HTTP Error 400|Remote end closed connection)"
        assert re.search(refused, said, re.MULTILINE), said
    assert len(faults.published(tmp_path / "b")) == 1


# -- outcomes


class Runs:
    """Runs of one database, with those who are told of them."""

    def __init__(self, env: dict[str, str], path: Path, hook: Listener) -> None:
        self._path = path
        self._hook = hook
        self._env = env | {"BACKUP_METRICS_FILE": str(path), "BACKUP_WEBHOOK": hook.url}

    def once(self, **extra: str) -> tuple[int, dict[str, float]]:
        """Return the exit code, which everybody is told, and the metrics of the daily backups."""
        status, _, said = invoke.complete(
            "--log-format=json", "backup", DAILY, env=self._env | extra
        )
        text = self._path.read_text()
        check(text)
        labels = (self._env["PGDATABASE"], self._env["BACKUP_DIR"], "daily")
        found = {name: one for (name, *rest), one in values(text).items() if (*rest,) == labels}
        assert [
            json.loads(said.splitlines()[-1])["exit_code"],
            json.loads(self._hook.requests[-1].body)["exit_code"],
            found["backup_last_exit_code"],
        ] == [status] * 3, said
        return status, found


def test_an_outcome_is_the_same_for_all_who_are_told(
    pg17: Server, app: str, tmp_path: Path, programs: ExitStack
) -> None:
    """F3, F8, F14, F18: held up by a lock, retention that refuses; never like a success."""
    gate, directory = tmp_path / "gate", tmp_path / "b"
    env = invoke.environment(pg17, app, BACKUP_DIR=str(directory), BACKUP_DATABASES=app)
    runs = Runs(env, tmp_path / "pgkeep.prom", programs.enter_context(listening()))

    path = faults.path_with(tmp_path / "bin", pg17, {"pg_dump": faults.gate(gate)})
    held = {"BACKUP_DIR": str(directory), "BACKUP_DATABASES": app, "PATH": path}
    with Run(pg17, app, "backup", DAILY, env=held):
        faults.eventually(lambda: faults.waiting_at(gate), "the dump of the other run")
        code, skipped = runs.once()
    assert (code, skipped[SUCCESS], "backup_rows" in skipped) == (10, 0, False)
    faults.leaves_no_session(pg17, app)

    code, well = runs.once()
    assert (code, well["backup_rows"]) == (0, 1001)
    assert 0 < skipped[ATTEMPT] < well[SUCCESS] < well[ATTEMPT]

    cluster = planted.cluster_of(pg17)
    for age in range(700, 706):
        planted.plant(directory, planted.manifest(NOW - age * DAY, database=app, cluster=cluster))
    code, kept = runs.once()
    assert (code, kept["backup_verified_backups"], kept["backup_prune_removed"]) == (7, 8, 0)
    assert kept["backup_store_bytes"] > well["backup_store_bytes"]
    # The backup is there, and what failed came later: PgkeepBackupFailed fires.
    assert well[SUCCESS] < kept[SUCCESS] < kept[ATTEMPT]

    invoke.run("prune", "--force", env=env)
    code, again = runs.once()
    assert (code, again["backup_verified_backups"]) == (0, 3)
    code, failed = runs.once(PGHOST="/proc/nowhere")
    assert (code, failed[SUCCESS]) == (3, again[SUCCESS])


def test_a_database_that_cannot_be_backed_up_has_failed(tmp_path: Path) -> None:
    """F2, F3, A3.16: with a series, also where it never had a backup; what is excluded has none."""
    path, store = tmp_path / "pgkeep.prom", str(tmp_path / "b")
    with Server(servers.bin_folder(17), settings=SETTINGS) as cluster:
        for name in ("app", "never", "scratch"):
            servers.sql(cluster, "postgres", f"create database {name}")
        servers.sql(cluster, "postgres", "alter database never allow_connections false")
        env = invoke.environment(
            cluster, "postgres", BACKUP_DIR=store, BACKUP_DATABASES="*,!scratch",
            BACKUP_METRICS_FILE=str(path),
        )  # fmt: skip
        invoke.run("backup", DAILY, env=env, code=11)
        before = values(path.read_text())
        servers.sql(cluster, "postgres", "alter database app allow_connections false")
        invoke.run("backup", DAILY, env=env, code=11)
        after = values(path.read_text())
    assert after[SUCCESS, "app", store, "daily"] == before[SUCCESS, "app", store, "daily"] > 0
    assert after[ATTEMPT, "app", store, "daily"] > before[ATTEMPT, "app", store, "daily"]
    exit_code = "backup_last_exit_code"
    assert [found[exit_code, "app", store, "daily"] for found in (before, after)] == [0, 3]
    assert (after[SUCCESS, "never", store, "daily"], after[exit_code, "never", store, "daily"]) == (
        0, 3,
    )  # fmt: skip
    assert {key[1] for key in after} & {"scratch", "postgres", "template1"} == set()
    # Neither has a server to ask: the record of the run names the database.
    document = json.loads(invoke.outputs("status", "--json", env=env, code=5)[0])
    found = {one["database"]: one["problems"] for one in document["databases"]}
    assert found == {"app": [], "never": ["no backup"]}
    scraped = values(invoke.outputs("metrics", env=env)[0])
    assert (scraped[SUCCESS, "never", store, "daily"], scraped[exit_code, "never", store, "daily"]
            ) == (0, 3)  # fmt: skip


def test_the_log_of_a_failed_run_stays(pg17: Server, app: str, tmp_path: Path) -> None:
    """F15, F17: even beside the backups, of which the run leaves none, and retention removes."""
    directory = tmp_path / "b"
    cluster = planted.cluster_of(pg17)
    for age in (1, 2, 3, 400):
        planted.plant(directory, planted.manifest(NOW - age * DAY, database=app, cluster=cluster))
    env = invoke.environment(pg17, app, BACKUP_DIR=str(directory))
    bad = faults.path_with(tmp_path / "bin", pg17, {"pg_dump": "echo sorry >&2; exit 1"})
    log = directory / f"{app}.log"
    for path, code in ((bad, 4), (env["PATH"], 0)):
        with log.open("a") as out:
            done = subprocess.run(
                [invoke.PGKEEP, "--log-format=json", "backup", DAILY], env=env | {"PATH": path},
                stdout=subprocess.DEVNULL, stderr=out, check=False, timeout=60,
            )  # fmt: skip
        assert done.returncode == code, log.read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ends = [line for line in lines if "exit_code" in line]
    assert [end["exit_code"] for end in ends] == [4, 0]
    assert "sorry" in ends[0]["message"]
    assert [line for line in lines if line["message"].startswith("removed ")]
    assert len([*directory.glob("*.manifest.json")]) == 4
