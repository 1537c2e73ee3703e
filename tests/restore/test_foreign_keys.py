"""The order in which rows can go into tables that have their foreign keys already."""

import pytest

from pgkeep.restore.target.foreign_keys import ForeignKey, order, unsatisfied


def keys(*pairs: tuple[int, int]) -> list[ForeignKey]:
    return [ForeignKey(table, referenced, "defer", "reset") for table, referenced in pairs]


@pytest.mark.parametrize(
    ("tables", "pairs", "expected"),
    [
        ([], [], []),
        ([1, 2, 3], [], [1, 2, 3]),  # the dump's own order
        ([1, 2], [(1, 2)], [2, 1]),
        ([1, 2, 3], [(1, 2), (2, 3)], [3, 2, 1]),
        ([1, 2, 3, 4], [(1, 3), (1, 2), (3, 4), (2, 4)], [4, 2, 3, 1]),  # a diamond
        ([1], [(1, 2)], [2, 1]),  # a table without rows has a place too
        ([1, 1, 2], [(1, 2)], [2, 1]),  # a table that comes in parts
        ([1], [(1, 1)], [1]),
    ],
)
def test_order(tables: list[int], pairs: list[tuple[int, int]], expected: list[int]) -> None:
    places = order(tables, keys(*pairs))
    assert sorted(places, key=places.__getitem__) == expected
    assert unsatisfied(keys(*pairs), places, {}) == []


def test_every_table_of_a_circle_has_one_place() -> None:
    circle = keys((1, 2), (2, 3), (3, 1), (4, 1))
    places = order([1, 2, 3, 4], circle)
    assert sorted(places.values()) == [0, 1, 2, 3]
    assert places[4] > places[1]
    assert unsatisfied(circle, places, {}) == [circle[2]]


@pytest.mark.parametrize(
    ("pairs", "parts", "expected"),
    [
        ([(1, 1)], {1: 1}, []),  # one COPY is one statement, whose keys are checked at its end
        ([(1, 1)], {1: 2}, [(1, 1)]),
        ([(9, 1)], {1: 2}, []),  # the table has no rows here
    ],
)
def test_keys_that_no_order_satisfies(
    pairs: list[tuple[int, int]], parts: dict[int, int], expected: list[tuple[int, int]]
) -> None:
    found = unsatisfied(keys(*pairs), order([1], keys(*pairs[:0])), parts)
    assert [(key.table, key.referenced) for key in found] == expected
