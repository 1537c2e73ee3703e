"""pgkeep adopt."""

import click

from .. import adopt as a
from . import output
from .common import dir_option, jobs_option, json_option, load_config, locate, plural, print_json


@click.command(
    "adopt",
    epilog="""\b
Examples:
  pgkeep adopt backups/app_daily_20261122T020000Z.sql.gz
""",
)
@click.argument("file")
@dir_option
@jobs_option
@json_option
def command(*, file: str, directory: str | None, jobs: str | None, as_json: bool) -> None:
    """Make FILE, a whole artifact of pgkeep whose manifest is lost, a backup again.

    The file is verified to its end; what the manifest says is read from the file's own index, type
    and time from its name.
    """
    config = load_config(directory=directory, jobs=jobs)
    store, name = locate(file, config)
    with output.current().progress(silent=as_json) as bar:
        bar.step("verifying")
        manifest = a.adopt(store, name, jobs=config.jobs, progress=bar.verified)
    if as_json:
        print_json(manifest)
    output.current().done(
        f"{name}: {plural(manifest.rows, 'row')}, verified, adopted", as_json=as_json
    )
