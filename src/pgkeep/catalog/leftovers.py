"""Files of a backup that its manifest does not name, as an interrupted `pgkeep rekey` leaves them.

Each run of `pgkeep rekey` writes files of a higher generation than all existing ones. So a file of
a lower generation than that in the manifest was replaced, and nobody writes it any more. A file of
a higher one can belong to a run that is still at work: only another `pgkeep rekey`, which holds the
lock of the database, removes it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from .. import errors as e
from ..model import naming
from ..model.manifest import Manifest
from ..model.naming import BackupName
from ..stores.store import Store


class Removed(NamedTuple):
    """What was removed, and why the store retains the rest."""

    files: list[str]
    retained: list[str]  # messages


def by_backup(files: Iterable[str]) -> Mapping[BackupName, list[str]]:
    """Return the names of files by their backup."""
    found: dict[BackupName, list[str]] = defaultdict(list)
    for file in sorted(files):
        if (name := naming.parse(file)) is not None:
            found[name].append(file)
    return found


def unnamed(manifest: Manifest, files: Iterable[str]) -> list[str]:
    """Return the files of a backup, among all of this backup, that its manifest does not name.

    The backup file comes first: as long as it exists, it has its roles and its checksum.
    """
    named = manifest.name.files
    found = [file for file in files if file not in named]
    return sorted(found, key=lambda file: (not naming.is_artifact(file), file))


def replaced(manifest: Manifest, files: Iterable[str]) -> list[str]:
    """Return those of them that `pgkeep rekey` has replaced."""
    current = manifest.name.generation
    return [file for file in unnamed(manifest, files) if generation(file) < current]


def generation(file: str) -> int:
    """Return how often the backup was encrypted when a file was written, at least 1."""
    name = naming.parse(file)
    return 1 if name is None else name.generation


def remove(store: Store, manifest: Manifest, files: Sequence[str]) -> Removed:
    """Remove files, if the store has the file that the manifest names.

    Raises:
        StoreError: one could not be removed, for a reason other than a retention of the store.

    """
    removed = Removed([], [])
    if not files or not is_complete(store, manifest):
        return removed
    for file in files:
        try:
            store.delete(file)
            removed.files.append(file)
        except e.Retained as error:
            removed.retained.append(error.message)
    return removed


def is_complete(store: Store, manifest: Manifest) -> bool:
    """Whether a store has the file that a manifest names, with its length."""
    try:
        with closing(store.open(manifest.artifact.name)) as source:
            return source.size == manifest.artifact.size
    except e.Missing:
        return False
