"""pgkeep cat."""

import sys
from collections.abc import Iterable

import click

from .. import errors as e
from ..artifact import extract
from ..artifact.file import Artifact
from ..catalog import side_files
from ..crypt.opening import Keys
from ..model import naming
from ..sql import selection
from ..stores.store import Store
from . import output
from .command import pgkeep_command
from .common import (
    complete_files,
    dir_option,
    identity_option,
    keys,
    latest,
    load_config,
    locate,
    open_located,
    pipe,
    target_option,
)
from .rules import AtMostOne, Requires, each_with


@pgkeep_command(
    "cat",
    examples=(
        "pgkeep cat FILE --schema-only | less",
        "pgkeep cat FILE --table=app.orders | psql -X -v ON_ERROR_STOP=1 -d scratch",
        "pgkeep cat s3://bucket/backups/daily/FILE --table='app.order*' > rows.sql",
        "pgkeep cat --latest --globals | psql -X -d postgres",
    ),
    rules=(
        AtMostOne(("--table", "--schema-only")),
        *each_with("--globals", ("--table", "--schema-only")),
        Requires("--database", ("--latest",)),
    ),
)
@click.argument("file", required=False, shell_complete=complete_files)
@click.option("--latest", "newest", is_flag=True, help="The newest complete backup, not a FILE.")
@click.option("--database", metavar="NAME", help="With --latest: of this database.")
@click.option(
    "--table",
    "tables",
    metavar="PATTERN",
    multiple=True,
    help="Print only the rows of these tables. Patterns as in pg_dump. Can be repeated.",
)
@click.option("--schema-only", is_flag=True, help="Print definitions without rows.")
@click.option(
    "--globals",
    "roles",
    is_flag=True,
    help="Print the roles of the backup, with their password hashes, and its tablespaces.",
)
@identity_option
@target_option
@dir_option
def command(
    *,
    file: str | None,
    newest: bool,
    database: str | None,
    tables: tuple[str, ...],
    schema_only: bool,
    roles: bool,
    identity: str | None,
    target: str | None,
    directory: str | None,
) -> None:
    """Print a backup as plain SQL: all of it, only definitions, only some tables, or its globals.

    Each member is checked before it is printed. Of a damaged file, everything before the damage is
    printed, then the exit code is 5. With --table, only the members of these tables are read. With
    --globals, the file of roles and tablespaces is read, from the directory or the bucket, and
    compared with the manifest.
    """
    if newest == (file is not None):
        raise click.UsageError("either FILE or --latest is required")
    config = load_config(target=target, directory=directory, identity=identity)
    if file is not None:
        store, name = locate(file, config)
    else:
        store, manifest = latest(config, database)
        name = manifest.artifact.name
    with pipe():
        if roles:
            output.sql(_globals(store, name, keys(config)))
        else:
            with open_located(store, name, keys(config)) as artifact:
                for block in _blocks(artifact, tables, schema_only=schema_only):
                    output.sql(block)
        sys.stdout.buffer.flush()


def _blocks(artifact: Artifact, tables: tuple[str, ...], *, schema_only: bool) -> Iterable[bytes]:
    if tables:
        return extract.table_sql(artifact, [selection.pattern(table) for table in tables])
    return extract.sql(artifact, schema_only=schema_only)


def _globals(store: Store, name: str, keys: Keys) -> bytes:
    """Return the roles of a backup as SQL; warn if they have no passwords.

    Raises:
        VerificationFailed: the file differs from the manifest.
        Missing: the backup has no globals, or the store does not have them.

    """
    parsed = naming.parse(name)
    if parsed is not None:
        name = parsed.artifact  # also if the file of the globals itself was given
    side = side_files.read(store, name)
    sql = side_files.read_globals(store, name, side, keys)
    if sql is None:
        raise e.Missing(
            f"{name} has no globals in {store.url}",
            hint="Globals are in the file NAME.globals.sql.gz next to the backup file. Another"
            " backup of the same server contains the same roles.",
        )
    if side.manifest is not None and not side.manifest.role_passwords:
        output.current().warning(
            "the globals contain no passwords: set one for each role that logs in"
        )
    return sql
