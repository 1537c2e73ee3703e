"""Check whether whole tables can be restored into the target database."""

from collections.abc import Iterator, Sequence

from ...artifact.contents import Entry
from ...postgres import databases
from ...postgres.connection import Connection
from ...sql import statements
from .. import search_path
from ..search_path import SearchPath
from ..target import (
    default_privileges,
    drop_blockers,
    extension_tables,
    missing_dependents,
    relations,
    tablespaces,
)
from . import definitions
from .checks import Checks
from .plan import TablesOptions
from .selected import SelectedTables, dotted, listed


def check(
    connection: Connection, tables: SelectedTables, options: TablesOptions, target: str
) -> Checks:
    """Compare the definitions of the backup with the target database."""
    checks = Checks()
    entries = definitions.entries(tables, options)
    _check_tables_of_extensions(connection, tables, options, checks)
    _check_existing(connection, tables, options, checks)
    missing = _missing(connection, tables, entries)
    if missing:
        checks.refuse(
            f"the target database does not have objects that the table needs: {', '.join(missing)}",
            "Create them first: pgkeep cat FILE --schema-only prints the definitions.",
        )
    if not options.new_name:
        _warn_of_dependents(connection, tables, checks)
    _warn_of_search_path(tables, options, checks)
    needed = definitions.roles(entries, tables.contents.codec, owner=options.owner)
    roles = databases.missing_roles(connection, sorted(needed))
    if roles:
        checks.refuse(
            f"roles are missing on the server: {', '.join(roles)}",
            "Create them, or skip them with --no-owner --no-privileges.",
        )
    gone = tablespaces.missing(connection, tablespaces.named(entry.one for entry in entries))
    if gone:
        checks.refuse(
            f"tablespaces are missing on the server: {', '.join(gone)}", tablespaces.REMEDY
        )
    if not options.privileges:
        checks.warnings.extend(default_privileges.warnings(connection, target, "rS"))
    return checks


def _check_existing(
    connection: Connection, tables: SelectedTables, options: TablesOptions, checks: Checks
) -> None:
    new = definitions.new_name(tables, options)
    wanted = [new] if new is not None else tables.defined
    existing = [name for name in wanted if relations.relation(connection, name) is not None]
    if existing and not options.replace:
        checks.refuse(
            f"already in the target database: {listed(existing)}",
            "Take another name with --as, another database with --target-db, replace it with"
            " --drop-existing, or restore single rows with --where.",
        )
    if options.replace:
        for dependent in drop_blockers.find(connection, relations.oids(connection, existing)):
            checks.refuse(f"{dependent} depends on a table that would be dropped")
        for child in sorted(relations.children(connection, existing) - set(tables.names)):
            checks.refuse(f"{dotted(child)} is a part of a table that would be dropped")


def _check_tables_of_extensions(
    connection: Connection, tables: SelectedTables, options: TablesOptions, checks: Checks
) -> None:
    conditions = extension_tables.conditions(connection)
    for name in tables.of_extensions:
        oid = relations.relation(connection, name)
        if oid is None:
            checks.refuse(
                f"table {dotted(name)} does not exist, and belongs to an extension",
                "Create the extension first.",
            )
        elif not options.replace and extension_tables.has_rows(
            connection, name, conditions.get(oid, b"")
        ):
            checks.refuse(
                f"table {dotted(name)} has rows that are not the extension's own",
                "Replace them with --drop-existing, or add rows with --where.",
            )


def _missing(connection: Connection, tables: SelectedTables, entries: Sequence[Entry]) -> list[str]:
    """Return what the statements mention, the backup defines, and the database lacks."""
    contents = tables.contents
    named = {name for entry in entries for name in statements.mentioned(entry.text, contents.codec)}
    found = []
    for name in sorted(named - tables.relations()):
        kind = contents.kinds.get(name)
        if kind is not None and not relations.is_there(connection, kind, name):
            found.append(f"{kind.lower()} {dotted(name)}")
    return found


def _warn_of_dependents(connection: Connection, tables: SelectedTables, checks: Checks) -> None:
    if gone := missing_dependents.find(connection, tables.contents, tables.names):
        checks.warnings.append(
            f"missing too, and not restored with {listed(tables.names)}:"
            f" {', '.join(gone)} (pgkeep cat FILE --schema-only has the definitions)"
        )


def _warn_of_search_path(tables: SelectedTables, options: TablesOptions, checks: Checks) -> None:
    """Name what an empty search path would change (trap G4.1)."""
    if options.search_path != SearchPath.EMPTY:
        return
    names = {dotted(relation) for relation in tables.relations()}
    found = [
        resolution.object
        for resolution in tables.meta.resolutions
        if search_path.concerns(resolution, names)
    ]
    if found:
        checks.warnings.append(search_path.warning(found))


def steps(tables: SelectedTables, options: TablesOptions) -> Iterator[str]:
    """Say in their order what will be done."""
    if tables.of_extensions:
        rows = listed(tables.of_extensions)
        if options.replace:
            yield f"delete the rows of {rows} that are not the extension's own"
        yield f"load the rows of {rows}, which belongs to an extension"
    if tables.defined:
        names = listed(tables.defined)
        new = definitions.new_name(tables, options)
        to = f" as {dotted(new)}" if new is not None else ""
        aside = " in another schema" if options.replace else ""
        yield f"create {names}{to}{aside}, load its rows, then indexes, constraints and triggers"
    if options.replace and tables.defined:
        yield (
            f"drop the existing {listed(tables.defined)} and put the restored into its place, with"
            f" locks for which it waits at most {options.lock_timeout:g} s"
        )
    yield "compare the number of rows with the backup, and commit"
