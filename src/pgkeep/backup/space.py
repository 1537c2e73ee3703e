"""Forecast how much space a backup needs, and compare it with what a store has."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from .. import errors as e
from ..model.manifest import Manifest
from ..stores import spool
from ..stores.local import LocalStore
from ..stores.store import Store

RESERVE = 0.1  # of the forecast
# Of the size of the database, with its indexes, if no earlier backup shows how it compresses.
ASSUMED = 1 / 3
SURELY = 0.5  # of the lowest estimate; indexes or bloat can have grown instead of rows


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes that a backup needs."""

    likely: float
    least: float  # less is not possible without a great change of the database
    basis: str


def forecast(last: Manifest | None, size: int) -> Forecast:
    """Forecast from the last backup of a database, and its size on the server's disk now."""
    if last is None:
        return Forecast(size * ASSUMED, 0.0, "this is the first backup of the database")
    growth = size / last.database_size if last.database_size else 1.0
    needed = last.artifact.size * growth
    least = min(needed, last.artifact.size, size) * SURELY
    name = last.database.name
    basis = f"the last backup of database {name} needed {_gigabytes(last.artifact.size)}"
    return Forecast(needed, least, basis)


def check(store: Store, earlier: Sequence[Manifest], size: int, *, schema_only: bool) -> list[str]:
    """Return a warning if a backup might not fit.

    Raises:
        StoreError: it does not fit.

    """
    if schema_only:
        return []
    last = next((backup for backup in reversed(earlier) if backup.full), None)
    found = forecast(last, size)
    if not isinstance(store, LocalStore):
        return _spool_warnings(store, found)
    free = None
    with contextlib.suppress(OSError):
        free = store.free()
    if free is None or free >= found.likely * (1 + RESERVE):
        return []
    if free < found.least:
        raise e.StoreError(
            f"{store.url} has {_gigabytes(free)} free, the backup needs about"
            f" {_gigabytes(found.likely)}: {found.basis}",
            hint="Free disk space, for example with pgkeep prune, or set BACKUP_DIR to another"
            " directory.",
        )
    warning = (
        f"{store.url} has {_gigabytes(free)} free, {found.basis}, and this one needs about"
        f" {_gigabytes(found.likely)}"
    )
    return [warning]


def warnings(store: Store, last: Sequence[Manifest]) -> list[str]:
    """Warn if the newest backup of each database would not fit into the directory again."""
    needed = sum(manifest.artifact.size for manifest in last)
    if not isinstance(store, LocalStore):
        return []
    with contextlib.suppress(OSError):
        free = store.free()
        if free < needed:
            of = f"database {last[0].database.name}" if len(last) == 1 else f"{len(last)} databases"
            warning = (
                f"{store.url} has {_gigabytes(free)} free, the last backup of {of} needed"
                f" {_gigabytes(needed)}"
            )
            return [warning]
    return []


def _spool_warnings(store: Store, found: Forecast) -> list[str]:
    """Warn if a backup cannot be kept on disk until a slow store has received it."""
    free = spool.room()
    if not store.remote or (free >= spool.SEGMENT and free >= found.likely):
        return []
    warning = (
        f"TMPDIR has room for {_gigabytes(free)}, the backup needs about"
        f" {_gigabytes(found.likely)}: if the upload to {store.url} is slower than the dump, the"
        " dump waits for it and holds its snapshot"
    )
    return [warning]


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
