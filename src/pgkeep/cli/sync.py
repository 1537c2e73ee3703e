"""pgkeep sync."""

import click

from .. import errors as e
from ..catalog import catalog, copies
from . import output
from .common import dir_option, json_option, load_configs, plural, print_json, target_option


@click.command(
    "sync",
    epilog="""\b
Examples:
  pgkeep sync
  pgkeep sync --all        the bucket is new, or something in it is gone
""",
)
@click.option("--all", "everything", is_flag=True, help="Every backup that the bucket lacks.")
@target_option
@dir_option
@json_option
def command(*, everything: bool, target: str | None, directory: str | None, as_json: bool) -> None:
    """Make the copies in BACKUP_S3_BUCKET that are owed, the newest first.

    A backup whose copy could not be made says so in its manifest. The next run pays for its own
    database; this command pays everything, but for databases that a backup or another sync is
    at. Exit code 6 if something is still owed afterwards.
    """
    configs = load_configs(target=target, directory=directory)
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
            debts = copies.owed(found.whole(), copy)
            if everything:
                debts = copies.lacking(found, catalog.Catalog(copy), debts)
            if debts:
                bar.step(f"copying {plural(len(debts), 'backup')} to {copy.url}")
                bar.total(sum(manifest.artifact.size for manifest in debts))
            for manifest, error in copies.pay(store, copy, debts, bar.advance):
                failure = failure or error
                said = None if error is None else error.message
                results.append({"backup": manifest.name.stem, "store": copy.url, "error": said})
                if not as_json:
                    output.current().info(f"{manifest.name.stem}: {said or 'copied'}")
    if as_json:
        print_json(results)
    if failure is not None:
        raise e.StoreError(f"copies are still owed: {failure.message}", hint=failure.hint)
    output.current().done(f"copied {plural(len(results), 'backup')}", as_json=as_json)
