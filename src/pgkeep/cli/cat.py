"""pgkeep cat."""

import sys

import click

from ..artifact import extract
from ..sql import selection
from . import output
from .command import pgkeep_command
from .common import complete_files, dir_option, load_config, open_artifact, pipe, target_option
from .rules import AtMostOne


@pgkeep_command(
    "cat",
    examples=(
        "pgkeep cat FILE --schema-only | less",
        "pgkeep cat FILE --table=app.orders | psql -X -v ON_ERROR_STOP=1 -d scratch",
        "pgkeep cat s3://bucket/backups/daily/FILE --table='app.order*' > rows.sql",
    ),
    rules=(AtMostOne(("--table", "--schema-only")),),
)
@click.argument("file", shell_complete=complete_files)
@click.option(
    "--table",
    "tables",
    metavar="PATTERN",
    multiple=True,
    help="Print only the rows of these tables. Patterns as in pg_dump. Can be repeated.",
)
@click.option("--schema-only", is_flag=True, help="Print definitions without rows.")
@target_option
@dir_option
def command(
    *,
    file: str,
    tables: tuple[str, ...],
    schema_only: bool,
    target: str | None,
    directory: str | None,
) -> None:
    """Print FILE as plain SQL: all of it, or only definitions, or only some tables.

    Each member is checked before it is printed. Of a damaged file, everything before the damage is
    printed, then the exit code is 5. With --table, only the members of these tables are read.
    """
    config = load_config(target=target, directory=directory)
    patterns = [selection.pattern(table) for table in tables]
    with pipe(), open_artifact(file, config) as artifact:
        blocks = (
            extract.table_sql(artifact, patterns)
            if patterns
            else extract.sql(artifact, schema_only=schema_only)
        )
        for block in blocks:
            output.sql(block)
        sys.stdout.buffer.flush()
