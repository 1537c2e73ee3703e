"""Metrics for Prometheus: the contents of the stores, and the result of the last run.

Everything that a manifest contains is computed again each time. Attempts leave no trace except the
last metrics file, so a run copies from it what it contains about other databases.

Labels are cluster, database, type and store, never a table or a backup (trap F16). The type of an
attempt is the requested one, such as auto, because a failed attempt has no other. A cluster that is
unknown has no label, which is the same as an empty one to Prometheus.
"""

import fcntl
import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import errors as e
from ..backup.run_report import RunReport
from ..catalog.catalog import Backup
from ..model import naming
from ..model.manifest import Manifest
from ..stores.local import LocalStore
from ..stores.store import Store
from .overview import Clusters, Contents, Target, clusters, counted, last_drill

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

JOB = "pgkeep"
REMEMBERED = timedelta(days=40)  # attempts of a type that is no longer requested; over a month

_BACKUP = {
    "last_success_timestamp_seconds": "When the newest complete backup was finished, 0 for never.",
    "age_seconds": "Time since the newest complete backup was finished, since 1970 for never.",
    "last_attempt_timestamp_seconds": "When a backup was last attempted, by requested type.",
    "last_exit_code": "Exit code of the last attempt, by requested type.",
    "duration_seconds": "Duration of the newest backup.",
    "size_bytes": "Size of the newest backup.",
    "raw_bytes": "SQL in the newest backup before compression.",
    "rows": "Rows in the newest backup.",
    "tables": "Tables in the newest backup.",
    "snapshot_seconds": "Age of the newest backup's snapshot when the backup was finished.",
    "verified_backups": "Complete backups that were verified.",
    "oldest_timestamp_seconds": "The earliest time that can be restored, 0 for none.",
    "newest_timestamp_seconds": "The latest time that can be restored, 0 for none.",
    "store_bytes": "Size of all backups.",
    "pending_copies": "Backups whose copy to the store is pending.",
    "prune_removed": "Backups that retention removed after the last attempt.",
    "drift_warnings": "Figures that fell in the newest backup since the previous one.",
    "encrypted_ratio": "Share of the existing backups that are encrypted, from 0 to 1.",
    "unencrypted_backups": "Backups that BACKUP_ENCRYPT_TO does not allow: not encrypted.",
    "recipients": "Public keys to which the newest backup is encrypted, 0 if it is not encrypted.",
}
HELP = {
    **{f"pgkeep_backup_{name}": text for name, text in _BACKUP.items()},
    "pgkeep_drill_last_success_timestamp_seconds": "When a drill last passed, 0 for never.",
    "pgkeep_drill_last_findings": "Findings of the last drill.",
    "pgkeep_drill_duration_seconds": "Duration of the last drill, by phase.",
    "pgkeep_drill_rto_seconds": "Time until the last drill had restored the database.",
    "pgkeep_drill_last_encrypted_success_timestamp_seconds": (
        "When a drill of an encrypted backup last passed, 0 for never."
    ),
    "pgkeep_key_check_last_success_timestamp_seconds": (
        "When pgkeep key check last decrypted all backups of the database, 0 for never."
    ),
    "pgkeep_encryption_key_expiry_timestamp_seconds": (
        "When the first GPG key of BACKUP_ENCRYPT_TO expires, 0 if a key cannot be used."
    ),
    "pgkeep_store_free_bytes": "Free space in the file system of a backup directory.",
}
_PITR = {
    "rpo_seconds": "Age of the time of which the receiver has stored everything.",
    "receiver_running": "Whether the receiver has written its state in the last 30 seconds.",
    "receiver_restarts": "Restarts of pg_receivewal since the receiver was started.",
    "waiting_segments": "Complete WAL segments that a store does not have.",
    "broken_windows": "Times that WAL was lost, as the receiver remembers them.",
    "slot_state": "1 for the state of the replication slot, 0 for the others.",
    "slot_safe_bytes": "WAL that can be written before the slot is lost, if it has a limit.",
    "slot_limit_bytes": "WAL that the server keeps for the slot at most, if it has a limit.",
    "window_seconds": "Length of the interval in which every second until now can be restored.",
    "window_start_timestamp_seconds": "The earliest time in that interval, 0 for none.",
    "window_end_timestamp_seconds": "The latest time in that interval, 0 for none.",
    "newest_lsn_bytes": "Position up to which the WAL of that interval has no gap, 0 for none.",
    "gaps": "Gaps in the stored WAL that are less than BACKUP_WINDOW ago.",
    "segments": "Complete WAL segments in the store.",
    "damaged_files": "Base backups that cannot be restored, and files that cannot be read.",
    "bases": "Base backups in the store.",
    "base_last_success_timestamp_seconds": "When the newest usable base backup ended, 0 for never.",
    "base_size_bytes": "Size of the newest base backup before compression.",
    "base_incremental": "Whether the newest base backup is an incremental one.",
    "base_chain_length": "Base backups that a restore from the newest one needs, 0 if one is lost.",
}
_CLUSTER_DRILL = {
    "drill_last_success_timestamp_seconds": "When a drill of it last passed, 0 for never.",
    "drill_last_findings": "Findings of its last drill.",
    "drill_rto_seconds": "Time until its server had recovered in the last drill.",
}
_PGBACKREST = {
    "status_code": "Status code of the stanza of pgBackRest, 0 is ok, 255 if it cannot be read.",
    "backup_timestamp_seconds": "When the newest backup of the stanza ended, by type.",
    **_CLUSTER_DRILL,
}
HELP |= {f"pgkeep_pitr_{name}": text for name, text in (_PITR | _CLUSTER_DRILL).items()}
HELP |= {f"pgkeep_pgbackrest_{name}": text for name, text in _PGBACKREST.items()}
_ATTEMPT = ("last_attempt_timestamp_seconds", "last_exit_code", "prune_removed")


