"""Restore whole tables: definitions, rows, indexes, constraints and triggers.

Everything is one transaction, which locks existing tables only in its last step: the restored
tables are loaded in schemas of their own, that no other session sees, and take their places then.
"""

import re
import secrets
from collections.abc import Sequence

from psycopg import sql

from ...artifact.contents import Entry
from ...postgres.connection import Connection
from ...progress import Progress
from ...sql import statements
from ...sql.statements import Name
from ..load.session import Session
from ..target import default_privileges, extension_tables, locks, new_foreign_keys, relations
from ..target.new_foreign_keys import FromElsewhere
from . import definitions
from .plan import TablesPlan
from .table_keys import TableKeys

_PUBLICATION = re.compile(rb"^ALTER PUBLICATION (%b) " % statements.IDENTIFIER, re.MULTILINE)
_OTHERS = {  # how to find the table that an entry locks besides its own
    "FK CONSTRAINT": statements.REFERENCES,
    "INDEX ATTACH": re.compile(rb"^ALTER INDEX %b ATTACH " % statements.QUALIFIED, re.MULTILINE),
    "TABLE ATTACH": statements.ALTER_TABLE,
}
# Attached to a parent that has its indexes, a partition would get new ones: first its own.
_PLACES = {"INDEX": 0, "CONSTRAINT": 0, "TABLE ATTACH": 1}


