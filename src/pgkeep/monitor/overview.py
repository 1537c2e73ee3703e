"""The contents of a target's stores, and the databases that should have backups."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from ..catalog.catalog import Backup
from ..model.database_patterns import CONNECTED, DatabaseSelection
from ..model.manifest import Drill, Manifest
from ..model.retention import FUTURE_TOLERANCE
from ..stores.store import Store

if TYPE_CHECKING:
    from ..backup.run_report import RunReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The stores of a target, and the databases that should have backups in them."""

    store: Store
    copy: Store | None = None
    name: str | None = None  # in pgkeep.toml
    named: Sequence[str] = ()  # exactly these are expected; none: all known databases
    selection: DatabaseSelection = CONNECTED  # from which databases can be excluded
    tried: Sequence[str] = ()  # the databases of the last run, which can have no backup yet
    connected: str | None = None  # the database that is backed up if none is named
    tiers: Sequence[str] = ("daily", "weekly", "monthly")  # the tiers that retention keeps
    cluster: str | None = None  # BACKUP_CLUSTER
    encrypt_to: str | None = None  # the public keys of BACKUP_ENCRYPT_TO, if there are any

    @property
    def stores(self) -> list[Store]:
        """All stores, the first one first."""
        return [self.store] if self.copy is None else [self.store, self.copy]


Contents = Mapping[str, Sequence[Backup]]  # by the store's URL; a store that was not read is absent


class ByDatabase:
    """The contents of the stores, divided once, so that no database looks through all of them."""

    def __init__(self, contents: Contents) -> None:
        self._urls = tuple(contents)
        self._found: dict[str, dict[str, list[Backup]]] = {}
        for url, backups in contents.items():
            for backup in backups:
                name = backup.manifest.database.name
                if name not in self._found:
                    self._found[name] = {known: [] for known in self._urls}
                self._found[name][url].append(backup)

    def of(self, database: str) -> Contents:
        """Return the contents of the same stores without the backups of other databases."""
        return self._found.get(database, dict.fromkeys(self._urls, ()))


def expected(target: Target, contents: Contents, report: "RunReport | None" = None) -> list[str]:
    """Return the databases that should have backups."""
    tried: set[str] = set()
    dropped: set[str] = set()
    if report is not None:
        tried = {backup.database.name for backup in report.backups}
        tried |= {failure.database for failure in report.failed}
        dropped = set(report.dropped)
    if target.named:
        return sorted({*target.named, *tried})
    known = {name for name in databases(target, contents) if target.selection.includes(name)}
    known.update(target.selection.names, [target.connected] if target.connected else [])
    if target.selection.patterns:
        known.update(name for name in target.tried if target.selection.includes(name))
    return sorted((known - dropped) | tried)


def databases(target: Target, contents: Contents) -> set[str]:
    """Return the databases that have backups."""
    return {
        backup.manifest.database.name
        for store in target.stores
        for backup in contents.get(store.url, ())
    }


@dataclass(frozen=True, slots=True)
class Clusters:
    """The names of the clusters of a target's databases; empty where unknown."""

    own: str  # the cluster that the target backs up
    by_database: Mapping[str, str]

    def of(self, database: str) -> str:
        """Return the cluster of a database, also of one without a backup."""
        return self.by_database.get(database, self.own)


def clusters(target: Target, contents: Contents, wanted: Iterable[str]) -> Clusters:
    """Return the cluster of every database: a database has one, so that its series are unique.

    An expected database belongs to BACKUP_CLUSTER. Without it, and for databases of others in the
    same store, the newest backup names the cluster. A run that failed before it was connected does
    not know its cluster either, and gets the same answer.
    """
    newest: dict[str, Manifest] = {}
    for store in target.stores:
        for backup in contents.get(store.url, ()):
            manifest = backup.manifest
            known = newest.get(manifest.database.name)
            if not manifest.indexed and (known is None or known.finished < manifest.finished):
                newest[manifest.database.name] = manifest
    names = {
        database: manifest.cluster_name
        for database, manifest in newest.items()
        if manifest.cluster_name
    }
    expected_here = set(wanted)
    if target.cluster is not None:
        return Clusters(target.cluster, {**names, **dict.fromkeys(expected_here, target.cluster)})
    own = [newest[name] for name in newest.keys() & expected_here] or list(newest.values())
    last = max(own, key=lambda manifest: manifest.finished, default=None)
    return Clusters("" if last is None else last.cluster_name, names)


def counted(manifests: Iterable[Manifest], now: datetime) -> list[Manifest]:
    """Return the backups from which the newest one is chosen.

    Backups from the future do not count. Indexed dumps count only if a database has no other
    backups: a dump of a single table must not pass for last night's backup.
    """
    found = past(manifests, now)
    own = {manifest.database.name for manifest in found if not manifest.indexed}
    return [
        manifest for manifest in found if not manifest.indexed or manifest.database.name not in own
    ]


def past(manifests: Iterable[Manifest], now: datetime) -> list[Manifest]:
    """Return the backups, and their drills, that are not from the future.

    A backup with a wrong date would remain the newest and hide that no others are made.
    """
    latest = now + FUTURE_TOLERANCE
    return [
        msgspec.structs.replace(
            manifest, drills=[each for each in manifest.drills if each.when <= latest]
        )
        for manifest in manifests
        if max(manifest.taken, manifest.snapshot, manifest.finished) <= latest
    ]


def unencrypted(backups: Iterable[Backup]) -> list[Manifest]:
    """Return the existing backups that are not encrypted, oldest first, without duplicates."""
    found = {
        backup.manifest.name.stem: backup.manifest
        for backup in backups
        if not backup.missing and backup.manifest.encryption is None
    }
    return sorted(found.values(), key=lambda manifest: manifest.taken)


def last_drill(manifests: Iterable[Manifest]) -> Drill | None:
    """Return the newest drill of any of these backups."""
    drills = [drill for manifest in manifests for drill in manifest.drills]
    return max(drills, key=lambda drill: drill.when, default=None)
