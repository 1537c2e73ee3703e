"""Read the comment in which pg_dump announces an entry."""

import re
from collections.abc import Container, Iterator
from typing import NamedTuple

from .script import Entry

_TYPE = re.compile(rb"; Type: (?P<type>[A-Z ]+); Schema: ")
_OWNER = b"; Owner: "
_ANNOUNCED_AS_DATA = frozenset({b"TABLE DATA", b"BLOBS"})
_PG_CLASS = 1259  # the OID of the catalog pg_class, the same everywhere
_PG_CLASS_TYPES = frozenset({
    b"FOREIGN TABLE", b"INDEX", b"MATERIALIZED VIEW", b"SEQUENCE", b"TABLE", b"VIEW",
})  # fmt: skip
_TABLESPACE = re.compile(rb"; Tablespace: [^\n]*\Z")


class _Names(NamedTuple):
    """One possible reading of an entry's line."""

    name: bytes
    type: bytes
    schema: bytes
    owner: bytes


def read_entry(match: re.Match[bytes], schemas: Container[bytes] | None) -> Entry:
    """Return the entry that a match of the scanner announces.

    Names in its line may contain what looks like the rest of the line.
    """
    readings = list(_readings(match["names"]))
    catalog = int(match["catalog"] or 0)
    if len(readings) > 1:
        as_data = match["data"] is not None
        readings = [
            reading
            for reading in readings
            if _is_likely(reading, catalog, schemas, as_data=as_data)
        ] or readings
    names = readings[-1]
    return Entry(
        type=names.type.decode("ascii"),
        name=names.name,
        schema=names.schema,
        owner=_TABLESPACE.sub(b"", names.owner),
        catalog=catalog,
        oid=int(match["oid"] or 0),
    )


def _readings(line: bytes) -> Iterator[_Names]:
    for start in _TYPE.finditer(line):
        owner = start.end() - 1
        while (owner := line.find(_OWNER, owner + 1)) >= 0:
            schema = line[start.end() : owner]
            yield _Names(line[: start.start()], start["type"], schema, line[owner + len(_OWNER) :])


def _is_likely(
    names: _Names, catalog: int, schemas: Container[bytes] | None, *, as_data: bool
) -> bool:
    """Whether a reading does not contradict other facts about the entry."""
    return (
        (schemas is None or names.schema == b"-" or names.schema in schemas)
        and (names.type in _ANNOUNCED_AS_DATA) == as_data
        and (catalog != _PG_CLASS or names.type in _PG_CLASS_TYPES)
    )
