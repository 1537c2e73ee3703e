"""The header of a WAL segment: to which cluster, timeline and position it belongs.

`XLogLongPageHeaderData` in PostgreSQL's src/include/access/xlog_internal.h, unchanged since 9.3.
"""

import struct
from dataclasses import dataclass

from .. import errors as e
from ..model.wal import Segment

_HEADER = struct.Struct("HHIQI4xQII")  # in the byte order of the machine that wrote it
HEADER_SIZE = _HEADER.size
_LONG_HEADER = 0x0002


@dataclass(frozen=True, slots=True)
class WalHeader:
    """What the first bytes of a segment contain."""

    timeline: int
    position: int  # of the first byte of the segment
    system_identifier: str
    segment_size: int


def read_header(data: bytes, name: str) -> WalHeader:
    """Read the header of a segment.

    Raises:
        VerificationFailed: it is no segment, or one of a machine with another byte order.

    """
    if len(data) < HEADER_SIZE:
        raise e.VerificationFailed(f"{name}: found {len(data)} bytes, expected a WAL segment")
    _, info, timeline, position, _, identifier, size, _ = _HEADER.unpack(data[:HEADER_SIZE])
    if not info & _LONG_HEADER or not size:
        raise e.VerificationFailed(f"{name}: the header of a WAL segment is missing")
    return WalHeader(timeline, position, str(identifier), size)


def check_header(data: bytes, name: str, segment: Segment, expected: "Origin") -> None:
    """Check that a file is a segment of a cluster, from its first bytes.

    The first page can still have the older timeline of the segment in which a timeline switched.

    Raises:
        VerificationFailed: it is another segment, or that of another cluster.

    """
    found = read_header(data, name)
    if found.system_identifier != expected.system_identifier:
        raise e.VerificationFailed(
            f"{name}: found WAL of the cluster with system identifier {found.system_identifier},"
            f" expected {expected.system_identifier}"
        )
    if found.segment_size != expected.segment_size:
        raise e.VerificationFailed(
            f"{name}: found segments of {found.segment_size} bytes, expected"
            f" {expected.segment_size}"
        )
    start = segment.start(expected.segment_size)
    if found.position != start or found.timeline > segment.timeline:
        raise e.VerificationFailed(
            f"{name}: found the segment at {found.position:X} of timeline {found.timeline},"
            f" expected {int(start):X} of timeline {segment.timeline}"
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """The cluster whose WAL is archived."""

    system_identifier: str
    segment_size: int  # bytes, chosen by initdb
