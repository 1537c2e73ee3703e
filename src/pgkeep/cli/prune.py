"""pgkeep prune."""

from datetime import UTC, datetime

import click

from .. import catalog, retention
from .. import prune as p
from ..stores.local import LocalStore
from . import output
from .common import dir_option, json_option, load_config, plural, print_json, target_option


@click.command(
    "prune",
    epilog="""\b
Examples:
  pgkeep prune --dry-run
  BACKUP_RETENTION_DAILY=14 pgkeep prune --dry-run --json
""",
)
@click.option("--dry-run", is_flag=True, help="Show every decision with its reasons; remove none.")
@click.option(
    "--force", is_flag=True, help="Even if more than half of the verified backups would go."
)
@click.option("--database", metavar="NAME", help="Only backups of this database.")
@target_option
@dir_option
@json_option
def command(
    *,
    dry_run: bool,
    force: bool,
    database: str | None,
    target: str | None,
    directory: str | None,
    as_json: bool,
) -> None:
    """Remove the backups that retention no longer keeps.

    Only verified full backups count, each by its own tier; ages are measured from the newest
    verified one of the same database. Files that pgkeep does not know are never touched.
    """
    config = load_config(target=target, directory=directory)
    found = catalog.Catalog(LocalStore(config.directory))
    manifests = [
        one.manifest
        for one in found.backups()
        if not one.missing and database in (None, one.manifest.database.name)
    ]
    decisions = retention.decide(
        manifests, config.policy, datetime.now(UTC), largest_share=1.0 if force or dry_run else None
    )
    removed = [] if dry_run else p.prune(found, decisions)
    if as_json:
        print_json(
            [
                {
                    "backup": one.manifest.name.stem,
                    "database": one.manifest.database.name,
                    "keep": one.keep,
                    "reasons": one.reasons,
                }
                for one in decisions
            ]
        )
    else:
        _print(decisions)
    going = sum(not one.keep for one in decisions)
    did, count = ("would remove", going) if dry_run else ("removed", len(removed))
    output.current().done(f"{did} {plural(count, 'backup')} of {len(decisions)}", as_json=as_json)


def _print(decisions: list[retention.Decision]) -> None:
    before = None
    for one in decisions:
        manifest = one.manifest
        if manifest.database.name != before:
            before = manifest.database.name
            click.echo(f"database {before}")
        click.echo(
            f"  {manifest.taken:%Y-%m-%d %H:%M} {manifest.type:8}"
            f"{'keep' if one.keep else 'REMOVE':7} {'; '.join(one.reasons)}"
        )
