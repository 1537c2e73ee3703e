"""The tables of a backup file that some patterns match: their definitions and their rows."""

import re
from collections.abc import Iterator, Sequence

import msgspec

from ... import errors as e
from ...artifact import plain_reader
from ...artifact.contents import Contents
from ...artifact.copy_statements import COPY, blocks_of, copies, scan
from ...artifact.file import Artifact, Object, is_artifact
from ...progress import Progress
from ...sql import selection, statements
from ...sql.statements import Name
from ...stores.store import Source
from ..load.session import Session


class TableFacts(msgspec.Struct, frozen=True):
    """A table in the backup."""

    schema: str
    name: str
    rows: int
    bytes: int  # of the artifact that have to be read for its rows


class SelectedTables:
    """Read the tables that patterns match, with their partitions."""

    def __init__(self, source: Source, patterns: Sequence[str]) -> None:
        """Find the tables.

        Raises:
            UsageError: the file is a plain dump.
            VerificationFailed: it is no dump at all, or its index is damaged.
            Refused: a pattern matches no table, or their rows cannot be restored alone.

        """
        if not is_artifact(source):
            plain_reader.check_head(source)
            raise e.UsageError(
                f"{source.name} is a plain dump without an index: no table can be found in it",
                hint="Make a backup of it with pgkeep index.",
            )
        self.artifact = Artifact(source)
        self.meta = self.artifact.index.meta
        self.contents = Contents(self.artifact)
        wanted = [selection.pattern(text) for text in patterns]
        self.names = self.contents.matching(wanted)
        for pattern in wanted:
            if not any(pattern.matches(*name) for name in self.names):
                raise e.Refused(
                    f"no table of {source.name} is {pattern.text}",
                    hint="pgkeep show lists its tables; names in capitals need double quotes.",
                )
        if self.meta.schema_only:
            raise e.Refused(f"{source.name} holds definitions only")
        if inserted := self.contents.inserted(self.names):
            raise e.Refused(
                f"the rows of {listed(inserted)} are INSERT statements: no table can be restored"
                " alone",
                hint="Restore the whole database under another name with --target-db, and copy the"
                " table from there.",
            )

    @property
    def roots(self) -> list[Name]:
        """The tables that are no partition of another one here."""
        parents = self.contents.parents
        return [name for name in self.names if parents.get(name) not in self.names]

    @property
    def of_extensions(self) -> list[Name]:
        """The configuration tables of extensions: of these only rows are restored."""
        return [name for name in self.names if name in self.contents.without_definition]

    @property
    def defined(self) -> list[Name]:
        """The tables that the backup has a definition of."""
        return [name for name in self.names if name not in self.contents.without_definition]

    def relations(self) -> set[Name]:
        """Return the tables with their indexes and sequences."""
        return {relation for name in self.names for relation in self.contents.relations(name)}

    def facts(self) -> list[TableFacts]:
        """Return how many rows each table has, and what has to be read for them."""
        return [self._facts(name) for name in self.names]

    def _facts(self, name: Name) -> TableFacts:
        parts = self.contents.rows(name)
        members = self.artifact.index.members
        size = sum(members[number].length for number in {part.member for part in parts})
        return TableFacts(*name, sum(part.rows or 0 for part in parts), size)

    def check_rows(self, progress: Progress) -> None:
        """Read the members that contain the rows, and compare their hashes.

        Raises:
            VerificationFailed: one is damaged.

        """
        parts = [part for name in self.names for part in self.contents.rows(name)]
        members = sorted({part.member for part in parts})
        lengths = {number: self.artifact.index.members[number].length for number in members}
        progress.total(sum(lengths.values()))
        for number, length in lengths.items():
            self.artifact.compressed(number)
            progress.advance(length)

    def raw_bytes(self) -> int:
        """Return how many bytes of SQL the rows of all tables are."""
        return sum(part.length for name in self.names for part in self.contents.rows(name))

    def columns(self) -> list[str]:
        """Return the columns that the rows in the backup have."""
        for name in self.names:
            for part in self.contents.rows(name):
                header = next((header for header, _ in self._copies(part)), b"")
                match = COPY.fullmatch(header)
                if match is not None and match["columns"] is not None:
                    found = re.findall(statements.IDENTIFIER, match["columns"])
                    return [statements.unquoted(column, self.contents.codec) for column in found]
        return []

    def copy(self, session: Session, name: Name, target: bytes, progress: Progress) -> int:
        """Load a table's rows into any table; return how many there were.

        Raises:
            RestoreFailed: the server refuses a row, or has not taken all of them.
            VerificationFailed: the file is damaged.

        """
        return sum(self._copy(session, part, target, progress) for part in self.contents.rows(name))

    def _copy(self, session: Session, part: Object, target: bytes, progress: Progress) -> int:
        loaded = 0
        for header, rows in self._copies(part):
            match = COPY.fullmatch(header)
            if match is None:
                raise e.VerificationFailed(f"unexpected {header[:60]!r}")
            columns = match["columns"]  # none of a table without any
            names = b"" if columns is None else b"(%b) " % columns
            loaded += session.copy(part, b"COPY %b %bFROM stdin" % (target, names), rows)
        if loaded != part.rows:
            raise e.RestoreFailed(
                f"{part.schema}.{part.name}: the server took {loaded} rows of {part.rows}"
            )
        progress.advance(part.length)
        return loaded

    def _copies(self, part: Object) -> Iterator[tuple[bytes, Iterator[bytes]]]:
        return copies(scan(blocks_of(self.artifact, part)))


def dotted(name: Name) -> str:
    """Return a qualified name for messages."""
    return ".".join(name)


def listed(names: Sequence[Name]) -> str:
    """Return the first of many names for messages."""
    shown = ", ".join(dotted(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
