"""The readers of all targets: kept inputs of earlier runs, and changes of real files."""

import random
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from . import seeds
from .checks import FIRST, Reader, reader_of, run
from .mutation import mutated
from .targets import TARGETS

READERS = [(name, reader) for name, target in TARGETS.items() for reader in target]
IDS = [f"{name}-{reader.__name__}" for name, reader in READERS]
SMALL = 8 << 10  # bytes; changes of larger inputs take long and find less
NUMBERS = st.integers(0, 2**32)


def _changed(data: bytes, limit: int) -> bytes:
    """Change some bytes; libFuzzer is not there."""
    chance = random.Random(data)
    text = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(1, len(text) + 1)
        match chance.randrange(4):
            case 0:
                text[at:at] = bytes(chance.choices(b"\0\n\xff/.\"'$\\-{}[]:,;0aZ ", k=3))
            case 1:
                del text[at : at + chance.choice((1, 4, 50))]
            case 2:
                text[at : at + 1] = bytes([chance.randrange(256)])
            case _:
                start = chance.randrange(1, len(text) + 1)
                text[at:at] = text[start : start + chance.choice((4, 60))]
    return bytes(text[:limit])


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs(name: str) -> None:
    """What earlier runs have found is still a value or an error of pgkeep."""
    began = time.process_time()
    for data in seeds.kept(name):
        run(TARGETS[name], data)
    assert time.process_time() - began < 60


@pytest.mark.parametrize(("name", "reader"), READERS, ids=IDS)
def test_any_bytes(name: str, reader: Reader) -> None:
    """A value or an error of pgkeep, whatever a reader gets (traps B26, C26, G1)."""
    target = TARGETS[name]
    first = bytes([FIRST + list(target).index(reader)])
    known = sorted(
        (data for data in seeds.seeds(name) if reader_of(target, data) is reader), key=len
    )
    small = [data for data in known if len(data) <= SMALL][-20:]
    assert known, "a reader without a seed"

    @settings(max_examples=20, derandomize=True, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.sampled_from([first, *small]), st.lists(NUMBERS, min_size=1, max_size=4), st.binary())
    @example(known[0], [], b"")
    def check(data: bytes, changes: list[int], more: bytes) -> None:
        for number in changes:
            data = first + mutated(data, SMALL, number, _changed)[1:]
        run(target, data + more)

    check()
