"""What file names of other tools say of a dump."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pgkeep.foreign.names import Guess, guess
from pgkeep.model.naming import BackupType

ZONE = timezone(timedelta(hours=2))


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=ZONE)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("file", "folder", "expected"),
    [
        # cookiecutter-django
        ("backup_2024_05_06T07_08_09.sql.gz", "backups", Guess(time=at(2024, 5, 6, 7, 8, 9))),
        # docker-postgres-backup-local
        (
            "app-20240506-070809.sql.gz",
            "last",
            Guess("app", BackupType.MANUAL, at(2024, 5, 6, 7, 8, 9)),
        ),
        (
            "app-20240506.sql.gz",
            "daily",
            Guess("app", BackupType.DAILY, at(2024, 5, 6), at(2024, 5, 7)),
        ),
        (
            "app-202401.sql.gz",
            "weekly",
            Guess("app", BackupType.WEEKLY, at(2024, 1, 1), at(2024, 1, 8)),
        ),
        (
            "app-202412.sql.gz",
            "monthly",
            Guess("app", BackupType.MONTHLY, at(2024, 12, 1), at(2025, 1, 1)),
        ),
        (
            "my-app-2-20240506.sql.gz",
            "daily",
            Guess("my-app-2", BackupType.DAILY, at(2024, 5, 6), at(2024, 5, 7)),
        ),
        # pgkeep
        (
            "app_daily_20240506T070809Z.sql.gz",
            "x",
            Guess("app", BackupType.DAILY, datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)),
        ),
        # by hand
        ("dump-2024-05-06.sql", "x", Guess(time=at(2024, 5, 6), end=at(2024, 5, 7))),
        ("dump 2024-05-06 07:08.psql", "x", Guess(time=at(2024, 5, 6, 7, 8))),
        ("2024.05.06_07h08.dump", "x", Guess(time=at(2024, 5, 6, 7, 8))),
        (
            "a_20240506T070809Z.sql.zst",
            "x",
            Guess(time=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)),
        ),
        ("20230101_20240506.sql", "x", Guess(time=at(2024, 5, 6), end=at(2024, 5, 7))),
        # no time
        ("app.sql.gz", "daily", Guess(type=BackupType.DAILY)),
        ("app-20241306.sql.gz", "x", Guess()),
        ("app-202460.sql.gz", "weekly", Guess("app", BackupType.WEEKLY)),
        ("app-120240506.sql.gz", "x", Guess()),
        ("app-202405067.sql.gz", "x", Guess()),
    ],
)
def test_guess(file: str, folder: str, expected: Guess) -> None:
    assert guess(file, folder, ZONE) == expected
