"""The structure of a plain SQL dump, read from a stream of bytes: entries, COPY blocks, ending.

pg_dump announces each object in a comment; a function's body or a comment may hold the same
lines, so the scanner follows SQL's quoting (manual, section 4.1, "Lexical Structure") and believes
only what stands outside of it. Bytes are never decoded: every server encoding of PostgreSQL keeps
ASCII characters unambiguous (manual, section 23.3, "Character Set Support").

The scanner must never believe to be inside a string where psql or the server is not. What they
might read differently, and pg_dump never writes, is refused: psql commands outside quotes, psql
variables, strings that are continued on another line, names that run into a quote.
"""

import re
from collections.abc import Container, Iterator
from typing import NamedTuple

from .. import errors as e


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


# A mark of the server's own at each column, which came with a minor release of each major. pg_dump
# leaves it out since then; an older one writes it down, and servers without that release refuse it.
_MARK = b"pg_attver="
_OPTIONS = re.compile(
    rb'^ALTER (?:FOREIGN )?TABLE (?:"(?:[^"]|"")*"|[^";\n])* SET \((?P<all>[^()\n]*)\);\n',
    re.MULTILINE,
)

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

# The lengths are far above what names of 63 bytes can give; without them a crafted line would take
# cubic time.
_ENTRY = rb"""
      -(?P<entry>(?<=^-)-\n
          (?:--\ TOC\ entry\ \d{1,20}\ \(class\ (?P<catalog>\d{1,10})\ OID\ (?P<oid>\d{1,10})\)\n)?
          (?:--\ Dependencies:[\d\ ]*\n)?
          --\ (?P<data>Data\ for\ )?Name:\ (?P<names>[^\n]{0,20000};\ Type:\ [A-Z\ ]{1,40};
          \ Schema:\ [^\n]{0,300};\ Owner:\ [^\n]{0,500})\n
          --\n)
"""
# The variables that psql sets by itself (psql's manual, "Variables"); others stay as they are.
_VARIABLES = (
    rb"AUTOCOMMIT|COMP_KEYWORD_CASE|DBNAME|ECHO|ECHO_HIDDEN|ENCODING|ERROR|FETCH_COUNT"
    rb"|HIDE_TABLEAM|HIDE_TOAST_COMPRESSION|HISTCONTROL|HISTFILE|HISTSIZE|HOST|IGNOREEOF|LASTOID"
    rb"|LAST_ERROR_MESSAGE|LAST_ERROR_SQLSTATE|ON_ERROR_ROLLBACK|ON_ERROR_STOP"
    rb"|PIPELINE_COMMAND_COUNT|PIPELINE_RESULT_COUNT|PIPELINE_SYNC_COUNT|PORT|PROMPT[123]|QUIET"
    rb"|ROW_COUNT|SERVER_VERSION_NAME|SERVER_VERSION_NUM|SERVICE|SHELL_ERROR|SHELL_EXIT_CODE"
    rb"|SHOW_ALL_RESULTS|SHOW_CONTEXT|SINGLELINE|SINGLESTEP|SQLSTATE|USER|VERBOSITY|VERSION"
    rb"|VERSION_NAME|VERSION_NUM|WATCH_INTERVAL"
)
# Each alternative begins with a literal, so that the engine skips to the next of these few
# characters instead of trying all alternatives everywhere: five times faster on 10,000 tables.
# `(?<=^-)` asks whether the character just read stands at the beginning of a line.
_TOKENS = (
    _ENTRY
    + rb"""
    | -(?P<complete>(?<=^-)-\ PostgreSQL\ database\ (?:cluster\ )?dump\ complete(?:\n|\Z))
    | -(?P<begin>(?<=^-)-\ PostgreSQL\ database\ (?:cluster\ )?dump\n)
    | -(?P<comment>-[^\n]*(?:\n|\Z))
    | S(?P<strings>(?<=^S)ET\ standard_conforming_strings\ =\ (?P<standard>on|off);\n)
    | S(?P<setting>(?<=^S)ET\ default_\w{1,60}\ =
        \ (?:'[^'\n]{0,200}'|"(?:[^"\n]|""){0,200}"|[^;'"\n]{0,200});\n)
    | C(?P<copy>(?<=^C)OPY\ )
    | \\(?P<meta>[^\n]*(?:\n|\Z))
    | '(?P<string>)
    | "(?P<identifier>)
    | \$(?P<dollar>(?<![\w$\x80-\xff]\$)(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$)
    | \$(?P<joined>(?<=[\w$\x80-\xff]\$))
    | /(?P<block>\*)
    | :(?P<variable>::|(?<!::)(?:['"]?(?:"""
    + _VARIABLES
    + rb""")\b|\{\?))
"""
)
_TOKEN = re.compile(_TOKENS, re.VERBOSE | re.MULTILINE)
# A semicolon ends a statement unless it stands within parentheses, as the actions of a rule do, or
# in a body in the SQL standard's form, whose last line is END.
_STATEMENT_TOKEN = re.compile(
    _TOKENS
    + rb"""
    | B(?P<atomic>(?<=[\s]B)EGIN\ ATOMIC\n)
    | E(?P<atomic_end>(?<=^E)ND;)
    | ;(?P<end>)
    | \((?P<open>)
    | \)(?P<close>)
""",
    re.VERBOSE | re.MULTILINE,
)
_META = re.compile(
    rb"""^\\(?:
        (?:un)?restrict\ [0-9A-Za-z]+
      | connect\ (?:[A-Za-z0-9_.]+|"[A-Za-z0-9_.]+")
      | connect\ -reuse-previous=on\ "dbname='(?:[^'"\\\n]|""|\\\\|\\')*'"
      | encoding\ SQL_ASCII
    )(?:\n|\Z)""",
    re.VERBOSE | re.MULTILINE,
)
_COMMENTS = re.compile(rb"(?:--[^\n]*\n){1,5}")  # an announcement has no more lines
# On one line, but for names that hold line ends.
_COPY = re.compile(rb'COPY (?:"[^"]*"|[^";\n]++)*+(?:;\n?|(?P<open>"))?')
_COPY_LIMIT = 1 << 20  # 1,600 columns with the longest names are a fifth of it
_COLUMNS = re.compile(
    rb'COPY (?P<table>(?:"(?:[^"]|"")*"|[^\s"(])+) \((?P<columns>(?:"(?:[^"]|"")*"|[^")])*)\) '
)
_COLUMN = re.compile(rb'(?:"(?:[^"]|"")*"|[^",])+')
_FROM_STDIN = re.compile(rb" FROM stdin;\n\Z", re.IGNORECASE)
_ESCAPE = re.compile(rb"[\\']")
_BLOCK = re.compile(rb"/\*|\*/")
_IDENTIFIER_CHARACTERS = re.compile(rb"[\w$\x80-\xff]")
_PREFIXES = frozenset({b"E", b"e", b"B", b"b", b"X", b"x", b"N", b"n"})
_TEXT = frozenset({b"", b"N", b"n"})  # the prefixes of strings that obey the server's setting
# The tokens that may be more than text; the others begin what is skipped, or are refused.
_SPOKEN = frozenset({
    "entry", "begin", "complete", "meta", "setting", "strings",
    "open", "close", "atomic", "atomic_end", "end",
})  # fmt: skip
_LINE_END = b"\n"  # what ends a comment whose beginning was given out
_ROWS_END = b"\\."
_LINE_LIMIT = 1 << 20  # longer lines are read in parts
_LOOK_AHEAD = 64  # bytes that are kept when a line is divided
_HELD_LIMIT = 64 << 20
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
    With `statements` a text is cut where a statement ends, and a `StatementEnd` follows.

    Memory is bounded by a line of 1 MiB, or by what cannot be divided, up to 64 MiB.
    """

    def __init__(
        self,
        schemas: Container[bytes] | None = None,
        *,
        statements: bool = False,
        backslash_strings: bool = False,
    ) -> None:
        self._schemas = schemas
        self._statements = statements
        self._token = _STATEMENT_TOKEN if statements else _TOKEN
        self._before = b"\n"  # the last bytes that were given out
        self._held: list[bytes] = []  # the beginning of something that is not whole yet
        self._held_size = 0
        self._quote: bytes | None = None  # what ends the quoted text that we are in
        self._escapes = False  # inside a string in which a backslash quotes
        self._escaped = False  # such a string has just ended, another one would continue it
        self._depth = 0  # of nested /* comments */
        self._parentheses = 0
        self._atomic = False  # in a function's body from BEGIN ATOMIC to END
        self._copying = False
        self._row_open = False  # inside a row whose beginning was given out
        # Whether standard_conforming_strings is off.
        self.backslash_strings = backslash_strings

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """Yield what can be told of the input so far.

        Raises:
            VerificationFailed: the text is none of pg_dump's, and might be read in several ways.

        """
        if b"\0" not in chunk:
            yield from self._feed(chunk)
            return
        yield from self._feed(chunk[: chunk.index(b"\0")])
        # psql ignores what follows it on the line.
        raise e.VerificationFailed("a zero byte, which no plain dump holds")

    def _feed(self, chunk: bytes) -> Iterator[Piece]:
        self._held.append(chunk)
        self._held_size += len(chunk)
        if not self._copying and b"\n" not in chunk and self._held_size < _LINE_LIMIT:
            return  # joining at each chunk would be quadratic in the line
        yield from self._scan(self._joined(), final=False)

    def close(self) -> Iterator[Piece]:
        """Yield the rest; raise VerificationFailed if the input ends inside something."""
        yield from self._scan(self._joined(), final=True)
        if self._copying:
            raise e.VerificationFailed("the dump ends inside the data of a COPY")
        if self._depth or self._quote not in (None, _LINE_END):
            raise e.VerificationFailed("the dump ends inside a quoted string or a comment")

    def _joined(self) -> bytes:
        """Return what was held, after the bytes before it, which the patterns look at."""
        buffer = b"".join([self._before, *self._held])
        self._held.clear()
        self._held_size = 0
        return buffer

    def _scan(self, buffer: bytes, *, final: bool) -> Iterator[Piece]:
        """Give out the buffer's whole lines, or all of it at the end; hold the rest."""
        position = len(self._before)
        while position < len(buffer):
            if self._copying:
                pieces, after = self._rows(buffer, position)
            else:
                end = len(buffer) if final else buffer.rfind(b"\n") + 1
                divided = position >= end
                if divided:
                    if len(buffer) - position < _LINE_LIMIT:
                        break
                    end = len(buffer) - _LOOK_AHEAD
                pieces, after = self._text(buffer, position, end, final=final, divided=divided)
            yield from pieces
            if after == position:
                break
            position = after
        self._before = buffer[max(position - 2, 0) : position]
        if position < len(buffer):
            if final and not self._copying:
                yield Text(buffer[position:])
            elif not final:
                self._held.append(buffer[position:])
                self._held_size = len(buffer) - position
                if self._held_size > _HELD_LIMIT:
                    raise e.VerificationFailed(
                        f"more than {_HELD_LIMIT >> 20} MiB without a line end: not a plain dump"
                    )

    def _rows(self, buffer: bytes, start: int) -> tuple[list[Piece], int]:
        if not self._row_open and buffer.startswith(_ROWS_END, start):
            if len(buffer) - start < len(COPY_DATA_END):
                return [], start
            self._end_rows(buffer, start)
            return [CopyEnd()], start + len(COPY_DATA_END)
        end = buffer.find(b"\n" + _ROWS_END, start) + 1
        if end and len(buffer) - end >= len(COPY_DATA_END):
            self._end_rows(buffer, end)
            return [Rows(buffer[start:end]), CopyEnd()], end + len(COPY_DATA_END)
        end = buffer.rfind(b"\n", start) + 1 or start
        if len(buffer) - end >= len(COPY_DATA_END):  # longer than an end line: part of a row
            end = len(buffer)
        if end == start:
            return [], start
        self._row_open = buffer[end - 1] != ord("\n")
        return [Rows(buffer[start:end])], end

    def _end_rows(self, buffer: bytes, at: int) -> None:
        r"""End the data at a line that begins with its end, which psql finds in `\.\r` too."""
        if not buffer.startswith(COPY_DATA_END, at):
            line = buffer[at : at + 40].partition(b"\n")[0]
            raise e.VerificationFailed(f"COPY data with a line that COPY never writes: {line!r}")
        self._copying = self._row_open = False

    def _text(
        self, buffer: bytes, start: int, end: int, *, final: bool, divided: bool
    ) -> tuple[list[Piece], int]:
        """Read SQL up to `end` or to the data of a COPY; `divided` if that is within a line."""
        pieces: list[Piece] = []
        position = told = start
        while position < end:
            if self._quote is not None or self._depth:
                position = self._skip_quoted(buffer, position, end)
                if self._quote is not None or self._depth:
                    break  # it goes on in the next chunk
            match = self._token.search(buffer, position, end)
            if match is None:
                position = _divide(buffer, position, end) if divided else end
                break
            before, at, position = position, match.start(), match.end()
            kind = str(match.lastgroup)
            self._check_continuation(kind, buffer, before, at)
            if not final and _is_cut(match, buffer, end):
                position = end = at
                break
            if kind == "copy":
                statement = _COPY.match(buffer, at, min(end, at + _COPY_LIMIT))
                if statement is not None and _FROM_STDIN.search(statement.group()):
                    _tell(pieces, buffer[told:at])
                    self._copying = True
                    return [*pieces, CopyBegin(statement.group())], statement.end()
            elif kind in _SPOKEN:
                found = self._found(kind, match)
                if found:
                    _tell(pieces, buffer[told:at])
                    pieces += found
                    told = at if kind == "entry" else position
            else:
                self._skip(kind, match.group(), buffer[max(at - 2, 0) : at])
        _tell(pieces, buffer[told:position])
        return pieces, position

    def _found(self, kind: str, match: re.Match[bytes]) -> list[Piece]:
        """Return the pieces that a token stands for; none if it is text like any other."""
        token = match.group()
        piece: Piece = Text(token)
        match kind:
            case "entry":
                return [_entry(match, self._schemas)]
            case "begin" | "complete":
                return [Begin(token) if kind == "begin" else Complete(token)]
            case "meta":
                return [_meta(match.string, match.start())]
            case "setting":
                piece = Setting(token)
            case "strings":
                self.backslash_strings = match["standard"] == b"off"
            case _ if not self._ends_statement(kind):
                return []
        return [piece, StatementEnd()] if self._statements else [piece]

    def _check_continuation(self, kind: str, buffer: bytes, start: int, end: int) -> None:
        """Refuse a string that continues an E'string' (manual, section 4.1.2.1).

        In the continuation a backslash quotes too, which its own beginning does not say.
        """
        if not self._escaped:
            return
        if kind == "string" and not buffer[start:end].strip():
            raise e.VerificationFailed("a string that is continued on another line")
        self._escaped = kind == "comment" and not buffer[start:end].strip()

    def _ends_statement(self, kind: str) -> bool:
        """Count parentheses and bodies; tell whether this is the end of a statement."""
        match kind:
            case "open":
                self._parentheses += 1
            case "close":
                self._parentheses = max(0, self._parentheses - 1)
            case "atomic":
                self._atomic = not self._parentheses
            case "atomic_end":
                self._atomic = False
                return not self._parentheses
            case _:
                return not self._parentheses and not self._atomic
        return False

    def _skip(self, kind: str, token: bytes, before: bytes) -> None:
        """Take note of the beginning of what is to be skipped: a comment or quoted text."""
        if kind == "comment":
            _refuse_carriage_return(token)
            if not token.endswith(_LINE_END):
                self._quote, self._escapes = _LINE_END, False
            return
        if kind == "variable":
            raise e.VerificationFailed(f"a variable of psql: {token.decode('ascii', 'replace')}")
        if kind == "joined":
            raise e.VerificationFailed("a dollar sign within a name, which pg_dump would quote")
        if kind == "block":
            self._depth = 1
        elif kind == "string":
            prefix = _prefix(before)
            if prefix == b"&" and self.backslash_strings:
                raise e.VerificationFailed("a string right after &, which pg_dump never writes")
            escapes = prefix in (b"E", b"e") or (self.backslash_strings and prefix in _TEXT)
            self._quote, self._escapes = b"'", escapes
        else:
            self._quote, self._escapes = token, False

    def _skip_quoted(self, buffer: bytes, position: int, end: int) -> int:
        """Return where the quoted text ends, or `end`; a doubled quote opens a new string."""
        if self._depth:
            return self._skip_block(buffer, position, end)
        assert self._quote is not None  # noqa: S101 - for the type checker
        if self._escapes:
            return self._skip_escaped(buffer, position, end)
        found = buffer.find(self._quote, position, end + len(self._quote) - 1)
        if self._quote == _LINE_END:
            _refuse_carriage_return(buffer[position : found + 1 or end])
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
                self._quote, self._escapes, self._escaped = None, False, True
                return position
        return max(position, end)

    def _skip_block(self, buffer: bytes, position: int, end: int) -> int:
        while match := _BLOCK.search(buffer, position, end + 1):
            position = match.end()
            self._depth += 1 if match.group() == b"/*" else -1
            if not self._depth:
                return position
        return max(position, end)


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


