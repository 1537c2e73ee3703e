"""The lock files of a store, and their holders."""

import contextlib
from collections.abc import Iterator

from .. import errors as e
from ..model import naming
from ..stores.store import Store, locked

GLANCE = 0.5  # seconds for which others hold a backup's lock only to see whether a backup runs
LOCK_SECONDS = 30.0  # maximum time to wait for the lock on manifests
_MANIFESTS = ".~manifests.lock"  # encoded names of databases contain no tilde


def backup_lock(database: str) -> str:
    """Return the lock that a backup of a database holds until its copy is uploaded."""
    return f".{naming.encode_database(database)}.lock"


def copies_lock(database: str) -> str:
    """Return the lock that prevents the removal of unfinished uploads of pending copies."""
    return f".{naming.encode_database(database)}~copies.lock"


@contextlib.contextmanager
def manifests_locked(store: Store) -> Iterator[None]:
    """Hold the lock for changing and removing manifests.

    Without it, two changes could overwrite each other, or a removed manifest could reappear.

    Raises:
        StoreError: another process holds it for too long.

    """
    with locked(store, _MANIFESTS, LOCK_SECONDS) as alone:
        if not alone:
            raise e.StoreError(f"{store.url_of(_MANIFESTS)} is locked for over {LOCK_SECONDS:g} s")
        yield
