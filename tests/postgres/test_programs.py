"""Which installation of the client programs is used with a server."""

from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.postgres.programs import Installation, choose


def installed(*versions: tuple[int, int]) -> list[Installation]:
    return [Installation(version, Path(f"/{number}")) for number, version in enumerate(versions)]


@pytest.mark.parametrize(
    ("versions", "server", "chosen"),
    [
        ([(17, 2)], 17, "/0"),
        ([(18, 0), (17, 2), (16, 9)], 17, "/1"),  # the same major
        ([(18, 1), (17, 2)], 16, "/1"),  # else the lowest that is newer: A1.2
        ([(17, 2), (17, 9), (17, 4)], 17, "/1"),  # the newest minor
        ([(17, 2), (17, 2)], 17, "/0"),  # the first on PATH of equals
        ([(12, 22), (18, 0)], 17, "/1"),
    ],
)
def test_choice(versions: list[tuple[int, int]], server: int, chosen: str) -> None:
    assert choose(server, installed(*versions)).bin == Path(chosen)


@pytest.mark.parametrize(
    ("versions", "found"), [([], "none"), ([(16, 9), (15, 1)], r"15\.1 \(/1\), 16\.9 \(/0\)")]
)
def test_none_is_new_enough(versions: list[tuple[int, int]], found: str) -> None:
    """A1.1: pg_dump refuses servers that are newer than itself."""
    with pytest.raises(e.UsageError, match=found) as caught:
        choose(17, installed(*versions))
    assert "PostgreSQL 17" in str(caught.value)
