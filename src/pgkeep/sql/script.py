"""The pieces of a plain SQL dump, and the sections that pg_dump sorts its entries into."""

import re
from typing import NamedTuple


class Entry(NamedTuple):
    """An object's announcement in the dump (pg_dump calls it a TOC entry)."""

    type: str
    name: bytes
    schema: bytes
    owner: bytes
    catalog: int  # OID of the system catalog that the object stands in, 0 when not said
    oid: int  # its OID there, 0 when not said


class Text(NamedTuple):
    """SQL outside of COPY data; pieces end anywhere between two lines."""

    data: bytes


class CopyBegin(NamedTuple):
    """A whole `COPY ... FROM stdin;` statement with its newline."""

    data: bytes


class Rows(NamedTuple):
    """COPY data; a piece ends after a row unless a row is longer than what was fed."""

    data: bytes


class CopyEnd(NamedTuple):
    """The line that ends COPY data."""

    data: bytes = b"\\.\n"


class StatementEnd(NamedTuple):
    """Where a statement ends, after its semicolon; only if the scanner was asked for these."""

    data: bytes = b""


class Meta(NamedTuple):
    """One of the psql commands that pg_dump writes, with its newline; text for psql only."""

    data: bytes


class Setting(NamedTuple):
    """`SET default_tablespace = ...;` or its like, which pg_dump writes ahead of an entry."""

    data: bytes


class Begin(NamedTuple):
    """The comment that every dump begins with."""

    data: bytes


class Complete(NamedTuple):
    """The comment that pg_dump writes when it has written everything."""

    data: bytes


Piece = Entry | Text | StatementEnd | CopyBegin | Rows | CopyEnd | Meta | Setting | Begin | Complete

COPY_DATA_END = b"\\.\n"

# The type of the first entry that is no longer pre-data. pg_dump sorts a plain dump into pre-data,
# data and post-data, then all ACLs, then materialized views and event triggers.
DATA_TYPES = frozenset({"TABLE DATA", "SEQUENCE SET", "BLOBS", "BLOB METADATA", "STATISTICS DATA"})
LARGE_OBJECT_TYPES = frozenset({"BLOB", "BLOBS", "BLOB METADATA"})
POST_DATA_TYPES = frozenset({
    "ACL", "CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT ACL", "EVENT TRIGGER", "FK CONSTRAINT",
    "INDEX", "INDEX ATTACH", "MATERIALIZED VIEW DATA", "POLICY", "PUBLICATION",
    "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "ROW SECURITY", "RULE", "STATISTICS",
    "SUBSCRIPTION", "SUBSCRIPTION TABLE", "TRIGGER",
})  # fmt: skip
# These follow what they belong to, into whichever section that is.
FOLLOWING_TYPES = frozenset({"ACL", "COMMENT", "SECURITY LABEL"})


def section_of(entry: Entry, current: str) -> str:
    """Return the section, `pre`, `data` or `post`, of an entry that follows one in `current`."""
    if entry.type in FOLLOWING_TYPES and current == "data":
        return current
    if entry.type in DATA_TYPES and current != "post":
        return "data"
    if current == "pre" and entry.type not in POST_DATA_TYPES:
        return current
    return "post"


# A mark of the server's own at each column, which came with a minor release of each major. pg_dump
# leaves it out since then; an older one writes it down, and servers without that release refuse it.
_MARK = b"pg_attver="
_OPTIONS = re.compile(
    rb'^ALTER (?:FOREIGN )?TABLE (?:"(?:[^"]|"")*"|[^";\n])* SET \((?P<all>[^()\n]*)\);\n',
    re.MULTILINE,
)


def without_marks(text: bytes) -> bytes:
    """Return SQL without the marks that a server has set at its columns."""

    def keep(match: re.Match[bytes]) -> bytes:
        options = match["all"].split(b", ")
        kept = [option for option in options if not option.startswith(_MARK)]
        if len(kept) == len(options):
            return match.group()
        begin, end = (place - match.start() for place in match.span("all"))
        whole = match.group()
        return whole[:begin] + b", ".join(kept) + whole[end:] if kept else b""

    return _OPTIONS.sub(keep, text) if _MARK in text else text
