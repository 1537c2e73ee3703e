"""Divide a plain SQL dump into pieces by following the quoting of SQL.

pg_dump announces each object in a comment. The body of a function or a comment can contain the same
lines. Therefore the scanner follows SQL's quoting (manual, section 4.1, "Lexical Structure") and
does not search quoted text. Bytes are never decoded: every server encoding of PostgreSQL keeps
ASCII characters unambiguous (manual, section 23.3, "Character Set Support").

The scanner must never take text for a string that psql or the server reads differently. It rejects
text that they could read differently and that pg_dump never writes: psql commands outside quotes,
psql variables, strings that continue on another line, names directly followed by a quote.
"""

import re
from collections.abc import Container, Iterator

from .. import errors as e
from .announcement import read_entry
from .script import (
    COPY_DATA_END,
    Begin,
    Complete,
    CopyBegin,
    CopyEnd,
    Meta,
    Piece,
    Rows,
    Setting,
    StatementEnd,
    Text,
)

# The limits are far above what names of 63 bytes need; without them a crafted line would take cubic
# time.
_ENTRY = rb"""
      -(?P<entry>(?<=^-)-\n
          (?:--\ TOC\ entry\ \d{1,20}\ \(class\ (?P<catalog>\d{1,10})\ OID\ (?P<oid>\d{1,10})\)\n)?
          (?:--\ Dependencies:[\d\ ]*\n)?
          --\ (?P<data>Data\ for\ )?Name:\ (?P<names>[^\n]{0,20000};\ Type:\ [A-Z\ ]{1,40};
          \ Schema:\ [^\n]{0,300};\ Owner:\ [^\n]{0,500})\n
          --\n)
"""
# The variables that psql sets itself (psql's manual, "Variables"); others are not replaced.
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
_COMMENTS = re.compile(rb"(?:--[^\n]*\n){1,5}")  # an announcement has at most this many lines
# On one line, except for names that contain line ends.
_COPY = re.compile(rb'COPY (?:"[^"]*"|[^";\n]++)*+(?:;\n?|(?P<open>"))?')
_COPY_LIMIT = 1 << 20  # 1,600 columns with the longest names need a fifth of it
_FROM_STDIN = re.compile(rb" FROM stdin;\n\Z", re.IGNORECASE)
_ESCAPE = re.compile(rb"[\\']")
_BLOCK = re.compile(rb"/\*|\*/")
_IDENTIFIER_CHARACTERS = re.compile(rb"[\w$\x80-\xff]")
_PREFIXES = frozenset({b"E", b"e", b"B", b"b", b"X", b"x", b"N", b"n"})
_TEXT = frozenset({b"", b"N", b"n"})  # the prefixes of strings that obey the server's setting
# Tokens that can be more than text; the others start text to skip, or are rejected.
_SPOKEN = frozenset({
    "entry", "begin", "complete", "meta", "setting", "strings",
    "open", "close", "atomic", "atomic_end", "end",
})  # fmt: skip
_LINE_END = b"\n"  # the end of a comment whose beginning was already returned
_ROWS_END = b"\\."
_LINE_LIMIT = 1 << 20  # longer lines are read in parts
_LOOK_AHEAD = 64  # bytes that are kept when a line is divided
_HELD_LIMIT = 16 << 20  # each block reads what is held again: its square is the time


