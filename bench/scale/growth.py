"""Decide from figures at n, 2n and 4n whether something grows faster than what it works on."""

import math
from collections.abc import Sequence

LIMIT = 1.3  # an exponent above it is marked
NOISE = 0.5  # seconds of processor time: a difference below it can have any reason
FLAT_BYTES = 24 << 20  # by which memory may differ that does not depend on n


def exponent(values: Sequence[float]) -> float:
    """Return k if values at n, 2n and 4n grow like n^k."""
    first, _, last = values
    return math.log2(max(last, 1e-3) / max(first, 1e-3)) / 2


def is_steep(processor: Sequence[float]) -> bool:
    """Whether processor times at n, 2n and 4n grow clearly faster than n."""
    return exponent(processor) > LIMIT and processor[2] - processor[0] > NOISE


def is_hungry(memory: Sequence[int], *, flat: bool) -> bool:
    """Whether memory grows at all where it must be flat, or else faster than n."""
    grown = memory[2] - memory[0]
    if flat:
        return grown > FLAT_BYTES + memory[0] // 4
    return exponent(memory) > LIMIT and grown > FLAT_BYTES
