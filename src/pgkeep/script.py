"""The structure of a plain SQL dump, read from a stream of bytes: entries, COPY blocks, ending.

pg_dump announces each object in a comment; a function's body or a comment may hold the same
lines, so the scanner follows SQL's quoting (manual, section 4.1, "Lexical Structure") and believes
only what stands outside of it. Bytes are never decoded: every server encoding of PostgreSQL keeps
ASCII characters unambiguous (manual, section 23.3, "Character Set Support").
"""

import re
from collections.abc import Container, Iterator
from typing import NamedTuple

from . import errors as e


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


class Meta(NamedTuple):
    """A psql command such as `restrict`, with its newline; a piece of text for psql only."""

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


# A mark of the server's own at each column, which came with a minor release of each major. pg_dump
# leaves it out since then; an older one writes it down, and servers without that release refuse it.
_MARK = b"pg_attver="
_OPTIONS = re.compile(
    rb'^ALTER (?:FOREIGN )?TABLE (?:"(?:[^"]|"")*"|[^";\n])* SET \((?P<all>[^()\n]*)\);\n',
    re.MULTILINE,
)

Piece = Entry | Text | CopyBegin | Rows | CopyEnd | Meta | Setting | Begin | Complete

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

# Each alternative begins with a literal, so that the engine skips to the next of these few
# characters instead of trying all alternatives everywhere: five times faster on 10,000 tables.
# `(?<=^-)` asks whether the character just read stands at the beginning of a line.
_TOKEN = re.compile(
    rb"""
      -(?P<entry>(?<=^-)-\n
          (?:--\ TOC\ entry\ \d+\ \(class\ (?P<catalog>\d+)\ OID\ (?P<oid>\d+)\)\n)?
          (?:--\ Dependencies:[\d\ ]*\n)?
          --\ (?P<data>Data\ for\ )?Name:\ (?P<names>[^\n]*;\ Type:\ [A-Z\ ]+;
          \ Schema:\ [^\n]*;\ Owner:\ [^\n]*)\n
          --\n)
    | -(?P<complete>(?<=^-)-\ PostgreSQL\ database\ (?:cluster\ )?dump\ complete\n)
    | -(?P<begin>(?<=^-)-\ PostgreSQL\ database\ (?:cluster\ )?dump\n)
    | -(?P<comment>-[^\n]*\n)
    | S(?P<strings>(?<=^S)ET\ standard_conforming_strings\ =\ (?P<standard>on|off);\n)
    | S(?P<setting>(?<=^S)ET\ default_\w+\ =\ (?:'[^']*'|"(?:[^"]|"")*"|[^;'"\n]*);\n)
    | C(?P<copy>(?<=^C)OPY\ )
    | \\(?P<meta>(?<=^\\)[^\n]*\n)
    | '(?P<string>)
    | "(?P<identifier>)
    | \$(?P<dollar>(?<![\w$\x80-\xff]\$)(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$)
    | /(?P<block>\*)
    """,
    re.VERBOSE | re.MULTILINE,
)
_LINES: dict[str, type[Setting | Meta | Begin | Complete]] = {
    "setting": Setting,
    "meta": Meta,
    "begin": Begin,
    "complete": Complete,
}
_COMMENTS = re.compile(rb"(?:--[^\n]*\n){1,5}")  # an announcement has no more lines
# On one line, but for names that hold line ends.
_COPY = re.compile(rb'COPY (?:"[^"]*"|[^";\n]++)*+(?:;\n?|(?P<open>"))?')
_COPY_LIMIT = 1 << 20  # 1,600 columns with the longest names are a fifth of it
_FROM_STDIN = re.compile(rb" FROM stdin;\n\Z", re.IGNORECASE)
_ESCAPE = re.compile(rb"[\\']")
_BLOCK = re.compile(rb"/\*|\*/")
_IDENTIFIER_CHARACTERS = re.compile(rb"[\w$\x80-\xff]")
_TYPE = re.compile(rb"; Type: (?P<type>[A-Z ]+); Schema: ")
_OWNER = b"; Owner: "
_ANNOUNCED_AS_DATA = frozenset({b"TABLE DATA", b"BLOBS"})
_PG_CLASS = 1259  # the OID of the catalog pg_class, the same everywhere
_PG_CLASS_TYPES = frozenset({
    b"FOREIGN TABLE", b"INDEX", b"MATERIALIZED VIEW", b"SEQUENCE", b"TABLE", b"VIEW",
})  # fmt: skip
_TABLESPACE = re.compile(rb"; Tablespace: [^\n]*\Z")


