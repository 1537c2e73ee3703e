"""Remove expired backups: the manifest first, so that a partial removal leaves no backup."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from .. import errors as e
from .. import interrupts
from ..model import naming
from ..model.manifest import Hold
from ..model.naming import BackupName
from ..model.retention import Decision, held_reason
from ..stores.store import Store
from . import manifests
from .catalog import Catalog
from .locks import manifests_locked


class Pruned(NamedTuple):
    """The result of removing expired backups."""

    removed: list[Decision]
    retained: list[str]  # messages: which backups the store retains, and until when


def prune(catalog: Catalog, decisions: Sequence[Decision]) -> Pruned:
    """Remove the backups that retention does not keep; return what was removed.

    Only the files of a decided backup are removed, by their exact names. The manifest is removed
    first: after an interruption, the remaining files cannot be taken for a backup.

    Raises:
        AccessDenied: the identity is not allowed to remove files.
        RetentionFailed: a file could not be removed.

    """
    pruned = Pruned([], [])
    for decision in decisions:
        if decision.keep:
            continue
        name = decision.manifest.name
        try:
            # A bucket may not respond, so signals are not held. A partial removal is harmless.
            held = contextlib.nullcontext() if catalog.store.remote else interrupts.held()
            with manifests_locked(catalog.store), held:
                if (hold := _hold(catalog.store, name)) is not None:
                    pruned.retained.append(f"{name.stem} is {held_reason(hold)}")
                    continue
                for file in _files(catalog, name):
                    catalog.store.delete(file)
        except e.Retained as error:
            pruned.retained.append(error.message)
        except e.AccessDenied:
            raise
        except (e.StoreError, e.VerificationFailed) as error:
            raise e.RetentionFailed(
                f"could not remove {name.stem}: {error.message}", hint=error.hint
            ) from error
        else:
            pruned.removed.append(decision)
    return pruned


def _files(catalog: Catalog, name: BackupName) -> list[str]:
    """Return the files of a backup, the manifest first, the rest of an interrupted rekey last."""
    left = sorted(file for file in catalog.files if naming.parse(file) == name)
    return [*reversed(name.files), *(file for file in left if file not in name.files)]


def _hold(store: Store, name: BackupName) -> Hold | None:
    """Return the hold that a backup has now: it can have been held since the decision."""
    try:
        return manifests.read(store, name.manifest).hold
    except e.Missing:
        return None  # another run has removed it
