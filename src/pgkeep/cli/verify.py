"""pgkeep verify."""

import click

from .. import progress
from .. import verify as v
from . import output
from .common import (
    dir_option,
    jobs_option,
    json_option,
    load_config,
    locate,
    plural,
    print_json,
    target_option,
)


@click.command(
    "verify",
    epilog="""\b
Examples:
  pgkeep verify backups/app_daily_20261122T020000Z.sql.gz
  pgkeep verify old_cron_dump.sql.gz
  zcat artifact.sql.gz > plain.sql && pgkeep verify plain.sql
""",
)
@click.argument("file")
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *, file: str, target: str | None, directory: str | None, jobs: str | None, as_json: bool
) -> None:
    """Check that FILE is whole: without a server, and believing nothing.

    A file of pgkeep: end marker, index, hashes, CRCs, row counts, SQL structure; with its side
    files also SHA-256 and manifest. Any other plain dump of pg_dump, gzipped or not: the structure,
    from the first comment to the last. Exit code 5 if anything is wrong.
    """
    config = load_config(target=target, directory=directory, jobs=jobs)
    store, name = locate(file, config)
    with output.current().progress(silent=as_json) as bar:
        bar.step("verifying")
        report = v.verify(store, name, jobs=config.jobs, progress=bar.verified)
    if as_json:
        print_json(report)
        return
    click.echo(
        f"ok: {report.file}: {plural(report.tables, 'table')}, {plural(report.rows, 'row')},"
        f" {progress.size(report.raw_bytes)} of SQL; checked {', '.join(report.checked)}"
    )
