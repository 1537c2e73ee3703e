"""How long a restore will take, from the last drill of the database."""

from collections.abc import Iterable

import msgspec

from .manifest import Manifest, Moment


class RestoreEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """The expected time of a restore, and the drill from which it is computed."""

    seconds: float
    drill: Moment
    drill_seconds: float  # until the database was restored
    drill_bytes: int  # of SQL


def estimate(backups: Iterable[Manifest], raw_bytes: int) -> RestoreEstimate | None:
    """Return the time for so many bytes of SQL, None if no drill of these backups has passed.

    Loading and building indexes take most of the time, and grow with the data. The machine of the
    drill can be faster or slower than the server.
    """
    drills = [
        (drill, backup.raw_bytes)
        for backup in backups
        for drill in backup.drills
        if drill.passed and backup.raw_bytes
    ]
    if not drills:
        return None
    last, drill_bytes = max(drills, key=lambda found: found[0].when)
    return RestoreEstimate(
        seconds=round(last.recovery_seconds * raw_bytes / drill_bytes, 1),
        drill=last.when,
        drill_seconds=round(last.recovery_seconds, 1),
        drill_bytes=drill_bytes,
    )