class Scanner:
    """Turn chunks of a dump, cut anywhere, into pieces; their data concatenated is the input.

    `Entry` has no data of its own: its comment lines follow as `Text`. The names of all schemas,
    where they are known, help to read entries whose names hold what looks like another entry.
    """

    def __init__(self, schemas: Container[bytes] | None = None) -> None:
        self._schemas = schemas
        self._held: list[bytes] = []  # the beginning of something that is not whole yet
        self._quote: bytes | None = None  # what ends the quoted text that we are in
        self._escapes = False  # inside a string in which a backslash quotes
        self._depth = 0  # of nested /* comments */
        self._copying = False
        self._row_open = False  # inside a row whose beginning was given out
        self._backslash_strings = False  # standard_conforming_strings is off

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """Yield what can be told of the input so far."""
        if not self._copying and b"\n" not in chunk:
            self._held.append(chunk)  # joining at each chunk would be quadratic in the line
            return
        buffer = b"".join([*self._held, chunk])
        self._held.clear()
        yield from self._scan(buffer, final=False)

    def close(self) -> Iterator[Piece]:
        """Yield the rest; raise VerificationFailed if the input ends inside something."""
        buffer = b"".join(self._held)
        self._held.clear()
        if buffer:
            yield from self._scan(buffer, final=True)
        if self._copying:
            raise e.VerificationFailed("the dump ends inside the data of a COPY")
        if self._quote is not None or self._depth:
            raise e.VerificationFailed("the dump ends inside a quoted string or a comment")

    def _scan(self, buffer: bytes, *, final: bool) -> Iterator[Piece]:
        """Give out the buffer's whole lines, or all of it at the end; hold the rest.

        A buffer always begins at the beginning of a line, or inside a row or quoted text: the
        patterns' ^ and look-behinds rely on it.
        """
        position = 0
        while position < len(buffer):
            if self._copying:
                pieces, after = self._rows(buffer, position)
            else:
                end = len(buffer) if final else buffer.rfind(b"\n") + 1
                if position >= end:
                    break
                pieces, after = self._text(buffer, position, end, final=final)
            yield from pieces
            if after == position:
                break
            position = after
        if position < len(buffer):
            if final and not self._copying:
                yield Text(buffer[position:])
            elif not final:
                self._held.append(buffer[position:])

    def _rows(self, buffer: bytes, start: int) -> tuple[list[Piece], int]:
        if not self._row_open and buffer.startswith(COPY_DATA_END, start):
            self._copying = False
            return [CopyEnd()], start + len(COPY_DATA_END)
        end = buffer.find(b"\n" + COPY_DATA_END, start) + 1
        if end:
            self._copying = self._row_open = False
            return [Rows(buffer[start:end]), CopyEnd()], end + len(COPY_DATA_END)
        end = buffer.rfind(b"\n", start) + 1 or start
        if len(buffer) - end >= len(COPY_DATA_END):  # longer than an end line: part of a row
            end = len(buffer)
        if end == start:
            return [], start
        self._row_open = buffer[end - 1] != ord("\n")
        return [Rows(buffer[start:end])], end

    def _text(self, buffer: bytes, start: int, end: int, *, final: bool) -> tuple[list[Piece], int]:
        """Read SQL up to `end` or to the data of a COPY."""
        pieces: list[Piece] = []
        position = told = start
        while position < end:
            if self._quote is not None or self._depth:
                position = self._skip_quoted(buffer, position, end)
                if self._quote is not None or self._depth:
                    break  # it goes on in the next chunk
            match = _TOKEN.search(buffer, position, end)
            if match is None:
                position = end
                break
            kind, at, position = str(match.lastgroup), match.start(), match.end()
            if not final and _is_cut(match, buffer, end):
                position = end = at
            elif kind == "entry":
                _tell(pieces, buffer[told:at])
                pieces.append(_entry(match, self._schemas))
                told = at
            elif kind in _LINES:
                _tell(pieces, buffer[told:at])
                pieces.append(_LINES[kind](match.group()))
                told = position
            elif kind == "copy":
                statement = _COPY.match(buffer, at, min(end, at + _COPY_LIMIT))
                if statement is not None and _FROM_STDIN.search(statement.group()):
                    _tell(pieces, buffer[told:at])
                    self._copying = True
                    return [*pieces, CopyBegin(statement.group())], statement.end()
            elif kind == "strings":
                self._backslash_strings = match["standard"] == b"off"
            elif kind != "comment":
                self._open_quote(kind, match.group(), buffer[max(at - 2, 0) : at])
        _tell(pieces, buffer[told:position])
        return pieces, position

    def _open_quote(self, kind: str, token: bytes, before: bytes) -> None:
        if kind == "block":
            self._depth = 1
        elif kind == "string" and (self._backslash_strings or _is_escape(before)):
            self._quote, self._escapes = b"'", True
        else:
            self._quote, self._escapes = token, False

    def _skip_quoted(self, buffer: bytes, position: int, end: int) -> int:
        """Return where the quoted text ends, or `end`; a doubled quote opens a new string."""
        if self._depth:
            return self._skip_block(buffer, position, end)
        assert self._quote is not None  # noqa: S101 - for the type checker
        if self._escapes:
            return self._skip_escaped(buffer, position, end)
        found = buffer.find(self._quote, position, end)
        if found < 0:
            return end
        position = found + len(self._quote)
        self._quote = None
        return position

    def _skip_escaped(self, buffer: bytes, position: int, end: int) -> int:
        while match := _ESCAPE.search(buffer, position, end):
            position = match.end()
            if match.group() == b"\\" or buffer.startswith(b"'", position):
                position += 1
            else:
                self._quote, self._escapes = None, False
                return position
        return end

    def _skip_block(self, buffer: bytes, position: int, end: int) -> int:
        while match := _BLOCK.search(buffer, position, end):
            position = match.end()
            self._depth += 1 if match.group() == b"/*" else -1
            if not self._depth:
                return position
        return end


