"""Put the SQL of a plain dump into members, without changing it."""

import itertools
import re
from collections.abc import Iterator, Sequence

from ..artifact.file import DROPS, Object
from ..artifact.packer import TEXT_SIZE
from ..backup.assembly import Assembler, MemberOrder
from ..sql import dialect, script, statements
from . import plain

# What pg_dump --clean writes before the first entry.
DROPPING = re.compile(
    rb"^(?:DROP |ALTER |CREATE OR REPLACE |SELECT pg_catalog\.lo_unlink)", re.MULTILINE
)
_DROP_PUBLIC = re.compile(rb"^DROP SCHEMA (?:IF EXISTS )?public;\n", re.MULTILINE)
UNCONDITIONAL = re.compile(
    rb"^(?:DROP (?!SCHEMA public;)(?:(?!IF EXISTS).)*;$"
    rb"|ALTER (?:(?!IF EXISTS).)*;$|CREATE OR REPLACE VIEW "
    rb"|SELECT pg_catalog\.lo_unlink\('\d+'\);$)",
    re.MULTILINE,
)
_QUOTE_OR_END = re.compile(rb"['\"]|;\n|--[^\n]*\n")
_COPY_TARGET = re.compile(rb"COPY %b" % statements.QUALIFIED)


class _StatementEnds:
    """Find where statements end in the INSERTs of one table, which come in pieces."""

    def __init__(self) -> None:
        self._quote = b""

    def last(self, data: bytes) -> int:
        """Return where the last statement in these bytes ends; 0 if none does."""
        position = end = 0
        while position < len(data):
            if self._quote:
                found = data.find(self._quote, position)
                if found < 0:
                    break
                position, self._quote = found + 1, b""
            match = _QUOTE_OR_END.search(data, position)
            if match is None:
                break
            position = match.end()
            if match.group() == b";\n":
                end = position
            elif match.group() in (b"'", b'"'):
                self._quote = match.group()
        return end


class PlainAssembler(Assembler):
    """Put a foreign dump into members: what the catalog would know is read from the dump."""

    def __init__(self, header: bytes, part: plain.Part, order: MemberOrder) -> None:
        super().__init__(header, part.codec, [], order)
        self._last: Object | None = None
        self._before: list[script.Piece] | None = []  # what comes before the first entry
        self._ends = _StatementEnds()
        self.rows = 0
        self.owners: set[str] = set()
        self.extensions: list[str] = []

    def add(self, piece: script.Piece) -> None:
        """Take the next piece of the dump."""
        if self._before is not None:
            if not isinstance(piece, script.Entry | script.Complete):
                self._before.append(piece)
                return
            before, self._before = self._before, None
            self._write_before(before)
        if isinstance(piece, script.CopyBegin):
            self._name_exactly(piece.data)
        elif isinstance(piece, script.Rows):
            self.rows += piece.data.count(b"\n")
        elif isinstance(piece, script.Text) and self._type == "TABLE DATA" and self._has_no_copy:
            # INSERT statements: after one of them the next may go into another member.
            end = self._ends.last(piece.data)
            super().add(script.Text(piece.data[:end]))
            if end:
                self._packer.cut(TEXT_SIZE)
            piece = script.Text(piece.data[end:])
        super().add(piece)

    @property
    def _has_no_copy(self) -> bool:
        return self._last is not None and self._last.rows is None

    def _object(self, entry: script.Entry) -> Object:
        found = self._last = super()._object(entry)
        if found.owner:
            self.owners.add(found.owner)
        if found.type == "EXTENSION":
            self.extensions.append(found.name)
        return found

    def _name_exactly(self, statement: bytes) -> None:
        """Take a table's name from its COPY: the announcement has spaces for line ends.

        Where rows go through the partitioned root, it names that one; they are the leaf's.
        """
        match = _COPY_TARGET.match(statement)
        if match is None or self._last is None:
            return
        exact = statements.name_of(match, self._codec)
        announced = (self._last.schema, self._last.name)
        if tuple(re.sub(r"[\r\n]", " ", name) for name in exact) == announced:
            self._last.schema, self._last.name = exact

    def _write_before(self, pieces: Sequence[script.Piece]) -> None:
        """Write the header; the DROP statements after it become an object, if they can run.

        With IF EXISTS they do nothing in a new database. Without, psql would stop at them; then
        only the schema `public`, which is there, is dropped: pg_dump before 15 creates it anew.
        """
        for piece in _joined(pieces):
            if not isinstance(piece, script.Text):
                super().add(piece)
                continue
            text = dialect.without_cluster(piece.data)
            match = DROPPING.search(text)
            end = len(text) if match is None else match.start()
            super().add(script.Text(text[:end]))
            drops = text[end:]
            if UNCONDITIONAL.search(drops):
                public = _DROP_PUBLIC.search(drops)
                skipped = drops if public is None else drops[: public.start()]
                super().add(script.Text(skipped))
                drops = drops[len(skipped) :]
            if drops:
                dropping = Object(type=DROPS, schema="", name="", owner="", member=0, start=0)
                self._packer.begin(dropping)
                super().add(script.Text(drops))


def _joined(pieces: Sequence[script.Piece]) -> Iterator[script.Piece]:
    """Yield pieces; texts that follow each other as one."""
    for text, group in itertools.groupby(pieces, lambda piece: isinstance(piece, script.Text)):
        if text:
            yield script.Text(
                b"".join(piece.data for piece in group if isinstance(piece, script.Text))
            )
        else:
            yield from group
