"""What is reported of a stanza of pgBackRest; tests/monitor/test_monitoring.py runs the program."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pgkeep.monitor.pgbackrest import Goals, _backup_problems
from tests.drill.test_pgbackrest_info import REAL, read

GOALS = Goals(max_age=3600)


def test_problems_of_the_backups_of_a_stanza() -> None:
    found = read(REAL)
    newest = found.newest()
    assert newest is not None
    now = newest.stopped + timedelta(hours=1)
    assert list(_backup_problems(found, GOALS, now)) == []
    (old,) = _backup_problems(found, GOALS, now + timedelta(minutes=5))
    assert "is 1 h 5 min old, BACKUP_MAX_AGE is 1 h" in old
    failed = replace(found, code=2, message="no valid backups")
    assert list(_backup_problems(failed, GOALS, now)) == ["pgBackRest reports: no valid backups"]
    empty = replace(found, backups=())
    assert list(_backup_problems(empty, GOALS, datetime.now(UTC))) == ["no backup"]
    damaged = replace(newest, damaged=True, archive_max=None)
    wrong, missing = _backup_problems(replace(found, backups=(damaged,)), GOALS, now)
    assert wrong.endswith("has pages with wrong checksums")
    assert "the archive has no WAL of its newest backup" in missing
