"""Read a time that a person has written: with an offset or zone, or relative to now."""

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_AGO = re.compile(r"(\d+)\s*(second|minute|hour|day)s?\s+ago")
EXPECTED = "a time with an offset such as 2026-11-22 14:07:12+01:00, or '5 minutes ago'"


def parse(text: str, now: datetime) -> datetime:
    """Return a time with its offset.

    Raises:
        ValueError: it has none, or is no time.

    """
    text = text.strip()
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - timedelta(**{f"{ago[2]}s": int(ago[1])})
    moment, _, zone = text.rpartition(" ")
    try:
        if "/" in zone or zone == "UTC":
            found = datetime.fromisoformat(moment)
            if found.tzinfo is None:
                return found.replace(tzinfo=ZoneInfo(zone))
        found = datetime.fromisoformat(text)
    except (ValueError, ZoneInfoNotFoundError):
        raise ValueError(f"found {text!r}, expected {EXPECTED}") from None
    if found.tzinfo is None:
        raise ValueError(f"found {text!r}, which has no offset, expected {EXPECTED}")
    return found
