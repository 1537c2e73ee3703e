"""Recognize the statements that pg_dump writes for one database by their form.

Other statements are executed only if the user allows it, because a dump can be edited or come from
someone else. This does not prove that a dump is safe: its functions, and the checks, triggers and
indexes that call them, run in the restored database.
"""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from .. import errors as e
from . import script
from .scanner import Scanner
from .statements import IDENTIFIER

STATEMENT_LIMIT = 1 << 30  # bytes; the server takes no longer ones (MaxAllocSize)
SHOWN = 72  # bytes of a statement in a message

_STRING = rb"(?:'(?:[^']|'')*+'|E'(?:[^'\\]|\\.|'')*+')"
_NAME = rb"(?:%b(?:\.%b){0,2})" % (IDENTIFIER, IDENTIFIER)
# A value that requires no code to run; with the casts of pg_dump's statistics.
_LITERAL = (
    rb"(?:%b|B'[01]*'|-?[\d.]+(?:e[+-]?\d+)?|NULL|true|false|DEFAULT)(?:::[a-z][\w ]*+(?:\[\])?)?"
    % (_STRING)
)
_LITERALS = rb"\s*(?:%b(?:,\s*%b)*)?\s*" % (_LITERAL, _LITERAL)

_SETTINGS = rb"|".join((
    rb"statement_timeout", rb"lock_timeout", rb"idle_in_transaction_session_timeout",
    rb"transaction_timeout", rb"client_encoding", rb"standard_conforming_strings",
    rb"check_function_bodies", rb"xmloption", rb"client_min_messages", rb"row_security",
    rb"escape_string_warning", rb"search_path", rb"default_tablespace",
    rb"default_table_access_method", rb"default_with_oids", rb"default_toast_compression",
    rb"lc_monetary",  # which pgkeep adds
))  # fmt: skip
_KINDS = rb"|".join((
    rb"ACCESS METHOD", rb"AGGREGATE", rb"CAST", rb"COLLATION", rb"CONVERSION",
    rb"DEFAULT CONVERSION", rb"DOMAIN", rb"EVENT TRIGGER", rb"EXTENSION",
    rb"FOREIGN DATA WRAPPER", rb"FOREIGN TABLE", rb"FUNCTION", rb"INDEX", rb"LANGUAGE",
    rb"MATERIALIZED VIEW", rb"OPERATOR", rb"OPERATOR CLASS", rb"OPERATOR FAMILY", rb"POLICY",
    rb"PROCEDURAL LANGUAGE", rb"PROCEDURE", rb"PUBLICATION", rb"RULE", rb"SCHEMA", rb"SEQUENCE",
    rb"SERVER", rb"STATISTICS", rb"TABLE", rb"TEXT SEARCH CONFIGURATION",
    rb"TEXT SEARCH DICTIONARY", rb"TEXT SEARCH PARSER", rb"TEXT SEARCH TEMPLATE", rb"TRANSFORM",
    rb"TRIGGER", rb"TYPE", rb"USER MAPPING", rb"VIEW",
))  # fmt: skip
_CREATED = rb"|".join(
    kind for kind in _KINDS.split(b"|") if kind not in (b"SCHEMA", b"MATERIALIZED VIEW")
)
_GRANTED = (
    rb"FOREIGN DATA WRAPPER|FOREIGN SERVER|FUNCTION|LANGUAGE|LARGE OBJECT|PROCEDURE|SCHEMA|SEQUENCE"
    rb"|TABLE|TYPE"
)
_SESSION = rb"(?:RE)?SET SESSION AUTHORIZATION(?: (?:%b|%b|DEFAULT))?" % (_STRING, IDENTIFIER)

