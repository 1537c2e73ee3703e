"""Read and change manifests in a store."""

from collections.abc import Callable
from contextlib import closing

from ..model.manifest import Manifest, check_size, decode, encode
from ..stores.store import Store, read_all, write_file
from .locks import manifests_locked


def read(store: Store, file: str) -> Manifest:
    """Read a manifest.

    Raises:
        VerificationFailed: it is damaged, or not a manifest.
        StoreError: the file cannot be read.

    """
    with closing(store.open(file)) as source:
        check_size(source.size, file)
        return decode(read_all(source), file)


def change(
    store: Store, manifest: Manifest, changed: Callable[[Manifest], Manifest]
) -> Manifest | None:
    """Change the stored manifest; return it, or None if it was removed meanwhile.

    Raises:
        StoreError, VerificationFailed: the manifest is unchanged.

    """
    file = manifest.name.manifest
    with manifests_locked(store):
        if not store.exists(file):
            return None
        new = changed(read(store, file))
        write_file(store, file, encode(new), owner=new.server.system_identifier)
        return new
