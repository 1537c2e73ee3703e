"""Hold a backup, so that retention never removes it, in every store that has it."""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from .. import errors as e
from ..model.manifest import Hold, Manifest
from ..model.naming import BackupName
from ..stores.store import Store
from . import manifests


def change(
    stores: Sequence[Store], name: BackupName, changed: Callable[[Manifest], Manifest]
) -> Iterator[Manifest]:
    """Change the manifest of a backup in each store that has it.

    Raises:
        Refused: no store has it.
        StoreError, VerificationFailed: it could not be changed everywhere.

    """
    found = False
    failures: list[e.PgkeepError] = []
    for store in stores:
        try:
            new = manifests.change(store, manifests.read(store, name.manifest), changed)
        except e.Missing:
            continue
        except (e.StoreError, e.VerificationFailed) as error:
            failures.append(error)
            continue
        if new is not None:
            found = True
            yield new
    if failures:
        raise failures[0]
    if not found:
        places = " or ".join(store.url for store in stores)
        raise e.Refused(
            f"no backup {name.stem} in {places}", hint="List existing backups with: pgkeep list."
        )


def held(hold: Hold) -> Callable[[Manifest], Manifest]:
    """Return the change that holds a backup; an earlier hold is replaced."""
    return lambda manifest: msgspec.structs.replace(manifest, hold=hold)


def released(manifest: Manifest) -> Manifest:
    """Return the manifest without a hold."""
    return msgspec.structs.replace(manifest, hold=None)
