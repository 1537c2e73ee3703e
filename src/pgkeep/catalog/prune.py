"""Remove expired backups: the manifest first, so that a partial removal leaves no backup."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from .. import errors as e
from .. import interrupts
from ..model.manifest import Hold
from ..model.naming import BackupName
from ..model.retention import Decision, held_reason
from ..stores.store import Store
from . import leftovers, manifests
from .catalog import Catalog
from .locks import manifests_locked


class Pruned(NamedTuple):
    """The result of removing expired backups."""

    removed: list[Decision]
    retained: list[str]  # messages: which backups the store retains, and until when


def prune(catalog: Catalog, decisions: Sequence[Decision]) -> Pruned:
    """Remove the backups that retention does not keep; return what was removed.

    Only the files of a decided backup are removed, by their exact names. The manifest is removed
    first: after an interruption, the remaining files cannot be taken for a backup. Of a backup that
    is kept, files are removed that `pgkeep rekey` has replaced and could not remove.

    Raises:
        AccessDenied: the identity is not allowed to remove files.
        RetentionFailed: a file could not be removed.

    """
    pruned = Pruned([], [])
    files = leftovers.by_backup(catalog.files)
    for decision in decisions:
        name = decision.manifest.name
        listed = files.get(name, [])
        try:
            if decision.keep:
                found = leftovers.replaced(decision.manifest, listed)
                done = leftovers.remove(catalog.store, decision.manifest, found)
                pruned.retained.extend(done.retained)
            elif (hold := _remove(catalog.store, name, listed)) is not None:
                pruned.retained.append(f"{name.stem} is {held_reason(hold)}")
            else:
                pruned.removed.append(decision)
        except e.Retained as error:
            pruned.retained.append(error.message)
        except e.AccessDenied:
            raise
        except (e.StoreError, e.VerificationFailed) as error:
            raise e.RetentionFailed(
                f"could not remove {name.stem}: {error.message}", hint=error.hint
            ) from error
    return pruned


def _remove(store: Store, name: BackupName, listed: Sequence[str]) -> Hold | None:
    """Remove a backup, unless it is held: then return the hold.

    The manifest is read again: it can have been held since the decision, or encrypted again.
    """
    # A bucket may not respond, so signals are not held. A partial removal is harmless.
    held = contextlib.nullcontext() if store.remote else interrupts.held()
    with manifests_locked(store), held:
        with contextlib.suppress(e.Missing):  # another run has removed it
            manifest = manifests.read(store, name.manifest)
            if manifest.hold is not None:
                return manifest.hold
            name = manifest.name
        files = [*reversed(name.files), *(file for file in listed if file not in name.files)]
        for file in files:
            store.delete(file)
    return None
