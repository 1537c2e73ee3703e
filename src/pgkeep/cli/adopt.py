"""pgkeep adopt."""

from pathlib import Path

import click

from .. import errors as e
from ..config import Config
from ..foreign import adopt, index
from ..foreign.adopt import AdoptedFile
from ..model import naming
from ..terminal import printable
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
    "adopt",
    examples=(
        "pgkeep adopt backups/app_daily_20261122T020000Z.sql.gz",
        "pgkeep adopt /var/old_dumps --database=app --type=daily",
        "pgkeep adopt /backups/weekly --dir=/srv/pgkeep",
    ),
)
@click.argument("file", shell_complete=complete_files)
@click.option("--database", metavar="NAME", help="The database of a folder's dumps.")
@click.option(
    "--type",
    "kind",
    type=click.Choice([one.value for one in naming.BackupType]),
    help="The tier of a folder's dumps.",
)
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *,
    file: str,
    database: str | None,
    kind: str | None,
    target: str | None,
    directory: str | None,
    jobs: str | None,
    as_json: bool,
) -> None:
    """Make FILE, a whole artifact of pgkeep whose manifest is lost, a backup again.

    The file is verified to its end; what the manifest says is read from the file's own index, type
    and time from its name.

    If FILE is a folder, every plain dump in it, not below it, is indexed into the backup directory
    as pgkeep index does, type and time from its name. Damaged ones are named and left alone: exit
    code 5, with everything else done.
    """
    config = load_config(target=target, directory=directory, jobs=jobs)
    if Path(file).is_dir():
        _folder(Path(file), config, database, kind, as_json=as_json)
        return
    if database is not None or kind is not None:
        raise click.UsageError("--database and --type need a folder; one dump: pgkeep index FILE")
    store, name = locate(file, config)
    with output.current().progress(silent=as_json) as bar:
        bar.step("verifying")
        copy = config.copy() if store.url == config.store().url else None
        manifest = adopt.adopt(
            store, name, jobs=config.settings.jobs, progress=bar.advance, copy=copy
        )
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
    )
    store = config.store()
    copy = None if store.remote else config.copy()
    with output.current().progress(silent=as_json) as bar:
        outcomes = list(adopt.adopt_folder(folder, store, options, bar, copy=copy))
    if as_json:
        print_json(outcomes)
    else:
        for line in [line for outcome in outcomes for line in _lines(outcome)] or ["no files"]:
            output.note(line)
    failed = [outcome for outcome in outcomes if outcome.state in ("damaged", "refused")]
    made = sum(outcome.state == "indexed" for outcome in outcomes)
    if failed:
        damaged = [one for one in failed if one.state == "damaged"]
        message = (
            f"{plural(made, 'dump')} indexed, {len(damaged)} damaged,"
            f" {len(failed) - len(damaged)} refused; the first: {failed[0].message}"
        )
        raise (e.VerificationFailed if damaged else e.Refused)(message)
    output.current().done(f"{plural(made, 'dump')} indexed", as_json=as_json)


def _lines(one: AdoptedFile) -> list[str]:
    """Return a file's line, and one for what was made of it or what is wrong with it."""
    said = one.backup or one.message
    lines = [f"{one.state:9}{printable(one.file)}"]
    return [*lines, f"{'':9}{printable(said)}"] if said else lines
