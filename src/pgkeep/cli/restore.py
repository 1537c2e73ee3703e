"""pgkeep restore."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator

import click

from .. import errors as e
from .. import progress
from ..catalog import side_files
from ..restore.plan import Mode, PlanSummary, RestoreOptions
from ..restore.planning import make_plan
from ..restore.restore import execute
from ..restore.search_path import SearchPath
from ..restore.tables import planning as tables_planning
from ..restore.tables import restore as tables_restore
from ..restore.tables.plan import Conflict, TablesOptions, TablesPlan, TablesSummary
from ..terminal import printable
from . import output
from .common import (
    connection_options,
    dir_option,
    jobs_option,
    json_option,
    load_config,
    locate,
    plural,
    print_json,
    target_option,
)
from .common import latest as newest


@click.command(
    "restore",
    epilog="""\b
Examples:
  pgkeep restore --latest --target-db=app_copy
  pgkeep restore --backup=backups/app_daily_20261122T020000Z.sql.gz --dry-run
  pgkeep restore --latest --drop-existing --yes
  pgkeep restore --latest --table=app.orders --as=app.orders_yesterday
  pgkeep restore --latest --table=app.orders --where="id in (1, 2, 3)"
  pgkeep restore --backup=old_cron_dump.sql.gz --target-db=app_2019
