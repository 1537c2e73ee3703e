"""Times of day that a change of the clock skips or repeats."""

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo


def first_bad_day(at: time, zone: ZoneInfo, start: date, days: int = 731) -> date | None:
    """Return the first day on which a time of day does not exist, or exists twice, in a zone.

    In both cases the offset depends on which side of the change is meant (PEP 495).
    """
    for number in range(days):
        day = start + timedelta(days=number)
        moment = datetime.combine(day, at, zone)
        if moment.replace(fold=0).utcoffset() != moment.replace(fold=1).utcoffset():
            return day
    return None