class WholeTables:
    """Create tables in the target's transaction, aside first where others are in their place."""

    def __init__(self, plan: TablesPlan, session: Session) -> None:
        self._options = plan.options
        self._tables = plan.tables
        self._codec = plan.tables.contents.codec
        self._session = session
        self._connection = session.connection
        self._new_name = definitions.new_name(plan.tables, plan.options)
        self._schemas: dict[Name, str] = {}  # where relations go, other than in the backup
        self._others: set[Name] = set()  # existing tables and indexes that are locked
        self._keys = TableKeys(session, self._codec, self._schemas, self._new_name)
        self.warnings: list[str] = []

    def restore(self, progress: Progress) -> int:
        """Restore the tables; return the number of rows.

        Raises:
            RestoreFailed: names the object and what the server said.

        """
        if self._new_name is not None or self._options.replace:
            self._create_temporary_schemas()
        self._create_schemas()
        before, after, last = self._entries()
        progress.step("creating tables")
        for entry in before:
            self._execute(entry)
        if self._options.privileges:
            self._take_default_privileges()
        progress.step("loading rows")
        rows = sum(self._load(name, progress) for name in self._tables.defined)
        progress.step("building indexes")
        for entry in after:
            self._execute(entry)
        self._keys.check(last, self._existing() if self._options.replace else ())
        progress.step("waiting for locks")
        return rows + locks.within(
            self._connection, self._options.lock_timeout,
            lambda: self._take_places(last, progress), self._tables_to_lock,
        )  # fmt: skip

    def validate(self) -> None:
        """Validate foreign keys, after the commit."""
        self.warnings += self._keys.validate(self._options.lock_timeout)

    def _entries(self) -> tuple[list[Entry], list[Entry], list[Entry]]:
        """Return what is executed before the rows, after them, and with locks on other tables."""
        members = self._tables.artifact.index.members
        before: list[Entry] = []
        later: list[Entry] = []
        for entry in definitions.entries(self._tables, self._options):
            if self._is_wanted(entry):
                pre = members[entry.one.member].section == "pre"
                early = pre and entry.one.type != "TABLE ATTACH"
                (before if early else later).append(entry)
        later.sort(key=lambda entry: _PLACES.get(entry.one.type, 2))
        attached: set[Name | None] = set()  # to a table that exists
        after: list[Entry] = []
        last: list[Entry] = []
        for entry in later:
            # What a partition has from its parent can be changed only afterwards.
            follows = entry.table in attached and entry.one.type not in _PLACES
            if self._locks_others(entry) or follows:
                last.append(entry)
                if entry.one.type == "TABLE ATTACH":
                    attached.add(entry.table)
            else:
                after.append(entry)
        return before, after, last

    def _locks_others(self, entry: Entry) -> bool:
        """Tell whether an entry locks a table that is not restored, or may follow such an entry."""
        pattern = _OTHERS.get(entry.one.type)
        if pattern is None:
            return entry.one.type in ("PUBLICATION TABLE", "COMMENT")
        match = pattern.search(entry.text)
        if match is None:
            return True
        other = statements.name_of(match, self._codec)
        if other in self._tables.relations():
            return False
        self._others.add(other)
        return True

    def _create_temporary_schemas(self) -> None:
        """Create schemas in which all names are free; they are gone before the commit."""
        relations_of = self._tables.contents.relations
        restored = [name for table in self._tables.defined for name in relations_of(table)]
        places = {schema: f"pgkeep_{secrets.token_hex(4)}" for schema, _ in restored}
        for schema in places.values():
            for statement in (
                "CREATE SCHEMA {}",
                # For those who have granted something, and for owners.
                "GRANT USAGE, CREATE ON SCHEMA {} TO PUBLIC",
            ):
                self._connection.execute(sql.SQL(statement).format(sql.Identifier(schema)))
        self._schemas.update({name: places[name[0]] for name in restored})

    def _take_default_privileges(self) -> None:
        """Take what ALTER DEFAULT PRIVILEGES gives to new tables: the backup's grants follow."""
        contents = self._tables.contents
        made = {relation for name in self._tables.defined for relation in contents.relations(name)}
        names = [self._place(name) for name in made]
        for statement in relations.privileges_taken(self._connection, names):
            self._connection.execute(statement.encode())

    def _place(self, name: Name) -> Name:
        """Return where a relation is loaded."""
        return self._schemas.get(name, name[0]), name[1]

    def _execute(self, entry: Entry) -> None:
        text = statements.moved(entry.text, self._schemas, self._codec)
        self._session.execute_one(entry.one, text)

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

    def _load(self, name: Name, progress: Progress) -> int:
        """Load a table's rows by its own name: its partitioned root may not exist."""
        target = sql.Identifier(*self._place(name))
        return self._tables.copy(self._session, name, target.as_bytes(self._connection), progress)

    def _existing(self) -> list[Name]:
        names = self._tables.names
        return [name for name in names if relations.relation(self._connection, name) is not None]

    def _tables_to_lock(self) -> Sequence[int]:
        """Return the tables whose locks the last step takes."""
        others = relations.oids(self._connection, sorted(self._others))
        return [*relations.around(self._connection, self._existing()), *others]

    # The last step.

    def _take_places(self, last: Sequence[Entry], progress: Progress) -> int:
        """Replace the existing tables; return the number of rows of extensions' tables."""
        self._keys.restart()
        keys = self._drop() if self._options.replace else []
        rows = sum(self._load(name, progress) for name in self._tables.of_extensions)
        self._set_sequences()
        for entry in last:
            if entry.one.type == "FK CONSTRAINT":
                self._keys.add(entry)
            else:
                self._execute(entry)
        if self._new_name is not None:
            _rename(self._connection, self._schemas, self._tables.names[0], self._new_name)
        self._move()
        for key in keys:
            self._keys.add_again(key)
        return rows

    def _set_sequences(self) -> None:
        """Set the sequences of configuration tables, which the backup does not define either."""
        for name in self._tables.of_extensions:
            oid = relations.relation(self._connection, name)
            owned = extension_tables.sequences(self._connection, oid or 0)
            for entry in self._tables.contents.entries:
                own = statements.own_name(entry.one.type, entry.text, self._codec)
                if entry.one.type == "SEQUENCE SET" and own in owned:
                    self._session.execute_one(entry.one, entry.text)

    def _drop(self) -> Sequence[FromElsewhere]:
        """Drop the existing tables; return the foreign keys of others, to be added again."""
        connection = self._connection
        existing = self._existing()
        defined = [name for name in existing if name in set(self._tables.defined)]
        if defined:
            # One after the other, in the order of the dump: who waits for these has no others.
            listed = sql.SQL(", ").join(sql.Identifier(*name) for name in defined)
            connection.execute(
                sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(
                    sql.SQL(", ONLY ").join(sql.Identifier(*name) for name in defined)
                )
            )
        keys = new_foreign_keys.from_elsewhere(connection, existing)
        for key in keys:
            drop = sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(key.constraint))
            connection.execute(key.alter + drop)
        conditions = extension_tables.conditions(connection)
        # pg_dump writes what is referred to first.
        for name in reversed(self._tables.of_extensions):
            oid = relations.relation(connection, name)
            extension_tables.delete_rows(connection, name, conditions.get(oid or 0, b""))
        if defined:
            connection.execute(sql.SQL("DROP TABLE {}").format(listed))
        return keys

    def _move(self) -> None:
        """Move the tables out of their temporary schemas, with all that belongs to them."""
        connection = self._connection
        back = {temporary: schema for (schema, _), temporary in self._schemas.items()}
        for temporary, schema in back.items():
            target = self._new_name[0] if self._new_name is not None else schema
            for kind, name in relations.in_schema(connection, temporary):
                if kind in ("STATISTICS", "TABLE"):
                    connection.execute(
                        sql.SQL("ALTER {} {} SET SCHEMA {}").format(
                            sql.SQL(kind), sql.Identifier(temporary, name), sql.Identifier(target)
                        )
                    )
            connection.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(temporary)))


def _rename(connection: Connection, schemas: dict[Name, str], old: Name, new_name: Name) -> None:
    """Give a table and what belongs to it names that are free in its schema."""
    temporary = schemas[old]
    schema, new = new_name
    for kind, name in relations.in_schema(connection, temporary):
        fresh = new
        if kind != "TABLE":
            derived = name.replace(old[1], new, 1) if old[1] in name else f"{new}_{name}"
            fresh = relations.free_name(connection, schema, derived)
        if fresh != name:
            connection.execute(
                sql.SQL("ALTER {} {} RENAME TO {}").format(
                    sql.SQL(kind), sql.Identifier(temporary, name), sql.Identifier(fresh)
                )
            )
