"""The pieces of a plain SQL dump, and the sections that pg_dump sorts its entries into."""

import re
from typing import NamedTuple


class Entry(NamedTuple):
    """The announcement of an object in the dump (pg_dump calls it a TOC entry)."""

    type: str
    name: bytes
    schema: bytes
    owner: bytes
    catalog: int  # OID of the system catalog that contains the object, 0 if unknown
    oid: int  # its OID there, 0 if unknown


class Text(NamedTuple):
    """SQL outside COPY data; a piece ends between two lines."""

    data: bytes


class CopyBegin(NamedTuple):
    """A complete `COPY ... FROM stdin;` statement with its newline."""

    data: bytes


class Rows(NamedTuple):
    """COPY data; a piece ends after a row, unless a row is longer than the input."""

    data: bytes


class CopyEnd(NamedTuple):
    """The line that ends COPY data."""

    data: bytes = b"\\.\n"


class StatementEnd(NamedTuple):
    """The end of a statement, after its semicolon; only if statements were requested."""

    data: bytes = b""


class Meta(NamedTuple):
    """A psql command that pg_dump writes, with its newline; psql executes it, not the server."""

    data: bytes


class Setting(NamedTuple):
    """`SET default_tablespace = ...;` or similar, which pg_dump writes before an entry."""

    data: bytes


class Begin(NamedTuple):
    """The comment at the beginning of every dump."""

    data: bytes


class Complete(NamedTuple):
    """The comment that pg_dump writes at the end of a complete dump."""

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
# These entries follow the object that they belong to, in the same section.
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
    rb'^ALTER (?:FOREIGN )?TABLE (?:"(?:[^"]|"")*+"|[^";\n])* SET \((?P<all>[^()\n]*)\);\n',
    re.MULTILINE,
)


def without_marks(text: bytes) -> bytes:
    """Return SQL without the marks that a server set on its columns."""

    def keep(match: re.Match[bytes]) -> bytes:
        options = match["all"].split(b", ")
        kept = [option for option in options if not option.startswith(_MARK)]
        if len(kept) == len(options):
            return match.group()
        begin, end = (place - match.start() for place in match.span("all"))
        whole = match.group()
        return whole[:begin] + b", ".join(kept) + whole[end:] if kept else b""

    return _OPTIONS.sub(keep, text) if _MARK in text else text
