"""Load a dump where none of its code runs as superuser.

A login without any right on the server, but a member of every role that owns something, executes
the definitions, loads the rows, builds the indexes. It is the session's own user, so that RESET
ROLE leads nowhere. The superuser's session executes only single statements of a few kinds that run
no code of the dump. Definitions are not among them: CREATE TABLE computes constant calls in
generated columns and partition keys, and the mere literal of a composite or array type checks the
domains in it.

What only a superuser can do is left out and reported as not proved.
"""

import re
import threading
from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from .. import errors as e
from ..artifact.file import Object
from ..postgres.connection import Connection, Endpoint
from ..restore.load.session import Statement
from ..sql import statements
from ..sql.encodings import codec
from .confined_session import ConfinedSession
from .statement_kinds import Function

DATABASE_OWNER_SINCE = 150000  # owns schema public

_CLIENT_ENCODING = re.compile(rb"SET client_encoding = '\w+';\s*")
_LIBRARY = re.compile(rb"'\$libdir/[\w.+-]+'(?:, '[^']*')?")
_DENIED = re.compile(r"permission denied for (?:[a-z -]+ )?(?P<name>\S+)")

# Statements as bytes: names are in the database's encoding, which may be SQL_ASCII.
_OF_EXTENSIONS = """
SELECT pg_catalog.convert_to(pg_catalog.format(what, VARIADIC names || r.name::text),
                             pg_catalog.getdatabaseencoding())
FROM (SELECT %s::pg_catalog.text) AS r(name), LATERAL (
    SELECT 'GRANT USAGE ON SCHEMA %%I TO %%I', ARRAY[nspname::pg_catalog.text]
    FROM pg_catalog.pg_namespace
    WHERE nspowner = 10 AND nspname !~ '^pg_' AND nspname <> 'information_schema'
    UNION ALL
    SELECT 'GRANT USAGE ON FOREIGN DATA WRAPPER %%I TO %%I', ARRAY[fdwname::pg_catalog.text]
    FROM pg_catalog.pg_foreign_data_wrapper
    UNION ALL
    SELECT CASE c.relkind WHEN 'S' THEN 'GRANT ALL ON SEQUENCE %%I.%%I TO %%I'
                          ELSE 'GRANT SELECT, INSERT ON TABLE %%I.%%I TO %%I' END,
           ARRAY[n.nspname::pg_catalog.text, c.relname::pg_catalog.text]
    FROM pg_catalog.pg_extension x, pg_catalog.unnest(x.extconfig) AS k(oid)
    JOIN pg_catalog.pg_class c ON c.oid = k.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'S')
) AS g(what, names)
"""

_OF_TABLES = """
SELECT pg_catalog.convert_to(pg_catalog.format(what, n.nspname, r.name),
                             pg_catalog.getdatabaseencoding())
FROM pg_catalog.pg_namespace n, (SELECT %s::pg_catalog.text) AS r(name), pg_catalog.unnest(ARRAY[
    'GRANT USAGE ON SCHEMA %%I TO %%I', 'GRANT SELECT ON ALL TABLES IN SCHEMA %%I TO %%I',
    'GRANT SELECT ON ALL SEQUENCES IN SCHEMA %%I TO %%I']) AS g(what)
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

_LANGUAGE_OF = """
SELECT true FROM pg_catalog.pg_language l
WHERE lanname = %s AND (oid < 16384 OR EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_language'::pg_catalog.regclass AND d.objid = l.oid
      AND d.deptype = 'e'))
"""

_OPEN = """
SELECT pg_catalog.bool_and(pg_catalog.has_function_privilege('public', oid, 'EXECUTE'))
FROM pg_catalog.pg_proc
WHERE prosrc = %s AND pronamespace = 'pg_catalog'::pg_catalog.regnamespace
  AND prolang = (SELECT oid FROM pg_catalog.pg_language WHERE lanname = 'internal')
