"""Timers that a change of the clock makes miss a night."""

from datetime import date, time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from pgkeep.doctor import schedules
from pgkeep.model.wall_clock import first_bad_day

TODAY = date(2026, 11, 26)
UNITS = Path("etc/systemd/system")


@pytest.mark.parametrize(
    ("zone", "at", "day"),
    [
        ("UTC", time(2, 30), None),
        ("Europe/Berlin", time(1, 59), None),
        ("Europe/Berlin", time(2), date(2027, 3, 28)),
        ("Europe/Berlin", time(2, 30), date(2027, 3, 28)),
        ("Europe/Berlin", time(3), None),
        ("America/New_York", time(1, 30), date(2027, 11, 7)),  # twice
        ("America/New_York", time(2, 30), date(2027, 3, 14)),
        ("Europe/Lisbon", time(1, 30), date(2027, 3, 28)),
        ("Asia/Kolkata", time(2, 30), None),
    ],
)
def test_times_that_are_skipped_or_repeated(zone: str, at: time, day: date | None) -> None:
    assert first_bad_day(at, ZoneInfo(zone), TODAY) == day


def test_timers_of_backups(tmp_path: Path) -> None:
    """Only of services that run pgkeep; with the zone of the event, else that of the system."""
    (tmp_path / UNITS).mkdir(parents=True)
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")

    def timer(name: str, *events: str, command: str = "/usr/bin/pgkeep backup") -> None:
        path = tmp_path / UNITS / f"{name}.timer"
        path.write_text("[Timer]\n" + "".join(f"OnCalendar={event}\n" for event in events))
        path.with_suffix(".service").write_text(f"[Service]\nExecStart={command}\n")

    timer("utc", "*-*-* 02:30:00 UTC")
    timer("late", "*-*-* 04:30:00", "daily", "*-*-* 02:30:00 No/Where", "99:99")
    timer("other", "*-*-* 02:30:00", command="/usr/bin/true")
    assert schedules.examine(tmp_path, TODAY) == []
    timer("bad", "Mon..Fri *-*-* 02:30")
    timer("abroad", "04:30", "*-*-* 02:15:00 America/New_York", command="/srv/db-backup.sh")
    abroad, bad = schedules.examine(tmp_path, TODAY)
    assert abroad.message == (
        "abroad.timer runs at 02:15 in America/New_York: this time does not exist, or exists"
        " twice, on 2027-03-14"
    )
    assert "bad.timer runs at 02:30 in Europe/Berlin" in bad.message
    assert bad.remedy is not None
    assert "OnCalendar=*-*-* 02:30:00 UTC" in bad.remedy
    (tmp_path / "etc/localtime").unlink()
    assert [finding.message[:6] for finding in schedules.examine(tmp_path, TODAY)] == ["abroad"]
