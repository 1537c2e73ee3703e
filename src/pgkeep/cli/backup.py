"""pgkeep backup."""

import time

import click

from .. import backup as b
from .. import naming, progress
from ..stores.local import LocalStore
from .common import (
    connection_options,
    dir_option,
    jobs_option,
    json_option,
    load_config,
    plural,
    print_json,
)


@click.command(
    "backup",
    epilog="""\b
Examples:
  pgkeep backup
  pgkeep backup --type=daily --verify
  POSTGRES_HOST=db POSTGRES_USER=backup POSTGRES_PASSWORD_FILE=/run/secrets/pw \\
      pgkeep backup --database=app --dir=/backups
""",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["daily", "weekly", "monthly", "manual"]),
    default="manual",
    show_default=True,
    help="Retention tier.",
)
@click.option("--verify", "verify", is_flag=True, help="Read the file back before publishing it.")
@click.option("--schema-only", is_flag=True, help="Definitions without rows.")
@click.option(
    "--lock-timeout", metavar="SECONDS", help="Wait so long for locked tables (default 300)."
)
@connection_options
@dir_option
@jobs_option
@json_option
def command(
    *,
    kind: str,
    verify: bool,
    schema_only: bool,
    lock_timeout: str | None,
    dsn: str | None,
    database: str | None,
    directory: str | None,
    jobs: str | None,
    as_json: bool,
) -> None:
    """Back up a database into one plain .sql.gz.

    All tables are locked (in the weakest mode, like any SELECT) before one snapshot is taken;
    pg_dump and several COPY connections share it. The file gets its name when everything has ended
    well; a manifest beside it makes it a backup.
    """
    config = load_config(dsn=dsn, directory=directory, jobs=jobs, lock_timeout=lock_timeout)
    options = b.BackupOptions(
        type=naming.BackupType(kind),
        jobs=config.jobs,
        schema_only=schema_only,
        verify=verify,
        lock_timeout=config.lock_timeout,
    )
    started = time.monotonic()
    with progress.create(silent=as_json) as bar:
        manifest = b.backup(config.endpoint(database), LocalStore(config.directory), options, bar)
    if as_json:
        print_json(manifest)
        return
    for warning in manifest.warnings:
        click.echo(f"warning: {warning}", err=True)
    seconds = time.monotonic() - started
    click.echo(
        f"{config.directory / manifest.artifact.name}\n"
        f"done: {plural(len(manifest.tables), 'table')}, {plural(manifest.rows, 'row')},"
        f" {progress.size(manifest.raw_bytes)} of SQL in {progress.size(manifest.artifact.size)},"
        f" {'verified, ' if manifest.verified else ''}{progress.duration(seconds)}"
    )
