"""Plan a restore of tables: read the file and the target's catalogs, and change nothing."""

from ... import errors as e
from ...postgres import versions
from ...postgres.connection import Endpoint
from ...postgres.facts import server_facts
from ...stores.store import Source
from .. import money, protected_databases
from . import definitions, row_checks, table_checks
from .plan import TablesOptions, TablesPlan, TablesSummary
from .selected import SelectedTables, dotted, listed


def make_plan(endpoint: Endpoint, source: Source, options: TablesOptions) -> TablesPlan:
    """Look at file and server; nothing is changed.

    Raises:
        UsageError: --as or --where cannot be used with these tables.
        Refused: a pattern matches no table, or their rows cannot be restored alone.

    """
    tables = SelectedTables(source, options.patterns)
    check_selection(tables, options)
    target = options.target or tables.meta.database.name
    protected_databases.check_target(target)
    endpoint = endpoint.to(target)
    with endpoint.connect() as connection:
        server = server_facts(connection)
        if options.where is not None:
            checks = row_checks.check(connection, tables, options)
            steps = row_checks.steps(tables, options)
        else:
            checks = table_checks.check(connection, tables, options, target)
            steps = table_checks.steps(tables, options)
        problem = money.problem(
            connection, tables.contents,
            definitions.entries(tables, options) if options.where is None else [],
            lambda table: table in tables.names,
        )  # fmt: skip
        if problem is not None:
            checks.refuse(*problem)
    if server.major < tables.meta.server.major:
        checks.problems.insert(
            0,
            f"the server is PostgreSQL {server.major}, the backup comes from"
            f" {tables.meta.server.major}",
        )
    newer = versions.problem(server.version, server.version_num)
    checks.warnings.extend([newer] if newer is not None else [])
    summary = TablesSummary(
        file=source.name,
        source=tables.meta.database.name,
        snapshot=tables.meta.snapshot,
        target=target,
        tables=tables.facts(),
        steps=list(steps),
        problems=checks.problems,
        remedies=checks.remedies,
        warnings=checks.warnings,
    )
    return TablesPlan(
        endpoint=endpoint, options=options, tables=tables, target=target, summary=summary
    )


def check_selection(tables: SelectedTables, options: TablesOptions) -> None:
    """Refuse what one option cannot do with these tables.

    Raises:
        UsageError: names the option and the tables.

    """
    roots = tables.roots
    if options.new_name and tables.of_extensions:
        raise e.UsageError(
            f"{listed(tables.of_extensions)} belongs to an extension: the backup has only its"
            " rows, and --as needs its definition"
        )
    if (options.new_name or options.where) and len(roots) > 1:
        raise e.UsageError(
            f"--as and --where are for one table, {len(roots)} are selected: {listed(roots)}"
        )
    if options.new_name and len(tables.names) > 1:
        below = len(tables.names) - 1
        noun = "partition" if below == 1 else "partitions"
        raise e.UsageError(
            f"{dotted(roots[0])} has {below} {noun}: --as takes one of them, or restore"
            " into another database with --target-db"
        )
