"""What of an artifact belongs to which table: definitions, rows, everything that hangs on it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import errors as e
from ..sql import script, statements
from ..sql.encodings import codec
from ..sql.selection import Pattern
from ..sql.statements import Name
from .file import Artifact, Object

# Not of one table, though they may mention it.
_SEQUENCES = frozenset({"SEQUENCE", "SEQUENCE SET"})
_NO_DEFINITIONS = script.LARGE_OBJECT_TYPES | {"TABLE DATA"}
_ABOUT_ANYTHING = frozenset({"COMMENT", "ACL", "SECURITY LABEL"})
_OF_STATISTICS = re.compile(rb"^COMMENT ON STATISTICS ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One of pg_dump's entries with its SQL, and the table that it belongs to."""

    one: Object
    text: bytes
    table: Name | None


class Contents:
    """The definitions in an artifact by table; the rows are not read."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.codec = codec(artifact.index.meta.database.encoding)
        self._by_member = artifact.index.objects_by_member()
        read = list(self._read())
        self.tables = [self._name(*pair) for pair in read if pair[0].type == "TABLE"]
        # Of configuration tables of extensions a dump has rows, and no definition.
        defined = {_flat(name) for name in self.tables}
        extended = any(one.type == "EXTENSION" for one, _ in read)
        self.without_definition = [
            (row.schema, row.name)
            for row in artifact.index.table_rows()
            if extended and _flat((row.schema, row.name)) not in defined
        ]
        self.sequences = self._sequences(read)
        self.indexes = self._indexes(read)
        self.statistics = {
            self._name(one, text): table
            for one, text in read
            if one.type == "STATISTICS"
            and (table := statements.subject(one.type, text, self.codec)) is not None
        }
        self.parents = self._parents(read)
        self.entries = [Entry(one, text, self._table(one, text)) for one, text in read]
        self.kinds: Mapping[Name, str] = {
            (one.schema, one.name.partition("(")[0]): one.type for one, _ in reversed(read)
        }

    def matching(self, patterns: Sequence[Pattern]) -> list[Name]:
        """Return the tables that are meant, and with a partitioned one all its partitions."""
        chosen = {
            name for name in self.tables if any(pattern.matches(*name) for pattern in patterns)
        }
        while more := {one for one, parent in self.parents.items() if parent in chosen} - chosen:
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
        """Return the parts that hold a table's rows; one without rows has an empty part.

        Raises:
            VerificationFailed: there is none, or it cannot be told which are meant.

        """
        parts = [entry for entry in self.artifact.index.objects if entry.rows is not None]
        found = [part for part in parts if (part.schema, part.name) == table]
        if not found:
            # Of a foreign dump only the comments are known, which have blanks for line ends.
            same = [name for name in self.tables if _flat(name) == _flat(table)]
            found = [part for part in parts if (part.schema, part.name) == _flat(table)]
            if len(same) > 1:
                found = []
        if not found and not self._is_partitioned(table):
            raise e.VerificationFailed(
                f"{self.artifact.source.name}: the rows of {'.'.join(table)} are not to be found"
            )
        return found

    def inserted(self, tables: Iterable[Name]) -> list[Name]:
        """Return those whose rows are INSERT statements, which a dump of others may have."""
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
        """Return the table and what has a name of its own in its schema because of it."""
        owned = (names for names in (self.sequences, self.indexes))
        found = {table} | {one for names in owned for one, of in names.items() if of == table}
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
                for one in wanted:
                    yield one, data[one.start : one.start + one.length]

    def _sequences(self, read: Sequence[tuple[Object, bytes]]) -> dict[Name, Name]:
        """Return the sequences that belong to a column, and of which table it is."""
        found = {}
        for one, text in read:
            if one.type in ("SEQUENCE", "SEQUENCE OWNED BY"):
                owner = statements.subject(one.type, text, self.codec)
                if owner is not None:
                    found[self._name(one, text)] = owner
        return found

    def _indexes(self, read: Sequence[tuple[Object, bytes]]) -> dict[Name, Name]:
        found = {}
        for one, text in read:
            if one.type in ("INDEX", "CONSTRAINT"):
                table = statements.subject(one.type, text, self.codec)
                if table is not None:
                    found[self._name(one, text)] = table
        return found

    def _parents(self, read: Sequence[tuple[Object, bytes]]) -> dict[Name, Name]:
        """Return the parent of each partition."""
        found = {}
        for one, text in read:
            child = statements.subject(one.type, text, self.codec)
            parent = statements.ALTER_TABLE.search(text)
            if one.type == "TABLE ATTACH" and child is not None and parent is not None:
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
            return self.statistics.get(subject)  # whose names are not those of relations
        if entry.type == "INDEX ATTACH" or entry.type in _ABOUT_ANYTHING:
            subject = self.indexes.get(subject, self.sequences.get(subject, subject))
        return subject

    def _name(self, entry: Object, text: bytes) -> Name:
        found = statements.own_name(entry.type, text, self.codec)
        return (entry.schema, entry.name) if found is None else found


def _flat(name: Name) -> Name:
    schema, table = (re.sub(r"[\r\n]", " ", part) for part in name)
    return schema, table
