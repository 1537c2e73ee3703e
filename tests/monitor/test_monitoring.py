"""The alert rules: by promtool, each once where it must fire and once where it must not."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pgkeep import errors
from pgkeep.monitor import metrics
from pgkeep.settings import SETTINGS
from tests.support import baking
from tests.support.exposition import PROMTOOL

ROOT = Path(__file__).parents[2]
RULES = ROOT / "monitoring" / "alerts.yml"
RUNBOOK = ROOT / "template/{{cookiecutter.project_slug}}/docs/operations/database-recovery.md"
NAMES = set(metrics.HELP)
HOUR, DAY = 3600, 86400
SUCCESS = "backup_last_success_timestamp_seconds"
OLDEST = "backup_oldest_timestamp_seconds"


class Case(NamedTuple):
    """Series (as promtool writes them), when the alert must be quiet and when fire, as what."""

    alert: str
    series: dict[str, str]
    quiet: str | None  # none: in a test of its own
    fires: str | None
    labels: dict[str, str]
    value: str = ""


def series(
    name: str,
    kind: str | None = "daily",
    store: str = "/b",
    cluster: str = "one",
    database: str = "app",
) -> str:
    tier = "" if kind is None else f',type="{kind}"'
    return f'pgkeep_{name}{{cluster="{cluster}",database="{database}",store="{store}"{tier}}}'


def pitr(name: str, **labels: str) -> str:
    """Return a series of point in time: of a cluster, without database and type."""
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f'pgkeep_pitr_{name}{{cluster="one"{more}}}'


def stanza(name: str, kind: str | None = None) -> str:
    """Return a series of a stanza of pgBackRest."""
    more = "" if kind is None else f',type="{kind}"'
    return f'pgkeep_pgbackrest_{name}{{stanza="main"{more}}}'


# Of these a value every ten minutes, of others every minute.
SLOW = {
    "PgkeepClusterDrillTooOld",
    "PgkeepBaseBackupTooOld",
    "PgkeepKeyCheckTooOld",
    "PgkeepWeeklyBackupTooOld",
    "PgkeepMonthlyBackupTooOld",
    "PgkeepDrillTooOld",
}
CLUSTER = {"cluster": "one"}
STANZA = {"stanza": "main"}
DATABASE = {**CLUSTER, "database": "app"}
STORE = {**DATABASE, "store": "/b"}
SERIES = {**STORE, "type": "daily"}
CASES = [
    Case("PgkeepBackupTooOld",
         {series(SUCCESS): f"{HOUR}x3000", series(SUCCESS, "weekly"): f"{2 * HOUR}x3000"},
         "28h", "29h", STORE, "1d 3h 0m 0s"),
    Case("PgkeepBackupTooOld", {series(SUCCESS): "0x3000"}, "40h", None, {}),  # never is another's
    Case("PgkeepBackupNever", {series(SUCCESS): "0x3000", series(SUCCESS, "weekly"): "0x3000"},
         "25h", "27h", STORE),
    Case("PgkeepBackupNever", {series(SUCCESS): "0x3000", series(SUCCESS, "weekly"): "60x3000"},
         "40h", None, {}),
    Case("PgkeepWeeklyBackupTooOld",
         {series(SUCCESS, "weekly"): f"{HOUR}x3000", series(SUCCESS): f"{9 * DAY}x3000",
          series(OLDEST): "60x3000"},
         "8d", "195h", STORE),
    Case("PgkeepWeeklyBackupTooOld",  # a month's first one was also the week's
         {series(SUCCESS, "weekly"): f"{HOUR}x3000", series(OLDEST): "60x3000",
          series(SUCCESS, "monthly"): f"{3 * DAY}x3000"},
         "10d", None, {}),
    Case("PgkeepWeeklyBackupTooOld",  # the store is young
         {series(SUCCESS, "weekly"): "0x3000", series(OLDEST): f"{5 * DAY}x3000"},
         "10d", None, {}),
    Case("PgkeepWeeklyBackupTooOld",  # no such tier is kept
         {series(SUCCESS, "monthly"): "60x3000", series(OLDEST): "60x3000"}, "10d", None, {}),
    Case("PgkeepMonthlyBackupTooOld",
         {series(SUCCESS, "monthly"): f"{2 * HOUR}x6000", series(OLDEST): "60x6000"},
         "769h", "780h", STORE),
    Case("PgkeepBackupFailed",
         {series("backup_last_exit_code"): "0x60 4x100",
          series("backup_last_attempt_timestamp_seconds"): "60x60 3660x100",
          series(SUCCESS): "30x1000"},
         "1h", "90m", SERIES, "4"),
    Case("PgkeepBackupFailed",  # of any type: one that has succeeded since
         {series("backup_last_exit_code"): "4x100",
          series("backup_last_attempt_timestamp_seconds"): "60x100",
          series(SUCCESS, "manual"): "120x100", series(SUCCESS): "0x100"},
         "1h", None, {}),
    Case("PgkeepBackupNotVerified",
         {series("backup_verified_backups"): "0x200", series("backup_verified_backups", "manual"):
          "0x200", series("backup_newest_timestamp_seconds"): "60x200"},
         "50m", "2h", STORE),
    Case("PgkeepBackupNotVerified",
         {series("backup_verified_backups"): "0x200", series("backup_verified_backups", "weekly"):
          "1x200", series("backup_newest_timestamp_seconds"): "60x200"},
         "2h", None, {}),
    Case("PgkeepCopyPending", {series("backup_pending_copies"): "1x3000",
                            series("backup_pending_copies", "weekly"): "1x3000"},
         "25h", "27h", STORE, "2"),
    Case("PgkeepCopyPending",  # told twice
         {series("backup_pending_copies", store=f'/b",instance="{n}'): "1x3000" for n in (0, 1)},
         "25h", "27h", STORE, "1"),
    Case("PgkeepBackupNotEncrypted",
         {series("backup_unencrypted_backups"): "0x60 1x200",
          series("backup_unencrypted_backups", "weekly"): "0x60 2x200"},
         "100m", "3h", STORE, "3"),
    Case("PgkeepBackupNotEncrypted",  # without BACKUP_ENCRYPT_TO
         {series("backup_encrypted_ratio"): "0x200"}, "3h", None, {}),
    Case("PgkeepEncryptionKeyExpires",
         {'pgkeep_encryption_key_expiry_timestamp_seconds{cluster="one",store="/b"}':
          f"{31 * DAY}x3000"}, "24h", "26h", {**CLUSTER, "store": "/b"}),
    Case("PgkeepKeyCheckTooOld",
         {series("key_check_last_success_timestamp_seconds", None): f"{HOUR}x30000",
          series("drill_last_encrypted_success_timestamp_seconds"): f"{2 * HOUR}x30000"},
         "2425h", "2430h", DATABASE),
    Case("PgkeepBackupDrifted", {series("backup_drift_warnings"): "0x60 2x60"}, "50m", "70m",
         SERIES),
    Case("PgkeepBackupShrank", {series("backup_size_bytes"): "1000x1000 400x100"}, "16h", "17h",
         SERIES),
    Case("PgkeepBackupShrank", {series("backup_size_bytes"): "1000x2000",
                                series("backup_rows"): "1000x1000 499x100"}, "16h", "17h", SERIES),
    Case("PgkeepBackupShrank", {series("backup_rows"): "1000x1000 600x100"}, "17h", None, {}),
    Case("PgkeepDrillTooOld",
         {series("drill_last_success_timestamp_seconds"): f"{HOUR}x6000",
          series("drill_last_success_timestamp_seconds", "weekly"): "0x6000"},
         "842h", "870h", DATABASE),
    Case("PgkeepDrillFailed", {series("drill_last_findings"): "0x60 3x60"}, "50m", "70m", SERIES,
         "3"),
    Case("PgkeepRecoveryTooSlow", {series("drill_rto_seconds"): "3600x60 7200x60"}, "50m", "70m",
         DATABASE, "2h 0m 0s"),
    Case("PgkeepStoreFilling",  # 1 GB a minute
         {'pgkeep_store_free_bytes{cluster="one",store="/b"}': f"{10**12}-{10**9}x300"},
         "30m", "2h", {**CLUSTER, "store": "/b"}),
    Case("PgkeepStoreFilling",
         {'pgkeep_store_free_bytes{cluster="one",store="/b"}': "1999x300",
          series("backup_size_bytes"): "900x300",
          series("backup_size_bytes", database="b"): "100x300"},
         "30m", "2h", {**CLUSTER, "store": "/b"}),
    Case("PgkeepStoreFilling",
         {'pgkeep_store_free_bytes{cluster="one",store="/b"}': "1999x300",
          series("backup_size_bytes"): "900x300",
          series("backup_size_bytes", "weekly"): "890x300",
          series("backup_size_bytes", store="s3"): "5000x300"},
         "2h", None, {}),
    Case("PgkeepStoreFilling",  # told twice, by two machines for instance
         {f'pgkeep_{name}{{{labels},instance="{n}"}}': f"{value + n}x300" for n in (0, 1)
          for name, labels, value in (("store_free_bytes", 'cluster="one",store="/b"', 1990),
                                      ("backup_size_bytes",
                                       'cluster="one",database="app",store="/b"', 1000))},
         "30m", "2h", {**CLUSTER, "store": "/b"}),
    # Two clusters with the same names of databases and stores: each has its own state.
    Case("PgkeepBackupTooOld",
         {series(SUCCESS): f"{HOUR}x3000", series(SUCCESS, cluster="two"): f"{HOUR}+60x3000"},
         "26h", "29h", STORE, "1d 4h 0m 0s"),
    Case("PgkeepBackupNever", {series(SUCCESS): "0x3000", series(SUCCESS, cluster="two"): "1x3000"},
         "25h", "27h", STORE),
    Case("PgkeepBackupFailed",  # the other one has succeeded since
         {series("backup_last_exit_code"): "4x100", series(SUCCESS): "30x100",
          series("backup_last_attempt_timestamp_seconds"): "60x100",
          series(SUCCESS, cluster="two"): "120x100"},
         None, "1h", SERIES, "4"),
    Case("PgkeepBackupNotVerified",
         {series("backup_verified_backups"): "0x200",
          series("backup_newest_timestamp_seconds"): "60x200",
          series("backup_verified_backups", cluster="two"): "1x200"},
         "50m", "2h", STORE),
    Case("PgkeepDrillTooOld",
         {series("drill_last_success_timestamp_seconds"): f"{HOUR}x6000",
          series("drill_last_success_timestamp_seconds", cluster="two"): f"{HOUR}+600x6000"},
         "842h", "870h", DATABASE),
    Case("PgkeepStoreFilling",  # the other one's disk has space, and its backups need more
         {'pgkeep_store_free_bytes{cluster="one",store="/b"}': "1999x300",
          'pgkeep_store_free_bytes{cluster="two",store="/b"}': "99999x300",
          series("backup_size_bytes"): "1000x300",
          series("backup_size_bytes", cluster="two"): "9999x300"},
         "30m", "2h", {**CLUSTER, "store": "/b"}),
    # One of two hosts vanishes, one of two databases of a host; both are for another alert.
    Case("PgkeepClusterMissing",
         {series(SUCCESS): "60x60 stale", series(SUCCESS, cluster="two"): "60x300"},
         "1h", "150m", CLUSTER),
    Case("PgkeepClusterMissing", {'pgkeep:expected_cluster{cluster="one"}': "1x300",
                                  series(SUCCESS, cluster="two"): "60x300"},
         "50m", "2h", CLUSTER),  # it has never reported
    Case("PgkeepClusterMissing",
         {series(SUCCESS): "60x60 stale", series(SUCCESS, database="b"): "60x300"},
         "150m", None, {}),
    Case("PgkeepDatabaseMissing",
         {series(SUCCESS): "60x60 stale", series(SUCCESS, database="b"): "60x300",
          series(SUCCESS, cluster="two"): "60x300"},
         "1h", "150m", DATABASE),
    Case("PgkeepDatabaseMissing",
         {series(SUCCESS): "60x60 stale", series(SUCCESS, cluster="two"): "60x300"},
         "150m", None, {}),
    Case("PgkeepDatabaseMissing",  # an earlier version of pgkeep wrote no cluster
         {f'pgkeep_{SUCCESS}{{database="app",store="/b"}}': "60x60 stale", series(SUCCESS):
          "60x300"},
         "150m", None, {}),
    # Point in time.
    Case("PgkeepReceiverDown", {pitr("receiver_running"): "1x60 0x60"}, "70m", "81m", CLUSTER),
    Case("PgkeepReceiverDown", {pitr("receiver_running"): "1x60 0x9 1x60"}, "90m", None, {}),
    Case("PgkeepWalNotStored",
         {pitr("receiver_running"): "1x120", pitr("rpo_seconds"): "5x60 240x60"}, "70m", "81m",
         CLUSTER, "4m 0s"),
    Case("PgkeepWalNotStored",  # it is down, which another one tells
         {pitr("receiver_running"): "0x120", pitr("rpo_seconds"): "240x120"}, "91m", None, {}),
    Case("PgkeepSlotLost",
         {pitr("slot_state", state="reserved"): "1x60 0x60",
          pitr("slot_state", state="lost"): "0x60 1x60"},
         "1h", "71m", {**CLUSTER, "state": "lost"}),
    Case("PgkeepSlotNearLimit",
         {pitr("slot_safe_bytes"): "21x60 19x60", pitr("slot_limit_bytes"): "100x120"}, "70m",
         "81m", CLUSTER),
    Case("PgkeepSlotNearLimit", {pitr("slot_state", state="reserved"): "1x120"}, "91m", None, {}),
    Case("PgkeepWindowBroken", {pitr("window_seconds", store="/b"): "60+60x60 0x60",
                                pitr("window_seconds", store="s3"): "60+60x120"},
         "81m", "91m", {**CLUSTER, "store": "/b"}),
    Case("PgkeepWalMissing", {pitr("gaps", store="/b"): "0x60 2x60"}, "1h", "71m",
         {**CLUSTER, "store": "/b"}, "2"),
    Case("PgkeepWalArchiveDamaged", {pitr("damaged_files", store="/b"): "0x60 1x60"}, "81m",
         "91m", {**CLUSTER, "store": "/b"}, "1"),
    Case("PgkeepBaseBackupTooOld",
         {pitr("base_last_success_timestamp_seconds", store="/b"): f"{HOUR}x3000"},
         "193h", "194h", {**CLUSTER, "store": "/b"}, "8d 1h 0m 0s"),
    Case("PgkeepClusterDrillTooOld",
         {pitr("drill_last_success_timestamp_seconds"): f"{HOUR}x6000"}, "842h", "870h", CLUSTER),
    Case("PgkeepBaseBackupTooOld",  # none: another one tells that
         {pitr("base_last_success_timestamp_seconds", store="/b"): "0x3000"}, "194h", None, {}),
    Case("PgkeepClusterDrillFailed", {pitr("drill_last_findings"): "0x60 2x60"}, "50m", "71m",
         CLUSTER, "2"),
    Case("PgkeepPgbackrestNotOk", {stanza("status_code"): "0x60 99x60"}, "81m", "101m", STANZA,
         "99"),
    Case("PgkeepPgbackrestTooOld",
         {stanza("backup_timestamp_seconds", "full"): "0x3000",
          stanza("backup_timestamp_seconds", "incr"): f"{HOUR}x3000"},
         "26h", "29h", STANZA, "1d 4h 0m 0s"),
    Case("PgkeepPgbackrestDrillFailed", {stanza("drill_last_findings"): "0x60 3x60"}, "50m",
         "71m", STANZA, "3"),
    Case("PgkeepMetricsMissing", {series(SUCCESS): "60x60 stale"}, "1h", "150m", {}),
]  # fmt: skip


def rules() -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {one["alert"]: one for one in group["rules"]}


def summary(rule: dict[str, Any], case: Case) -> str:
    """Return the rule's summary with the values of a case."""
    text = re.sub(r"{{ \$value[^}]*}}", case.value, rule["annotations"]["summary"])
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: case.labels[found[1]], text)