def _tell(pieces: list[Piece], data: bytes) -> None:
    if data:
        pieces.append(Text(data))


def _divide(buffer: bytes, start: int, end: int) -> int:
    """Return where a long line can be divided: after what belongs to no word and no operator."""
    return max(buffer.rfind(byte, start, end) + 1 for byte in (b" ", b",")) or start


def _prefix(before: bytes) -> bytes:
    """Return the letter that belongs to a string, of the two bytes before its quote.

    Raises:
        VerificationFailed: a name or a number runs into the quote: that is read differently by the
            versions of PostgreSQL.

    """
    letter = before[-1:]
    if not _IDENTIFIER_CHARACTERS.match(letter):
        return letter if letter == b"&" else b""  # perhaps of U&'...', which has no such escapes
    if letter in _PREFIXES and not _IDENTIFIER_CHARACTERS.match(before[:-1]):
        return letter
    raise e.VerificationFailed(f"a quote right after {before!r}, which pg_dump never writes")


def _meta(buffer: bytes, at: int) -> Meta:
    match = _META.match(buffer, at)
    if match is None:
        line = buffer[at : at + 60].partition(b"\n")[0]
        raise e.VerificationFailed(
            f"unexpected psql command {line!r}",
            hint="pg_dump does not write it: psql would execute it on the machine that restores.",
        )
    return Meta(match.group())


