"""pgkeep history."""

import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC

import click

from .. import errors as e
from .. import progress
from ..catalog.catalog import Catalog
from ..model import naming
from ..model.record import Record, RecordName
from ..terminal import printable
from . import output
from .command import pgkeep_command
from .common import dir_option, json_option, load_config, print_json, stores, target_option

AT_ONCE = 200  # records that are read to find those of a database


@pgkeep_command(
    "history",
    examples=(
        "pgkeep history",
        "pgkeep history --database=app --kind=restore",
        "pgkeep history --limit=500 --json",
    ),
)
@click.option("--database", metavar="NAME", help="List only runs that concern this database.")
@click.option("--kind", metavar="COMMAND", help="List only runs of this command, such as restore.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Maximum number of runs.",
)
@target_option
@dir_option
@json_option
def command(
    *,
    database: str | None,
    kind: str | None,
    limit: int,
    target: str | None,
    directory: str | None,
    as_json: bool,
) -> None:
    """List runs of commands that change or restore something, newest first.

    Each run leaves a record in the stores: who ran what, from which host, for which databases, and
    how it ended. Records are kept for 400 days. A killed run leaves none.
    """
    config = load_config(target=target, directory=directory)
    found: dict[RecordName, Catalog] = {}
    failed: list[e.StoreError] = []
    places = stores(config)
    for store in places:
        try:
            catalog = Catalog(store)
            found |= dict.fromkeys(catalog.list_records(), catalog)
        except e.StoreError as error:
            failed.append(error)
            output.current().warning(error.message)
    if len(failed) == len(places):
        raise failed[0]
    names = sorted((name for name in found if kind in (None, name.command)), reverse=True)
    records = _read(names, found, database, limit)
    if as_json:
        print_json(records)
    elif records:
        output.show(_table(records))
    else:
        output.say(f"no records in {' or '.join(store.url for store in places)}")


def _read(
    names: Sequence[RecordName], catalogs: dict[RecordName, Catalog], database: str | None,
    limit: int,
) -> list[Record]:  # fmt: skip
    """Return the newest records, of a database if it is given."""
    records: list[Record] = []
    step = limit if database is None else AT_ONCE
    for start in range(0, len(names), step):
        part = names[start : start + step]
        read = [
            found
            for catalog in dict.fromkeys(catalogs[name] for name in part)
            for found in catalog.read_records([name for name in part if catalogs[name] is catalog])
        ]
        records += sorted(
            (found for found in read if database is None or found.of(database) is not None),
            key=lambda found: found.finished,
            reverse=True,
        )
        if len(records) >= limit:
            break
    return records[:limit]


def _table(records: Sequence[Record]) -> Iterator[str]:
    """Yield a line for each run, and what it removed or why it failed below it."""
    title = f"{'FINISHED (UTC)':17}{'COMMAND':10}{'CODE':>4}{'TOOK':>8}"
    yield f"{title}  {'BACKUP':9}{'DATABASE':14}WHO"
    for found in records:
        took = progress.duration((found.finished - found.started).total_seconds())
        who = f"{found.login or found.user}@{found.host}"
        yield (
            f"{found.finished.astimezone(UTC):%Y-%m-%d %H:%M} {found.command[:9]:10}"
            f"{found.exit_code:>4}{took:>8}  {_backup(found):9}{_short(_databases(found), 13):14}"
            f"{_short(who, 16)}"
        )
        if found.error is not None:
            yield from _below(found.error)
        if found.removed:
            yield from _below(f"removed {', '.join(found.removed)}")


def _databases(found: Record) -> str:
    names = list(dict.fromkeys(result.database for result in found.results if result.database))
    if not names:
        return "-"
    return printable(names[0]) if len(names) == 1 else f"{len(names)} databases"


def _backup(found: Record) -> str:
    """Return the id of the backup that a run made or used."""
    stems = {result.backup for result in found.results if result.backup is not None}
    if len(stems) > 1:
        return f"{len(stems)} made"
    name = naming.parse(stems.pop() + naming.ARTIFACT) if stems else None
    return "-" if name is None else name.id


def _below(text: str) -> list[str]:
    return textwrap.wrap(
        printable(text), output.WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4,
        max_lines=3, placeholder=" ...",
    )  # fmt: skip


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
