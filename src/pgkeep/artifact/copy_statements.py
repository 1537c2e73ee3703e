"""Read the rows of a backup: each COPY statement with the lines that follow it."""

import collections
import re
from collections.abc import Iterator

from ..sql import script, statements
from ..sql.scanner import Scanner
from .file import Artifact, Object

# As pg_dump writes it, without the semicolon; a table without columns has no column list.
COPY = re.compile(
    rb"COPY (?P<relation>%b) (?:\((?P<columns>.*)\) | |)FROM stdin" % statements.QUALIFIED,
    re.DOTALL,
)


def copies(pieces: Iterator[script.Piece]) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Yield each COPY statement, without its semicolon, and its rows in blocks.

    Rows that the caller does not read are skipped.
    """
    for piece in pieces:
        if isinstance(piece, script.CopyBegin):
            rows = rows_of(pieces)
            yield piece.data.rstrip(b";\n"), rows
            collections.deque(rows, maxlen=0)


def rows_of(pieces: Iterator[script.Piece]) -> Iterator[bytes]:
    """Yield COPY data up to the end of the COPY."""
    for piece in pieces:
        if not isinstance(piece, script.Rows):
            return
        yield piece.data


def scan(blocks: Iterator[bytes]) -> Iterator[script.Piece]:
    """Yield the pieces of SQL that is given in blocks."""
    scanner = Scanner()
    for block in blocks:
        yield from scanner.feed(block)
    yield from scanner.close()


def blocks_of(artifact: Artifact, entry: Object) -> Iterator[bytes]:
    """Yield the SQL of one object; its member is read up to the end of the object only."""
    position = 0
    end = entry.start + entry.length
    for block in artifact.blocks(entry.member):
        yield block[max(entry.start - position, 0) : max(end - position, 0)]
        position += len(block)
        if position >= end:
            return
