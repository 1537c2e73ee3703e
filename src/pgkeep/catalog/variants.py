"""Which file of a store is the backup file of a backup.

Its name depends on the compression, the cipher, and on how often the backup was encrypted again.
If several exist, as after an interrupted `pgkeep rekey`, the manifest names the valid one.
"""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

from .. import errors as e
from ..model import naming
from ..model.naming import BackupName
from ..stores.store import Store
from . import manifests


def valid(store: Store, name: BackupName, names: Iterable[str]) -> BackupName:
    """Return the name of a backup with the form of its file, given the names in the store.

    Only if no file or several files exist, the manifest is read.
    """
    found = by_backup(names).get(name, [])
    if len(found) == 1:
        return found[0]
    with suppress(e.StoreError, e.VerificationFailed):
        recorded = manifests.read(store, name.manifest).name
        if recorded == name:
            return recorded
    return found[-1] if found else name


def by_backup(names: Iterable[str]) -> dict[BackupName, list[BackupName]]:
    """Return the backup files among these names by backup, those that are encrypted again last."""
    found: dict[BackupName, list[BackupName]] = defaultdict(list)
    for file in names:
        if naming.is_artifact(file) and (name := naming.parse(file)) is not None:
            found[name].append(name)
    for variants in found.values():
        variants.sort(key=lambda name: (name.generation, name.form))
    return found
