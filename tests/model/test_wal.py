"""Arithmetic of the write-ahead log, in tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep import errors as e
from pgkeep.model import wal
from pgkeep.model.wal import Extent, Lsn, Path, Segment, Switch

MIB = 1 << 20


@pytest.mark.parametrize(
    ("name", "size", "start"),
    [
        ("000000010000000000000001", 16 * MIB, "0/1000000"),
        ("0000000100000000000000FF", 16 * MIB, "0/FF000000"),
        ("000000020000000100000000", 16 * MIB, "1/0"),
        ("0000000A0000000100000003", 1024 * MIB, "1/C0000000"),
        ("000000010000000000000FFF", MIB, "0/FFF00000"),
    ],
)
def test_names_of_segments(name: str, size: int, start: str) -> None:
    segment = wal.parse_segment(name, size)
    assert segment is not None
    assert (segment.name(size), str(segment.start(size))) == (name, start)
    assert wal.segment_of(segment.timeline, segment.start(size), size) == segment
    assert segment.end(size) == segment.next.start(size)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("000000010000000000000100", 16 * MIB),  # a segment of another size
        ("000000000000000000000001", 16 * MIB),  # no timeline is 0
        ("00000001000000000000000g", 16 * MIB),
        ("000000010000000000000001.partial", 16 * MIB),
        ("000000010000000000000001\n", 16 * MIB),
        ("00000001000000000000000a", 16 * MIB),
        ("00000002.history", 16 * MIB),
        ("../000000010000000000000001", 16 * MIB),
    ],
)
def test_other_names_are_no_segments(name: str, size: int) -> None:
    """PITR rule 6: exactly these names are accepted."""
    assert wal.parse_segment(name, size) is None


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**31), st.sampled_from(sorted(wal.SEGMENT_SIZES)))
def test_every_segment_is_found_again(timeline: int, number: int, size: int) -> None:
    number %= (1 << 64) // size
    segment = Segment(timeline, number)
    assert wal.parse_segment(segment.name(size), size) == segment
    assert Lsn.parse(str(segment.start(size))) == segment.start(size)


HISTORY = "1\t0/6000000\tno recovery target specified\n\n2\t0/9000028\tbefore 2026-11-22 # why\n"


def test_a_history_file() -> None:
    switches = wal.decode_history(HISTORY, "00000003.history")
    assert switches == (Switch(1, Lsn.parse("0/6000000")), Switch(2, Lsn.parse("0/9000028")))
    path = Path(3, switches)
    names = [path.segment(number, 16 * MIB).name(16 * MIB) for number in range(5, 11)]
    assert path.includes(1, Lsn.parse("0/6000000"))
    assert not path.includes(1, Lsn.parse("0/6000001")), "that base belongs to another branch"
    assert path.includes(3, Lsn.parse("0/FFFFFFFF"))
    assert not path.includes(4, Lsn(0))
    assert names == [
        "000000010000000000000005",  # up to the border, where timeline 1 ended
        "000000020000000000000006",
        "000000020000000000000007",
        "000000020000000000000008",
        "000000030000000000000009",  # timeline 3 has the beginning of it too
        "00000003000000000000000A",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "1 0/6000000\n1 0/7000000\n",
        "2 0/6000000\n1 0/7000000\n",
        "1 0/7000000\n2 0/6000000\n",
        "3 0/6000000\n",
        "x 0/6000000\n",
        "1 6000000\n",
        "1 0/6000000\n3 0/7000000\n",
    ],
)
def test_a_damaged_history_file(text: str) -> None:
    with pytest.raises(e.VerificationFailed, match=r"^00000003\.history"):
        wal.decode_history(text, "00000003.history")


def test_gaps_are_between_extents() -> None:
    """PITR rule 8: a window ends at the first gap, whatever follows."""
    size = 16 * MIB
    path = Path(2, (Switch(1, Lsn(5 * size + 40)),))
    archived = [Segment(1, number) for number in (2, 3, 4, 5)]
    archived += [Segment(2, number) for number in (5, 6, 8, 9)]
    archived += [Segment(3, 7)]  # of another branch
    assert wal.extents(path, archived, size) == [
        Extent(Segment(1, 2), Segment(2, 6)),
        Extent(Segment(2, 8), Segment(2, 9)),
    ]
    assert wal.extents(Path(1, ()), archived, size) == [Extent(Segment(1, 2), Segment(1, 5))]
    assert wal.extents(path, [], size) == []


def test_the_way_to_a_timeline_needs_its_history() -> None:
    """cloudnative-pg 10817: a missing history must not end in a shorter way."""
    switches = wal.decode_history(HISTORY, "00000003.history")
    assert wal.paths({3: switches}, [1, 2, 3]) == {1: Path(1, ()), 3: Path(3, switches)}