def _refuse_carriage_return(comment: bytes) -> None:
    """Refuse what ends a comment for psql and the server, and not for us."""
    if b"\r" in comment:
        raise e.VerificationFailed("a carriage return in a comment, which pg_dump never writes")


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
    if head.startswith(_BYTE_ORDER_MARK):
        raise e.VerificationFailed(
            "it begins with a byte order mark, which pg_dump never writes: it was edited",
            hint="Remove the mark: tail -c +4 FILE > NEW.",
        )
    warning = _WARNING.search(head, 0, match.start())
    if warning is not None:
        raise e.VerificationFailed(
            f"a message of pg_dump lies in the dump: {warning.group().decode('utf-8', 'replace')}",
            hint="Its standard error was written to the same file. Make the dump anew without 2>&1:"
            " there may be such lines among the rows too.",
        )


def _no_dump() -> e.VerificationFailed:
    return e.VerificationFailed(
        "not a plain dump of pg_dump: the comment that it begins with is missing",
        hint="pgkeep reads plain SQL (pg_dump -Fp); pg_restore reads the other formats.",
    )


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WARNING = re.compile(rb"^pg_dump(?:all)?: [^\n]{0,200}", re.MULTILINE)


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
        self._after_ending: bytes | None = None  # a statement behind the ending
        self._cluster = False  # inside a dump of pg_dumpall, which has an ending of its own
        self._key: bytes | None = None  # of \restrict
        self._restricted = False
        self._copy = b""  # the COPY statement whose rows follow
        self._copied = self._tabs = 0  # rows and tabs of that COPY

    def add(self, piece: Piece) -> None:
        """Take the next piece of the dump."""
        match piece:
            case Entry():
                self._entry(piece)
                return
            case Rows():
                count = piece.data.count(b"\n")
                self.rows += count
                self._copied += count
                self._tabs += piece.data.count(b"\t")
            case CopyBegin():
                self.copies += 1
                self._complete = False
                self._copy, self._copied, self._tabs = piece.data, 0, 0
                self._expect_begun()
            case CopyEnd():
                self._check_columns()
            case Begin():
                self._begun, self._complete, self._after_ending = True, False, None
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
        if self._after_ending is not None:
            raise e.VerificationFailed(
                "a statement after the end of the dump: "
                + self._after_ending[:60].decode("utf-8", "replace"),
                hint="pg_dump does not write it. Remove it if another program has added it.",
            )

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

    def _check_columns(self) -> None:
        """Check that the rows of a COPY have its columns: a tab in a value is escaped.

        What another program has written into the dump is found by that.
        """
        match = _COLUMNS.match(self._copy)
        if match is None:
            return
        columns = len(_COLUMN.findall(match["columns"]))
        if self._tabs != self._copied * (columns - 1):
            table = match["table"].decode("utf-8", "replace")
            raise e.VerificationFailed(
                f"rows of {table} do not have its {columns} columns: {self._copied} rows with"
                f" {self._tabs + self._copied} values"
            )

    def _ending(self, text: bytes) -> None:
        """After the ending only comments may follow, or another database of pg_dumpall."""
        line = next(
            (part for part in text.split(b"\n") if part and not part.startswith(b"--")), None
        )
        if line is not None and self._after_ending is None:
            self._after_ending = line
