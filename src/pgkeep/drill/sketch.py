"""A hash of many rows that does not depend on their order, to compare a table with its dump.

A row is a polynomial modulo 2^64 over its bytes, each mixed with the next one: of the bytes alone,
periodic ones would collide (Thue and Morse's sequence). It and the row's length are mixed into 128
bits, and those of all rows are added up. Numpy does the work with prefix products: the sum of a
row's bytes times the powers of their places in the block, times the inverse of the power of its
beginning, is the polynomial, wherever the row lies.

It finds what goes wrong by itself. Somebody who knows it could make up rows that look the same.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from .. import errors as e

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.uint64]

MASK = (1 << 64) - 1
NEWLINE = 10
# Odd, so that they have an inverse. Fractional digits of the golden ratio and of e; the others are
# those of splitmix64 and of xxHash.
BASE = 0x9E3779B97F4A7C15
BYTE = 167
MIX = (0xB7E151628AED2A6B, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xC2B2AE3D27D4EB4F)

CHUNK = 1 << 14  # bytes at once; the numbers made of them fit into the processor's cache
GATHERED = 1 << 14  # rows at once; a call of numpy costs as much as a hundred of them


class Sketch(msgspec.Struct, frozen=True):
    """How many rows, and the sum of their hashes; those of parts of a table can be added."""

    rows: int = 0
    high: int = 0
    low: int = 0

    def __add__(self, other: "Sketch") -> "Sketch":
        return Sketch(
            self.rows + other.rows, (self.high + other.high) & MASK, (self.low + other.low) & MASK
        )


class Sketcher:
    """Take rows in COPY's text format, in blocks that are cut anywhere."""

    def __init__(self) -> None:
        self._sum = Sketch()
        self._length = self._open = 0  # of the row that is not whole: its bytes, its polynomial
        self._held = b""  # the last byte: the next one is not known yet
        self._whole: list[tuple[Numbers, Numbers]] = []  # polynomials and lengths of rows
        self._gathered = 0
        # Made once: new memory would cost more than what is done in it.
        self._mixed = np.empty(CHUNK, np.uint8)
        self._products = np.empty(CHUNK, np.uint64)

    def feed(self, block: bytes) -> None:
        """Take some more bytes."""
        data = np.frombuffer(self._held + block if self._held else block, np.uint8)
        if not len(data):
            return
        self._held = bytes(data[-1:])
        for start in range(0, len(data) - 1, CHUNK):
            end = min(start + CHUNK, len(data) - 1)
            self._take(data[start:end], data[start + 1 : end + 1])

    def finish(self) -> Sketch:
        """Return the sketch of all rows.

        Raises:
            VerificationFailed: the last one has no end.

        """
        if self._held:
            last = np.frombuffer(self._held, np.uint8)
            self._held = b""
            self._take(last, last)
        if self._length:
            raise e.VerificationFailed(
                f"the last row is truncated: no end after {self._length} bytes"
            )
        self._add_up()
        return self._sum

    def _take(self, data: Bytes, following: Bytes) -> None:
        size = len(data)
        ends = np.flatnonzero(data == NEWLINE)
        mixed = np.multiply(data, np.uint8(BYTE), out=self._mixed[:size])
        mixed ^= following
        mixed[ends] = 0  # what follows the end of a row is another one
        products = np.multiply(mixed, _UP[:size], out=self._products[:size])
        starts = np.zeros(len(ends) + 1, np.intp)
        np.add(ends, 1, out=starts[1:])
        tail = size - int(starts[-1])  # bytes of a row that is not whole
        if not tail:
            starts = starts[:-1]
        sums: Numbers = np.add.reduceat(products, starts) * _DOWN[starts]
        # The first of them goes on where the last block has ended.
        first = (self._open + pow(BASE, self._length, MASK + 1) * int(sums[0])) & MASK
        if not len(ends):
            self._length, self._open = self._length + size, first
            return
        sums[0] = first
        lengths = (ends + 1 - starts[: len(ends)]).astype(np.uint64)
        lengths[0] += np.uint64(self._length)
        self._length, self._open = tail, int(sums[-1]) if tail else 0
        self._whole.append((sums[: len(ends)], lengths))
        self._gathered += len(ends)
        if self._gathered >= GATHERED:
            self._add_up()

    def _add_up(self) -> None:
        if self._whole:
            polynomials, lengths = (np.concatenate(one) for one in zip(*self._whole, strict=True))
            self._sum += _hashed(polynomials, lengths)
            self._whole, self._gathered = [], 0


def _powers(base: int) -> Numbers:
    found = np.full(CHUNK, base, np.uint64)
    found[0] = 1
    return np.multiply.accumulate(found)


_UP = _powers(BASE)
_DOWN = _powers(pow(BASE, -1, MASK + 1))


def _hashed(polynomials: Numbers, lengths: Numbers) -> Sketch:
    """Return the sum of the hashes of some rows."""
    one, two, three, four = (np.uint64(number) for number in MIX)
    high = polynomials + lengths * one
    high ^= high >> np.uint64(32)
    high *= two
    high ^= high >> np.uint64(29)
    high *= three
    high ^= high >> np.uint64(32)
    low = high ^ polynomials
    low *= four
    low ^= low >> np.uint64(31)
    return Sketch(len(polynomials), int(np.add.reduce(high)), int(np.add.reduce(low)))
