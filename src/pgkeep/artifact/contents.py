"""Assign the contents of a backup file to tables: definitions, rows, dependent objects."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import errors as e
from ..sql import script, statements
from ..sql.encodings import codec
from ..sql.selection import Pattern
from ..sql.statements import Name
from .file import Artifact, Object

# Objects that do not belong to one table, although they can mention one.
_SEQUENCES = frozenset({"SEQUENCE", "SEQUENCE SET"})
_NO_DEFINITIONS = script.LARGE_OBJECT_TYPES | {"TABLE DATA"}
_ABOUT_ANYTHING = frozenset({"COMMENT", "ACL", "SECURITY LABEL"})
_OF_STATISTICS = re.compile(rb"^COMMENT ON STATISTICS ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One of pg_dump's entries with its SQL, and the table to which it belongs."""

    one: Object
    text: bytes
    table: Name | None


class Contents:
    """The definitions in a backup file by table; rows are not read."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.codec = codec(artifact.index.meta.database.encoding)
        self._by_member = artifact.index.objects_by_member()
        read = list(self._read())
        self.tables = [self._name(*pair) for pair in read if pair[0].type == "TABLE"]
        # A dump contains rows of configuration tables of extensions, but no definition of them.
        defined = {_flat(name) for name in self.tables}
        extended = any(entry.type == "EXTENSION" for entry, _ in read)
        self.without_definition = [
            (row.schema, row.name)
            for row in artifact.index.table_rows()
            if extended and _flat((row.schema, row.name)) not in defined
        ]
        self.sequences = self._sequences(read)
        self.indexes = self._indexes(read)
        self.statistics = {
            self._name(entry, text): table
            for entry, text in read
            if entry.type == "STATISTICS"
            and (table := statements.subject(entry.type, text, self.codec)) is not None
        }
        self.parents = self._parents(read)
        self.entries = [Entry(entry, text, self._table(entry, text)) for entry, text in read]
        self.kinds: Mapping[Name, str] = {
            (entry.schema, entry.name.partition("(")[0]): entry.type for entry, _ in reversed(read)
        }

    def matching(self, patterns: Sequence[Pattern]) -> list[Name]:
        """Return the tables that match; for a partitioned table also all its partitions."""
        chosen = {
            name for name in self.tables if any(pattern.matches(*name) for pattern in patterns)
        }
        while (
            more := {child for child, parent in self.parents.items() if parent in chosen} - chosen
        ):
            chosen |= more
        chosen |= {
            name
            for name in self.without_definition
            if any(pattern.matches(*name) for pattern in patterns)
        }
        return [name for name in [*self.tables, *self.without_definition] if name in chosen]

    def of(self, tables: Iterable[Name]) -> list[Entry]:
        """Return the entries of these tables, in pg_dump's order."""
        wanted = set(tables)
        return [entry for entry in self.entries if entry.table in wanted]

    def rows(self, table: Name) -> list[Object]:
        """Return the parts that contain a table's rows; a table without rows has an empty part.

        Raises:
            VerificationFailed: no part exists, or several tables match its name.

        """
        parts = [entry for entry in self.artifact.index.objects if entry.rows is not None]
        found = [part for part in parts if (part.schema, part.name) == table]
        if not found:
            # Names in the index of a foreign dump come from comments: spaces replace line ends.
            same = [name for name in self.tables if _flat(name) == _flat(table)]
            found = [part for part in parts if (part.schema, part.name) == _flat(table)]
            if len(same) > 1:
                found = []
        if not found and not self._is_partitioned(table):
            raise e.VerificationFailed(
                f"{self.artifact.source.name}: rows of {'.'.join(table)} not found"
            )
        return found

    def inserted(self, tables: Iterable[Name]) -> list[Name]:
        """Return the tables whose rows are INSERT statements, which foreign dumps can have."""
        found = {
            (entry.schema, entry.name)
            for entry in self.artifact.index.objects
            if entry.type == "TABLE DATA" and entry.rows is None
        }
        return [name for name in tables if _flat(name) in found]

    def _is_partitioned(self, table: Name) -> bool:
        return any(
            entry.one.type == "TABLE" and b"PARTITION BY" in entry.text
            for entry in self.of([table])
        )

    def relations(self, table: Name) -> set[Name]:
        """Return the table and the relations that it owns: sequences, indexes, statistics."""
        owned = (names for names in (self.sequences, self.indexes))
        found = {table} | {name for names in owned for name, of in names.items() if of == table}
        return found | {
            self._name(entry.one, entry.text)
            for entry in self.of([table])
            if entry.one.type == "STATISTICS"
        }

    def _read(self) -> Iterable[tuple[Object, bytes]]:
        for number, objects in enumerate(self._by_member):
            wanted = [entry for entry in objects if entry.type not in _NO_DEFINITIONS]
            if wanted:
                data = self.artifact.read(number)
                for entry in wanted:
                    yield entry, data[entry.start : entry.start + entry.length]

    def _sequences(self, read: Sequence[tuple[Object, bytes]]) -> dict[Name, Name]:
        """Return the sequences that belong to a column, with the table of that column."""
        found = {}
        for entry, text in read:
            if entry.type in ("SEQUENCE", "SEQUENCE OWNED BY"):
                owner = statements.subject(entry.type, text, self.codec)
                if owner is not None:
                    found[self._name(entry, text)] = owner
        return found

    def _indexes(self, read: Sequence[tuple[Object, bytes]]) -> dict[Name, Name]:
        found = {}
        for entry, text in read:
            if entry.type in ("INDEX", "CONSTRAINT"):
                table = statements.subject(entry.type, text, self.codec)
                if table is not None:
                    found[self._name(entry, text)] = table
        return found

    def _parents(self, read: Sequence[tuple[Object, bytes]]) -> dict[Name, Name]:
        """Return the parent of each partition."""
        found = {}
        for entry, text in read:
            child = statements.subject(entry.type, text, self.codec)
            parent = statements.ALTER_TABLE.search(text)
            if entry.type == "TABLE ATTACH" and child is not None and parent is not None:
                found[child] = statements.name_of(parent, self.codec)
        return found

    def _table(self, entry: Object, text: bytes) -> Name | None:
        if entry.type == "TABLE":
            return self._name(entry, text)
        if entry.type in _SEQUENCES:
            return self.sequences.get(self._name(entry, text))
        subject = statements.subject(entry.type, text, self.codec)
        if subject is None:
            return None
        if entry.type in _ABOUT_ANYTHING and _OF_STATISTICS.search(text):
            return self.statistics.get(subject)  # names of statistics are not names of relations
        if entry.type == "INDEX ATTACH" or entry.type in _ABOUT_ANYTHING:
            subject = self.indexes.get(subject, self.sequences.get(subject, subject))
        return subject

    def _name(self, entry: Object, text: bytes) -> Name:
        found = statements.own_name(entry.type, text, self.codec)
        return (entry.schema, entry.name) if found is None else found


def _flat(name: Name) -> Name:
    schema, table = (re.sub(r"[\r\n]", " ", part) for part in name)
    return schema, table
