"""Timers of systemd that run backups at a time which daylight saving time skips.

systemd starts nothing in a night without this time, and the next backup is a day late. Debian's
cron runs such a job after the gap. Other schedulers are not read here.
"""

import re
from collections.abc import Iterator
from datetime import date, time
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..backup.findings import Finding
from ..model import wall_clock

FOLDERS = ("etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")
_OURS = re.compile(r"pgkeep|db-backup")
# The last words of a calendar event: a time, and a zone if one is given; systemd.time(7).
_TIME = re.compile(r"(?:^|\s)(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::\d{2})?(?:\s+(?P<zone>\S+))?$")


def examine(root: Path, today: date) -> list[Finding]:
    """Return a warning for each timer below a root directory whose time is skipped some day."""
    local = _local_zone(root)
    return [
        finding
        for folder in FOLDERS
        for path in sorted((root / folder).glob("*.timer"))
        if _OURS.search(_text(path.with_suffix(".service")))
        for event in _events(path)
        for finding in _judged(path, event, local, today)
    ]


def _judged(path: Path, event: str, local: str | None, today: date) -> Iterator[Finding]:
    found = _TIME.search(event)
    name = found and (found["zone"] or local)
    if found is None or not name:
        return
    try:
        zone = ZoneInfo(name)
        at = time(int(found["hour"]), int(found["minute"]))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return
    day = wall_clock.first_bad_day(at, zone, today)
    if day is not None:
        yield Finding(
            "warning",
            f"{path.name} runs at {at:%H:%M} in {name}: this time does not exist, or exists twice,"
            f" on {day}",
            f"Set the time in UTC, such as OnCalendar=*-*-* {at:%H:%M}:00 UTC, or use 04:30.",
        )


def _events(path: Path) -> list[str]:
    """Return the calendar events of a timer; the setting can be repeated."""
    return [
        line.partition("=")[2].strip()
        for line in _text(path).splitlines()
        if line.strip().startswith("OnCalendar=")
    ]


def _local_zone(root: Path) -> str | None:
    """Return the name of the system's time zone, to which /etc/localtime is a link."""
    try:
        target = str((root / "etc/localtime").readlink())
    except OSError:
        return None
    return target.partition("zoneinfo/")[2] or None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
