"""Find objects that were dropped with a table, such as views by DROP TABLE ... CASCADE."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ...artifact.contents import Contents, Entry
from ...postgres.connection import Connection
from ...sql.statements import QUALIFIED, Name, mentioned, name_of, own_name
from . import relations

_OF_ANOTHER_TABLE = frozenset({"FK CONSTRAINT", "POLICY", "RULE"})
# A table that inherits, or has a column of the table's type, is dropped with its rows.
_KINDS = _OF_ANOTHER_TABLE | {
    "TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "FUNCTION", "PROCEDURE",
}  # fmt: skip
# pg_dump creates a view in two steps if it depends on a table's primary key.
_SECOND_STEP = re.compile(rb"^CREATE OR REPLACE VIEW %b" % QUALIFIED, re.MULTILINE)


class _Dependent(NamedTuple):
    kind: str
    table: Name | None  # that it belongs to, where it is not one itself
    name: Name
    needs: set[Name]

    def __str__(self) -> str:
        schema, name = self.name
        of = f"{self.table[1]} " if self.table is not None else ""
        return f"{self.kind.lower()} {schema}.{of}{name}"


def find(connection: Connection, contents: Contents, tables: Iterable[Name]) -> list[str]:
    """Return what the backup has, the database has no more, and only these tables are missing for.

    In the order in which it can be made again: a view of a view comes after that.
    """
    around = set(tables)
    candidates = [
        _dependent(entry, contents)
        for entry in contents.entries
        if entry.one.type in _KINDS and entry.table not in around
    ]
    found: list[_Dependent] = []
    while True:
        # Dropping a partition also drops the foreign keys that refer to all of the table.
        roots = around | {ancestor for name in around for ancestor in _ancestors(name, contents)}
        more = [
            candidate
            for candidate in candidates
            if candidate not in found
            and candidate.needs & (roots if candidate.kind == "FK CONSTRAINT" else around)
            and not _is_there(connection, candidate)
            and _others_are_there(connection, contents, candidate.needs - roots - {candidate.name})
        ]
        if not more:
            return list(dict.fromkeys(map(str, found)))
        found += more
        around |= {dependent.name for dependent in more}


def _dependent(entry: Entry, contents: Contents) -> _Dependent:
    needs = mentioned(entry.text, contents.codec)
    kind = entry.one.type
    view = _SECOND_STEP.search(entry.text) if kind == "RULE" else None
    if view is not None:
        return _Dependent("VIEW", None, name_of(view, contents.codec), needs)
    name = own_name(kind, entry.text, contents.codec)
    if name is None:
        name = entry.one.schema, entry.one.name.partition("(")[0]
    return _Dependent(kind, entry.table if kind in _OF_ANOTHER_TABLE else None, name, needs)


def _ancestors(name: Name, contents: Contents) -> Iterator[Name]:
    while (parent := contents.parents.get(name)) is not None:
        yield parent
        name = parent


def _others_are_there(connection: Connection, contents: Contents, names: set[Name]) -> bool:
    return all(
        relations.is_there(connection, contents.kinds[name], name)
        for name in names & contents.kinds.keys()
    )


def _is_there(connection: Connection, dependent: _Dependent) -> bool:
    if dependent.kind not in _OF_ANOTHER_TABLE:
        return relations.is_there(connection, dependent.kind, dependent.name)
    oid = None if dependent.table is None else relations.relation(connection, dependent.table)
    return oid is None or dependent.name[1] in relations.belongings(connection, oid)