""",
)
@click.option("--backup", "file", metavar="FILE", help="The backup, or any plain dump of pg_dump.")
@click.option("--latest", is_flag=True, help="The newest whole backup (of --database).")
@click.option("--target-db", metavar="NAME", help="Restore under this name.")
@click.option(
    "--drop-existing",
    is_flag=True,
    help="Replace an existing database: restore beside it, then swap the two by renaming.",
)
@click.option("--discard-old", is_flag=True, help="Drop the replaced database after the swap.")
@click.option("--in-place", is_flag=True, help="Into an existing, empty database.")
@click.option("--schema-only", is_flag=True, help="Definitions without rows.")
@click.option("--data-only", is_flag=True, help="Rows only, into existing, empty tables.")
@click.option(
    "--disable-triggers",
    is_flag=True,
    help="With --data-only or --where: no triggers, no foreign key checks.",
)
@click.option("--no-owner", is_flag=True, help="Everything belongs to the restoring role.")
@click.option("--no-privileges", is_flag=True, help="Leave out GRANT and REVOKE.")
@click.option("--no-analyze", is_flag=True, help="Do not collect statistics afterwards.")
@click.option(
    "--portable",
    is_flag=True,
    help="Leave out, and list, what the server or the role cannot have; an older server may do.",
)
@click.option(
    "--skip",
    metavar="TYPE:NAME",
    multiple=True,
    help="Leave out this object, as pgkeep show --objects names it, and what needs it. May be"
    " repeated.",
)
@click.option(
    "--keep-going",
    is_flag=True,
    help="Continue when objects fail, list them at the end, and keep the database under another"
    " name.",
)
@click.option("--create-roles", is_flag=True, help="Create roles that are missing, without login.")
@click.option(
    "--search-path",
    type=click.Choice([one.value for one in SearchPath]),
    default=SearchPath.EMPTY.value,
    show_default=True,
    help="database: create objects with the database's own search_path, for operators of extensions"
    " that SQL cannot name.",
)
@click.option(
    "--table",
    "tables",
    metavar="PATTERN",
    multiple=True,
    help="Only this table, with all that belongs to it, into a database that is there; SCHEMA.NAME"
    " with * and ? as for pg_dump. May be repeated.",
)
@click.option(
    "--as", "new_name", metavar="NAME", help="With --table: beside the one that is there."
)
@click.option(
    "--where",
    metavar="CONDITION",
    help="With --table: only these rows, into the table that is there.",
)
@click.option(
    "--on-conflict",
    type=click.Choice([one.value for one in Conflict]),
    help="With --where, for rows that are there: leave them (default), update them by their"
    " primary key, or undo everything.",
)
@click.option(
    "--allow-statements",
    is_flag=True,
    help="Execute also statements of a plain dump that pg_dump does not write.",
)
@click.option("--verify-only", is_flag=True, help="Only check the backup, as pgkeep verify does.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--yes", is_flag=True, help="Do not ask before an existing database is changed.")
@connection_options
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *,
    file: str | None,
    latest: bool,
    target_db: str | None,
    drop_existing: bool,
    discard_old: bool,
    in_place: bool,
    schema_only: bool,
    data_only: bool,
    disable_triggers: bool,
    no_owner: bool,
    no_privileges: bool,
    no_analyze: bool,
    portable: bool,
    skip: tuple[str, ...],
    keep_going: bool,
    create_roles: bool,
    allow_statements: bool,
    search_path: str,
    tables: tuple[str, ...],
    new_name: str | None,
    where: str | None,
    on_conflict: str | None,
    verify_only: bool,
    dry_run: bool,
    yes: bool,
    dsn: str | None,
    database: str | None,
    target: str | None,
    directory: str | None,
    jobs: str | None,
    as_json: bool,
) -> None:
    """Bring a backup back, into a new database unless told otherwise.

    The file is checked to its end before the server is touched. The database is loaded under a
    temporary name and renamed when it is complete; whatever fails on the way, an existing database
    stays as it was. With --table, only a table or rows of it are brought back into a database that
    is there, in one transaction.
    """
    _check_usage(
        [("--backup", file), ("--latest", latest)],
        {
            "--discard-old": (discard_old, "--drop-existing", drop_existing),
            "--disable-triggers": (
                disable_triggers,
                "--data-only or --where",
                data_only or where is not None,
            ),
            "--as": (new_name is not None, "--table", bool(tables)),
            "--where": (where is not None, "--table", bool(tables)),
            "--on-conflict": (on_conflict is not None, "--where", where is not None),
        },
        {
            "--in-place": in_place,
            "--drop-existing": drop_existing,
            "--data-only": data_only,
        },
        {"--schema-only": schema_only, "--data-only": data_only},
        *(
            {"--keep-going": keep_going, name: given}
            for name, given in {
                "--in-place": in_place,
                "--data-only": data_only,
                "--table": bool(tables),
            }.items()
        ),
        *(
            {"--table": bool(tables), name: given}
            for name, given in {
                "--schema-only": schema_only,
                "--data-only": data_only,
                "--in-place": in_place,
                "--portable": portable,
                "--allow-statements": allow_statements,
                "--discard-old": discard_old,
                "--create-roles": create_roles,
                "--skip": bool(skip),
            }.items()
        ),
        {
            "--as": new_name is not None,
            "--where": where is not None,
            "--drop-existing": drop_existing,
        },
    )
    if file is not None and database is not None:
        raise click.UsageError(
            "--backup and --database exclude each other: --target-db names the database to"
            " restore into"
        )
    config = load_config(target=target, dsn=dsn, directory=directory, jobs=jobs)
    if file is not None:
        store, name = locate(file, config)
    else:
        store, manifest = newest(config, database)
        name = manifest.artifact.name
    if verify_only:
        with output.current().progress(silent=as_json) as bar:
            report = side_files.verify(store, name, jobs=config.jobs, progress=bar.advance)
        print_json(report) if as_json else output.say(f"ok: {report.file} is whole")
        return
    source = store.open(name)
    side = side_files.read(store, name)
    side_files.read_globals(
        store, name, side
    )  # damaged roles would be noticed when they are needed
    if tables:
        _restore_tables(
            tables_planning.make_plan(
                config.endpoint(),
                source,
                TablesOptions(
                    patterns=tables, target=target_db, new_name=new_name, replace=drop_existing,
                    where=where, conflict=Conflict(on_conflict or Conflict.SKIP),
                    owner=not no_owner, privileges=not no_privileges, analyze=not no_analyze,
                    search_path=SearchPath(search_path), disable_triggers=disable_triggers,
                ),
            ),
            dry_run=dry_run, yes=yes, as_json=as_json,
        )  # fmt: skip
        return
    options = RestoreOptions(
        jobs=config.jobs, target=target_db, drop_existing=drop_existing, discard_old=discard_old,
        in_place=in_place, schema_only=schema_only, data_only=data_only,
        disable_triggers=disable_triggers, owner=not no_owner, privileges=not no_privileges,
        analyze=not no_analyze, portable=portable, skip=skip, keep_going=keep_going,
        create_roles=create_roles,
        allow_statements=allow_statements,
        search_path=SearchPath(search_path),
    )  # fmt: skip
    full_plan = make_plan(config.endpoint(), source, options, side)
    plan = full_plan.summary
    if dry_run:
        print_json(plan) if as_json else _print_plan(plan)
        if plan.problems:
            raise e.Refused(f"this restore would be refused: {'; '.join(plan.problems)}")
        return
    if (
        (drop_existing or in_place or data_only)
        and plan.mode != Mode.NEW
        and not (
            yes or plan.problems  # which are told by execute
        )
    ):
        _ask(plan.target, lambda: _print_plan(plan), as_json=as_json)
    told = _warn_before(plan, as_json=as_json)
    with output.current().progress(silent=as_json) as bar, _explained(plan):
        result = execute(full_plan, bar)
    if as_json:
        print_json(result)
        return
    _warn_after(result.warnings, told)
    if result.old_database:
        output.say(f"the former database is kept as {result.old_database}")
    rows = (
        f"{plural(result.tables or 0, 'table')}, {plural(result.rows or 0, 'row')}, "
        if result.rows is not None
        else ""
    )
    output.current().done(f"database {result.database}: {rows}{progress.duration(result.seconds)}")


def _restore_tables(full_plan: TablesPlan, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    plan = full_plan.summary
    if dry_run:
        print_json(plan) if as_json else _print_tables(plan)
        if plan.problems:
            raise e.Refused(f"this restore would be refused: {'; '.join(plan.problems)}")
        return
    if full_plan.replaces and not (yes or plan.problems):
        _ask(plan.target, lambda: _print_tables(plan), as_json=as_json)

    def confirm(found: int, written: int) -> bool:
        said = (
            f"{plural(found, 'row')} of the backup {'matches' if found == 1 else 'match'}, of which"
            f" {written:,} {'is' if written == 1 else 'are'} written"
        )
        output.current().info(said)
        if yes:
            return True
        if as_json or not sys.stdin.isatty():
            raise e.Refused(
                f"{said}: nothing is changed without consent", hint="Say --yes to commit it."
            )
        return output.ask("Commit?")

    told = _warn_before(plan, as_json=as_json)
    with output.current().progress(silent=as_json) as bar, _explained(plan):
        result = tables_restore.execute(full_plan, bar, confirm)
    if as_json:
        print_json(result)
        return
    _warn_after(result.warnings, told)
    output.current().done(
        f"database {result.database}: {', '.join(map(printable, result.tables))},"
        f" {plural(result.written, 'row')}, {progress.duration(result.seconds)}"
    )


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


def _warn_after(warnings: Iterable[str], told: frozenset[str]) -> None:
    """Print what has turned out since the plan."""
    for warning in warnings:
        if warning not in told:
            output.current().warning(warning)


def _print_tables(plan: TablesSummary) -> None:
    output.say(f"restore  {plan.file}")
    output.say(f"of       database {plan.source} as it was at {plan.snapshot}")
    output.say(f"into     {plan.target}")
    for table in plan.tables:
        name = printable(f"{table.schema}.{table.name}")
        output.say(f"    {name:40} {table.rows:>14,} rows {progress.size(table.bytes):>10} to read")
    for number, step in enumerate(plan.steps, 1):
        output.say(f"{number:5}. {step}")
    for warning in plan.warnings:
        output.say(f"warning: {warning}")
    for problem in plan.problems:
        output.say(f"problem: {problem}")
    for remedy in plan.remedies:
        output.say(f"hint: {remedy}")


def _check_usage(
    choices: list[tuple[str, object]],
    needs: dict[str, tuple[bool, str, bool]],
    *exclusive: dict[str, bool],
) -> None:
    given = [name for name, value in choices if value]
    if len(given) != 1:
        raise click.UsageError("give either --backup=FILE or --latest")
    for name, (used, needed, there) in needs.items():
        if used and not there:
            raise click.UsageError(f"{name} needs {needed}")
    for group in exclusive:
        used_names = [name for name, used in group.items() if used]
        if len(used_names) > 1:
            raise click.UsageError(f"{' and '.join(used_names)} exclude each other")


def _print_plan(plan: PlanSummary) -> None:
    output.say(f"restore  {plan.file}")
    if plan.source:
        output.say(f"of       database {plan.source} as it was at {plan.snapshot}")
    output.say(f"into     {plan.target} ({plan.mode})")
    for number, step in enumerate(plan.steps, 1):
        output.say(f"{number:5}. {step}")
    for warning in plan.warnings:
        output.say(f"warning: {warning}")
    for problem in plan.problems:
        output.say(f"problem: {problem}")
    for remedy in plan.remedies:
        output.say(f"hint: {remedy}")


def _ask(target: str, show: Callable[[], None], *, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise e.Refused(
            f"database {target} exists and would be changed",
            hint="Say --yes to do it without being asked.",
        )
    show()
    if not output.ask(f"Change database {target}?"):
        raise e.Refused("cancelled")
