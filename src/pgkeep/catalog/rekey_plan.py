"""What `pgkeep rekey` does with each backup of a directory and a bucket: pure decisions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ..crypt.recipients import Recipients
from ..model.manifest import Manifest
from ..model.naming import BackupName
from ..stores.store import Store
from . import leftovers
from .catalog import Backup, Catalog
from .rekey import is_current


class Action(StrEnum):
    """What is done with the files of a backup in one store."""

    ENCRYPT = "encrypt"
    COPY = "copy"  # from the directory into the bucket
    KEEP = "keep"  # encrypted to these recipients already
    MISSING = "missing"  # the file, although its manifest exists


class Step(NamedTuple):
    """What is done in one store that has a backup."""

    store: Store
    manifest: Manifest
    action: Action
    files: Sequence[str]  # of the backup that the store had when it was listed


@dataclass(frozen=True, slots=True)
class Planned:
    """A backup, with a step for each store that has it, the directory first."""

    manifest: Manifest
    steps: tuple[Step, ...]

    @property
    def name(self) -> BackupName:
        """The name of the backup."""
        return self.manifest.name

    @property
    def generation(self) -> int:
        """The generation of new files: above those of all existing files."""
        files = [file for step in self.steps for file in step.files]
        return 1 + max(map(leftovers.generation, files), default=1)

    @property
    def action(self) -> Action:
        """What is done with the backup as a whole."""
        actions = [step.action for step in self.steps]
        order = (Action.ENCRYPT, Action.COPY, Action.KEEP, Action.MISSING)
        return min(actions, key=order.index)


def plan(
    catalogs: Sequence[Catalog],
    recipients: Recipients,
    *,
    database: str | None = None,
    names: Sequence[BackupName] = (),
) -> list[Planned]:
    """Decide for each backup of the directory and then the bucket, by database, newest first."""
    found: dict[tuple[str, BackupName], list[_Listed]] = {}
    for catalog in catalogs:
        backups = catalog.backups()
        files = leftovers.by_backup(catalog.files)
        for backup in backups:
            manifest = backup.manifest
            if database in (None, manifest.database.name) and (not names or manifest.name in names):
                key = (manifest.server.system_identifier, manifest.name)
                listed = _Listed(catalog.store, backup, files.get(manifest.name, []))
                found.setdefault(key, []).append(listed)
    planned = [
        Planned(copies[0].backup.manifest, tuple(_steps(copies, recipients)))
        for copies in found.values()
    ]
    planned.sort(key=lambda each: each.manifest.taken, reverse=True)
    return sorted(planned, key=lambda each: each.manifest.database.name)


class _Listed(NamedTuple):
    store: Store
    backup: Backup
    files: list[str]


def _steps(copies: Sequence[_Listed], recipients: Recipients) -> Iterator[Step]:
    """Yield what is done in each store: bytes that are encrypted once are copied to the bucket."""
    source: Manifest | None = None
    changed = False
    for store, backup, files in copies:
        manifest, current = backup.manifest, is_current(backup.manifest, recipients)
        if source is not None:
            differs = changed or backup.missing or manifest.artifact != source.artifact
            action = Action.COPY if differs else Action.KEEP
        elif backup.missing:
            action = Action.MISSING
        else:
            action = Action.KEEP if current else Action.ENCRYPT
            source, changed = manifest, not current
        yield Step(store, manifest, action, files)
