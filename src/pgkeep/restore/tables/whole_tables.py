"""Restore whole tables: definitions, rows, indexes, constraints and triggers."""

import re
import secrets
from collections.abc import Sequence

import psycopg
from psycopg import sql

from ... import errors as e
from ...artifact.contents import Entry
from ...postgres.connection import Connection
from ...progress import Progress
from ...sql import statements
from ...sql.statements import Name
from ..load.session import Session, describe
from ..target import default_privileges, extension_tables, relations
from . import definitions
from .plan import TablesPlan

_PUBLICATION = re.compile(rb"^ALTER PUBLICATION (%b) " % statements.IDENTIFIER, re.MULTILINE)
# Attached to a parent that has its indexes, a partition would get new ones: first its own.
_PLACES = {"INDEX": 0, "CONSTRAINT": 0, "TABLE ATTACH": 1}


class WholeTables:
    """Create tables in the target's transaction, with a new name in a schema of its own first."""

    def __init__(self, plan: TablesPlan, session: Session) -> None:
        self._options = plan.options
        self._tables = plan.tables
        self._codec = plan.tables.contents.codec
        self._session = session
        self._connection = session.connection
        self._new_name = definitions.new_name(plan.tables, plan.options)
        self._schemas: dict[Name, str] = {}  # where relations go, other than in the backup
        self.warnings: list[str] = []

    def restore(self, progress: Progress) -> int:
        """Restore the tables; return the number of rows.

        Raises:
            RestoreFailed: names the object and what the server said.

        """
        temporary = self._create_temporary_schema() if self._new_name is not None else None
        keys = self._drop() if self._options.replace else []
        self._create_schemas()
        before, after = self._entries()
        progress.step("creating tables")
        for entry in before:
            self._execute(entry)
        if self._options.privileges:
            self._take_default_privileges()
        progress.step("loading rows")
        rows = sum(self._load(name, progress) for name in self._tables.names)
        self._set_sequences()
        progress.step("building indexes")
        for entry in after:
            self._execute(entry)
        for add in keys:
            self._connection.execute(add.encode())
        if temporary is not None and self._new_name is not None:
            _move_out(self._connection, temporary, self._tables.names[0][1], self._new_name)
        return rows

    def _entries(self) -> tuple[list[Entry], list[Entry]]:
        """Return what is executed before the rows, and after them."""
        members = self._tables.artifact.index.members
        before: list[Entry] = []
        after: list[Entry] = []
        for entry in definitions.entries(self._tables, self._options):
            if not self._is_wanted(entry):
                continue
            early = members[entry.one.member].section == "pre" and entry.one.type != "TABLE ATTACH"
            (before if early else after).append(entry)
        return before, sorted(after, key=lambda entry: _PLACES.get(entry.one.type, 2))

    def _create_temporary_schema(self) -> str:
        """Create a schema in which all names are free."""
        schema = f"pgkeep_{secrets.token_hex(4)}"
        self._connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        # For those who have granted something; nobody else sees it before it is gone.
        usage = sql.SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC")
        self._connection.execute(usage.format(sql.Identifier(schema)))
        self._schemas = dict.fromkeys(self._tables.relations(), schema)
        return schema

    def _take_default_privileges(self) -> None:
        """Take what ALTER DEFAULT PRIVILEGES gives to new tables: the backup's grants follow."""
        contents = self._tables.contents
        made = {relation for name in self._tables.defined for relation in contents.relations(name)}
        names = [(self._schemas.get(name, name[0]), name[1]) for name in made]
        for statement in relations.privileges_taken(self._connection, names):
            self._connection.execute(statement.encode())

    def _set_sequences(self) -> None:
        """Set the sequences of configuration tables, which the backup does not define either."""
        for name in self._tables.of_extensions:
            oid = relations.relation(self._connection, name)
            owned = extension_tables.sequences(self._connection, oid or 0)
            for entry in self._tables.contents.entries:
                own = statements.own_name(entry.one.type, entry.text, self._codec)
                if entry.one.type == "SEQUENCE SET" and own in owned:
                    self._session.execute_one(entry.one, entry.text)

    def _execute(self, entry: Entry) -> None:
        text = statements.moved(entry.text, self._schemas, self._codec)
        if entry.one.type != "FK CONSTRAINT" or not self._schemas:
            self._session.execute_one(entry.one, text)
            return
        # A copy of old rows may refer to rows that are gone by now.
        try:
            with self._connection.transaction():
                self._session.execute_one(entry.one, text)
        except e.RestoreFailed as error:
            if not isinstance(error.__cause__, psycopg.errors.ForeignKeyViolation):
                raise
            not_valid = text.rstrip().removesuffix(b";") + b" NOT VALID;\n"
            self._session.execute_one(entry.one, not_valid)
            self.warnings.append(
                f"{describe(entry.one)} is NOT VALID: rows refer to others that are gone"
            )

    def _is_wanted(self, entry: Entry) -> bool:
        """Tell whether the publication exists that an entry adds a table to."""
        if entry.one.type != "PUBLICATION TABLE":
            return True
        match = _PUBLICATION.search(entry.text)
        name = statements.unquoted(match[1], self._codec) if match else ""
        query = "SELECT FROM pg_catalog.pg_publication WHERE pubname = %s"
        if self._connection.execute(query, [name]).fetchone() is None:
            self.warnings.append(f"publication {name} does not exist")
            return False
        return True

    def _create_schemas(self) -> None:
        made = [self._new_name] if self._new_name is not None else self._tables.defined
        for schema in dict.fromkeys(schema for schema, _ in made):
            query = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s"
            if self._connection.execute(query, [schema]).fetchone() is None:
                create = sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema))
                suspended = default_privileges.suspend(self._connection, kinds="n")
                self._connection.execute(create)
                default_privileges.resume(self._connection, suspended)

    def _drop(self) -> Sequence[str]:
        """Drop the existing tables; return what creates the foreign keys of others again."""
        connection = self._connection
        names = self._tables.names
        existing = [name for name in names if relations.relation(connection, name) is not None]
        keys = relations.foreign_keys_from_elsewhere(connection, existing)
        for drop, _ in keys:
            connection.execute(drop.encode())
        conditions = extension_tables.conditions(connection)
        # pg_dump writes what is referred to first.
        for name in reversed(self._tables.of_extensions):
            oid = relations.relation(connection, name)
            extension_tables.delete_rows(connection, name, conditions.get(oid or 0, b""))
        defined = set(self._tables.defined)
        existing = [name for name in existing if name in defined]
        if existing:
            dropped = sql.SQL(", ").join(sql.Identifier(*name) for name in existing)
            connection.execute(sql.SQL("DROP TABLE {}").format(dropped))
        return [add for _, add in keys]

    def _load(self, name: Name, progress: Progress) -> int:
        """Load a table's rows by its own name: its partitioned root may not exist."""
        target = sql.Identifier(self._schemas.get(name, name[0]), name[1])
        return self._tables.copy(self._session, name, target.as_bytes(self._connection), progress)


def _move_out(connection: Connection, temporary: str, old: str, new_name: Name) -> None:
    """Give a table and what belongs to it free names, and move all of it to its schema."""
    schema, new = new_name
    for kind, name in relations.in_schema(connection, temporary):
        fresh = name.replace(old, new, 1) if old in name else f"{new}_{name}"
        free = relations.free_name(connection, schema, fresh)
        connection.execute(
            sql.SQL("ALTER {} {} RENAME TO {}").format(
                sql.SQL(kind), sql.Identifier(temporary, name), sql.Identifier(free)
            )
        )
        if kind == "STATISTICS":
            _set_schema(connection, kind, (temporary, free), schema)
    connection.execute(
        sql.SQL("ALTER TABLE {} RENAME TO {}").format(
            sql.Identifier(temporary, old), sql.Identifier(new)
        )
    )
    _set_schema(connection, "TABLE", (temporary, new), schema)
    connection.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(temporary)))


def _set_schema(connection: Connection, kind: str, name: Name, schema: str) -> None:
    connection.execute(
        sql.SQL("ALTER {} {} SET SCHEMA {}").format(
            sql.SQL(kind), sql.Identifier(*name), sql.Identifier(schema)
        )
    )
