"""The records of runs in a store: a small file for each, so that writers never meet."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

import msgspec

from .. import errors as e
from ..model import record
from ..model.record import Record, RecordName
from ..stores.local import LocalStore
from ..stores.store import Item, Store, write_file
from .small_files import SmallFiles

AT_ONCE = 200  # expired records that one run removes


def write(store: Store, name: RecordName, written: Record) -> None:
    """Add a record to a store. A directory that does not exist is not created for it.

    Raises:
        StoreError: the store does not accept it.

    """
    if isinstance(store, LocalStore) and not store.directory.is_dir():
        return
    write_file(store, name.file, msgspec.json.format(msgspec.json.encode(written), indent=2))


def read(store: Store, file: str, files: SmallFiles | None = None) -> Record:
    """Read a record.

    Raises:
        StoreError, VerificationFailed: it cannot be read, or is something else.

    """
    if files is not None:
        data, _ = files.read(file)
    else:
        data = store.load(Item(file, record.LARGEST), record.LARGEST).data
    return record.decode(data, file)


def remove_expired(store: Store, found: Iterable[RecordName], now: datetime) -> None:
    """Remove the records that are no longer kept, as far as the store allows it."""
    with suppress(e.StoreError):
        for name in record.expired(found, now)[:AT_ONCE]:
            store.delete(name.file)