def without_marks(text: bytes) -> bytes:
    """Return SQL without the marks that a server has set at its columns."""

    def keep(match: re.Match[bytes]) -> bytes:
        options = match["all"].split(b", ")
        kept = [one for one in options if not one.startswith(_MARK)]
        if len(kept) == len(options):
            return match.group()
        begin, end = (place - match.start() for place in match.span("all"))
        whole = match.group()
        return whole[:begin] + b", ".join(kept) + whole[end:] if kept else b""

    return _OPTIONS.sub(keep, text) if _MARK in text else text


def _tell(pieces: list[Piece], data: bytes) -> None:
    if data:
        pieces.append(Text(data))


def _is_escape(before: bytes) -> bool:
    """Whether the two bytes before a quote make it an E'string' rather than the end of a word."""
    return before[-1:] in (b"E", b"e") and not _IDENTIFIER_CHARACTERS.match(before[:-1])


def _is_cut(match: re.Match[bytes], buffer: bytes, end: int) -> bool:
    """Whether a token may look different when more input is there."""
    at = match.start()
    if match.lastgroup == "copy":
        # A longer one is none: waiting for its end would take memory and quadratic time.
        statement = _COPY.match(buffer, at, end)
        return end - at < _COPY_LIMIT and statement is not None and statement["open"] is not None
    if match.group() != b"--\n" or buffer[max(at - 1, 0) : at] not in (b"", b"\n"):
        return False
    # Perhaps the beginning of an entry: its lines are all comments.
    comments = _COMMENTS.match(buffer, at, end)
    return comments is not None and comments.end() == end


class _Names(NamedTuple):
    """One way to read an entry's line."""

    name: bytes
    type: bytes
    schema: bytes
    owner: bytes


