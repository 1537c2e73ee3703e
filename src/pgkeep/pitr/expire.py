"""Remove what retention does not keep: dependents before their parents, WAL last."""

import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from .. import errors as e
from ..crypt.options import Encryption
from ..model import wal
from ..model.wal import PARTIAL
from . import retention
from .location import Location


class Expired(NamedTuple):
    """What was removed from one location."""

    bases: list[str]
    segments: int
    retained: list[str]  # messages: what the store does not allow to remove yet


def plan(
    location: Location, encryption: Encryption, window: timedelta, now: datetime
) -> retention.Expiry:
    """Return what can be removed from a location.

    Raises:
        RetentionFailed: a base backup cannot be read, or is from the future.

    """
    catalog = location.bases()
    bases = catalog.read()
    if catalog.unreadable:
        raise e.RetentionFailed(
            f"nothing is removed, because a base backup cannot be read: {catalog.unreadable[0]}",
            hint="Repair or remove its files by hand.",
        )
    future = [name for name, base in bases.items() if base.started > now + timedelta(hours=1)]
    if future:
        raise e.RetentionFailed(f"base backup {future[0]} is from the future: is the clock right?")
    archive = location.archive(encryption)
    return retention.decide(bases, archive.segments(), window, now)


def execute(location: Location, encryption: Encryption, expiry: retention.Expiry) -> Expired:
    """Remove what was decided. After an interruption, the rest is removed by the next run.

    Raises:
        StoreError: a file could not be removed.

    """
    done = Expired([], 0, [])
    for decision in expiry.bases:
        if not decision.keep and _remove(location, decision.base.files, done):
            done.bases.append(decision.base.name)
    archive = location.archive(encryption)
    size = archive.origin.segment_size
    count = 0
    for name, found in archive.files().items():
        segment = wal.parse_segment(name.removesuffix(PARTIAL), size)
        if expiry.first_kept is None or segment is None or segment.number >= expiry.first_kept:
            continue
        for file in found:
            with contextlib.suppress(e.Retained):
                location.wal.delete(file.stored)
                count += 1
    return done._replace(segments=count)


def _remove(location: Location, files: Sequence[str], done: Expired) -> bool:
    """Remove the files of a base backup, the manifest first: without it, it does not exist."""
    try:
        for file in files:
            location.base.delete(file)
    except e.Retained as error:
        done.retained.append(error.message)
        return False
    return True