# Statements that belong to no entry: pg_dump writes them before the entries that they affect.
_FREE = (
    rb"SET (?:%b) = (?:%b|%b)(?:, %b)*" % (_SETTINGS, _STRING, IDENTIFIER, IDENTIFIER),
    rb"SELECT pg_catalog\.set_config\('search_path', '(?:[^'\\]|'')*+', false\)",
)
_CLEANING = (
    rb"DROP (?:%b|SUBSCRIPTION) .*" % _KINDS,
    rb"ALTER (?:FOREIGN )?TABLE (?:IF EXISTS )?(?:ONLY )?%b\s+(?:DROP|DETACH|ALTER COLUMN) .*"
    % _NAME,
    rb"ALTER (?:DOMAIN|INDEX|PUBLICATION) (?:IF EXISTS )?%b\s+(?:DROP|DETACH) .*" % _NAME,
    rb"CREATE OR REPLACE VIEW .*",  # a view in a dependency cycle is emptied before it is dropped
    rb"SELECT pg_catalog\.lo_unlink\('\d+'\)",
    rb"SELECT pg_catalog\.lo_unlink\(oid\)\s+FROM pg_catalog\.pg_largeobject_metadata\s+WHERE .*",
    rb"ALTER DEFAULT PRIVILEGES .*",
)
_DEFINING = (
    _SESSION,
    rb"CREATE (?:OR REPLACE )?(?:UNLOGGED |UNIQUE |CONSTRAINT |TRUSTED )?(?:%b) .*" % _CREATED,
    rb"CREATE SCHEMA %b" % IDENTIFIER,
    rb"CREATE MATERIALIZED VIEW .*\sWITH NO DATA",
    rb"CREATE SUBSCRIPTION %b CONNECTION %b PUBLICATION .* WITH \(connect = false, .*"
    % (IDENTIFIER, _STRING),
    rb"ALTER (?:%b|LARGE OBJECT) .*" % _KINDS,
    rb"ALTER SUBSCRIPTION %b OWNER TO %b" % (IDENTIFIER, IDENTIFIER),
    rb"ALTER DEFAULT PRIVILEGES .*",
    rb"COMMENT ON (?:%b|COLUMN|CONSTRAINT|LARGE OBJECT|SUBSCRIPTION) .* IS (?:%b|NULL)"
    % (_KINDS, _STRING),
    rb"SECURITY LABEL FOR %b ON (?:%b|COLUMN|LARGE OBJECT|SUBSCRIPTION) .* IS %b"
    % (IDENTIFIER, _KINDS, _STRING),
    rb"(?:GRANT|REVOKE) .* ON (?:%b) .*" % _GRANTED,
    rb"REFRESH MATERIALIZED VIEW %b" % _NAME,
    rb"INSERT INTO %b(?: \((?:%b(?:, %b)*)?\))?(?: OVERRIDING SYSTEM VALUE)? "
    rb"(?:DEFAULT VALUES|VALUES\s+\(%b\)(?:,\s*\(%b\))*)(?: ON CONFLICT DO NOTHING)?"
    % (_NAME, IDENTIFIER, IDENTIFIER, _LITERALS, _LITERALS),
    rb"BEGIN|COMMIT",
    rb"SELECT pg_catalog\.(?:setval|lo_create|lo_open|lowrite|lo_close)\(%b\)" % _LITERALS,
    rb"SELECT (?:\* FROM )?pg_catalog\.pg_restore_(?:relation|attribute|extended)_stats\(%b\)"
    % _LITERALS,
)


_LEADING = re.compile(rb"(?:\s+|--[^\n]*(?:\n|\Z))*+")


# Statements of pg_dump -C and pg_dumpall about databases, roles and tablespaces.
_CLUSTER = (
    rb"(?:CREATE|ALTER|DROP) (?:DATABASE|ROLE|TABLESPACE) .*",
    rb"COMMENT ON (?:DATABASE|ROLE|TABLESPACE) .*",
    rb"SECURITY LABEL FOR %b ON (?:DATABASE|ROLE|TABLESPACE) .*" % IDENTIFIER,
    rb"(?:GRANT|REVOKE) .* ON (?:DATABASE|TABLESPACE|PARAMETER) .*",
    rb"GRANT %b TO %b.*" % (IDENTIFIER, IDENTIFIER),
    rb"UPDATE pg_catalog\.pg_database SET .*",
)


