"""What needs a table and has gone with it, as DROP TABLE ... CASCADE takes views along."""

from collections.abc import Iterable, Iterator

from . import relations
from .contents import Contents, Entry
from .snapshot import Connection
from .statements import Name, mentioned, own_name

_OF_ANOTHER_TABLE = frozenset({"FK CONSTRAINT", "POLICY"})
_KINDS = _OF_ANOTHER_TABLE | {"VIEW", "MATERIALIZED VIEW", "FUNCTION", "PROCEDURE"}


def gone(connection: Connection, contents: Contents, tables: Iterable[Name]) -> Iterator[Entry]:
    """Yield what the backup has, the database has no more, and only these tables are missing for.

    In pg_dump's order, in which a view of a view comes after that.
    """
    around = set(tables)
    for entry in contents.entries:
        if entry.one.type not in _KINDS or entry.table in around:
            continue
        names = mentioned(entry.text, contents.codec)
        if not names & around:
            continue
        own = _name(entry, contents)
        others = (names & contents.kinds.keys()) - around - {own}
        if _is_there(connection, entry, own) or not all(
            relations.is_there(connection, contents.kinds[name], name) for name in others
        ):
            continue
        around.add(own)
        yield entry


def _name(entry: Entry, contents: Contents) -> Name:
    found = own_name(entry.one.type, entry.text, contents.codec)
    return (entry.one.schema, entry.one.name.partition("(")[0]) if found is None else found


def _is_there(connection: Connection, entry: Entry, own: Name) -> bool:
    if entry.one.type not in _OF_ANOTHER_TABLE:
        return relations.is_there(connection, entry.one.type, own)
    oid = None if entry.table is None else relations.relation(connection, entry.table)
    return oid is None or own[1] in relations.constraints_and_policies(connection, oid)
