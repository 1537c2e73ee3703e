"""pgkeep restore."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from .. import errors as e
from .. import progress
from ..catalog import side_files
from ..catalog.catalog import Catalog
from ..config import Config
from ..model import naming
from ..model.restore_estimate import estimate
from ..progress import Progress
from ..restore import file_check
from ..restore.plan import Mode, Plan, PlanSummary, RestoreOptions
from ..restore.planning import make_plan
from ..restore.restore import execute
from ..restore.search_path import SearchPath
from ..restore.tables import planning as tables_planning
from ..restore.tables import restore as tables_restore
from ..restore.tables.plan import Conflict, TablesOptions, TablesPlan, TablesSummary
from ..restore.tables.row_merge import MergeCount
from ..stores.store import Store
from ..terminal import printable
from . import other_copy, output, run_log
from .command import pgkeep_command
from .common import (
    connection_options,
    dir_option,
    identity_option,
    jobs_option,
    json_option,
    keys,
    latest,
    load_config,
    locate,
    plural,
    print_json,
    target_option,
)
from .restore_options import (
    RULES,
    CommonOptions,
    DatabaseOptions,
    RowOptions,
    TableOptions,
    group,
    restore_options,
)


@pgkeep_command(
    "restore",
    examples=(
        "pgkeep restore --latest --target-db=app_copy",
        "pgkeep restore --backup=3fa01b2c --target-db=app_copy",
        "pgkeep restore --backup=backups/app_daily_20261122T020000Z.sql.gz --dry-run",
        "pgkeep restore --latest --drop-existing --yes",
        "pgkeep restore --latest --table=app.orders --as=app.orders_yesterday",
        'pgkeep restore --latest --table=app.orders --where="id in (1, 2, 3)"',
        "pgkeep restore --backup=old_cron_dump.sql.gz --target-db=app_2019",
    ),
    rules=RULES,
    recorded=True,
)
@restore_options
@connection_options
@identity_option
@target_option
@dir_option
@jobs_option
@json_option
def command(**given: Any) -> None:
    """Restore a backup, by default into a new database.

    The file is checked to its end before the server is changed. The database is loaded under a
    temporary name and renamed when it is complete. If anything fails, an existing database stays as
    it was.

    With --table, only tables or rows are restored, into an existing database, in one transaction.
    """
    common = group(CommonOptions, given)
    config = load_config(
        target=common.target,
        dsn=common.dsn,
        directory=common.directory,
        jobs=common.jobs,
        lock_timeout=common.lock_timeout,
        identity=common.identity,
    )
    if common.file is not None:
        store, name = locate(common.file, config)
    else:
        store, manifest = latest(config, common.database)
        name = manifest.artifact.name
    try:
        _restore(store, name, config, common, given)
    except e.VerificationFailed as error:
        copy = None
        if common.file is None and not common.verify_only:
            copy = other_copy.find(store, name, config)
        if copy is None:
            other_copy.add_hint(error, store, name, config, "restore --backup=")
            raise
        output.current().warning(error.message)
        output.current().warning(f"restoring the copy {copy.url_of(name)} instead")
        _restore(copy, name, config, common, given)


def _restore(
    store: Store, name: str, config: Config, common: CommonOptions, given: dict[str, Any]
) -> None:
    """Restore a file of a store, or verify it.

    Raises:
        VerificationFailed: the file is damaged; an existing database is as it was.

    """
    if common.verify_only:
        _verify(store, name, config, as_json=common.as_json)
        return
    parsed = naming.parse(name)
    backup = name if parsed is None else parsed.stem
    run_log.current().used(config, common.target_db or common.database or "", [backup])
    private = keys(config)
    source = side_files.open_contents(store, name, private)
    side = side_files.read(store, name)
    # Damaged roles would only be noticed when they are needed.
    side_files.read_globals(store, name, side, private)
    tables = group(TableOptions, given)
    if tables.tables:
        rows = group(RowOptions, given)
        options = _tables_options(common, tables, rows, config.settings.lock_timeout)
        _restore_tables(tables_planning.make_plan(config.endpoint(), source, options), common)
    else:
        whole = group(DatabaseOptions, given)
        options_of_all = _restore_options(common, whole, config.settings.jobs)
        full_plan = make_plan(config.endpoint(), source, options_of_all, side)
        _restore_database(full_plan, store, common, whole)


def _verify(store: Store, name: str, config: Config, *, as_json: bool) -> None:
    with output.current().progress(silent=as_json) as bar:
        report = side_files.verify(
            store, name, keys=keys(config), jobs=config.settings.jobs, progress=bar.advance
        )
    print_json(report) if as_json else output.note(f"ok: {report.file} is complete")


def _tables_options(
    common: CommonOptions, tables: TableOptions, rows: RowOptions, lock_timeout: float
) -> TablesOptions:
    return TablesOptions(
        patterns=tables.tables,
        new_name=tables.new_name,
        where=rows.where,
        conflict=Conflict(rows.on_conflict or Conflict.SKIP),
        target=common.target_db,
        replace=common.drop_existing,
        owner=not common.no_owner,
        privileges=not common.no_privileges,
        analyze=not common.no_analyze,
        tablespaces=not common.no_tablespaces,
        search_path=SearchPath(common.search_path),
        disable_triggers=common.disable_triggers,
        lock_timeout=lock_timeout,
    )


def _restore_options(common: CommonOptions, whole: DatabaseOptions, jobs: int) -> RestoreOptions:
    return RestoreOptions(
        jobs=jobs,
        target=common.target_db,
        drop_existing=common.drop_existing,
        discard_old=whole.discard_old,
        no_swap=whole.no_swap,
        accept_replication_loss=whole.accept_replication_loss,
        max_outage=whole.max_outage,
        in_place=whole.in_place,
        schema_only=whole.schema_only,
        data_only=whole.data_only,
        disable_triggers=common.disable_triggers,
        owner=not common.no_owner,
        privileges=not common.no_privileges,
        analyze=not common.no_analyze,
        portable=whole.portable,
        skip=whole.skip,
        keep_going=whole.keep_going,
        create_roles=whole.create_roles,
        tablespaces=not common.no_tablespaces,
        vacuum=whole.vacuum,
        allow_statements=whole.allow_statements,
        search_path=SearchPath(common.search_path),
    )


def _with_estimate(plan: Plan, store: Store) -> PlanSummary:
    """Add how long the restore will take, if drills of the same database in this store tell it."""
    summary, meta = plan.summary, plan.meta
    if meta is None or summary.raw_bytes is None or plan.options.schema_only:
        return summary
    try:
        backups = Catalog(store).of(meta.server.system_identifier, meta.database.name)
    except e.StoreError:  # such as without permission to list
        return summary
    return msgspec.structs.replace(summary, estimate=estimate(backups, summary.raw_bytes))


def _restore_database(
    full_plan: Plan, store: Store, common: CommonOptions, whole: DatabaseOptions
) -> None:
    plan = full_plan.summary
    if common.dry_run:
        _dry_run(_with_estimate(full_plan, store), partial(_check, full_plan), common)
        return
    changes = common.drop_existing or whole.in_place or whole.data_only
    if changes and plan.mode not in (Mode.NEW, Mode.ASIDE):
        _ask(plan if common.yes else _with_estimate(full_plan, store), common)
    warned = _warn_before(plan, as_json=common.as_json)
    with output.current().progress(silent=common.as_json) as bar, _explained(plan):
        result = execute(full_plan, bar)
    if common.as_json:
        print_json(result)
        return
    _warn_after(result.warnings, warned)
    if result.outage is not None:
        output.note(f"sessions were refused for {result.outage:.1f} s")
    if result.old_database:
        output.note(f"the former database is kept as {result.old_database}")
    if result.swap:
        output.note(f"swap it in with: {result.swap}")
    rows = (
        f"{plural(result.tables or 0, 'table')}, {plural(result.rows or 0, 'row')}, "
        if result.rows is not None
        else ""
    )
    output.current().done(f"database {result.database}: {rows}{progress.duration(result.seconds)}")


def _restore_tables(full_plan: TablesPlan, common: CommonOptions) -> None:
    plan = full_plan.summary
    if common.dry_run:
        _dry_run(plan, partial(tables_restore.check, full_plan), common)
        return
    if full_plan.replaces:
        _ask(plan, common)

    def confirm(count: MergeCount) -> bool:
        verb = "matches" if count.chosen == 1 else "match"
        changes = (
            f"{plural(count.chosen, 'row')} of the backup {verb}, of which {count.written:,}"
            f" {'is' if count.written == 1 else 'are'} written; {count.existing:,}"
            f" {'exists' if count.existing == 1 else 'exist'} already"
        )
        output.current().info(changes)
        if common.yes:
            return True
        if common.as_json or not sys.stdin.isatty():
            raise e.Refused(
                f"{changes}: nothing is changed without confirmation",
                hint="Use --yes to skip the confirmation.",
            )
        return output.ask("Write them?")

    warned = _warn_before(plan, as_json=common.as_json)
    with output.current().progress(silent=common.as_json) as bar, _explained(plan):
        result = tables_restore.execute(full_plan, bar, confirm)
    if common.as_json:
        print_json(result)
        return
    _warn_after(result.warnings, warned)
    output.current().done(
        f"database {result.database}: {', '.join(map(printable, result.tables))},"
        f" {plural(result.written, 'row')}, {progress.duration(result.seconds)}"
    )


def _check(plan: Plan, progress: Progress) -> list[str]:
    file_check.check(plan, progress)
    return file_check.checks(plan)


def _dry_run(
    plan: PlanSummary | TablesSummary,
    check: Callable[[Progress], list[str]],
    common: CommonOptions,
) -> None:
    """Print the plan, then check the file as the restore would.

    Raises:
        Refused: the restore would be refused, before it reads the file.
        VerificationFailed: the file is damaged.

    """
    checked: list[str] = []
    if not common.as_json:
        _print_plan(plan)
    if not plan.problems:
        with output.current().progress(silent=common.as_json) as bar:
            checked = check(bar)
    if common.as_json:
        print_json(msgspec.structs.replace(plan, checked=checked))
    if plan.problems:
        raise e.Refused(f"this restore would be refused: {'; '.join(plan.problems)}")
    if not common.as_json:
        output.say(f"checked  {', '.join(checked)}")


def _ask(plan: PlanSummary | TablesSummary, common: CommonOptions) -> None:
    """Ask before an existing database is changed.

    Raises:
        Refused: the answer is no, or nobody can be asked.

    """
    if common.yes or plan.problems:  # `execute` reports the problems
        return
    if common.as_json or not sys.stdin.isatty():
        raise e.Refused(
            f"database {plan.target} exists and would be changed",
            hint="Use --yes to skip the confirmation.",
        )
    _print_plan(plan)
    if not output.ask(f"Change database {plan.target}?"):
        raise e.Refused("cancelled")


@contextlib.contextmanager
def _explained(plan: PlanSummary | TablesSummary) -> Iterator[None]:
    """Add the warnings of a plan to the failure that they may explain, for --json."""
    try:
        yield
    except e.PgkeepError as error:
        error.warnings = plan.warnings
        raise


def _warn_before(plan: PlanSummary | TablesSummary, *, as_json: bool) -> frozenset[str]:
    """Print the warnings of a plan, which may explain a failure that follows; return them."""
    if as_json or plan.problems:
        return frozenset()
    for warning in plan.warnings:
        output.current().warning(warning)
    return frozenset(plan.warnings)


def _warn_after(warnings: Iterable[str], printed: frozenset[str]) -> None:
    """Print the warnings that are new since the plan."""
    for warning in warnings:
        if warning not in printed:
            output.current().warning(warning)


def _print_plan(plan: PlanSummary | TablesSummary) -> None:
    output.say(f"restore  {plan.file}")
    if plan.source:
        output.say(f"of       database {plan.source} as it was at {plan.snapshot}")
    if isinstance(plan, PlanSummary):
        output.say(f"into     {plan.target} ({plan.mode})")
    else:
        output.say(f"into     {plan.target}")
        _print_tables(plan)
    if isinstance(plan, PlanSummary):
        output.say(f"space    {_space(plan)}")
        output.say(f"time     {_time(plan)}")
    for number, step in enumerate(plan.steps, 1):
        output.say(f"{number:5}. {step}")
    for warning in plan.warnings:
        output.say(f"warning: {warning}")
    for problem in plan.problems:
        output.say(f"problem: {problem}")
    for remedy in plan.remedies:
        output.say(f"hint: {remedy}")


def _space(plan: PlanSummary) -> str:
    known = [
        f"the database had {progress.size(plan.database_size)} with indexes"
        if plan.database_size is not None
        else None,
        f"its SQL has {progress.size(plan.raw_bytes)}" if plan.raw_bytes is not None else None,
        f"the server's disk has {progress.size(plan.free_bytes)} free"
        if plan.free_bytes is not None
        else "free space on the server is not known from here",
    ]
    return ", ".join(filter(None, known))


def _time(plan: PlanSummary) -> str:
    basis = plan.estimate
    if basis is None:
        return "not known: no drill of this database has passed"
    return (
        f"about {progress.duration(basis.seconds)}: the drill of {basis.drill:%Y-%m-%d} took"
        f" {progress.duration(basis.drill_seconds)} for {progress.size(basis.drill_bytes)} of SQL"
    )


def _print_tables(plan: TablesSummary) -> None:
    for table in plan.tables:
        name = printable(f"{table.schema}.{table.name}")
        output.say(f"    {name:40} {table.rows:>14,} rows {progress.size(table.bytes):>10} to read")