def as_promtool(case: Case) -> dict[str, Any]:
    rule = rules()[case.alert]
    tests: list[dict[str, Any]] = []
    if case.quiet is not None:
        tests.append({"alertname": case.alert, "eval_time": case.quiet, "exp_alerts": []})
    if case.fires is not None:
        fired = {
            "exp_labels": {**case.labels, **rule["labels"]},
            "exp_annotations": {**rule["annotations"], "summary": summary(rule, case)},
        }
        tests.append({"alertname": case.alert, "eval_time": case.fires, "exp_alerts": [fired]})
    return {
        "interval": "10m" if case.alert in SLOW else "1m",
        "input_series": [{"series": name, "values": text} for name, text in case.series.items()],
        "alert_rule_test": tests,
    }


def promtool(*args: str) -> None:
    done = subprocess.run([PROMTOOL, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", sorted({one.alert for one in CASES}))
def test_an_alert_fires_when_it_must_and_not_before(alert: str, tmp_path: Path) -> None:
    """F1, F2, F4, F5, F7, with what it tells."""
    # By itself: promtool evaluates every rule of a file at every moment.
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rule = {"groups": [{**group, "rules": [rules()[alert]]}]}
    (tmp_path / "rule.yml").write_text(yaml.safe_dump(rule))
    path = tmp_path / "test.yml"
    tests = [as_promtool(case) for case in CASES if case.alert == alert]
    interval = "1h" if alert in SLOW else "10m"
    document = {"rule_files": ["rule.yml"], "evaluation_interval": interval, "tests": tests}
    path.write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(path))


def test_every_alert_is_tried_both_ways() -> None:
    assert {one.alert for one in CASES if one.fires} == rules().keys()
    assert {one.alert for one in CASES if one.quiet} == rules().keys()


def test_the_rules_are_rules() -> None:
    promtool("check", "rules", str(RULES))


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("alert", sorted(rules()))
def test_an_alert_says_what_to_do_and_where_it_is_described(alert: str) -> None:
    """Its metrics are ours, and its link leads to a section of the recovery guide."""
    rule = rules()[alert]
    assert set(re.findall(r"pgkeep_[a-z_]+", rule["expr"])) <= NAMES
    assert re.search(r"\. (Run|See|Read|Make|Compare|Check)\b", rule["annotations"]["summary"])
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page.endswith("docs/operations/database-recovery.md")
    assert anchor in anchors(RUNBOOK)


def test_the_template_has_the_same_rules(tmp_path: Path) -> None:
    project = baking.bake(tmp_path)
    assert (project / "deploy" / "monitoring" / "alerts.yml").read_text() == RULES.read_text()


def test_the_dashboard_asks_for_metrics_that_there_are(tmp_path: Path) -> None:
    """F10: every query is one for Prometheus."""
    dashboard = json.loads((ROOT / "monitoring" / "dashboard.json").read_text())
    queries = [one["expr"] for panel in dashboard["panels"] for one in panel["targets"]]
    assert len(queries) >= len(dashboard["panels"]) > 0
    asked = set(re.findall(r"pgkeep_[a-z_]+", " ".join(queries)))
    assert asked <= NAMES
    assert all("pgkeep_" in query for query in queries)
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - {"__all"} == variables
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    recorded = [
        {"record": f"q{n}", "expr": one.replace("$database", ".*")} for n, one in enumerate(queries)
    ]
    # Colours are those of goals and exit codes, and nothing is orange before each nightly run.
    panels = {panel["title"]: panel["fieldConfig"]["defaults"] for panel in dashboard["panels"]}
    (goal,) = [setting for setting in SETTINGS if setting.variable == "BACKUP_MAX_AGE"]
    assert panels["Newest restorable point"]["thresholds"]["steps"] == [
        {"color": "green", "value": None}, {"color": "red", "value": goal.parse(goal.default)},
    ]  # fmt: skip
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.PgkeepError)}
    mapped = panels["Last exit code"]["mappings"][0]["options"]
    assert set(map(int, mapped)) == {-1, 0, *codes}
    assert {code for code, shown in mapped.items() if shown["color"] != "red"} == {"0"}
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    promtool("check", "rules", str(path))


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    documented = set(
        re.findall(
            r"`(pgkeep_(?:backup|drill|store|key|encryption|pitr|pgbackrest)_[a-z_]+)`", text
        )
    )
    assert documented == NAMES