class Scanner:
    """Divide chunks of a dump into pieces; the chunks can end anywhere, and no data is lost.

    `Entry` has no data: its comment lines follow as `Text`. If known, the names of all schemas
    help to read entries whose names contain text that looks like another entry. With `statements`,
    text also ends at the end of a statement, and a `StatementEnd` follows.

    Memory is limited to a line of 1 MiB, or to an element that cannot be divided, up to 64 MiB.
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
        self._before = b"\n"  # the last bytes that were returned
        self._held: list[bytes] = []  # the beginning of an incomplete element
        self._held_size = 0
        self._quote: bytes | None = None  # the end of the current quoted text
        self._escapes = False  # inside a string in which a backslash is an escape
        self._escaped = False  # such a string has just ended, a further one would continue it
        self._depth = 0  # of nested /* comments */
        self._parentheses = 0
        self._atomic = False  # in a function's body from BEGIN ATOMIC to END
        self._copying = False
        self._row_open = False  # inside a row whose beginning was returned
        self.backslash_strings = backslash_strings  # standard_conforming_strings is off

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """Yield the pieces that the input so far determines.

        Raises:
            VerificationFailed: pg_dump does not write this text, and it is ambiguous.

        """
        if b"\0" not in chunk:
            yield from self._feed(chunk)
            return
        yield from self._feed(chunk[: chunk.index(b"\0")])
        # psql ignores the rest of the line after it.
        raise e.VerificationFailed("a zero byte, which a plain dump never contains")

    def _feed(self, chunk: bytes) -> Iterator[Piece]:
        self._held.append(chunk)
        self._held_size += len(chunk)
        if not self._copying and b"\n" not in chunk and self._held_size < _LINE_LIMIT:
            return  # joining at each chunk would be quadratic in the line
        yield from self._scan(self._joined(), final=False)

    def close(self) -> Iterator[Piece]:
        """Yield the rest; raise VerificationFailed if the input ends inside an element."""
        yield from self._scan(self._joined(), final=True)
        if self._copying:
            raise e.VerificationFailed("the dump ends inside the data of a COPY")
        if self._depth or self._quote not in (None, _LINE_END):
            raise e.VerificationFailed("the dump ends inside a quoted string or a comment")

    def _joined(self) -> bytes:
        """Return the held bytes after the preceding ones, which the patterns examine."""
        buffer = b"".join([self._before, *self._held])
        self._held.clear()
        self._held_size = 0
        return buffer

    def _scan(self, buffer: bytes, *, final: bool) -> Iterator[Piece]:
        """Return the complete lines of the buffer, or all of it at the end; hold the rest."""
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
            _check_rows_end(buffer, start)
            self._copying = False
            return [CopyEnd()], start + len(COPY_DATA_END)
        end = buffer.find(b"\n" + _ROWS_END, start) + 1
        if end and len(buffer) - end >= len(COPY_DATA_END):
            _check_rows_end(buffer, end)
            self._copying = self._row_open = False
            return [Rows(buffer[start:end]), CopyEnd()], end + len(COPY_DATA_END)
        end = buffer.rfind(b"\n", start) + 1 or start
        if len(buffer) - end >= len(COPY_DATA_END):  # longer than the end marker: part of a row
            end = len(buffer)
        if end == start:
            return [], start
        self._row_open = buffer[end - 1] != ord("\n")
        return [Rows(buffer[start:end])], end

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
                    break  # continues in the next chunk
            match = self._token.search(buffer, position, end)
            if match is None:
                before, position = position, _divide(buffer, position, end) if divided else end
                self._escaped = self._escaped and not buffer[before:position].strip()
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
        """Return the pieces for a token; none if it is ordinary text."""
        token = match.group()
        piece: Piece = Text(token)
        match kind:
            case "entry":
                return [read_entry(match, self._schemas)]
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
        """Reject a string that continues an E'string' (manual, section 4.1.2.1).

        In the continuation a backslash is an escape too, which is not visible at its beginning.
        """
        if not self._escaped:
            return
        if kind == "string" and not buffer[start:end].strip():
            raise e.VerificationFailed("a string that continues on another line")
        self._escaped = kind == "comment" and not buffer[start:end].strip()

    def _ends_statement(self, kind: str) -> bool:
        """Count parentheses and bodies; return whether this ends a statement."""
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
        """Record the beginning of text to skip: a comment or quoted text."""
        if kind == "comment":
            _refuse_carriage_return(token)
            if not token.endswith(_LINE_END):
                self._quote, self._escapes = _LINE_END, False
            return
        if kind in ("variable", "joined"):
            raise _misread(kind, token)
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
        """Return where the quoted text ends, or `end`; a doubled quote starts a new string."""
        if self._depth:
            position, self._depth = _skip_block(buffer, position, end, self._depth)
            return position
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


def _tell(pieces: list[Piece], data: bytes) -> None:
    if data:
        pieces.append(Text(data))


def _divide(buffer: bytes, start: int, end: int) -> int:
    """Return where a long line can be divided: after bytes outside words and operators."""
    return max(buffer.rfind(byte, start, end) + 1 for byte in (b" ", b",")) or start


def _prefix(before: bytes) -> bytes:
    """Return the letter that belongs to a string, of the two bytes before its quote.

    Raises:
        VerificationFailed: a name or a number directly precedes the quote, which versions of
            PostgreSQL read differently.

    """
    letter = before[-1:]
    if not _IDENTIFIER_CHARACTERS.match(letter):
        return letter if letter == b"&" else b""  # possibly U&'...', which has no such escapes
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
    """Reject bytes that end a comment for psql and the server, but not for this scanner."""
    if b"\r" in comment:
        raise e.VerificationFailed("a carriage return in a comment, which pg_dump never writes")


def _is_cut(match: re.Match[bytes], buffer: bytes, end: int) -> bool:
    """Whether a token can look different with more input."""
    at = match.start()
    if match.lastgroup == "copy":
        # A longer one is not an entry: waiting for its end would take memory and quadratic time.
        statement = _COPY.match(buffer, at, end)
        return end - at < _COPY_LIMIT and statement is not None and statement["open"] is not None
    if match.group() != b"--\n" or buffer[max(at - 1, 0) : at] not in (b"", b"\n"):
        return False
    # Possibly the beginning of an entry, whose lines are all comments.
    comments = _COMMENTS.match(buffer, at, end)
    return comments is not None and comments.end() == end


def _skip_block(buffer: bytes, position: int, end: int, depth: int) -> tuple[int, int]:
    """Return where a nested comment ends, or `end`, and the depth there."""
    while match := _BLOCK.search(buffer, position, end + 1):
        position = match.end()
        depth += 1 if match.group() == b"/*" else -1
        if not depth:
            return position, depth
    return max(position, end), depth


def _check_rows_end(buffer: bytes, at: int) -> None:
    r"""Refuse a line that only begins like the end of COPY data: psql takes `\.\r` for it too."""
    if not buffer.startswith(COPY_DATA_END, at):
        line = buffer[at : at + len(COPY_DATA_END)]  # what follows may not be read yet
        raise e.VerificationFailed(
            f"COPY data with a line that COPY never writes: it begins with {line!r}"
        )


def _misread(kind: str, token: bytes) -> e.VerificationFailed:
    """Return the error for a token that psql or the server reads in another way."""
    if kind == "variable":
        return e.VerificationFailed(f"a psql variable: {token.decode('ascii', 'replace')}")
    return e.VerificationFailed("a dollar sign within a name, which pg_dump would quote")
