"""pgkeep show."""

import shutil
import sys

import click

from .. import progress
from ..artifact import extract
from ..sql import selection
from ..terminal import printable
from . import output
from .command import pgkeep_command
from .common import (
    complete_files,
    dir_option,
    identity_option,
    json_option,
    load_config,
    open_artifact,
    pipe,
    plural,
    print_json,
    target_option,
)
from .rules import AtMostOne, Requires, each_with

SECTIONS = {"pre": "before the rows", "data": "rows", "post": "after the rows"}


@pgkeep_command(
    "show",
    examples=(
        "pgkeep show backups/app_daily_20261122T020000Z.sql.gz",
        "pgkeep show 3fa01b2c --tree",
        "pgkeep show s3://bucket/backups/daily/app_daily_20261122T020000Z.sql.gz",
        "pgkeep show FILE --table=app.orders --head=10",
    ),
    rules=(
        Requires("--table", ("--head",)),
        Requires("--head", ("--table",)),
        AtMostOne(("--head", "--json", "--tree")),
        *each_with("--objects", ("--head", "--tree")),
    ),
)
@click.argument("file", shell_complete=complete_files)
@click.option("--objects", is_flag=True, help="List every object, by section.")
@click.option("--tree", is_flag=True, help="Draw the objects as a tree, by schema and type.")
@click.option("--table", metavar="PATTERN", help="Table for --head. SCHEMA.NAME as in pg_dump.")
@click.option(
    "--head", metavar="N", type=click.IntRange(min=0), help="Print the first N rows of --table."
)
@identity_option
@target_option
@dir_option
@json_option
def command(
    *,
    file: str,
    objects: bool,
    tree: bool,
    table: str | None,
    head: int | None,
    identity: str | None,
    target: str | None,
    directory: str | None,
    as_json: bool,
) -> None:
    """Show the contents of FILE: the id or name of a backup, a path, or an s3:// URL.

    Only the index of the file is read. SIZE is the share of a table in the file. With --table and
    --head, the first rows of a table are printed as COPY writes them, below the names of the
    columns; only the members that contain them are read, and each is checked.
    """
    config = load_config(target=target, directory=directory, identity=identity)
    with pipe(), open_artifact(file, config) as artifact:
        if table is not None and head is not None:
            for block in extract.head(artifact, selection.pattern(table), head):
                output.sql(block)
            sys.stdout.buffer.flush()
            return
        found = extract.inventory(artifact, objects=objects or tree)
        if as_json:
            print_json(found)
            return
        if tree:
            _print_tree(found)
            return
        lines = _objects(found) if objects else [*_facts(found), "", *_tables(found)]
        output.show(lines)


def _facts(found: extract.Inventory) -> list[str]:
    server, database = found.server, found.database
    types = [f"{count} {name.lower()}" for name, count in found.types.items()]
    facts = {
        "file": f"{found.file}, {progress.size(found.size)}"
        + (f", encrypted with {found.cipher}" if found.cipher else ""),
        "database": f"{printable(database.name)}, {database.encoding}"
        + (f", locale {database.collate}" if database.collate else "")
        + (f", owner {printable(database.owner)}" if database.owner else ""),
        "as it was": found.snapshot
        + (f", LSN {server.lsn}" if server.lsn else "")
        + (f", timeline {server.timeline}" if server.timeline else "")
        + (", definitions only" if found.schema_only else ""),
        "server": f"PostgreSQL {server.version or '(unknown)'}, pg_dump"
        f" {found.client_version or '(unknown)'}, pgkeep {found.pgkeep}",
        "extensions": ", ".join(
            f"{extension.name} {extension.version}".strip() for extension in found.extensions
        )
        or "none",
        "roles": ", ".join(printable(role) for role in found.roles) or "none",
        "SQL": progress.size(found.raw_bytes),
        "objects": ", ".join(types) or "none",
    }
    return [line for name, text in facts.items() for line in _wrapped(f"{name:11}", text)]


def _wrapped(name: str, text: str) -> list[str]:
    """Fold at spaces; a path or a name without spaces is not folded."""
    lines, line = [], name
    for word in text.split(" "):
        if len(line) + len(word) + 1 > output.WIDTH and line.strip() and line != name:
            lines.append(line.rstrip())
            line = " " * len(name)
        line += word + " "
    return [*lines, line.rstrip()]


def _tables(found: extract.Inventory) -> list[str]:
    room = max(output.WIDTH, shutil.get_terminal_size((output.WIDTH, 24)).columns) - 36
    lines = [f"{'TABLE':{room}}{'ROWS':>16}{'SQL':>10}{'SIZE':>10}"]
    for table in found.tables:
        rows = "INSERT" if table.rows is None else f"{table.rows:,}"
        name = printable(f"{table.schema}.{table.name}")
        numbers = f"{rows:>16}{progress.size(table.raw_bytes):>10}{progress.size(table.bytes):>10}"
        # A long name gets a line of its own: truncated, it could be taken for another.
        lines += [f"{name:{room}}{numbers}"] if len(name) < room else [name, " " * room + numbers]
    total = plural(sum(table.rows or 0 for table in found.tables), "row")
    return [*lines, f"{plural(len(found.tables), 'table')}, {total}"]


def _print_tree(found: extract.Inventory) -> None:
    from rich.console import Console  # noqa: PLC0415 - 50 ms that others save
    from rich.text import Text  # noqa: PLC0415
    from rich.tree import Tree  # noqa: PLC0415

    rows = {(table.schema, table.name): table.rows for table in found.tables}
    names: dict[str, dict[str, dict[str, None]]] = {}
    for entry in found.objects or []:
        if entry.type != "TABLE DATA":
            count = rows.get((entry.schema, entry.name)) if entry.type == "TABLE" else None
            name = printable(entry.name) + ("" if count is None else f", {plural(count, 'row')}")
            kinds = names.setdefault(entry.schema, {})
            kinds.setdefault(entry.type.lower(), {})[name] = None  # once for all its parts
    root = Tree(Text(printable(found.database.name)))
    for schema, kinds in sorted(names.items()):
        branch = root.add(Text(printable(schema) or "(of no schema)"))
        for kind, those in sorted(kinds.items()):
            twigs = branch.add(Text(f"{kind} ({len(those)})"))
            for name in those:
                twigs.add(Text(name))
    Console(highlight=False).print(root, soft_wrap=True)


def _objects(found: extract.Inventory) -> list[str]:
    lines: list[str] = []
    section = None
    for entry in found.objects or []:
        if entry.section != section:
            section = entry.section
            lines.append(SECTIONS[section])
        name = printable(f"{entry.schema}.{entry.name}" if entry.schema else entry.name)
        rows = "" if entry.rows is None else f", {plural(entry.rows, 'row')}"
        lines.append(f"  {entry.type.lower()} {name}{rows}")
    return lines
