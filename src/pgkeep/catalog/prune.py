"""Remove what retention lets go: the manifest first, so that half a removal is no backup."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from .. import errors as e
from .. import interrupts
from ..model.retention import Decision
from .catalog import Catalog
from .locks import manifests_locked


class Pruned(NamedTuple):
    """What became of the backups that were to go."""

    removed: list[Decision]
    retained: list[str]  # in words: what a store keeps all the same, and until when


def prune(catalog: Catalog, decisions: Sequence[Decision]) -> Pruned:
    """Remove the backups that are not to be kept; return what was removed.

    Only the files of a decided backup are touched, found by their exact names. The manifest goes
    first: interrupted at any point, what is left is no backup that could be taken for a whole one.

    Raises:
        AccessDenied: the identity may not remove anything there.
        RetentionFailed: a file could not be removed.

    """
    pruned = Pruned([], [])
    for decision in decisions:
        if decision.keep:
            continue
        name = decision.manifest.name
        try:
            # A bucket may not answer: what has no manifest there is no backup, as anywhere.
            held = contextlib.nullcontext() if catalog.store.remote else interrupts.held()
            with manifests_locked(catalog.store), held:
                for file in reversed(name.files):
                    catalog.store.delete(file)
        except e.Retained as error:
            pruned.retained.append(error.message)
        except e.AccessDenied:
            raise
        except e.StoreError as error:
            raise e.RetentionFailed(
                f"could not remove {name.stem}: {error.message}", hint=error.hint
            ) from error
        else:
            pruned.removed.append(decision)
    return pruned
