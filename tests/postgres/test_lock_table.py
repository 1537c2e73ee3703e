"""How much of the server's lock table a backup takes (A5.20)."""

import pytest

from pgkeep.postgres.lock_table import REFUSE, WARN, LockTable, needed_of

DEFAULT = LockTable(per_process=64, processes=122, used=0)  # of PostgreSQL 15: 7808 locks


@pytest.mark.parametrize(
    ("used", "tables", "others", "workers", "needed", "allowed", "suggested"),
    [
        (0, 0, 0, 4, 240, 4, 64),
        (0, 300, 300, 4, 840, 4, 64),
        (0, 3000, 800, 4, 4040, 4, 128),  # above a half
        (2000, 3000, 800, 4, 4040, 4, 128),
        (2000, 3000, 1010, 4, 4230, 3, 128),  # three workers fit
        (2000, 3000, 1100, 4, 4280, 1, 128),  # refused
        (0, 20_000, 0, 4, 20_180, 1, 384),
        (6000, 300, 300, 1, 780, 1, 128),  # others use the table
    ],
)
def test_forecast(
    used: int, tables: int, others: int, workers: int, needed: int, allowed: int, suggested: int
) -> None:
    table = LockTable(per_process=64, processes=122, used=used)
    found = needed_of(table, tables, others, workers)
    assert (found.needed, found.workers, found.suggested) == (needed, allowed, suggested)
    assert (used + needed) / (suggested * 122) <= WARN


def test_limits() -> None:
    """Half of the table warns; with four fifths there is room for what others take later."""
    assert needed_of(DEFAULT, 3000, 730, 1).share > WARN > needed_of(DEFAULT, 3000, 720, 1).share
    assert needed_of(DEFAULT, 6000, 80, 1).share > REFUSE > needed_of(DEFAULT, 6000, 60, 1).share
