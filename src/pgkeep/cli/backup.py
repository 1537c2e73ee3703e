"""pgkeep backup."""

import contextlib
import time
from collections.abc import Iterator

import click

from .. import config, progress
from .. import errors as e
from ..backup import run
from ..backup.backup import BackupOptions
from ..backup.run import RunOptions
from ..backup.run_report import Failure, RunReport
from ..model import naming
from ..stores.store import Store
from . import output
from .common import (
    connection_options,
    dir_option,
    jobs_option,
    json_option,
    load_configs,
    plural,
    print_json,
    target_option,
)
from .watch import Watch

AUTO = "auto"
MANUAL = "manual"


@click.command(
    "backup",
    epilog="""\b
Examples:
  pgkeep backup
  pgkeep backup --type=auto                    for cron: tier and clean-up by themselves
  BACKUP_DATABASES=* pgkeep backup --type=auto
  POSTGRES_HOST=db POSTGRES_USER=backup POSTGRES_PASSWORD_FILE=/run/secrets/pw \\
      pgkeep backup --database=app --dir=/backups
""",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["daily", "weekly", "monthly", MANUAL, AUTO]),
    default=MANUAL,
    show_default=True,
    help="Retention tier. auto: a month's first backup is monthly, an ISO week's first weekly,"
    " others daily (BACKUP_TIMEZONE).",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Read the file back before publishing it; the default for all types but manual.",
)
@click.option("--schema-only", is_flag=True, help="Definitions without rows.")
@click.option("--no-prune", is_flag=True, help="Do not remove old backups afterwards.")
@click.option(
    "--lock-timeout", metavar="SECONDS", help="Wait so long for locked tables (default 300)."
)
@click.option(
    "--no-computed-values",
    is_flag=True,
    help="Do not hash materialized views and generated columns for drills to compare.",
)
@connection_options
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *,
    kind: str,
    verify: bool | None,
    schema_only: bool,
    no_prune: bool,
    lock_timeout: str | None,
    no_computed_values: bool,
    dsn: str | None,
    database: str | None,
    target: str | None,
    directory: str | None,
    jobs: str | None,
    as_json: bool,
) -> None:
    """Back up one or several databases, each into one plain .sql.gz.

    All tables are locked (in the weakest mode, like any SELECT) before one snapshot is taken;
    pg_dump and several COPY connections share it. The file gets its name when everything has ended
    well; a manifest beside it makes it a backup. Afterwards, and only for a database that was just
    backed up, old backups are removed as BACKUP_RETENTION_... say; manual ones never are, and a
    manual run removes nothing.
    """
    configs = load_configs(
        target=target, dsn=dsn, directory=directory, jobs=jobs, lock_timeout=lock_timeout
    )
    out = output.current()
    started = time.monotonic()
    reports: list[RunReport] = []
    unwritten: list[OSError] = []
    with Watch(configs, kind, out, partial=target is not None) as watch:
        for one in configs:
            if one.target is not None:
                out.info(f"target {one.target}")
            options = RunOptions(
                backup=BackupOptions(
                    type=None if kind == AUTO else naming.BackupType(kind),
                    jobs=one.jobs,
                    zone=one.zone,
                    policy=one.policy,
                    drift=one.drift,
                    schema_only=schema_only,
                    verify=kind != MANUAL if verify is None else verify,
                    chosen=database is not None,
                    named=one.connected() is not None,
                    lock_timeout=one.lock_timeout,
                    computed=one.computed and not no_computed_values,
                ),
                databases=() if database is not None else one.databases,
                policy=None if no_prune or kind == MANUAL else one.policy,
                require_copy=one.require_copy,
            )
            with out.progress(silent=as_json) as bar:
                report = _run(one, database, options, bar, watch)
            if not as_json:
                _print(one, report, out, unwritten, alone=len(configs) == 1)
            reports.append(report)
        total = RunReport.combined(reports)
        if as_json:
            with _noting(unwritten):
                print_json(total.document())
        if (failure := total.failure()) is not None:
            raise failure
        if unwritten:
            raise e.PgkeepError(f"could not write: {unwritten[0]}")
    rows = sum(manifest.rows for manifest in total.backups)
    size = sum(manifest.artifact.size for manifest in total.backups)
    raw = sum(manifest.raw_bytes for manifest in total.backups)
    out.done(
        f"{plural(len(total.backups), 'database')}, {plural(rows, 'row')}, {progress.size(raw)} of"
        f" SQL in {progress.size(size)}, {progress.duration(time.monotonic() - started)}",
        as_json=as_json,
    )


def _run(
    one: config.Config,
    database: str | None,
    options: RunOptions,
    bar: progress.Silent,
    watch: Watch,
) -> RunReport:
    """Run one target; of several, one that cannot be reached does not stop the others."""
    watch.begin(one)
    try:
        report = run.run(one.endpoint(database), _store(one), options, bar, one.copy())
    except e.PgkeepError as error:
        watch.end(RunReport(), error)
        if one.target is None:
            raise
        return RunReport.of_failure(Failure.of(one.target, error))
    watch.end(report)
    return report


def _store(one: config.Config) -> Store:
    """Return the store; one that cannot be written to is told before any work."""
    store = one.store()
    try:
        store.check_writable()
    except e.StoreError as error:
        if store.remote:
            raise
        origin = one.values["BACKUP_DIR"].origin if "BACKUP_DIR" in one.values else "the default"
        raise e.UsageError(
            f"BACKUP_DIR, from {origin}: {error.message}", hint=error.hint
        ) from error
    return store


@contextlib.contextmanager
def _noting(unwritten: list[OSError]) -> Iterator[None]:
    """Go on where results cannot be written: that ends no run, and hides no failure of one."""
    try:
        yield
    except OSError as error:
        unwritten.append(error)


def _print(
    one: config.Config,
    report: RunReport,
    out: output.Output,
    unwritten: list[OSError],
    *,
    alone: bool,
) -> None:
    store, copy = one.store(), one.copy()
    for manifest in report.backups:
        for warning in (*manifest.warnings, *manifest.drift):
            out.warning(f"{manifest.database.name}: {warning}")
        state = ", verified" if manifest.verified else ""
        if copy is not None:
            state += ", its copy is pending" if manifest.pending else f", copied to {copy.url}"
        with _noting(unwritten):
            output.say(store.url_of(manifest.artifact.name))
            output.say(
                f"    {plural(len(manifest.tables), 'table')}, {plural(manifest.rows, 'row')},"
                f" {progress.size(manifest.artifact.size)}{state}"
            )
    warnings = [
        *(f"{skipped.database}: skipped, {skipped.reason}" for skipped in report.skipped),
        *(f"{name}: no longer on the server; its backups are kept" for name in report.dropped),
        *report.unreadable,
    ]
    notes = [
        *(f"removed {stem}" for stem in report.removed),
        *(f"uploaded {stem}, which was pending" for stem in report.copied),
        *(f"removed the copy of {stem}" for stem in report.copies_removed),
        *report.retained,
    ]
    failures = [*report.failed, *report.retention, *report.copies]
    if not (alone and failures == report.failed[:1] and not report.backups):
        # Or it is the only one, which the last line tells.
        warnings += [f"{failure.database}: {failure.error}" for failure in failures]
    for text in notes:
        out.info(text)
    for text in warnings:
        out.warning(text)