"""

# Whether an object of that name is the bootstrap superuser's, and none is anybody else's.
_WHOSE = """
SELECT pg_catalog.bool_and(owner = 10) FROM (
    SELECT proowner FROM pg_catalog.pg_proc WHERE proname = %(name)s
    UNION ALL SELECT relowner FROM pg_catalog.pg_class WHERE relname = %(name)s
    UNION ALL SELECT nspowner FROM pg_catalog.pg_namespace WHERE nspname = %(name)s
    UNION ALL SELECT lanowner FROM pg_catalog.pg_language WHERE lanname = %(name)s
    UNION ALL SELECT fdwowner FROM pg_catalog.pg_foreign_data_wrapper WHERE fdwname = %(name)s
) AS q(owner)
"""


class Unproved(NamedTuple):
    """An object that was left out because only a superuser could restore it."""

    type: str
    schema: str
    name: str
    reason: str

    def __str__(self) -> str:
        name = f"{self.schema}.{self.name}" if self.schema else self.name
        return f"{self.type.lower()} {name}: {self.reason}"


class Confinement:
    """The two ways into a database that is being loaded, and what could not be proved there."""

    def __init__(self, admin: Endpoint, login: Endpoint, roles: frozenset[str]) -> None:
        self._admin = admin
        self._login = login
        self._roles = roles  # that objects may be given to
        self._connection: Connection | None = None
        self._lock = threading.RLock()
        self.codec = "utf-8"
        self.unproved: list[Unproved] = []

    @property
    def login(self) -> Endpoint:
        """The way in for everything but what the superuser must do."""
        return self._login

    @property
    def role(self) -> str:
        """The role that loads and reads."""
        return self._login.params["user"]

    def session(self, endpoint: Endpoint, header: Sequence[Statement]) -> "ConfinedSession":
        """Open a session for a load."""
        database = endpoint.params["dbname"]
        with self._lock:
            if self._connection is None:
                self._connection = self._open(database, header)
        connection = self._login.to(database).connect()
        try:
            return ConfinedSession(connection, header, self)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """End the superuser's session."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self, database: str, header: Sequence[Statement]) -> Connection:
        connection = self._admin.to(database).connect(check_function_bodies="off")
        role = sql.Identifier(self.role)
        # As its owner the login may create schemas, and what lies in the one that is there.
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database), role)
        )
        if connection.info.server_version < DATABASE_OWNER_SINCE:
            connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(role))
        encoding = connection.info.parameter_status("server_encoding") or "UTF8"
        self.codec = codec(encoding)
        for statement in header:
            if isinstance(statement, bytes) and _CLIENT_ENCODING.fullmatch(statement):
                connection.execute(statement)
        return connection

    def execute(self, statement: bytes) -> None:
        """Execute a single statement as the superuser; the protocol refuses more than one."""
        with self._lock:
            assert self._connection is not None  # noqa: S101 - a session was opened before
            self._connection.execute(statement, binary=True)

    def give(self, statement: bytes, owner: str) -> None:
        """Execute an ALTER ... OWNER TO."""
        if owner not in self._roles:
            raise e.RestoreFailed(f"{owner} is no role of the backup that objects may belong to")
        self.execute(statement)

    def create_event_trigger(self, name: bytes, statement: bytes) -> None:
        """Create an event trigger that does not fire: it would, in the superuser's session too."""
        with self._lock:
            assert self._connection is not None  # noqa: S101
            with self._connection.transaction():
                self.execute(statement)
                self.execute(b"ALTER EVENT TRIGGER %b DISABLE" % name)

    def open_extensions(self) -> None:
        """Let the login use what extensions have made, and load their configuration."""
        with self._lock:
            assert self._connection is not None  # noqa: S101
            for (statement,) in self._connection.execute(_OF_EXTENSIONS, [self.role]).fetchall():
                self.execute(statement)

    def open_tables(self, database: str) -> None:
        """Let the login read everything in a loaded database; no event trigger is enabled there."""
        with self._admin.to(database).connect() as connection:
            for (statement,) in connection.execute(_OF_TABLES, [self.role]).fetchall():
                connection.execute(statement)

    def is_of_superusers(self, error: psycopg.Error) -> bool:
        """Whether a privilege is missing because the login is no superuser.

        It has those of all owners. One on an object of the dump is missing where the server has
        switched to the owner, as it would for a superuser's session too; so it is with row
        security. What code of the dump raises by itself says nothing of the reason.
        """
        message = error.diag.message_primary or ""
        if "row-level security" in message or error.diag.source_function == "exec_stmt_raise":
            return False
        match = _DENIED.fullmatch(message)
        if match is None:
            return True
        with self._lock:
            assert self._connection is not None  # noqa: S101
            row = self._connection.execute(_WHOSE, {"name": match["name"]}).fetchone()
        return row is not None and bool(row[0])

    def may_create(self, function: "Function") -> bool:
        """Whether the superuser may create a function: it runs nothing, and opens no way out.

        The language is the server's or an extension's, and so is its validator. A library is one
        that is installed. One of the server's own functions under another name would have lost the
        privileges that guard it, so that it must be open to everybody.
        """
        if function.language == "c":
            return _LIBRARY.fullmatch(function.body) is not None
        query, value = _LANGUAGE_OF, function.language
        if function.language == "internal":
            query, value = _OPEN, function.body.strip(b"'$").decode("ascii", "replace")
        with self._lock:
            assert self._connection is not None  # noqa: S101
            row = self._connection.execute(query, [value]).fetchone()
        return row is not None and bool(row[0])

    def note(self, entry: Object, reason: str) -> None:
        """Remember that an object is not proved."""
        with self._lock:
            self.unproved.append(Unproved(entry.type, entry.schema, entry.name, reason))

    def depends(self, entry: Object, text: bytes) -> bool:
        """Whether an object names one that was left out."""
        names = statements.mentioned(text, self.codec)
        with self._lock:
            return any(
                (left.schema, left.name.partition("(")[0]) in names
                or f"{left.type} {left.name}" == entry.name  # of a COMMENT or an ACL
                for left in self.unproved
            )
