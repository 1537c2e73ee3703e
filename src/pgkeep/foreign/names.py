"""Read database, tier and time from the file names of other tools.

cookiecutter-django writes backup_2024_05_06T07_08_09.sql.gz; docker-postgres-backup-local writes
app-20240506-070809 into the folder last, app-20240506 into daily, app-202419 (year and ISO week)
into weekly, app-202405 into monthly.
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from ..model import naming
from ..model.naming import BackupType

_SUFFIXES = re.compile(r"(?:\.(?:sql|dump|psql|gz|zst|age|gpg|pgp))+\Z")
_TIERS = {
    "last": BackupType.MANUAL,
    "daily": BackupType.DAILY,
    "weekly": BackupType.WEEKLY,
    "monthly": BackupType.MONTHLY,
}
_MOMENT = re.compile(
    r"(?<!\d)(?P<year>20\d\d)(?P<sep>[-_.]?)(?P<month>\d\d)(?P=sep)(?P<day>\d\d)"
    r"(?:[T_ -]*(?P<hour>\d\d)(?P<colon>[-_:.h]?)(?P<minute>\d\d)(?:(?P=colon)(?P<second>\d\d))?)?"
    r"(?P<zulu>Z)?(?!\d)"
)
_PERIOD = re.compile(r"(?<!\d)(?P<year>20\d\d)(?P<number>\d\d)\Z")
_DATABASE = {
    BackupType.MANUAL: re.compile(r"(?P<database>.+)-\d{8}-\d{6}"),
    BackupType.DAILY: re.compile(r"(?P<database>.+)-\d{8}"),
    BackupType.WEEKLY: re.compile(r"(?P<database>.+)-\d{6}"),
    BackupType.MONTHLY: re.compile(r"(?P<database>.+)-\d{6}"),
}


class Guess(NamedTuple):
    """What a name contains; from the beginning of a period to its end where it is not exact."""

    database: str | None = None
    type: BackupType | None = None
    time: datetime | None = None
    end: datetime | None = None


def guess(file_name: str, folder: str, zone: tzinfo) -> Guess:
    """Read a name; times without a zone are in the one that is given."""
    stem = _SUFFIXES.sub("", file_name)
    ours = naming.parse(f"{stem}{naming.ARTIFACT}")
    if ours is not None:
        return Guess(ours.database, ours.type, ours.taken)
    tier = _TIERS.get(folder)
    prefix = _DATABASE[tier].fullmatch(stem) if tier is not None else None
    time, end = _when(stem, tier, zone)
    return Guess(prefix["database"] if prefix else None, tier, time, end)


def _when(
    stem: str, tier: BackupType | None, zone: tzinfo
) -> tuple[datetime | None, datetime | None]:
    period = _PERIOD.search(stem)
    try:
        if period is not None and tier in (BackupType.WEEKLY, BackupType.MONTHLY):
            return _period(int(period["year"]), int(period["number"]), tier, zone)
        found = list(_MOMENT.finditer(stem))
        if not found:
            return None, None
        last = found[-1]
        zone = UTC if last["zulu"] else zone
        parts = [int(last[name]) for name in ("year", "month", "day")]
        if last["hour"] is None:
            day = datetime(*parts, tzinfo=zone)  # type: ignore[misc,arg-type]
            return day, day + timedelta(days=1)
        parts += [int(last[name] or 0) for name in ("hour", "minute", "second")]
        return datetime(*parts, tzinfo=zone), None  # type: ignore[misc,arg-type]
    except ValueError:  # digits that are no time
        return None, None


def _period(year: int, number: int, tier: BackupType, zone: tzinfo) -> tuple[datetime, datetime]:
    if tier == BackupType.WEEKLY:
        monday = datetime.fromisocalendar(year, number, 1).replace(tzinfo=zone)
        return monday, monday + timedelta(days=7)
    begin = datetime(year, number, 1, tzinfo=zone)
    return begin, (begin + timedelta(days=31)).replace(day=1)
