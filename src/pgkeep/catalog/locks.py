"""Lock files of a store, and who holds each."""

import contextlib
from collections.abc import Iterator

from .. import errors as e
from ..model import naming
from ..stores.store import Store, locked

GLANCE = 0.5  # seconds for which others hold the lock of a backup only to see whether one runs
LOCK_SECONDS = 30.0  # within which a manifest must have been changed
_MANIFESTS = ".~manifests.lock"  # no encoded name of a database has a tilde


def backup_lock(database: str) -> str:
    """Return the lock that a backup of a database holds until its copy is uploaded too."""
    return f".{naming.encode_database(database)}.lock"


def copies_lock(database: str) -> str:
    """Return the lock that uploads of pending copies hold: no unfinished upload is swept then."""
    return f".{naming.encode_database(database)}~copies.lock"


@contextlib.contextmanager
def manifests_locked(store: Store) -> Iterator[None]:
    """Hold the lock under which manifests are changed and removed.

    Without it, two changes could overwrite each other, or a removed manifest could reappear.

    Raises:
        StoreError: somebody else holds it for too long.

    """
    with locked(store, _MANIFESTS, LOCK_SECONDS) as alone:
        if not alone:
            raise e.StoreError(f"{store.url_of(_MANIFESTS)} is locked for over {LOCK_SECONDS:g} s")
        yield