@functools.cache
def _any_of(*forms: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """Compile when first used: most commands never use it, and it takes 30 ms of their start."""
    found = b"|".join(form for group in forms for form in group)
    return re.compile(rb"(?:%b)\s*;\s*" % found, re.DOTALL)


_BEGINNING = re.compile(rb"(?:CREATE|ALTER|COMMENT|SELECT pg_catalog\.|INSERT INTO|GRANT|REVOKE) ")


class Statement(NamedTuple):
    """One statement without the comments before it, or only its beginning."""

    text: bytes
    whole: bool = True


def bare(text: bytes) -> bytes:
    """Return a statement without leading comments and white space."""
    leading = _LEADING.match(text)
    return text[leading.end() :] if leading is not None else text


# Outside quotes, the rows that CREATE TABLE AS would compute while the schema is loaded.
_QUOTED = re.compile(rb"'(?:[^']|'')*+'|\"(?:[^\"]|\"\")*+\"|(\$\w*\$).*?\1", re.DOTALL)
_CREATE_TABLE = re.compile(rb"CREATE (?:UNLOGGED )?TABLE ")
_AS_QUERY = re.compile(rb"\bAS[\s(]+(?:SELECT|VALUES|TABLE|EXECUTE|WITH)\b", re.IGNORECASE)


def is_known(statement: bytes) -> bool:
    """Whether pg_dump writes statements of this form for one database."""
    if _any_of(_FREE, _CLEANING, _DEFINING).fullmatch(statement) is None:
        return False
    return not _CREATE_TABLE.match(statement) or not _AS_QUERY.search(_QUOTED.sub(b"''", statement))


def begins(statement: Statement) -> bool:
    """Whether a statement that is too long to be checked can be one of pg_dump's."""
    return _BEGINNING.match(statement.text) is not None


def is_of_cluster(statement: bytes) -> bool:
    """Whether the statement is about a database, a role or a tablespace."""
    return _any_of(_CLUSTER).fullmatch(statement) is not None


def is_setting(statement: bytes, *, cleaning: bool = False) -> bool:
    """Whether it belongs to no entry: a setting, or with `cleaning` a statement of --clean."""
    allowed = _any_of(_FREE, _CLEANING) if cleaning else _any_of(_FREE)
    return allowed.fullmatch(statement) is not None


def shown(statement: bytes) -> str:
    """Return the beginning of a statement on one line, for messages."""
    line = re.sub(rb"\s+", b" ", statement[:400])
    return line[:SHOWN].decode("utf-8", "replace") + (" ..." if len(line) > SHOWN else "")


def check(statement: bytes, where: str) -> None:
    """Raise VerificationFailed unless pg_dump writes such a statement for one database."""
    if not is_known(statement):
        raise unknown(statement, where)


def unknown(statement: bytes, where: str) -> e.VerificationFailed:
    """Return the error for a statement that pg_dump does not write."""
    return e.VerificationFailed(
        f"{where}: pg_dump does not write this statement: {shown(statement)}",
        hint="The file was edited, possibly with bad intent. Show its contents with:"
        " pgkeep cat FILE.",
    )


class Statements:
    """Join the texts of a scanner, with `statements`, to single statements.

    `limit` is the number of bytes of a statement that are kept; a longer statement is truncated.
    """

    def __init__(self, limit: int = STATEMENT_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, piece: script.Piece) -> Statement | None:
        """Process the next piece; return the statement that ends with it.

        Raises:
            VerificationFailed: another element begins before a statement ends.

        """
        match piece:
            case script.StatementEnd():
                return self._take()
            case script.Text() | script.Setting():
                room = self._limit - self._size
                if room > 0:
                    self._parts.append(piece.data[:room])
                self._size += len(piece.data)
            case script.Rows() | script.CopyEnd():
                pass
            case _:
                self.finish()
        return None

    def finish(self) -> None:
        """Check that no statement is open; comments can be."""
        statement = self._take()
        if statement.text:
            raise e.VerificationFailed(
                f"a statement without a semicolon at its end: {shown(statement.text)}"
            )

    def _take(self) -> Statement:
        whole = self._size <= self._limit
        text = bare(b"".join(self._parts))
        self._parts.clear()
        self._size = 0
        return Statement(text, whole)


def statements_of(text: bytes, *, backslash_strings: bool = False) -> Iterator[bytes]:
    """Yield the single statements of an object's SQL.

    Raises:
        VerificationFailed: it contains something else, such as a psql command or rows.

    """
    scanner = Scanner(statements=True, backslash_strings=backslash_strings)
    collected = Statements()
    for pieces in (scanner.feed(text), scanner.close()):
        for piece in pieces:
            if isinstance(piece, script.CopyBegin | script.Meta):
                raise e.VerificationFailed(f"unexpected {shown(piece.data)}")
            statement = collected.add(piece)
            if statement is not None:
                yield statement.text
    collected.finish()


def without_cluster(text: bytes) -> bytes:
    """Return text without its statements about databases, such as the DROP of pg_dump -C -c."""
    kept: list[bytes] = []
    scanner = Scanner(statements=True)
    statement: list[bytes] = []
    for pieces in (scanner.feed(text), scanner.close()):
        for piece in pieces:
            statement.append(piece.data if not isinstance(piece, script.Entry) else b"")
            if isinstance(piece, script.StatementEnd):
                whole = b"".join(statement)
                begin = len(whole) - len(bare(whole))
                kept.append(whole[:begin] if is_of_cluster(whole[begin:]) else whole)
                statement.clear()
    return b"".join([*kept, *statement])
