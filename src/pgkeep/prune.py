"""Remove what retention lets go: the manifest first, so that half a removal is no backup."""

from collections.abc import Sequence

from . import errors as e
from . import naming
from .catalog import Catalog
from .retention import Decision


def prune(catalog: Catalog, decisions: Sequence[Decision]) -> list[Decision]:
    """Remove the backups that are not to be kept; return what was removed.

    Only the files of a decided backup are touched, found by their exact names. The manifest goes
    first: interrupted at any point, what is left is no backup that could be taken for a whole one.

    Raises:
        RetentionFailed: a file could not be removed.

    """
    removed = []
    for decision in decisions:
        if decision.keep:
            continue
        name = decision.manifest.name
        try:
            for file in reversed(name.files):
                catalog.store.delete(file)
        except e.StoreError as error:
            raise e.RetentionFailed(
                f"could not remove {name.stem}: {error.message}", hint=error.hint
            ) from error
        removed.append(decision)
    return removed


def left_overs(catalog: Catalog) -> list[str]:
    """Return names of ours that belong to no manifest: what an interrupted removal left."""
    items = {item.name for item in catalog.store.items()}
    found = []
    for name in sorted(items):
        parsed = naming.parse(name)
        if parsed is not None and parsed.manifest not in items:
            found.append(name)
    return found
