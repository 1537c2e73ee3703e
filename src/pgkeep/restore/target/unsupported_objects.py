"""Find objects of a backup that the server or the role does not support, before anything is done.

Only what the catalogs and the statements tell: the types of entries, extensions that are not
installed, collations that the server does not have, views that cannot work.
"""

import re
from collections.abc import Container, Iterator

import psycopg

from ...artifact.file import Artifact, Object
from ...postgres.connection import Connection
from ...sql import portability, script, statements
from ...sql.encodings import codec

_VIEWS = frozenset({"MATERIALIZED VIEW", "VIEW", "RULE"})
_VIEW = re.compile(
    rb"^CREATE (?:OR REPLACE |MATERIALIZED )*VIEW %b(?: WITH \([^\n]*\))? AS\n"
    rb"(?P<query>.*?)(?:\n +WITH (?:NO DATA|(?:LOCAL |CASCADED )?CHECK OPTION))?;\n"
    % statements.QUALIFIED,
    re.MULTILINE | re.DOTALL,
)
_COLLATE = re.compile(rb"COLLATE pg_catalog\.(%b)" % statements.IDENTIFIER)
_PROVIDER = re.compile(rb"^CREATE COLLATION .*\bprovider = icu\b", re.MULTILINE)
_EXTENSION = re.compile(
    rb"^CREATE EXTENSION IF NOT EXISTS (%b) WITH SCHEMA (%b)"
    % (statements.IDENTIFIER, statements.IDENTIFIER),
    re.MULTILINE,
)
# They say the same on every server that has ICU; "unicode" is there without it.
_ICU = "und-x-icu"
NOT_INSTALLED = "not installed on the server"
_UNKNOWN = (
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedFunction,
)


def find(
    connection: Connection, artifact: Artifact, target: portability.TargetServer
) -> Iterator[tuple[Object, str]]:
    """Yield what is not supported, with the reason; the connection is to any database."""
    server = _Server(connection, artifact, target)
    for entry, text in definitions(artifact):
        reason = server.reason(entry, text) or portability.obstacle(
            entry.type, text, target, server.codec
        )
        if reason is not None:
            yield entry, reason


def definitions(artifact: Artifact) -> Iterator[tuple[Object, bytes]]:
    """Yield all entries but rows, each with its SQL."""
    by_member = artifact.index.objects_by_member()
    for number, member in enumerate(artifact.index.members):
        # Without post-data, privileges and comments follow the rows.
        found = [
            entry
            for entry in by_member[number]
            if member.section != "data" or entry.type in script.FOLLOWING_TYPES
        ]
        if found:
            data = artifact.read(number)
            for entry in found:
                yield entry, data[entry.start : entry.start + entry.length]


def shared_schemas(artifact: Artifact, missing: Container[str]) -> set[str]:
    """Return the schemas that extensions which are missing share with others."""
    encoding = codec(artifact.index.meta.database.encoding)
    of_missing: set[str] = set()
    of_others = {"pg_catalog"}
    for entry, text in definitions(artifact):
        match = _EXTENSION.search(text) if entry.type == "EXTENSION" else None
        if match is not None:
            schemas = of_missing if entry.name in missing else of_others
            schemas.add(statements.unquoted(match[2], encoding))
    return of_missing & of_others


class _Server:
    """What one server has, as far as the definitions of a backup may need it."""

    def __init__(
        self, connection: Connection, artifact: Artifact, target: portability.TargetServer
    ) -> None:
        meta = artifact.index.meta
        self.codec = codec(meta.database.encoding)
        self._connection = connection
        self._same_major = target.version_num // 10000 == meta.server.major
        self._schemas = {entry.schema for entry in artifact.index.objects if entry.schema}
        rows = connection.execute(
            "SELECT collname::pg_catalog.text FROM pg_catalog.pg_collation"
            " WHERE collnamespace = 'pg_catalog'::pg_catalog.regnamespace"
            " AND collencoding IN (-1, pg_catalog.pg_char_to_encoding(%s))",
            [meta.database.encoding],
        )
        self._collations = {row[0] for row in rows}
        rows = connection.execute("SELECT name FROM pg_catalog.pg_available_extensions")
        self._extensions = {row[0] for row in rows}

    def reason(self, entry: Object, text: bytes) -> str | None:
        """Say why the server cannot have an object; None if nothing is known against it."""
        match = _EXTENSION.search(text) if entry.type == "EXTENSION" else None
        if match is not None:
            name = statements.unquoted(match[1], self.codec)
            self._schemas.add(statements.unquoted(match[2], self.codec))
            return None if name in self._extensions else NOT_INSTALLED
        if _PROVIDER.search(text) and _ICU not in self._collations:
            return "the server has no ICU"
        for match in _COLLATE.finditer(text):
            name = statements.unquoted(match[1], self.codec)
            if name not in self._collations:
                return f"the server has no collation {name}"
        return self._view_reason(entry, text) if entry.type in _VIEWS else None

    def _view_reason(self, entry: Object, text: bytes) -> str | None:
        match = _VIEW.search(text)
        if match is None:
            return None
        own = b"%b.%b" % (match["schema"], match["name"])
        itself = re.compile(rb"\b(?:FROM|JOIN) (?:ONLY |\()*%b[\s;)]" % re.escape(own))
        if entry.type != "RULE" and itself.search(match["query"] + b";"):
            return "the view refers to itself"
        mentioned = statements.mentioned(match["query"], self.codec)
        if self._same_major or any(schema in self._schemas for schema, _ in mentioned):
            return None
        return self._system_reason(match["query"])

    def _system_reason(self, query: bytes) -> str | None:
        """Have the server parse a query that only needs what every database has."""
        result = self._connection.pgconn.prepare(b"", query)
        error = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
        if error is None or error.decode() not in {kind.sqlstate for kind in _UNKNOWN}:
            return None
        message = result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b""
        return message.decode("utf-8", "replace")
