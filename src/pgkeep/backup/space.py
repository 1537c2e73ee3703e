"""Check whether a store has space for another backup."""

import contextlib
from collections.abc import Sequence

from ..model.manifest import Manifest
from ..stores import spool
from ..stores.local import LocalStore
from ..stores.store import Store


def warnings(store: Store, last: Sequence[Manifest]) -> list[str]:
    """Warn if the newest backup of each database would not fit into the directory again.

    The size of the next backup is not known in advance, so this does not stop a backup.
    """
    needed = sum(manifest.artifact.size for manifest in last)
    if not isinstance(store, LocalStore):
        return _spool_warnings(store, needed)
    with contextlib.suppress(OSError):
        free = store.free()
        if free < needed:
            of = f"database {last[0].database.name}" if len(last) == 1 else f"{len(last)} databases"
            warning = (
                f"{store.url} has {free / 1e9:.1f} GB free, the last backup of {of} needed"
                f" {needed / 1e9:.1f} GB"
            )
            return [warning]
    return []


def _spool_warnings(store: Store, needed: int) -> list[str]:
    """Warn if a backup cannot be kept on disk until a slow store has received it."""
    free = spool.room()
    if not store.remote or (free >= spool.SEGMENT and free >= needed):
        return []
    last = f", the last backup needed {needed / 1e9:.1f} GB" if needed else ""
    warning = (
        f"TMPDIR has room for {free / 1e9:.1f} GB{last}: if the upload to {store.url} is slower"
        " than the dump, the dump waits for it and holds its snapshot"
    )
    return [warning]
