"""pgkeep backup."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import click

from .. import config, progress
from .. import errors as e
from ..backup import run
from ..backup.backup import BackupOptions
from ..backup.deadlines import Limits
from ..backup.run import RunOptions
from ..backup.run_report import DatabaseOutcome, Failure, RunReport
from ..model import naming
from ..model.database_patterns import DatabaseSelection, Excluded
from ..model.record import DatabaseResult
from ..stores.store import Store
from . import directories, output, run_log
from .command import pgkeep_command
from .common import (
    compression_option,
    dir_option,
    dsn_option,
    jobs_option,
    json_option,
    load_configs,
    plural,
    print_json,
    setting_help,
    target_option,
)
from .events import Event
from .notifier import RunNotifier
from .run_log import TargetOutcome

AUTO = "auto"
MANUAL = "manual"


@pgkeep_command(
    "backup",
    examples=(
        "pgkeep backup",
        "pgkeep backup --type=auto     # for cron: chooses the tier, removes expired backups",
        "BACKUP_DATABASES='*,!scratch_*' pgkeep backup --type=auto",
        "POSTGRES_HOST=db POSTGRES_USER=backup pgkeep backup --database=app --dir=/backups",
    ),
    recorded=True,
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["daily", "weekly", "monthly", MANUAL, AUTO]),
    default=MANUAL,
    show_default=True,
    help="Retention tier. auto: the first backup of a month is monthly, the first of an ISO week is"
    " weekly, all others are daily (BACKUP_TIMEZONE).",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Verify the file before it is published. Default for all types except manual.",
)
@click.option("--schema-only", is_flag=True, help="Back up definitions without rows.")
@click.option("--no-prune", is_flag=True, help="Do not remove expired backups afterwards.")
@click.option("--lock-timeout", metavar="SECONDS", help=setting_help("--lock-timeout"))
@click.option("--yield-after", metavar="SECONDS", help=setting_help("--yield-after"))
@click.option(
    "--no-computed-values",
    "computed",
    is_flag=True,
    flag_value="false",
    default=None,
    help="Do not record hashes of materialized views and generated columns"
    " (BACKUP_COMPUTED_VALUES).",
)
@dsn_option
@click.option(
    "--database",
    "databases",
    metavar="NAME",
    multiple=True,
    help="Name of the database, instead of BACKUP_DATABASES. Can be repeated.",
)
@target_option
@dir_option
@compression_option
@jobs_option
@json_option
def command(
    *,
    kind: str,
    verify: bool | None,
    schema_only: bool,
    no_prune: bool,
    lock_timeout: str | None,
    yield_after: str | None,
    computed: str | None,
    dsn: str | None,
    databases: tuple[str, ...],
    target: str | None,
    directory: str | None,
    compression: str | None,
    jobs: str | None,
    as_json: bool,
) -> None:
    """Back up one or several databases, each into one plain .sql.gz or .sql.zst.

    All tables are locked in the weakest mode, like for SELECT, before one snapshot is taken.
    pg_dump and several COPY connections share it. The file gets its final name only after
    everything succeeded, and its manifest last.

    Afterwards, expired backups of the same database are removed, as BACKUP_RETENTION_... specify.
    Manual backups never expire, and a manual run removes nothing.
    """
    configs = load_configs(
        target=target, dsn=dsn, directory=directory, jobs=jobs, lock_timeout=lock_timeout,
        yield_after=yield_after, computed=computed, compression=compression,
    )  # fmt: skip
    request = _Request(
        kind=kind,
        verify=kind != MANUAL if verify is None else verify,
        schema_only=schema_only,
        prune=not no_prune and kind != MANUAL,
        databases=tuple(dict.fromkeys(databases)),
    )
    out = output.current()
    out.log_warnings()
    started = time.monotonic()
    reports: list[RunReport] = []
    unwritten: list[OSError] = []
    with RunNotifier(configs, kind, out, partial=target is not None) as notifier:
        for configured in configs:
            out.about(target=configured.target, cluster=configured.settings.cluster, database=None)
            if configured.target is not None:
                out.info(f"target {configured.target}")
            with out.progress(silent=as_json) as bar:
                report = _run(configured, request, bar, notifier)
            if not as_json:
                _print(configured, report, out, unwritten, alone=len(configs) == 1)
            reports.append(report)
        total = RunReport.combined(reports)
        if as_json:
            with _noting(unwritten):
                print_json(total.document())
        if (failure := total.failure()) is not None:
            raise failure
        if unwritten:
            raise e.PgkeepError(f"could not write: {unwritten[0]}")
    out.done(_summary(total, time.monotonic() - started), as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What the command line asks for, for every target."""

    kind: str
    verify: bool
    schema_only: bool
    prune: bool
    databases: tuple[str, ...]

    def of(self, target: config.Config) -> RunOptions:
        """Return what a run does for one target."""
        return RunOptions(
            backup=BackupOptions(
                type=None if self.kind == AUTO else naming.BackupType(self.kind),
                jobs=target.settings.jobs,
                zone=target.settings.zone,
                policy=target.policy,
                drift=target.settings.drift,
                schema_only=self.schema_only,
                verify=self.verify,
                chosen=self.database is not None,
                named=target.connected() is not None,
                lock_timeout=target.settings.lock_timeout,
                yield_after=target.settings.yield_after,
                computed=target.settings.computed,
                limits=Limits(
                    stall=target.settings.stall_timeout,
                    snapshot_age=target.settings.max_snapshot_age,
                    rate=target.settings.rate_limit,
                ),
                cluster=target.settings.cluster,
                encryption=target.encryption(),
                compression=target.settings.compression,
            ),
            databases=self._selection(target),
            policy=target.policy if self.prune else None,
            require_copy=target.settings.require_copy,
            retries=target.settings.retries,
        )

    @property
    def database(self) -> str | None:
        """The only database that the command line names, None for none and for several."""
        return self.databases[0] if len(self.databases) == 1 else None

    def _selection(self, target: config.Config) -> DatabaseSelection:
        if not self.databases:
            return target.settings.databases
        return DatabaseSelection(names=self.databases if len(self.databases) > 1 else ())


