"""The backups of a store, read from their manifests: no manifest, no backup."""

from collections.abc import Iterator
from typing import NamedTuple

from . import errors as e
from . import manifest as m
from . import naming
from .stores import Item, Store, read_all


class Backup(NamedTuple):
    """A backup that a store holds, or a manifest whose artifact is gone."""

    manifest: m.Manifest
    missing: bool  # the artifact is not there, or not as long as the manifest says


class Catalog:
    """What backups a store holds."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.unreadable: list[str] = []  # what was wrong with manifests when they were last read

    def backups(self) -> list[Backup]:
        """Return all backups, oldest first; files that are not ours are not looked at.

        A manifest that cannot be read is none: it must not stop tonight's backup, of another
        database perhaps.
        """
        self.unreadable = []
        items = {item.name: item for item in self.store.items()}
        found = [
            Backup(manifest, _is_missing(manifest, items)) for manifest in self._manifests(items)
        ]
        return sorted(found, key=lambda one: (one.manifest.taken, one.manifest.artifact.name))

    def of(self, system_identifier: str, database: str) -> list[m.Manifest]:
        """Return the whole backups of one cluster's database, oldest first."""
        return [
            one.manifest
            for one in self.backups()
            if not one.missing
            and one.manifest.server.system_identifier == system_identifier
            and one.manifest.database.name == database
        ]

    def latest(self, database: str | None) -> m.Manifest:
        """Return the newest whole backup, of a database or of the only one there is.

        Raises:
            Refused: there is none, or several databases and none is named.

        """
        whole = [
            one.manifest
            for one in self.backups()
            if not one.missing and not one.manifest.schema_only
        ]
        databases = sorted({one.database.name for one in whole})
        if database is None and len(databases) > 1:
            raise e.Refused(
                f"{self.store.url} holds backups of {len(databases)} databases:"
                f" {', '.join(databases)}",
                hint="Say which one: --database=NAME or --backup=FILE.",
            )
        for manifest in reversed(whole):
            if database in (None, manifest.database.name):
                return manifest
        of = f" of database {database}" if database else ""
        raise e.Refused(
            f"no backup{of} in {self.store.url}", hint="pgkeep list shows what is there."
        )

    def _manifests(self, items: dict[str, Item]) -> Iterator[m.Manifest]:
        for name in items:
            parsed = naming.parse(name) if name.endswith(naming.MANIFEST) else None
            if parsed is not None:
                try:
                    manifest = self._manifest(name, parsed)
                except (e.StoreError, e.VerificationFailed) as error:
                    # A run of another database may have removed it since we looked (trap B10).
                    if any(item.name == name for item in self.store.items()):
                        self.unreadable.append(error.message)
                else:
                    yield manifest

    def _manifest(self, file: str, name: naming.BackupName) -> m.Manifest:
        source = self.store.open(file)
        try:
            manifest = m.decode(read_all(source), file)
        finally:
            source.close()
        # By what it says of itself its files are found and, one day, removed.
        if manifest.name != name or manifest.artifact.name != name.artifact:
            raise e.VerificationFailed(f"{file} is the manifest of {manifest.name.stem}")
        return manifest


def _is_missing(manifest: m.Manifest, items: dict[str, Item]) -> bool:
    item = items.get(manifest.artifact.name)
    return item is None or item.size != manifest.artifact.size
