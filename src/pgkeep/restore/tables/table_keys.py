"""The foreign keys between restored and existing tables (see `new_foreign_keys`)."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from ... import errors as e
from ...artifact.contents import Entry
from ...sql import statements
from ...sql.statements import Name
from ..load.session import Session, describe
from ..target import locks, new_foreign_keys, relations
from ..target.new_foreign_keys import FromElsewhere
from .selected import dotted

GONE = "is NOT VALID: rows refer to others that are gone"


class TableKeys:
    """Check, add and validate foreign keys; `schemas` is where tables are loaded."""

    def __init__(
        self, session: Session, codec: str, schemas: Mapping[Name, str], new_name: Name | None
    ) -> None:
        self._session = session
        self._connection = session.connection
        self._codec = codec
        self._schemas = schemas
        self._new_name = new_name
        self._direct: set[tuple[Name, str]] = set()  # that only the server can check
        self._unchecked: list[tuple[Name, str]] = []  # to be validated
        self._warnings: list[str] = []

    def check(self, entries: Sequence[Entry], replaced: Sequence[Name]) -> None:
        """Check the rows of foreign keys without locks.

        Raises:
            RestoreFailed: a row refers to nothing.

        """
        for entry in entries:
            key = self._read(entry) if entry.one.type == "FK CONSTRAINT" else None
            if key is None or new_foreign_keys.not_valid(entry.text) is None:
                continue
            label = (key.table, key.constraint)
            if not new_foreign_keys.may_be_checked(self._connection, key):
                self._direct.add(label)
            elif self._new_name is None:  # old rows of a copy may refer to what is gone by now
                self._refuse_violation(label, key.violations())
        for other in new_foreign_keys.from_elsewhere(self._connection, replaced):
            if new_foreign_keys.not_valid(other.definition.encode()) is None:
                continue
            label = (other.table, other.constraint)
            schema = self._schemas.get(other.referenced)
            if schema is None or not other.is_checkable:
                self._direct.add(label)
            else:
                self._refuse_violation(label, other.violations((schema, other.referenced[1])))

    def restart(self) -> None:
        """Forget what was added: its transaction is rolled back."""
        self._unchecked = []
        self._warnings = []

    def add(self, entry: Entry) -> None:
        """Add a foreign key to an existing table."""
        text = statements.moved(entry.text, self._schemas, self._codec)
        key = self._read(entry)
        not_valid = new_foreign_keys.not_valid(text)
        direct = key is None or (key.table, key.constraint) in self._direct
        if key is not None and not direct and not_valid is not None:
            self._session.execute_one(entry.one, not_valid)
            self._unchecked.append((self._final(key.table), key.constraint))
            return
        try:
            with self._connection.transaction():
                self._session.execute_one(entry.one, text)
        except e.RestoreFailed as error:
            violated = isinstance(error.__cause__, psycopg.errors.ForeignKeyViolation)
            if not violated or self._new_name is None or not_valid is None:
                raise
            self._session.execute_one(entry.one, not_valid)
            self._warnings.append(f"{describe(entry.one)} {GONE}")

    def add_again(self, key: FromElsewhere) -> None:
        """Add a foreign key of another table again."""
        definition = key.definition.encode()
        not_valid = new_foreign_keys.not_valid(definition)
        if not_valid is not None and (key.table, key.constraint) not in self._direct:
            definition = not_valid
            self._unchecked.append((key.table, key.constraint))
        self._connection.execute(key.alter.as_bytes(self._connection) + definition)

    def validate(self, seconds: float) -> list[str]:
        """Validate what was added, after the commit; return warnings."""
        return [*self._warnings, *filter(None, (self._validated(seconds, *key)
                                                for key in self._unchecked))]  # fmt: skip

    def _validated(self, seconds: float, table: Name, constraint: str) -> str | None:
        statement = new_foreign_keys.validation(table, constraint)
        name = f"fk constraint {dotted(table)} {constraint}"
        try:
            locks.within(
                self._connection, seconds, lambda: self._connection.execute(statement),
                lambda: relations.oids(self._connection, [table]),
            )  # fmt: skip
        except psycopg.errors.ForeignKeyViolation:
            return f"{name} {GONE}"
        except (psycopg.Error, e.RestoreFailed) as error:
            if self._connection.closed:
                raise
            return f"{name} is NOT VALID: {error}"
        return None

    def _read(self, entry: Entry) -> new_foreign_keys.Key | None:
        text = statements.moved(entry.text, self._schemas, self._codec)
        return new_foreign_keys.read(text, self._codec)

    def _final(self, place: Name) -> Name:
        """Return the name of a table when everything is done."""
        if self._new_name is not None:
            return self._new_name
        back = {(schema, name[1]): name for name, schema in self._schemas.items()}
        return back.get(place, place)

    def _refuse_violation(self, key: tuple[Name, str], query: sql.Composed) -> None:
        violated = new_foreign_keys.is_violated(self._connection, query)
        if violated is None:
            self._direct.add(key)
        if violated:
            raise e.RestoreFailed(
                f"a row violates foreign key constraint {key[1]} of {key[0][1]}: it refers to a row"
                " that does not exist; nothing was changed"
            )
