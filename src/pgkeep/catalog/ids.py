"""Find a backup by its id, or by the beginning of it, in the lists of names of several stores."""

from collections.abc import Sequence

from .. import errors as e
from ..model import naming
from ..model.naming import BackupName
from ..stores.store import Store
from . import variants


def find(stores: Sequence[Store], text: str) -> tuple[Store, BackupName] | None:
    """Return the backup whose id begins with a text, and the first store that has its file.

    Each store is listed, and nothing is read. If the id is complete, the stores after the one that
    has the file are not asked. A shorter one could also be that of a backup in another store.

    Raises:
        UsageError: several backups have such an id.
        StoreError: a store that could have such a backup cannot be read.

    """
    whole = naming.is_whole_id(text)
    found: dict[BackupName, Store] = {}
    with_file: dict[BackupName, Store] = {}
    failed: list[e.StoreError] = []
    for store in stores:
        try:
            listed = _matching(store, text)
        except e.StoreError as error:
            failed.append(error)
            continue
        for name, has_file in listed.items():
            found.setdefault(name, store)
            if has_file:
                with_file.setdefault(name, store)
        if whole and with_file:
            break
    if len(found) > 1:
        raise e.UsageError(
            f"{len(found)} backups have an id that begins with {text}",
            hint="Write more digits of the id, or the name of the backup.",
            details=sorted(f"{name.id} {name.stem}" for name in found),
        )
    if failed and not (whole and with_file):
        raise failed[0]
    return next(((with_file.get(name, store), name) for name, store in found.items()), None)


def _matching(store: Store, text: str) -> dict[BackupName, bool]:
    """Return the backups whose ids begin with a text, each with whether its file is listed."""
    files = {item.name for item in store.items()}
    parsed = {name for name in map(naming.parse, files) if name is not None}
    matching = {name for name in parsed if name.id.startswith(text)}
    chosen = [variants.valid(store, name, _of(name, files)) for name in matching]
    return {
        name: name.artifact in files
        for name in chosen
        if not files.isdisjoint((name.artifact, name.manifest))
    }


def _of(name: BackupName, files: set[str]) -> list[str]:
    return [file for file in files if file.startswith(name.stem)]
