"""pgkeep sync."""

import click

from .. import errors as e
from ..catalog import catalog, copies
from ..model.manifest import Manifest
from ..model.record import DatabaseResult
from . import directories, output, run_log
from .command import pgkeep_command
from .common import dir_option, json_option, load_configs, plural, print_json, target_option
from .run_log import TargetOutcome


@pgkeep_command(
    "sync",
    examples=(
        "pgkeep sync",
        "pgkeep sync --all    # if the bucket is new, or has lost files",
    ),
    recorded=True,
)
@click.option(
    "--all", "everything", is_flag=True, help="Upload every backup that is missing in the bucket."
)
@target_option
@dir_option
@json_option
def command(*, everything: bool, target: str | None, directory: str | None, as_json: bool) -> None:
    """Upload pending copies to BACKUP_S3_BUCKET, the newest first.

    The manifest of a backup lists the copies that failed. The next backup of the same database
    uploads them. This command uploads all pending copies, except for databases that a running
    backup or another sync works on. Exit code 6 if copies are still pending afterwards.
    """
    configs = load_configs(target=target, directory=directory)
    directories.check(configs)
    results = []
    failure: e.PgkeepError | None = None
    with output.current().progress(silent=as_json) as bar:
        for config in configs:
            store, copy = config.store(), config.copy()
            if copy is None:
                if len(configs) == 1:
                    raise e.UsageError(
                        "no copies are configured", hint="Set BACKUP_S3_BUCKET to the bucket."
                    )
                continue
            found = catalog.Catalog(store)
            pending = copies.pending(found.whole(), copy)
            if everything:
                pending = copies.missing(found, catalog.Catalog(copy), pending)
            if pending:
                bar.step(f"copying {plural(len(pending), 'backup')} to {copy.url}")
                bar.total(sum(manifest.artifact.size for manifest in pending))
            done = []
            for manifest, error in copies.upload_pending(store, copy, pending, bar.advance):
                done.append(_result(manifest, error))
                failure = failure or error
                problem = None if error is None else error.message
                results.append({"backup": manifest.name.stem, "store": copy.url, "error": problem})
                if not as_json:
                    output.current().info(f"{manifest.name.stem}: {problem or 'copied'}")
            run_log.current().ended(config, TargetOutcome(results=done, error=failure))
    if as_json:
        print_json(results)
    if failure is not None:
        raise e.StoreError(f"copies are still pending: {failure.message}", hint=failure.hint)
    output.current().done(f"copied {plural(len(results), 'backup')}", as_json=as_json)


def _result(manifest: Manifest, error: e.PgkeepError | None) -> DatabaseResult:
    return DatabaseResult(
        database=manifest.database.name,
        backup=manifest.name.stem,
        exit_code=0 if error is None else error.exit_code,
        error=None if error is None else error.message,
    )
