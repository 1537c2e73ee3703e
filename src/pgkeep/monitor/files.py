"""Backups whose files are missing, are others or have no manifest, by store: pure decisions."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from ..catalog.catalog import Backup
from ..model import naming
from ..model.manifest import Manifest
from .overview import Contents, Target

Lost = Mapping[str, Sequence[str]]  # by the store's URL: backup files without a manifest
GRACE = timedelta(minutes=10)  # stores are not listed at the same moment as a run publishes


def problems(
    target: Target, contents: Contents, newest: Manifest | None, now: datetime
) -> Iterator[str]:
    """Yield what is wrong with the files of a database, given its newest complete backup.

    The contents of the stores are only the backups of this database.
    """
    for store in target.stores:
        own = contents.get(store.url, ())
        broken = [backup.manifest for backup in own if backup.missing]
        if broken:
            which = max(broken, key=lambda manifest: manifest.taken).name.stem
            yield (
                f"in {store.url}, the file of {which} is missing or is not that of its manifest"
                if len(broken) == 1
                else f"in {store.url}, the files of {len(broken)} of its {len(own)} backups are"
                f" missing or are not those of their manifests, the newest: {which}"
            )
    if newest is None or newest.finished > now - GRACE:
        return
    having = [store for store in target.stores if _has(newest, contents.get(store.url, ()))]
    for store in target.stores:
        if store in having or store.url not in contents or store.url in newest.pending:
            continue
        where = " and ".join(found.url for found in having)
        if not any(_complete(backup) for backup in contents[store.url]):
            yield f"{store.url} has no complete backup of it, only {where}"
        elif store is target.store:
            yield f"its newest backup is only in {where}, not in {store.url}"


def lost_of_databases(lost: Lost) -> dict[str, Lost]:
    """Return the backup files without a manifest of each database."""
    found: dict[str, dict[str, list[str]]] = {}
    for url, names in lost.items():
        for name in names:
            parsed = naming.parse(name)
            if parsed is not None:
                found.setdefault(parsed.database, {}).setdefault(url, []).append(name)
    return dict(found)


def notes(target: Target, lost: Lost) -> Iterator[str]:
    """Yield the backup files of a database that have no manifest."""
    for store in target.stores:
        names = lost.get(store.url, ())
        if names:
            which = max(names, key=_taken)
            have = "1 backup file has" if len(names) == 1 else f"{len(names)} backup files have"
            yield (f"{have} no manifest in {store.url}: {which}; pgkeep adopt FILE recreates it")


def _has(newest: Manifest, backups: Sequence[Backup]) -> bool:
    return any(_complete(backup) and backup.manifest.name == newest.name for backup in backups)


def _complete(backup: Backup) -> bool:
    return not backup.missing and backup.manifest.full


def _taken(name: str) -> tuple[datetime, str]:
    parsed = naming.parse(name)
    assert parsed is not None  # noqa: S101 - only parsed names were selected
    return parsed.taken, name