def _entry(match: re.Match[bytes], schemas: Container[bytes] | None) -> Entry:
    """Read an entry's line, in which names may hold what looks like the rest of it."""
    readings = list(_readings(match["names"]))
    catalog = int(match["catalog"] or 0)
    if len(readings) > 1:
        as_data = match["data"] is not None
        readings = [
            one for one in readings if _is_likely(one, catalog, schemas, as_data=as_data)
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
    """Whether a reading does not contradict what else is known of the entry."""
    return (
        (schemas is None or names.schema == b"-" or names.schema in schemas)
        and (names.type in _ANNOUNCED_AS_DATA) == as_data
        and (catalog != _PG_CLASS or names.type in _PG_CLASS_TYPES)
    )


def section_of(entry: Entry, current: str) -> str:
    """Return the section, `pre`, `data` or `post`, of an entry that follows one in `current`."""
    if entry.type in FOLLOWING_TYPES and current == "data":
        return current
    if entry.type in DATA_TYPES and current != "post":
        return "data"
    if current == "pre" and entry.type not in POST_DATA_TYPES:
        return current
    return "post"


_BEGINNING = re.compile(
    rb"^-- PostgreSQL database (?:cluster )?dump(?P<carriage>\r?)\n", re.MULTILINE
)


def check_beginning(head: bytes) -> None:
    """Raise VerificationFailed unless a file that begins with these bytes may be a plain dump.

    For files of any kind: a scanner would search a disk image for the end of its first line.
    """
    if not head:
        raise e.VerificationFailed("the dump is empty")
    match = _BEGINNING.search(head)
    if match is None or b"\0" in head[: match.start()]:  # pg_dump -Ft has plain SQL inside
        raise _no_dump()
    if match["carriage"]:
        raise e.VerificationFailed(
            "its lines end in CR LF, those of pg_dump in LF: it was changed on the way",
            hint="Let pg_dump write it with --file=NAME, and transfer it as binary.",
        )


def _no_dump() -> e.VerificationFailed:
    return e.VerificationFailed(
        "not a plain dump of pg_dump: the comment that it begins with is missing",
        hint="pgkeep reads plain SQL (pg_dump -Fp); pg_restore reads the other formats.",
    )


class Outline:
    """What a whole dump must have: beginning, closed COPY blocks, data before indexes, ending.

    Raises VerificationFailed at the first thing that is wrong. Offsets are in bytes of the SQL.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.entries = 0
        self.copies = 0
        self.rows = 0
        self.connects = False  # reaches beyond one database, as pg_dump -C and pg_dumpall do
        self._section = "pre"
        self._begun = self._complete = False
        self._cluster = False  # inside a dump of pg_dumpall, which has an ending of its own
        self._key: bytes | None = None  # of \restrict
        self._restricted = False

    def add(self, piece: Piece) -> None:
        """Take the next piece of the dump."""
        match piece:
            case Entry():
                self._entry(piece)
                return
            case Rows():
                self.rows += piece.data.count(b"\n")
            case CopyBegin():
                self.copies += 1
                self._complete = False
                self._expect_begun()
            case Begin():
                self._begun, self._complete = True, False
                self._cluster |= b" cluster " in piece.data
                self.connects |= self._cluster
            case Complete():
                self._expect_begun()
                self._cluster &= b" cluster " not in piece.data
                self._complete = not self._cluster
            case Meta():
                self._meta(piece.data)
            case Text() if self._complete:
                self._ending(piece.data)
        self.offset += len(piece.data)

    def finish(self) -> None:
        """Check that the dump has ended as pg_dump ends it."""
        if not self._begun:
            raise _no_dump()
        if not self._complete:
            raise e.VerificationFailed(
                f"the dump is cut: it ends after {self.offset} bytes of SQL without"
                ' "PostgreSQL database dump complete"'
            )
        if self._restricted:
            raise e.VerificationFailed(r"the dump is cut: its \unrestrict line is missing")

    def _entry(self, entry: Entry) -> None:
        self.entries += 1
        if self._section == "post" and entry.type in DATA_TYPES:
            raise e.VerificationFailed(
                f"sections out of order: data at byte {self.offset} after indexes or constraints"
            )
        self._section = section_of(entry, self._section)

    def _expect_begun(self) -> None:
        if not self._begun:
            raise e.VerificationFailed(
                f'the beginning is missing: byte {self.offset} comes before "PostgreSQL database'
                ' dump"'
            )

    def _meta(self, line: bytes) -> None:
        command, _, argument = line.strip().partition(b" ")
        match command:
            case b"\\restrict":
                self._key, self._restricted = argument, True
            case b"\\unrestrict" if self._restricted and argument == self._key:
                self._restricted = False
            case b"\\connect":
                self.connects, self._section = True, "pre"
            case b"\\encoding" if argument == b"SQL_ASCII":
                pass  # goes ahead of \connect to a database with an odd name
            case _:
                raise e.VerificationFailed(
                    f"unexpected psql command at byte {self.offset}: {line[:60]!r}"
                )

    def _ending(self, text: bytes) -> None:
        """After the ending only comments may follow, or another database of pg_dumpall."""
        if any(line and not line.startswith(b"--") for line in text.split(b"\n")):
            self._complete = False
