"""Read a time that a person has written: with an offset or zone, or relative to now."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_AGO = re.compile(r"(\d+)\s*(second|minute|hour|day|week)s?\s+ago")
EXPECTED = "a time with an offset such as 2026-11-22 14:07:12+01:00, or '5 minutes ago'"


def past(text: str, now: datetime) -> datetime:
    """Return a time in the past.

    Raises:
        ValueError: it has no offset, is no time, is ambiguous, or is in the future.

    """
    found = parse(text, now)
    if found > now:
        raise ValueError(f"found {text.strip()!r}, which is in the future: now is {now:%F %T} UTC")
    return found


def parse(text: str, now: datetime) -> datetime:
    """Return a time with its offset.

    Raises:
        ValueError: it has none, is no time, or happened twice or never in its zone.

    """
    text = text.strip()
    ago = _AGO.fullmatch(text.lower())
    try:
        if ago is not None:
            return now - timedelta(**{f"{ago[2]}s": int(ago[1])})
        moment, _, zone = text.rpartition(" ")
        if "/" in zone or zone == "UTC":
            found = datetime.fromisoformat(moment)
            if found.tzinfo is None:
                return _in_zone(found, ZoneInfo(zone), text)
        found = datetime.fromisoformat(text)
    except (OverflowError, ZoneInfoNotFoundError):
        raise ValueError(f"found {text!r}, expected {EXPECTED}") from None
    except ValueError as error:
        if isinstance(error, Ambiguous):
            raise
        raise ValueError(f"found {text!r}, expected {EXPECTED}") from None
    if found.tzinfo is None:
        raise ValueError(f"found {text!r}, which has no offset, expected {EXPECTED}")
    return found


class Ambiguous(ValueError):
    """A time of the hour in which the clocks change."""


def _in_zone(local: datetime, zone: ZoneInfo, text: str) -> datetime:
    """Return a time of a zone, unless the clocks changed at that time."""
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    if first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local:
        raise Ambiguous(f"found {text!r}, which the clocks in {zone.key} skipped")
    raise Ambiguous(
        f"found {text!r}, which happened twice in {zone.key}: as {first.isoformat(' ')}"
        f" and as {second.isoformat(' ')}"
    )
