"""Read and change manifests in a store."""

from collections.abc import Callable

from ..model.manifest import LARGEST, Manifest, check_size, decode, encode
from ..stores.store import Store, load_opened, write_file
from .locks import manifests_locked

Change = Callable[[Manifest], Manifest]


def read(store: Store, file: str) -> Manifest:
    """Read a manifest.

    Raises:
        VerificationFailed: it is damaged, or not a manifest.
        StoreError: the file cannot be read.

    """
    loaded = load_opened(store.open(file), LARGEST)
    return parse(loaded.data, loaded.size, file)


def parse(data: bytes, size: int, file: str) -> Manifest:
    """Read a manifest from its bytes, which are missing if its length is above the limit.

    Raises:
        VerificationFailed: it is damaged, or not a manifest.

    """
    check_size(size, file)
    return decode(data, file)


def change(store: Store, manifest: Manifest, changed: Change) -> Manifest | None:
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
