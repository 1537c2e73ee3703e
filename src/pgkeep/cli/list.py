"""pgkeep list."""

import textwrap
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import click

from .. import progress
from ..catalog import catalog
from ..terminal import printable
from . import output
from .command import pgkeep_command
from .common import (
    catalogs,
    dir_option,
    json_option,
    load_config,
    print_json,
    stores,
    target_option,
)
from .rules import AtMostOne


@pgkeep_command(
    "list",
    examples=(
        "pgkeep list",
        "pgkeep list --database=app --json",
        "pgkeep list --names",
        'pgkeep restore --backup="$(pgkeep list --names --database=app | tail -n 1)"',
    ),
    rules=(AtMostOne(("--names", "--json")),),
)
@click.option("--database", metavar="NAME", help="List only backups of this database.")
@click.option(
    "--names",
    is_flag=True,
    help="Print only the names of complete backups with rows, which --backup accepts too.",
)
@target_option
@dir_option
@json_option
def command(
    *,
    database: str | None,
    names: bool,
    target: str | None,
    directory: str | None,
    as_json: bool,
) -> None:
    """List backups, oldest first.

    Commands that take a backup accept its ID, or at least the first four digits of it. Every file
    with a manifest is listed. If the file is gone or has another length, STATE is
    "missing". With BACKUP_S3_BUCKET, WHERE is "both" if the directory and the bucket have the
    backup, "dir" or "copy" if only one of them has it, "pending" if it is not uploaded yet.
    "indexed" backups are dumps of other tools, which can contain less than a database. If a backup
    is encrypted, ENC is the cipher of each. "by hash" backups were verified without a private key.
    """
    config = load_config(target=target, directory=directory)
    found = catalogs(config)
    lost = [name for each in found for name in each.lost]
    if lost:
        others = f" ({len(lost) - 1} more)" if len(lost) > 1 else ""
        output.current().warning(
            f"{lost[0]} has no manifest{others}: pgkeep adopt FILE recreates it"
        )
    backups = [
        backup
        for backup in catalog.together(found)
        if database in (None, backup.manifest.database.name)
    ]
    if as_json:
        print_json(
            [
                {
                    "id": backup.manifest.name.id,
                    "name": backup.manifest.name.stem,
                    "missing": backup.missing,
                    "stores": backup.stores,
                    "cluster": backup.manifest.cluster_name,
                    "manifest": backup.manifest,
                }
                for backup in backups
            ]
        )
        return
    if names:
        for backup in backups:
            if not backup.missing and backup.manifest.full:
                output.say(backup.manifest.name.stem)
        return
    urls = [store.url for store in stores(config)]
    if backups:
        output.show(_table(backups, urls))
    else:
        output.say(f"no backups in {' or '.join(urls)}")
    if database is None:
        _show_clusters(found)


def _show_clusters(found: Sequence[catalog.Catalog]) -> None:
    """Print in which stores clusters have base backups and WAL."""
    for each in found:
        for cluster in each.clusters:
            output.say(f"cluster {cluster} has base backups and WAL in {each.store.url}")
    if any(each.clusters for each in found):
        output.say("pgkeep pitr windows lists the times that can be restored")


def _table(backups: Sequence[catalog.ListedBackup], urls: Sequence[str]) -> list[str]:
    """Return the lines of each backup, below the name of its database."""
    now = datetime.now(UTC)
    two = len(urls) > 1
    ciphers = any(backup.manifest.encryption for backup in backups)
    title = f"{'ID':9}{'TAKEN (UTC)':16}{'AGE':>7} {'TYPE':7}{'SIZE':>9}{'ROWS':>10} "
    title += "ENC " if ciphers else ""
    title += "WHERE   " if two else ""
    lines = [f"{title}STATE"]
    heading = _headings(backups)
    before = None
    for backup in sorted(backups, key=heading):
        manifest = backup.manifest
        if heading(backup) != before:
            before = heading(backup)
            lines.append(before)
        cipher = f"{manifest.cipher or '-':4}" if ciphers else ""
        line = (
            f"{manifest.name.id} {manifest.taken:%Y-%m-%d %H:%M}"
            f"{age((now - manifest.taken).total_seconds()):>7} {manifest.type:7}"
            f"{progress.size(manifest.artifact.size):>9}{_count(manifest.rows):>10} "
            f"{cipher}"
            f"{f'{_where(backup, urls):8}' if two else ''}"
        )
        state = textwrap.wrap(backup.state, output.WIDTH - len(title))
        lines += [line + state[0], *(" " * len(title) + more for more in state[1:])]
    if any(catalog.BY_HASH in backup.state for backup in backups):
        lines.append("by hash: verified without a private key, by the SHA-256 of the stored bytes")
    return lines


def _headings(
    backups: Sequence[catalog.ListedBackup],
) -> Callable[[catalog.ListedBackup], str]:
    """Return what names the database of a backup: with its cluster if several have this name.

    The cluster of an indexed dump is not known.
    """
    clusters: dict[str, set[str]] = {}
    for backup in backups:
        manifest = backup.manifest
        known = clusters.setdefault(manifest.database.name, set())
        known.update(filter(None, [manifest.cluster_name]))

    def heading(backup: catalog.ListedBackup) -> str:
        name, cluster = backup.manifest.database.name, backup.manifest.cluster_name
        of = f", cluster {cluster or 'unknown'}" if len(clusters[name]) > 1 else ""
        return f"database {printable(name)}{of}"

    return heading


def _count(rows: int) -> str:
    """Return a number in at most nine characters; `pgkeep show` and --json have all digits."""
    for unit, length in (("G", 10**9), ("M", 10**6)):
        if rows >= 10 * length:
            return f"{rows / length:,.1f} {unit}"
    return f"{rows:,}"


def age(seconds: float) -> str:
    """Return an age in one unit: 5 min, 3 h, 12 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return "now"


def _where(entry: catalog.ListedBackup, urls: Sequence[str]) -> str:
    """Return which of two stores has it completely."""
    first, copy = (url in entry.stores and not entry.stores[url] for url in urls)
    if urls[1] in entry.manifest.pending:
        return "pending"
    return {(True, True): "both", (True, False): "dir", (False, True): "copy"}.get(
        (first, copy), "-"
    )
