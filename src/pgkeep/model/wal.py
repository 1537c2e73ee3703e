"""Positions in the write-ahead log, names of its files, and timelines.

PostgreSQL manual: 28.6 "WAL Internals", 25.3.5 "Timelines", and `pg_lsn` in 8.20.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import errors as e

SEGMENT_SIZES = frozenset(1 << bits for bits in range(20, 31))  # 1 MB to 1 GB, chosen by initdb
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
_BACKUP_LABEL = re.compile(r"[0-9A-F]{24}\.[0-9A-F]{8}\.backup")
# What PostgreSQL archives, as a part of a regular expression.
FILE_NAME = r"[0-9A-F]{24}(?:\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history"
_SWITCH = re.compile(r"\s*([0-9]{1,10})\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s.*)?")
PARTIAL = ".partial"


class Lsn(int):
    """A position in the write-ahead log: the number of bytes before it."""

    @classmethod
    def parse(cls, text: str) -> "Lsn":
        """Read a position as PostgreSQL prints it, such as 16/B374D848.

        Raises:
            ValueError: it has another form.

        """
        match = _LSN.fullmatch(text)
        if match is None:
            raise ValueError(f"found {text!r}, expected a position such as 16/B374D848")
        return cls((int(match[1], 16) << 32) + int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of the write-ahead log: its timeline and its number from the beginning of the log.

    Numbers continue across timelines: a new timeline begins with the segment in which the former
    one ended.
    """

    timeline: int
    number: int

    def name(self, size: int) -> str:
        """Return the name of the file, for segments of this size in bytes."""
        high, low = divmod(self.number, (1 << 32) // size)
        return f"{self.timeline:08X}{high:08X}{low:08X}"

    def start(self, size: int) -> Lsn:
        """Return the position of its first byte."""
        return Lsn(self.number * size)

    def end(self, size: int) -> Lsn:
        """Return the position after its last byte."""
        return Lsn((self.number + 1) * size)

    @property
    def next(self) -> "Segment":
        """The segment that follows on the same timeline."""
        return Segment(self.timeline, self.number + 1)


def segment_of(timeline: int, position: Lsn, size: int) -> Segment:
    """Return the segment that contains the byte at a position."""
    return Segment(timeline, position // size)


def parse_segment(name: str, size: int) -> Segment | None:
    """Return the segment with a name; None for other names, also those of another size."""
    match = _SEGMENT.fullmatch(name)
    if match is None:
        return None
    timeline, high, low = (int(part, 16) for part in match.groups())
    each = (1 << 32) // size
    if low >= each or not timeline:
        return None
    return Segment(timeline, high * each + low)


def parse_history(name: str) -> int | None:
    """Return the timeline of a history file; None for other names."""
    match = _HISTORY.fullmatch(name)
    return int(match[1], 16) if match is not None else None


def is_backup_label(name: str) -> bool:
    """Whether a name is that of the file which the end of a base backup leaves in the archive."""
    return _BACKUP_LABEL.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Switch:
    """Where a timeline left another one."""

    parent: int
    position: Lsn  # the first byte that is not that of the parent


def decode_history(text: str, file: str) -> tuple[Switch, ...]:
    """Read a history file: the switches from the first timeline to that of the file.

    Raises:
        VerificationFailed: a line has another form, or the order is not ascending.

    """
    switches: list[Switch] = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0]
        if not content.strip():
            continue
        match = _SWITCH.fullmatch(content)
        if match is None:
            raise e.VerificationFailed(
                f"{file}, line {number}: found {line[:80]!r}, expected a timeline and a position"
            )
        switch = Switch(int(match[1]), Lsn.parse(match[2]))
        if switches and (
            switch.parent <= switches[-1].parent or switch.position < switches[-1].position
        ):
            raise e.VerificationFailed(
                f"{file}, line {number}: timeline {switch.parent} does not come after"
                f" {switches[-1].parent}"
            )
        switches.append(switch)
    timeline = parse_history(file)
    if timeline is not None and switches and switches[-1].parent >= timeline:
        raise e.VerificationFailed(
            f"{file}: found timeline {switches[-1].parent}, expected a lower one than {timeline}"
        )
    return tuple(switches)


@dataclass(frozen=True, slots=True)
class Path:
    """The way to a timeline: which timeline has the log up to which position."""

    timeline: int
    switches: tuple[Switch, ...]

    def includes(self, timeline: int, position: Lsn) -> bool:
        """Whether the log of a timeline up to a position is part of the way.

        A base backup of a timeline can be recovered along it only if it ended before the switch.
        """
        if timeline == self.timeline:
            return True
        return any(
            switch.parent == timeline and position <= switch.position for switch in self.switches
        )

    def segment(self, number: int, size: int) -> Segment:
        """Return the segment with this number of the newest timeline that has it on the way."""
        for switch in self.switches:
            if number < switch.position // size:
                return Segment(switch.parent, number)
        return Segment(self.timeline, number)


def paths(histories: Mapping[int, Sequence[Switch]], timelines: Iterable[int]) -> dict[int, Path]:
    """Return the way to each timeline whose history is known; the first one has none."""
    known = {1: (), **histories}
    return {
        timeline: Path(timeline, tuple(known[timeline])) for timeline in timelines
        if timeline in known
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Extent:
    """Segments on the way to a timeline that follow each other without a gap."""

    first: Segment
    last: Segment


def extents(path: Path, archived: Iterable[Segment], size: int) -> list[Extent]:
    """Return the unbroken runs of archived segments along a way, in ascending order.

    Between two runs is a gap: nothing after it can be reached by a backup before it.
    """
    own = {segment for segment in archived if path.segment(segment.number, size) == segment}
    found: list[Extent] = []
    for segment in sorted(own, key=lambda segment: segment.number):
        if found and found[-1].last.number + 1 == segment.number:
            found[-1] = Extent(found[-1].first, segment)
        else:
            found.append(Extent(segment, segment))
    return found
