"""pgkeep verify."""

import click

from .. import errors as e
from .. import progress
from ..artifact.verify import VerificationReport
from ..catalog import side_files
from ..config import Config
from . import output
from .command import pgkeep_command
from .common import (
    complete_files,
    dir_option,
    jobs_option,
    json_option,
    load_config,
    locate,
    plural,
    print_json,
    target_option,
)


@pgkeep_command(
    "verify",
    examples=(
        "pgkeep verify backups/app_daily_20261122T020000Z.sql.gz",
        "pgkeep verify backups/*.sql.gz",
        "pgkeep verify old_cron_dump.sql.gz",
        "zcat artifact.sql.gz > plain.sql && pgkeep verify plain.sql",
    ),
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, shell_complete=complete_files)
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *,
    files: tuple[str, ...],
    target: str | None,
    directory: str | None,
    jobs: str | None,
    as_json: bool,
) -> None:
    """Check that files are complete and undamaged. No server is required.

    In a backup file of pgkeep, the end marker, index, hashes, CRCs, row counts and the structure of
    the SQL are checked, and the SHA-256 and the manifest next to it. In any other plain dump of
    pg_dump, compressed or not, the structure is checked from the first comment to the last. Exit
    code 5 if a file is damaged. With several files, --json prints a list.
    """
    config = load_config(target=target, directory=directory, jobs=jobs)
    reports: list[VerificationReport] = []
    failed: list[e.PgkeepError] = []
    for file in files:
        try:
            reports.append(_verify(file, config, silent=as_json))
        except (e.VerificationFailed, e.StoreError) as error:
            if len(files) == 1:
                raise
            failed.append(error)
            output.current().warning(error.message)
        else:
            if not as_json:
                output.note(_line(reports[-1]))
    if failed:
        damaged = [error for error in failed if isinstance(error, e.VerificationFailed)]
        first = (damaged or failed)[0]
        raise type(first)(f"{len(failed)} of {len(files)} files fail: {first.message}")
    if as_json:
        print_json(reports[0] if len(files) == 1 else reports)


def _line(report: VerificationReport) -> str:
    return (
        f"ok: {report.file}: {plural(report.tables, 'table')}, {plural(report.rows, 'row')},"
        f" {progress.size(report.raw_bytes)} of SQL; checked {', '.join(report.checked)}"
    )


def _verify(file: str, config: Config, *, silent: bool) -> VerificationReport:
    store, name = locate(file, config)
    with output.current().progress(silent=silent) as bar:
        bar.step("verifying")
        return side_files.verify(store, name, jobs=config.settings.jobs, progress=bar.advance)