class Series(NamedTuple):
    """What a series of a database is about."""

    cluster: str
    database: str
    type: str
    store: str

    def sample(self, name: str, value: float, **more: str) -> "Sample":
        """Return a value of a metric, with more labels if any are given."""
        return Sample(name, labelled(**self._asdict(), **more), value)

    def backup(self, name: str, value: float) -> "Sample":
        """Return a value of one of the backup's metrics."""
        return self.sample(f"pgkeep_backup_{name}", value)


class Sample(NamedTuple):
    """One value of a metric."""

    name: str
    labels: tuple[tuple[str, str], ...]  # in a fixed order, so that equal labels compare as equal
    value: float

    def label(self, name: str) -> str:
        """Return the value of a label, or an empty string if the sample does not have it."""
        return dict(self.labels).get(name, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """The result of a target's run."""

    target: Target
    kind: str  # the requested type
    started: datetime
    finished: datetime
    report: RunReport
    error: e.PgkeepError | None = None  # the error that ended the run before it had a report


def of_target(
    target: Target, contents: Contents, wanted: Sequence[str], now: datetime
) -> Iterator[Sample]:
    """Yield metrics of the stores, for expected databases even without a backup (trap F2)."""
    names = clusters(target, contents, wanted)
    expiry = key_expiry(target.encrypt_to)
    if expiry is not None:
        labels = labelled(cluster=names.own, store=target.store.url)
        yield Sample("pgkeep_encryption_key_expiry_timestamp_seconds", labels, expiry)
    for store in target.stores:
        if store.url in contents:
            found = _by_series(contents[store.url], wanted, target.tiers)
            yield from _of_store(store, found, wanted, names, now)
            yield from _encryption(store, found, names, expected=target.encrypt_to is not None)
            if isinstance(store, LocalStore):
                with suppress(OSError):
                    free = shutil.disk_usage(store.directory).free
                    labels = labelled(cluster=names.own, store=store.url)
                    yield Sample("pgkeep_store_free_bytes", labels, free)
    if target.copy is not None and target.store.url in contents:
        found = _by_series(contents[target.store.url], wanted, target.tiers)
        for (database, kind), manifests in found.items():
            count = sum(target.copy.url in manifest.pending for manifest in manifests)
            series = Series(names.of(database), database, kind, target.copy.url)
            yield series.backup("pending_copies", count)


def _of_store(
    store: Store,
    found: Mapping[tuple[str, str], Sequence[Manifest]],
    wanted: Sequence[str],
    names: Clusters,
    now: datetime,
) -> Iterator[Sample]:
    full = (manifest for manifests in found.values() for manifest in manifests if manifest.full)
    counting = defaultdict(list)
    for manifest in counted(full, now):
        counting[manifest.database.name, str(manifest.type)].append(manifest)
    for (database, kind), manifests in found.items():
        good = counting[database, kind]
        values = {
            "verified_backups": sum(manifest.verified is not None for manifest in good),
            "oldest_timestamp_seconds": good[0].as_of.timestamp() if good else 0,
            "newest_timestamp_seconds": good[-1].as_of.timestamp() if good else 0,
            "store_bytes": sum(manifest.artifact.size for manifest in manifests),
            **(_newest(good[-1]) if good else {}),
        }
        if database in wanted:
            finished = good[-1].finished.timestamp() if good else 0
            values["last_success_timestamp_seconds"] = finished
        series = Series(names.of(database), database, kind, store.url)
        for name, value in values.items():
            yield series.backup(name, value)
        yield from _drills(good, series, wanted=database in wanted)


def _encryption(
    store: Store,
    found: Mapping[tuple[str, str], Sequence[Manifest]],
    names: Clusters,
    *,
    expected: bool,
) -> Iterator[Sample]:
    """Yield how many backups are encrypted; those without rows contain definitions too."""
    for (database, kind), manifests in found.items():
        series = Series(names.of(database), database, kind, store.url)
        encrypted = sum(manifest.encryption is not None for manifest in manifests)
        if manifests:
            yield series.backup("encrypted_ratio", encrypted / len(manifests))
            last = manifests[-1].encryption
            yield series.backup("recipients", 0 if last is None else len(last.recipients))
        if expected:
            yield series.backup("unencrypted_backups", len(manifests) - encrypted)


def key_expiry(encrypt_to: str | None) -> float | None:
    """Return when the first of these GPG keys expires, 0 if one cannot be used; None for never."""
    if encrypt_to is None:
        return None
    from ..crypt import recipients  # noqa: PLC0415 - few use it

    try:
        found = recipients.parse(encrypt_to)
    except e.UsageError:
        return 0
    return min((moment for _, moment in found.expires), default=None)


def _drills(manifests: Sequence[Manifest], series: Series, *, wanted: bool) -> Iterator[Sample]:
    passed = [drill.when for manifest in manifests for drill in manifest.drills if drill.passed]
    if wanted or passed:
        when = max(passed).timestamp() if passed else 0
        yield series.sample("pgkeep_drill_last_success_timestamp_seconds", when)
    encrypted = [manifest for manifest in manifests if manifest.encryption is not None]
    if encrypted:
        ours = [drill.when for manifest in encrypted for drill in manifest.drills if drill.passed]
        when = max(ours).timestamp() if ours else 0
        yield series.sample("pgkeep_drill_last_encrypted_success_timestamp_seconds", when)
    last = last_drill(manifests)
    if last is not None:
        findings = max(last.findings, 0 if last.passed else 1)
        yield series.sample("pgkeep_drill_last_findings", findings)
        yield series.sample("pgkeep_drill_rto_seconds", last.recovery_seconds)
        for phase, seconds in last.seconds.items():
            yield series.sample("pgkeep_drill_duration_seconds", seconds, phase=phase)


def _newest(manifest: Manifest) -> dict[str, float]:
    return {
        "duration_seconds": (manifest.finished - manifest.taken).total_seconds(),
        "size_bytes": manifest.artifact.size,
        "raw_bytes": manifest.raw_bytes,
        "rows": manifest.rows,
        "tables": len(manifest.tables),
        "snapshot_seconds": (manifest.finished - manifest.snapshot).total_seconds(),
        "drift_warnings": len(manifest.drift),
    }


def _by_series(
    backups: Sequence[Backup], wanted: Sequence[str], tiers: Sequence[str]
) -> dict[tuple[str, str], list[Manifest]]:
    """Return the complete backups by database and type, oldest first."""
    found: dict[tuple[str, str], list[Manifest]] = {
        (database, kind): [] for database in wanted for kind in tiers
    }
    for backup in backups:
        key = (backup.manifest.database.name, str(backup.manifest.type))
        series = found.setdefault(key, [])
        if not backup.missing:
            series.append(backup.manifest)
    return found


def ages(samples: Iterable[Sample], now: datetime) -> Iterator[Sample]:
    """Yield the age of each newest backup, for consumers that cannot subtract (trap F1).

    Only for metrics that are read at once: in a file, an age stops growing when the runs stop.
    """
    for sample in samples:
        if sample.name == "pgkeep_backup_last_success_timestamp_seconds":
            age = now.timestamp() - sample.value
            yield sample._replace(name="pgkeep_backup_age_seconds", value=age)


def of_run(outcome: FinishedRun, contents: Contents, wanted: Sequence[str]) -> Iterator[Sample]:
    """Yield the results of the run, for each database."""
    url = outcome.target.store.url
    removed = _removed(outcome.report.removed)
    names = clusters(outcome.target, contents, wanted)
    for database, code in _exit_codes(outcome, contents.get(url, ()), wanted).items():
        values = {
            "last_attempt_timestamp_seconds": outcome.finished.timestamp(),
            "last_exit_code": code,
            "prune_removed": removed[database],
        }
        series = Series(names.of(database), database, outcome.kind, url)
        for name, value in values.items():
            yield series.backup(name, value)


def _exit_codes(
    outcome: FinishedRun, backups: Sequence[Backup], wanted: Sequence[str]
) -> dict[str, int]:
    report = outcome.report
    codes = {backup.database.name: 0 for backup in report.backups}
    codes |= {failure.database: failure.exit_code for failure in report.failed}
    later = [*report.retention, *report.copies_missed]
    codes |= {failure.database: failure.exit_code for failure in later}
    if outcome.error is not None:
        # A run that was ended did what it did before; of a run that did nothing all have failed.
        done = {
            backup.manifest.database.name
            for backup in backups
            if backup.manifest.finished >= outcome.started
        }
        for database in wanted:
            codes.setdefault(database, 0 if database in done else outcome.error.exit_code)
    return codes


def _removed(stems: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for stem in stems:
        name = naming.parse(stem + naming.MANIFEST)
        if name is not None:
            counts[name.database] += 1
    return counts


def labelled(**texts: str) -> tuple[tuple[str, str], ...]:
    """Return labels in their order, without an unknown cluster, and without a type if none fits."""
    return tuple(
        sorted(
            (name, _text(text))
            for name, text in texts.items()
            if text or name not in ("cluster", "type")
        )
    )


def _text(name: str) -> str:
    """Return a name as valid UTF-8: database names can have any encoding."""
    return name.encode("utf-8", "backslashreplace").decode()


def take_over(
    before: Sequence[Sample],
    samples: Sequence[Sample],
    unread: Sequence[str],
    now: datetime,
    *,
    others: bool,
) -> list[Sample]:
    """Return the samples, completed from an earlier metrics file.

    The file contributes everything about stores that could not be read and, for other stores,
    attempts to back up databases that are still known. With `others`, it also contributes
    everything about stores of other configurations.
    """
    samples = _with_clusters(samples, before)
    ours = {(sample.name, sample.labels) for sample in samples}
    stores = _stores(samples)
    databases = {_cluster_and_database(sample) for sample in samples}
    attempts = {f"pgkeep_backup_{name}" for name in _ATTEMPT}
    kept = []
    tried: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in before:
        store = sample.label("store")
        if sample.name.endswith("_last_attempt_timestamp_seconds"):
            tried[sample.labels] = sample.value
        if (sample.name, sample.labels) in ours or sample.name not in HELP:
            continue
        not_ours = store in unread or (others and store not in stores)
        known = (
            sample.name in attempts
            and store in stores
            and _cluster_and_database(sample) in databases
        )
        if not_ours or known:
            kept.append(sample)
    earliest = (now - REMEMBERED).timestamp()
    return [
        *samples,
        *(
            sample
            for sample in kept
            if sample.name not in attempts or tried.get(sample.labels, 0) >= earliest
        ),
    ]


def _cluster_and_database(sample: Sample) -> tuple[str, str]:
    return sample.label("cluster"), sample.label("database")


def _with_clusters(samples: Sequence[Sample], before: Sequence[Sample]) -> list[Sample]:
    """Return the samples, those of unknown clusters with the cluster that the file has.

    A run whose store cannot be read does not know the cluster. Its failure must have the labels
    that the last success in the file has.
    """
    known = {
        (sample.label("database"), sample.label("store")): sample.label("cluster")
        for sample in before
        if sample.name.endswith("_backup_last_success_timestamp_seconds")
    }
    completed = []
    for sample in samples:
        labels = dict(sample.labels)
        name = known.get((sample.label("database"), sample.label("store")), "")
        completed.append(sample._replace(labels=labelled(**{"cluster": name, **labels})))
    return completed


def _stores(samples: Iterable[Sample]) -> set[str]:
    return {sample.label("store") for sample in samples if sample.name in HELP}


def render(samples: Iterable[Sample]) -> bytes:
    """Return the metrics in Prometheus text format."""
    from prometheus_client import generate_latest  # noqa: PLC0415 - an extra

    return generate_latest(_registry(samples))


def _registry(samples: Iterable[Sample]) -> "CollectorRegistry":
    from prometheus_client import CollectorRegistry, Metric  # noqa: PLC0415
    from prometheus_client.registry import Collector  # noqa: PLC0415

    metrics: dict[str, Metric] = {}
    # Without duplicates, because two targets can share a store.
    unique = {(sample.name, sample.labels): sample for sample in samples}.values()
    for sample in sorted(unique, key=lambda sample: (list(HELP).index(sample.name), sample.labels)):
        metric = metrics.setdefault(sample.name, Metric(sample.name, HELP[sample.name], "gauge"))
        metric.add_sample(sample.name, dict(sample.labels), sample.value)

    class Fixed(Collector):
        def collect(self) -> Iterable[Metric]:
            return metrics.values()

    registry = CollectorRegistry()
    registry.register(Fixed())
    return registry


def parse(text: str) -> list[Sample]:
    """Read metrics that `render` wrote; return none if the text is something else."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    try:
        return [
            Sample(sample.name, tuple(sorted(sample.labels.items())), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
    except (ValueError, KeyError, IndexError):
        return []


def write(
    path: Path,
    samples: Sequence[Sample],
    unread: Sequence[str],
    now: datetime,
    *,
    others: bool = False,
) -> list[str]:
    """Write the file for node_exporter atomically, readable by all users (trap F11).

    Returns the stores that had metrics in the file before and no longer have any.

    Raises:
        StoreError: the file could not be written.

    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # which nobody collects
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Of two runs that end together, the second one must see what the first one wrote.
            fcntl.flock(directory, fcntl.LOCK_EX)
            before: list[Sample] = []
            with suppress(FileNotFoundError):
                before = parse(path.read_text("utf-8", "replace"))
            written = take_over(before, samples, unread, now, others=others)
            partial.write_bytes(render(written))
            partial.chmod(0o644)  # whatever the umask
            partial.replace(path)
            return sorted(_stores(before) - _stores(written))
        finally:
            os.close(directory)
            with suppress(FileNotFoundError):
                partial.unlink()
    except OSError as error:
        raise e.StoreError(f"could not write {path}: {error.strerror}") from error


def push(gateway: str, samples: Iterable[Sample], timeout: float) -> None:
    """Push metrics to a Pushgateway, in a group for each series of a database (trap F12).

    A group without a cluster is removed when the cluster is known: it is of an earlier version, or
    of runs before the first backup, and would never change again.

    Values that this run does not know, of attempts of other types, are left unchanged.

    Raises:
        StoreError: the gateway does not accept them.

    """
    from prometheus_client import delete_from_gateway, pushadd_to_gateway  # noqa: PLC0415

    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[tuple(pair for pair in sample.labels if pair[0] != "phase")].append(sample)
    try:
        for labels, group in groups.items():
            pushadd_to_gateway(gateway, JOB, _registry(group), dict(labels), timeout)
        for labels in groups:
            key = dict(labels)
            if key.pop("cluster", None) is not None:
                delete_from_gateway(gateway, JOB, key, timeout)
    except OSError as error:
        # An answer has a code; without one there is a reason.
        reason = error if hasattr(error, "code") else getattr(error, "reason", error)
        raise e.StoreError(f"could not push metrics to {gateway}: {reason}") from error
