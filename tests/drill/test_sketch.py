"""The hash that compares a table with its dump: the same for the same rows, in whatever order."""

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgkeep import errors as e
from pgkeep.drill.sketch import BASE, BYTE, CHUNK, MASK, MIX, Sketch, Sketcher

CELLS = st.text(alphabet="ab01\\\t\x00é ", max_size=12)
ROWS = st.lists(CELLS.map(lambda text: text.encode()), max_size=40)


def defined(rows: Sequence[bytes]) -> Sketch:
    """The definition, a byte at a time."""
    high = low = 0
    for row in rows:
        line = row + b"\n"
        mixed = [(one * BYTE & 255) ^ after for one, after in itertools.pairwise(line)]
        polynomial = sum(one * pow(BASE, place, MASK + 1) for place, one in enumerate(mixed))
        polynomial &= MASK
        one = (polynomial + len(line) * MIX[0]) & MASK
        one ^= one >> 32
        one = one * MIX[1] & MASK
        one ^= one >> 29
        one = one * MIX[2] & MASK
        one ^= one >> 32
        other = (one ^ polynomial) * MIX[3] & MASK
        other ^= other >> 31
        high, low = (high + one) & MASK, (low + other) & MASK
    return Sketch(len(rows), high, low)


def sketched(data: bytes, cuts: Sequence[int] = ()) -> Sketch:
    sketcher = Sketcher()
    for start, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
        sketcher.feed(data[start:end])
    return sketcher.finish()


def text(rows: Sequence[bytes]) -> bytes:
    return b"".join(row + b"\n" for row in rows)


@given(ROWS, st.lists(st.integers(0, 500), max_size=8), st.randoms(use_true_random=False))
@settings(deadline=None)
@example([], [], random.Random(1))  # noqa: S311
@example([b""], [0, 1], random.Random(1))  # noqa: S311
def test_neither_cuts_nor_order_matter(
    rows: list[bytes], cuts: list[int], chance: random.Random
) -> None:
    data = text(rows)
    found = sketched(data, [min(cut, len(data)) for cut in cuts])
    assert found == defined(rows)
    chance.shuffle(rows)
    assert sketched(text(rows)) == found


@given(
    st.lists(st.integers(CHUNK - 2, 3 * CHUNK + 2), min_size=1, max_size=3),
    st.integers(1000, 5 * CHUNK),
    st.integers(),
)
@settings(deadline=None, max_examples=10)
def test_rows_longer_than_what_is_read_at_once(lengths: list[int], block: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    rows = [bytes(chance.choices(b"xyz\t", k=length)) for length in lengths]
    data = text([b"first", *rows, b""])
    assert sketched(data, range(0, len(data), block)) == defined([b"first", *rows, b""])


@given(ROWS, ROWS)
@settings(deadline=None)
def test_other_rows_have_another_hash(some: list[bytes], others: list[bytes]) -> None:
    same = sorted(some) == sorted(others)
    assert (sketched(text(some)) == sketched(text(others))) == same


@given(ROWS, ROWS)
@settings(deadline=None)
def test_parts_of_a_table_add_up(some: list[bytes], others: list[bytes]) -> None:
    assert sketched(text(some)) + sketched(text(others)) == sketched(text([*some, *others]))


def thue_morse(length: int, letters: bytes) -> bytes:
    """The sequence for which any polynomial modulo a power of two collides with its inverse."""
    return bytes(letters[number.bit_count() % 2] for number in range(length))


@pytest.mark.parametrize(
    ("rows", "others"),
    [
        ([b"a\tb"], [b"b\ta"]),
        ([b"1\t2", b"2\t1"], [b"1\t1", b"2\t2"]),
        ([b"ab", b"cd"], [b"ad", b"cb"]),
        ([b"x\ty", b"x\tz"], [b"x\ty", b"x\ty"]),
        ([b"a"], [b"a", b"a"]),
        ([b"a", b"a"], [b"b", b"b"]),
        ([b"a\x00"], [b"a"]),
        ([b"\x00a"], [b"a"]),
        ([b"", b"ab"], [b"a", b"b"]),
        ([b"\\N\t"], [b"\t\\N"]),
        ([b"0" * 64 + b"1"], [b"1" + b"0" * 64]),
        ([b"0" * 8192 + b"10"], [b"0" * 8192 + b"01"]),
        ([thue_morse(4096, b"01")], [thue_morse(4096, b"10")]),
        ([b"x" * CHUNK + b"1"], [b"x" * CHUNK + b"2"]),
        ([b"1" + b"x" * CHUNK], [b"x" * CHUNK + b"1"]),
    ],
)  # fmt: skip
def test_what_looks_alike_is_told_apart(rows: list[bytes], others: list[bytes]) -> None:
    """E6: swapped columns, permuted bytes, moved row ends, zeros at either end, long rows."""
    one, other = sketched(text(rows)), sketched(text(others))
    assert (one.high, one.low) != (other.high, other.low)


def test_every_byte_of_a_row_counts() -> None:
    row = bytes(chance for chance in range(256) if chance != 10) * 2
    halves = {sketched(text([row])).high}
    for place in range(len(row)):
        changed = bytearray(row)
        changed[place] ^= 1
        if changed[place] != 10:
            halves.add(sketched(text([bytes(changed)])).high)
    assert len(halves) == 1 + sum((one ^ 1) != 10 for one in row)


def test_a_row_without_an_end_is_refused() -> None:
    """A2.2."""
    with pytest.raises(e.VerificationFailed, match="truncated"):
        sketched(b"whole\ncut")
