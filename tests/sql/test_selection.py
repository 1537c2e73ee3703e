"""Patterns of tables, as for pg_dump's --table."""

import pytest

from pgkeep import errors as e
from pgkeep.sql.selection import names, pattern


@pytest.mark.parametrize(
    ("text", "schema", "name", "matches"),
    [
        ("orders", "app", "orders", True),
        ("orders", "other", "orders", True),
        ("orders", "app", "orders_old", False),
        ("Orders", "app", "orders", True),  # letters are folded
        ('"Orders"', "app", "orders", False),
        ('"Orders"', "app", "Orders", True),
        ("app.orders", "app", "orders", True),
        ("app.orders", "other", "orders", False),
        ("app.*", "app", "anything", True),
        ("a?p.o*s", "app", "orders", True),
        ("a?p.o*s", "ap", "orders", False),
        ('"a*"', "app", "a*", True),  # in double quotes they stand for themselves
        ('"a*"', "app", "ab", False),
        ('"a.b"', "app", "a.b", True),
        ('"a.b".c', "a.b", "c", True),
        ('"a""b"', "app", 'a"b', True),
        ('o"R"s', "app", "oRs", True),
        ("a+b", "app", "a+b", True),
        ("a+b", "app", "aab", False),
        ("*", "app", "two\nlines", True),
        ("?", "app", "\n", True),
    ],
)
def test_pattern(text: str, schema: str, name: str, matches: bool) -> None:
    assert pattern(text).matches(schema, name) is matches


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", ["orders"]),
        ("App.Orders", ["app", "orders"]),
        ('"App"."Or.ders"', ["App", "Or.ders"]),
        ('"a""b"', ['a"b']),
        ("a*", ["a*"]),
    ],
)
def test_names(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a.b.c", '"a', 'a"b'])
def test_mistakes(text: str) -> None:
    for read in (names, pattern):
        with pytest.raises(e.UsageError):
            read(text)
