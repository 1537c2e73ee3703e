"""pgkeep prune."""

import textwrap
from datetime import UTC, datetime
from typing import Any

import click

from ..catalog import prune
from ..catalog.catalog import Catalog
from ..model import retention
from . import output, prune_pitr, run_log
from .command import pgkeep_command
from .common import (
    catalogs,
    dir_option,
    json_option,
    load_config,
    plural,
    print_json,
    target_option,
)
from .run_log import TargetOutcome


@pgkeep_command(
    "prune",
    examples=(
        "pgkeep prune --dry-run",
        "BACKUP_RETENTION_DAILY=14 pgkeep prune --dry-run --json",
    ),
    recorded=True,
)
@click.option(
    "--dry-run", is_flag=True, help="Print every decision with its reasons, and remove nothing."
)
@click.option("--force", is_flag=True, help="Remove even more than half of the verified backups.")
@click.option("--database", metavar="NAME", help="Decide only on backups of this database.")
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
    """Remove expired backups.

    Only verified full backups count, each in its own tier. Ages are measured from the newest
    verified backup of the same database. Unknown files are never touched. Base backups and WAL are
    kept as BACKUP_WINDOW requires; with --database, they are not touched.
    """
    config = load_config(target=target, directory=directory)
    share = 1.0 if force or dry_run else None
    decided = []
    # Everything is decided before anything is removed.
    for found in catalogs(config):
        manifests = [
            backup.manifest
            for backup in found.backups()
            if not backup.missing and database in (None, backup.manifest.database.name)
        ]
        decisions = retention.decide(manifests, config.policy, datetime.now(UTC), share)
        decided.append((found, decisions))
    clusters = prune_pitr.decide(config) if database is None else []
    quiet = output.current().verbosity == output.Verbosity.QUIET
    shown = not as_json and (dry_run or not quiet)
    count = 0
    removed: dict[str, None] = {}  # in their order, without duplicates
    for found, decisions in decided:
        if shown:
            _print(found.store.url if len(decided) > 1 else None, decisions)
        if dry_run:
            count += sum(not decision.keep for decision in decisions)
            continue
        pruned = prune.prune(found, decisions)
        count += len(pruned.removed)
        removed |= dict.fromkeys(decision.manifest.name.stem for decision in pruned.removed)
        for text in pruned.retained:
            output.current().info(text)
    for plan in clusters:
        if shown:
            output.show(prune_pitr.lines(plan))
    if not dry_run:
        for done in prune_pitr.remove(config, clusters):
            removed |= dict.fromkeys(done.bases)
            for text in done.messages:
                output.current().info(text)
    run_log.current().ended(config, TargetOutcome(removed=list(removed)))
    if as_json:
        documents = [_document(found, each) for found, decisions in decided for each in decisions]
        print_json(documents + [each for plan in clusters for each in prune_pitr.documents(plan)])
    total = sum(len(decisions) for _, decisions in decided)
    did = "would remove" if dry_run else "removed"
    output.current().done(f"{did} {plural(count, 'backup')} of {total}", as_json=as_json)


def _document(found: Catalog, decision: retention.Decision) -> dict[str, Any]:
    return {
        "id": decision.manifest.name.id,
        "backup": decision.manifest.name.stem,
        "database": decision.manifest.database.name,
        "store": found.store.url,
        "keep": decision.keep,
        "reasons": decision.reasons,
    }


def _print(url: str | None, decisions: list[retention.Decision]) -> None:
    if url is not None:
        output.say(url)
    before = None
    for decision in decisions:
        manifest = decision.manifest
        if manifest.database.name != before:
            before = manifest.database.name
            output.say(f"database {before}")
        line = (
            f"  {manifest.name.id} {manifest.taken:%Y-%m-%d %H:%M} {manifest.type:8}"
            f"{'keep' if decision.keep else 'REMOVE':7} "
        )
        width = output.WIDTH - len(line)
        reasons = [text for reason in decision.reasons for text in textwrap.wrap(reason, width)]
        for number, text in enumerate(reasons or [""]):
            output.say(f"{' ' * len(line) if number else line}{text}")
