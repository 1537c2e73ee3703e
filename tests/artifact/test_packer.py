"""Members: whole statements, cut where they are large enough, and joined they are the input."""

import pytest

from pgkeep.artifact import packer
from pgkeep.artifact.file import MemberBuilder, Object
from pgkeep.artifact.packer import Packer
from pgkeep.sql.script import COPY_DATA_END

HEADER = b"COPY public.t (a) FROM stdin;\n"


def entry(name: str, kind: str = "TABLE") -> Object:
    return Object(type=kind, schema="public", name=name, owner="o", member=0, start=0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packer, "TEXT_SIZE", 20)
    monkeypatch.setattr(packer, "ROWS_SIZE", 50)


def names(members: list[MemberBuilder]) -> list[list[str]]:
    return [[one.name for one in member.objects] for member in members]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([5], [["0"]]),
        ([5, 5, 5], [["0", "1", "2"]]),
        ([20, 5], [["0"], ["1"]]),  # large enough: the next object begins a member
        ([5, 100, 5], [["0", "1"], ["2"]]),  # never within an object
    ],
)
def test_objects(lengths: list[int], expected: list[list[str]]) -> None:
    members: list[MemberBuilder] = []
    packing = Packer("pre-data", members.append)
    for number, length in enumerate(lengths):
        packing.begin(entry(str(number)))
        packing.write(b"x" * length)
    packing.flush()
    packing.flush()  # writes nothing twice
    assert names(members) == expected
    assert sum(member.raw for member in members) == sum(lengths)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("step", [3, 7, 20])
def test_rows(step: int) -> None:
    """Wherever the data are cut, each member is a COPY of whole rows, and counts them."""
    data = b"".join(b"%07d\n" % number for number in range(40))
    members: list[MemberBuilder] = []
    packing = Packer("data", members.append)
    packing.begin(entry("t", "TABLE DATA"))
    packing.begin_copy(HEADER)
    for position in range(0, len(data), step):
        packing.rows(data[position : position + step])
    packing.end_copy()
    packing.flush()
    assert sum(one.rows or 0 for member in members for one in member.objects) == 40
    overhead = len(HEADER) + len(COPY_DATA_END)
    assert [(member.raw - overhead) % 8 for member in members] == [0] * len(members)
    assert sum(member.raw - overhead for member in members) == len(data)
    assert len(members) > 1
    assert {(one.type, one.name) for member in members for one in member.objects} == {
        ("TABLE DATA", "t")
    }


@pytest.mark.usefixtures("small")
def test_cut() -> None:
    """Pieces of a large object are parts of it; nothing is cut before the size is reached."""
    members: list[MemberBuilder] = []
    packing = Packer("data", members.append)
    packing.begin(entry("1", "BLOB"))
    for _ in range(4):
        packing.write(b"x" * 25)
        packing.cut(50)
    packing.flush()
    assert names(members) == [["1"], ["1"]]
    assert [member.raw for member in members] == [50, 50]


def test_rows_outside_of_a_copy() -> None:
    with pytest.raises(AssertionError, match="outside of a COPY"):
        Packer("data", lambda _: None).rows(b"1\n")
