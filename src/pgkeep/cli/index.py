"""pgkeep index."""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click

from .. import progress
from ..catalog import side_files
from ..foreign import index
from ..foreign.names import guess
from ..model import naming
from ..model.manifest import Manifest
from ..settings import BUCKET
from . import output, run_log
from .command import pgkeep_command
from .common import (
    complete_files,
    compression_option,
    dir_option,
    identity_option,
    jobs_option,
    json_option,
    keys,
    load_config,
    locate,
    plural,
    print_json,
    target_option,
)


@pgkeep_command(
    "index",
    examples=(
        "pgkeep index old_cron_dump.sql.gz --database=app",
        "pgkeep index app-20260506.sql.gz --database=app --type=daily --output=backups",
        "pgkeep index cluster.sql.zst --database=app",
    ),
    recorded=True,
)
@click.argument("file", shell_complete=complete_files)
@click.option(
    "--database",
    metavar="NAME",
    help="Name of the database; which database, if the dump contains several.",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice([tier.value for tier in naming.BackupType]),
    help="Retention tier of the backup.",
)
@click.option(
    "--output", "-o", "place", metavar="DIR", help="Directory for the backup, instead of --dir."
)
@identity_option
@target_option
@dir_option
@compression_option
@jobs_option
@json_option
def command(
    *,
    file: str,
    database: str | None,
    kind: str | None,
    place: str | None,
    identity: str | None,
    target: str | None,
    directory: str | None,
    compression: str | None,
    jobs: str | None,
    as_json: bool,
) -> None:
    """Make a backup from FILE, a plain dump of pg_dump, compressed with gzip, zstd or not.

    No server is required. FILE is not changed, and its SQL is copied unchanged, with the rows in
    their order. The time of the backup is the one that a verbose dump contains, or the one in the
    name of the file (in BACKUP_TIMEZONE), or the modification time.

    Statements of pg_dump -C and pg_dumpall about the database itself are skipped; roles go into the
    globals file. If FILE is damaged, nothing is written and the exit code is 5.
    """
    config = load_config(
        target=target, directory=place or directory, jobs=jobs, identity=identity,
        compression=compression,
    )  # fmt: skip
    encryption = config.encryption()
    store, name = locate(file, config)
    path = None if file.startswith(BUCKET) else Path(store.url_of(name))
    with (
        closing(side_files.open_contents(store, name, keys(config))) as source,
        output.current().progress(silent=as_json) as bar,
    ):
        options = index.IndexOptions(
            jobs=config.settings.jobs,
            database=database,
            type=naming.BackupType(kind) if kind else None,
            guess=guess(name, _folder(path, file), config.settings.zone),
            modified=_modified(path),
            zone=config.settings.zone,
            encryption=encryption,
            compression=config.settings.compression,
        )
        copy = config.copy() if not config.store().remote else None
        manifest = index.index(source, config.store(), options, bar, copy=copy)
    run_log.current().used(config, manifest.database.name, [manifest.name.stem])
    if as_json:
        print_json(manifest)
    else:
        output.note(config.store().url_of(manifest.artifact.name))
    for warning in manifest.warnings:
        output.current().info(warning)
    output.current().done(summary(manifest), as_json=as_json)


def _folder(path: Path | None, file: str) -> str:
    return path.resolve().parent.name if path is not None else file.split("/")[-2]


def _modified(path: Path | None) -> datetime | None:
    if path is None or not path.exists():
        return None
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def summary(manifest: Manifest) -> str:
    """Return a line about the backup."""
    return (
        f"{plural(len(manifest.tables), 'table')}, {plural(manifest.rows, 'row')},"
        f" {progress.size(manifest.raw_bytes)} of SQL in {progress.size(manifest.artifact.size)},"
        " verified"
    )
