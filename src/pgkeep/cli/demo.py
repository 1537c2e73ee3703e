"""pgkeep demo."""

from pathlib import Path

import click

from .. import demo, progress
from .. import errors as e
from ..settings import BUCKET
from . import output
from .command import pgkeep_command
from .common import jobs_option, json_option, load_config, print_json

DIRECTORY = "pgkeep-demo"  # not that of real backups: status would expect a next one


@pgkeep_command(
    "demo",
    examples=(
        "pgkeep demo",
        "pgkeep demo --scale=3 --dir=/tmp/demo",
    ),
)
@click.option(
    "--scale",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Size of the database; 1 is 330 MB.",
)
@click.option(
    "--dir",
    "directory",
    metavar="DIR",
    default=DIRECTORY,
    show_default=True,
    help="Directory for the backup. BACKUP_DIR is ignored.",
)
@jobs_option
@json_option
def command(*, scale: int, directory: str, jobs: str | None, as_json: bool) -> None:
    """Back up and restore a temporary database, and compare every table.

    Starts a temporary PostgreSQL server, fills a database, backs it up with pg_dump | gzip and with
    pgkeep, drops it, restores it and compares. No setup is required. Other servers and existing
    backups are not touched.
    """
    settings = load_config(directory=directory, jobs=jobs).settings
    if settings.directory.startswith(BUCKET):
        raise e.UsageError("the demo writes to a directory, not to a bucket", hint="Use --dir=DIR.")

    def tell(text: str) -> None:
        output.say(text, err=as_json)

    tell(f"the backup goes to {settings.directory}, and stays there")
    outcome = demo.run(Path(settings.directory), scale, settings.jobs, progress.Silent(), tell)
    if as_json:
        print_json(outcome)
        return
    path = Path(outcome.artifact)
    output.show([
        "",
        f"The backup is {progress.size(outcome.size)} of plain SQL in gzip:",
        f"    {path}",
        "It can be restored without pgkeep:",
        f"    createdb shop_copy && zcat {path} | psql -X -v ON_ERROR_STOP=1 -d shop_copy",
    ])  # fmt: skip