def _summary(total: RunReport, seconds: float) -> str:
    rows = sum(manifest.rows for manifest in total.backups)
    size = sum(manifest.artifact.size for manifest in total.backups)
    raw = sum(manifest.raw_bytes for manifest in total.backups)
    return (
        f"{plural(len(total.backups), 'database')}, {plural(rows, 'row')}, {progress.size(raw)} of"
        f" SQL in {progress.size(size)}, {progress.duration(seconds)}"
    )


def _run(
    target: config.Config, request: _Request, bar: progress.Silent, notifier: RunNotifier
) -> RunReport:
    """Run one target. Of several targets, a failed one does not stop the others."""
    notifier.begin(target)
    try:
        endpoint = target.endpoint(request.database)
        options = request.of(target)  # checks the public keys, before anything is created
        store, copy = _store(target), target.copy()
        announce = partial(_announce, alone=not options.databases)
        report = run.run(endpoint, store, options, bar, copy, announce, _announce_start)
    except e.PgkeepError as error:
        notifier.end(RunReport(), error)
        run_log.current().ended(target, TargetOutcome(error=error, type=request.kind))
        if target.target is None:
            raise
        text = f"target {target.target}: {error.message}"
        output.current().event(Event.WARNING, text, "warning", hint=error.hint)
        return RunReport.of_failure(Failure.of(target.target, error))
    notifier.end(report)
    run_log.current().ended(target, _outcome(report, request.kind))
    return report


def _outcome(report: RunReport, kind: str) -> TargetOutcome:
    """Return what the record of the run says of a target."""
    failures = {
        failure.database: failure
        for failure in (*report.copies_missed, *report.retention, *report.failed)
    }
    results = [
        DatabaseResult(
            database=outcome.database,
            backup=None if outcome.backup is None else outcome.backup.name.stem,
            exit_code=0 if failure is None else failure.exit_code,
            error=None if failure is None else failure.error,
        )
        for outcome in report.outcomes
        for failure in [failures.get(outcome.database)]
    ]
    clusters = {backup.cluster_name for backup in report.backups}
    return TargetOutcome(
        results=results,
        removed=list(dict.fromkeys((*report.removed, *report.copies_removed))),
        error=report.failure(),
        type=kind,
        cluster=next(iter(clusters), None) or None,
    )


