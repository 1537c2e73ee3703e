"""The name of a cluster."""

import pytest

from pgkeep.model import cluster


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("7312345678901234567", "09c54b87"),
        ("1", "00000001"),
        ("18446744073709551615", "ffffffff"),
        ("0", ""),  # of a dump from another tool
        ("host-0123456789abcdef", "89abcdef"),  # a substitute: the server hides the identifier
        ("", ""),
        ("none", ""),
        ("٣", ""),  # a digit, but not of an identifier
    ],
)
def test_the_short_form_is_the_lower_half_of_the_identifier(identifier: str, expected: str) -> None:
    """F16: two hosts with the same database names must not have the same series."""
    assert cluster.short_form(identifier) == expected
    assert not expected or cluster.ALLOWED.fullmatch(expected)


@pytest.mark.parametrize("name", ["prod", "eu-west-1.prod_2", "09c54b87", "a" * 63])
def test_a_name_can_be(name: str) -> None:
    assert cluster.ALLOWED.fullmatch(name)


@pytest.mark.parametrize("name", ["", "-prod", ".", "a b", 'a"', "a/b", "a" * 64, "prod\n", "ä"])
def test_a_name_cannot_be(name: str) -> None:
    assert not cluster.ALLOWED.fullmatch(name)
