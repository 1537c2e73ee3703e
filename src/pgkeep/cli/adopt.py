"""pgkeep adopt."""

from pathlib import Path

import click

from .. import errors as e
from ..config import Config
from ..foreign import adopt, index
from ..foreign.adopt import AdoptedFile
from ..model import naming
from ..terminal import printable
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
    "adopt",
    examples=(
        "pgkeep adopt backups/app_daily_20261122T020000Z.sql.gz",
        "pgkeep adopt /var/old_dumps --database=app --type=daily",
        "pgkeep adopt /backups/weekly --dir=/srv/pgkeep",
    ),
    recorded=True,
)
@click.argument("file", shell_complete=complete_files)
@click.option("--database", metavar="NAME", help="Database of the dumps in a folder.")
@click.option(
    "--type",
    "kind",
    type=click.Choice([tier.value for tier in naming.BackupType]),
    help="Retention tier of the dumps in a folder.",
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
    identity: str | None,
    target: str | None,
    directory: str | None,
    compression: str | None,
    jobs: str | None,
    as_json: bool,
) -> None:
    """Register existing dump files as backups.

    If FILE is a backup file whose manifest is lost, the file is verified to its end and the
    manifest is written again, from the index in the file. Tier and time follow from its name.

    If FILE is a folder, every plain dump in it is indexed into the backup directory, as pgkeep
    index does; subfolders are not read. Tier and time follow from the name of each file. Damaged
    files are reported and skipped: exit code 5 after everything else is done.
    """
    config = load_config(
        target=target, directory=directory, jobs=jobs, identity=identity, compression=compression
    )
    if Path(file).is_dir():
        _folder(Path(file), config, database, kind, as_json=as_json)
        return
    if database is not None or kind is not None:
        raise click.UsageError(
            "--database and --type require a folder; for one dump use pgkeep index FILE"
        )
    store, name = locate(file, config)
    with output.current().progress(silent=as_json) as bar:
        bar.step("verifying")
        copy = config.copy() if store.url == config.store().url else None
        manifest = adopt.adopt(
            store, name, keys=keys(config), jobs=config.settings.jobs, progress=bar.advance,
            copy=copy,
        )  # fmt: skip
    run_log.current().used(config, manifest.database.name, [manifest.name.stem])
    if as_json:
        print_json(manifest)
    output.current().done(
        f"{name}: {plural(manifest.rows, 'row')}, verified, adopted", as_json=as_json
    )


def _folder(
    folder: Path, config: Config, database: str | None, kind: str | None, *, as_json: bool
) -> None:
    options = index.IndexOptions(
        jobs=config.settings.jobs,
        database=database,
        type=naming.BackupType(kind) if kind else None,
        zone=config.settings.zone,
        encryption=config.encryption(),
        compression=config.settings.compression,
    )
    store = config.store()
    copy = None if store.remote else config.copy()
    with output.current().progress(silent=as_json) as bar:
        outcomes = list(
            adopt.adopt_folder(folder, store, options, bar, keys=keys(config), copy=copy)
        )
    if as_json:
        print_json(outcomes)
    else:
        for line in [line for outcome in outcomes for line in _lines(outcome)] or ["no files"]:
            output.note(line)
    failed = [outcome for outcome in outcomes if outcome.state in ("damaged", "refused")]
    made = sum(outcome.state == "indexed" for outcome in outcomes)
    if failed:
        damaged = [outcome for outcome in failed if outcome.state == "damaged"]
        message = (
            f"{plural(made, 'dump')} indexed, {len(damaged)} damaged,"
            f" {len(failed) - len(damaged)} refused; the first: {failed[0].message}"
        )
        raise (e.VerificationFailed if damaged else e.Refused)(message)
    output.current().done(f"{plural(made, 'dump')} indexed", as_json=as_json)


def _lines(outcome: AdoptedFile) -> list[str]:
    """Return the line of a file, and a second with its backup or with what is wrong."""
    result = outcome.backup or outcome.message
    lines = [f"{outcome.state:9}{printable(outcome.file)}"]
    return [*lines, f"{'':9}{printable(result)}"] if result else lines
