"""Check whether rows of one table can be restored into the existing table (--where)."""

from collections.abc import Iterator

from psycopg import sql

from ...postgres.connection import Connection
from ..target import relations, triggers
from . import where_condition
from .checks import Checks
from .plan import Conflict, TablesOptions
from .selected import SelectedTables, dotted, listed

_STEPS = {
    Conflict.SKIP: "skip rows that exist",
    Conflict.UPDATE: "update rows that exist, by their primary key",
    Conflict.FAIL: "undo everything if one of them exists",
}


def check(connection: Connection, tables: SelectedTables, options: TablesOptions) -> Checks:
    """Compare the table of the backup with the existing one.

    Raises:
        UsageError: the condition is none.

    """
    checks = Checks()
    (root,) = tables.roots
    name = dotted(root)
    oid = relations.relation(connection, root)
    if oid is None:
        checks.refuse(f"table {name} does not exist: without --where all of it is restored")
        return checks
    _check_triggers(connection, oid, name, options, checks)
    columns = tables.columns()
    if not columns:
        checks.refuse(f"{name} has no columns that can be filled")
    lacking = set(columns) - set(relations.columns(connection, oid))
    if lacking:
        checks.refuse(f"{name} has no column {', '.join(sorted(lacking))}, the backup has")
    if not checks.problems and options.where is not None:
        # As it will be parsed: on the columns of the backup alone.
        subquery = sql.SQL("(SELECT {} FROM {}) AS {}").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.Identifier(*root),
            sql.Identifier(root[1]),
        )
        where_condition.check(connection, subquery, options.where)
    if options.conflict == Conflict.UPDATE:
        if not relations.primary_key(connection, oid):
            checks.refuse(f"{name} has no primary key: --on-conflict=update needs one")
        elif relations.is_deferrable(connection, oid):
            checks.refuse(
                f"the primary key of {name} is deferrable: --on-conflict=update needs one that"
                " is not"
            )
    return checks


def _check_triggers(
    connection: Connection, oid: int, name: str, options: TablesOptions, checks: Checks
) -> None:
    events = triggers.Event.INSERT
    if options.conflict == Conflict.UPDATE:
        events |= triggers.Event.UPDATE
    fired = triggers.firing(connection, [oid], events, replica=options.disable_triggers).values()
    if names := dict.fromkeys(trigger for of_table in fired for trigger in of_table):
        checks.warnings.append(f"triggers of {name} fire, and may change rows: {', '.join(names)}")


def steps(tables: SelectedTables, options: TablesOptions) -> Iterator[str]:
    """Say in their order what will be done."""
    yield f"load {listed(tables.names)} into a temporary table"
    yield f"count the rows where {options.where}, and ask"
    yield f"insert the rows where {options.where}"
    yield _STEPS[options.conflict]