def _announce_start(database: str) -> None:
    """Report that the backup of one of several databases starts, to machines."""
    out = output.current()
    out.about(database=database)
    out.event(Event.DATABASE_STARTED, f"{database}: started")


def _announce(outcome: DatabaseOutcome, *, alone: bool) -> None:
    """Report the result of a database when it is known; people get it of one of several."""
    out = output.current()
    out.about(database=outcome.database)
    if outcome.failed is not None:
        text = f"{outcome.database}: failed: {outcome.failed.error}"
        out.event(Event.DATABASE_FAILED, text, "error", hint=outcome.failed.hint)
    else:
        assert outcome.backup is not None  # noqa: S101 - every outcome has one of the two
        backup = outcome.backup
        out.about(cluster=backup.cluster_name or None)
        text = (
            f"{outcome.database}: finished, {plural(len(backup.tables), 'table')},"
            f" {plural(backup.rows, 'row')}, {progress.size(backup.artifact.size)}"
        )
        out.event(
            Event.DATABASE_FINISHED, text, backup=backup.name.stem, size=backup.artifact.size,
            tables=len(backup.tables), rows=backup.rows, verified=backup.verified is not None,
            copy_pending=bool(backup.pending), warnings=[*backup.warnings, *backup.drift],
            seconds=(backup.finished - backup.taken).total_seconds(),
        )  # fmt: skip
    if not alone and out.style == "text":
        out.info(text)
    out.about(database=None)


def _store(target: config.Config) -> Store:
    """Return the store; report one that cannot be written to before any work."""
    store = target.store()
    creates = directories.check_parent(target)
    try:
        store.check_writable()
        if creates:
            output.current().info(f"created directory {store.url}")
    except e.StoreError as error:
        if store.remote:
            raise
        raise e.UsageError(
            f"BACKUP_DIR, from {directories.origin(target)}: {error.message}", hint=error.hint
        ) from error
    return store


@contextlib.contextmanager
def _noting(unwritten: list[OSError]) -> Iterator[None]:
    """Continue if results cannot be written: that neither ends a run nor hides its failure."""
    try:
        yield
    except OSError as error:
        unwritten.append(error)


def _listed(excluded: list[Excluded]) -> str:
    return ", ".join(f"{found.database} ({found.reason})" for found in excluded)


def _print(
    target: config.Config,
    report: RunReport,
    out: output.Output,
    unwritten: list[OSError],
    *,
    alone: bool,
) -> None:
    store, copy = target.store(), target.copy()
    for manifest in report.backups:
        for warning in (*manifest.warnings, *manifest.drift):
            out.warning(f"{manifest.database.name}: {warning}", database=manifest.database.name)
        state = ", verified" if manifest.verified else ""
        if copy is not None:
            state += ", its copy is pending" if manifest.pending else f", copied to {copy.url}"
        with _noting(unwritten):
            output.note(store.url_of(manifest.artifact.name))
            output.note(
                f"    {plural(len(manifest.tables), 'table')}, {plural(manifest.rows, 'row')},"
                f" {progress.size(manifest.artifact.size)}{state}"
            )
    warnings = [
        *(f"no database matches {pattern}" for pattern in report.unmatched),
        *(f"{name}: no longer on the server; its backups are kept" for name in report.dropped),
        *report.unreadable,
    ]
    notes = [
        *([f"excluded: {_listed(report.excluded)}"] if report.excluded else []),
        *(f"removed {stem}" for stem in report.removed),
        *(f"uploaded {stem}, which was pending" for stem in report.copied),
        *(f"removed the copy of {stem}" for stem in report.copies_removed),
        *report.retained,
    ]
    failures = [*report.failed, *report.retention, *report.copies]
    if out.style == "json":  # the others were events when they happened
        failures = [*report.retention, *report.copies]
    if not (alone and failures == report.failed[:1] and not report.backups):
        # A single failure is reported in the last line.
        warnings += [f"{failure.database}: {failure.error}" for failure in failures]
    for text in notes:
        out.info(text)
    for text in warnings:
        out.warning(text)
