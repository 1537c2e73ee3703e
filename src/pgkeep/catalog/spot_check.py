"""Notice other files under the names of backups, from a few bytes of each.

A backup file begins as its compression does, and its end marker has the hash of its index, which
the manifest repeats. An encrypted file only begins as its cipher does. They are read only from
directories: of a bucket, each would cost a request.
"""

from collections.abc import Sequence
from contextlib import closing

from .. import errors as e
from ..artifact.compression import magic
from ..artifact.file import index_hash
from ..crypt.opening import cipher_of
from ..model.manifest import Manifest
from ..stores.store import Store
from .catalog import Backup


def checked(store: Store, backups: Sequence[Backup]) -> list[Backup]:
    """Return the backups, as missing those whose files are others or cannot be read."""
    if store.remote:
        return list(backups)
    return [
        backup if backup.missing else backup._replace(missing=_is_other(store, backup.manifest))
        for backup in backups
    ]


def _is_other(store: Store, manifest: Manifest) -> bool:
    if manifest.index_sha256 is None:
        return False
    try:
        with closing(store.open(manifest.artifact.name)) as source:
            if manifest.encryption is not None:
                return cipher_of(source) != manifest.encryption.cipher
            begin = magic(manifest.name.compression)
            return (
                source.read(0, len(begin)) != begin or index_hash(source) != manifest.index_sha256
            )
    except e.Missing:
        return store.exists(manifest.name.manifest)  # else retention has removed both (trap B10)
    except (e.StoreError, e.VerificationFailed):
        return True
