"""What is cut out of an artifact's text: ranges, first rows, the names of columns."""

import pytest

from pgkeep.artifact import extract


@pytest.mark.parametrize("size", [1, 2, 3, 10, 100])
@pytest.mark.parametrize(
    "ranges", [[], [(0, 0)], [(0, 26)], [(3, 4)], [(0, 1), (1, 2), (20, 6)], [(25, 1)]]
)
def test_ranges(ranges: list[tuple[int, int]], size: int) -> None:
    """Wherever the blocks end."""
    text = b"abcdefghijklmnopqrstuvwxyz"
    blocks = (text[start : start + size] for start in range(0, len(text), size))
    expected = b"".join(text[start : start + length] for start, length in ranges)
    assert b"".join(extract._ranges(blocks, ranges)) == expected


@pytest.mark.parametrize(
    ("data", "count", "expected"),
    [
        (b"", 2, (b"", 0)),
        (b"a\nb\nc\n", 0, (b"", 0)),
        (b"a\nb\nc\n", 2, (b"a\nb\n", 2)),
        (b"a\nb\nc\n", 3, (b"a\nb\nc\n", 3)),
        (b"a\nb\nc\n", 9, (b"a\nb\nc\n", 3)),
        (b"a\nb", 2, (b"a\nb", 1)),  # its end is in the next block
    ],
)
def test_first_rows(data: bytes, count: int, expected: tuple[bytes, int]) -> None:
    assert extract._first(data, count) == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (b"COPY public.t (a, b) FROM stdin", b"a\tb\n"),
        (b'COPY public.t ("A b", "c""d", "e,f") FROM stdin', b'A b\tc"d\te,f\n'),
        (b'COPY public.t ("tab\there") FROM stdin', b"tab\\there\n"),
        (b"COPY public.t FROM stdin", b"\n"),  # a table without columns
    ],
)
def test_names_of_columns(statement: bytes, expected: bytes) -> None:
    assert extract._columns(statement, "utf-8") == expected
