"""A session that loads a dump without superuser rights, and reports what cannot be loaded."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors as pe
from psycopg.pq import TransactionStatus

from .. import errors as e
from ..artifact.file import Object
from ..postgres.connection import Connection
from ..postgres.messages import restore_error
from ..restore.load.session import RETRIES, Session, Statement, describe
from ..sql import script, statements
from .statement_kinds import (
    ALTER_OWNER,
    CREATE_EXTENSION,
    EVENT_TRIGGER,
    SCHEMA,
    Function,
    as_role,
    is_harmless,
)

if TYPE_CHECKING:
    from .confinement import Confinement

_NOT_GRANTED = frozenset({"01006", "01007"})  # privilege_not_revoked, privilege_not_granted
# What a superuser could do; the second of aggregates with an internal state.
_OF_SUPERUSERS = (pe.InsufficientPrivilege, pe.InvalidFunctionDefinition)
# What a statement may fail with because something before it is missing.
_MISSING = (
    pe.UndefinedTable, pe.UndefinedObject, pe.UndefinedFunction, pe.InvalidSchemaName,
    pe.UndefinedColumn, pe.ForeignKeyViolation,
)  # fmt: skip


class ConfinedSession(Session):
    """A session that loads without being the superuser's, and says what cannot be loaded so."""

    def __init__(
        self, connection: Connection, header: Sequence[Statement], confinement: "Confinement"
    ) -> None:
        super().__init__(connection, header)
        self._confinement = confinement
        self._refused: list[str] = []
        connection.add_notice_handler(self._hear)

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate in _NOT_GRANTED:
            self._refused.append(notice.message_primary or "")

    def execute(self, objects: Sequence[tuple[Object, bytes]]) -> None:
        """Execute objects in their order, but extensions ahead of any code of the dump.

        What an extension's script calls without a schema could be a function of the dump.
        """
        if any(entry.type == "EXTENSION" for entry, _ in objects):
            first = [pair for pair in objects if self._comes_first(*pair)]
            for entry, text in first:
                if entry.type == "EXTENSION":
                    self._as_superuser(entry, text)
                else:
                    self.execute_one(entry, text)
            self._confinement.open_extensions()
            done = {id(entry) for entry, _ in first}
            objects = [pair for pair in objects if id(pair[0]) not in done]
        for entry, text in objects:
            self.execute_one(entry, text)

    def _comes_first(self, entry: Object, text: bytes) -> bool:
        """Whether this is an extension, or a schema for one, and nothing else."""
        form = {"EXTENSION": CREATE_EXTENSION, "SCHEMA": SCHEMA}.get(entry.type)
        return form is not None and all(map(form.fullmatch, self._split(entry, text)))

    def execute_one(self, entry: Object, text: bytes, attempts: int = RETRIES) -> None:
        """Execute one object, or note that only a superuser could."""
        try:
            if entry.type in script.LARGE_OBJECT_TYPES:
                super().execute_one(entry, text, attempts)
                return
            for statement in self._statements(entry, text):
                self._route(entry, statement, attempts)
        except e.RestoreFailed as error:
            self._settings = ""
            if self.connection.info.transaction_status == TransactionStatus.IDLE:
                self.connection.execute("RESET ROLE")
            self._excuse(entry, text, error)

    def _route(self, entry: Object, statement: bytes, attempts: int) -> None:
        """Have a statement executed by whom it takes."""
        if match := ALTER_OWNER.fullmatch(statement):
            self._give(entry, match)
        elif statement.startswith(b"ALTER EVENT TRIGGER "):
            pass  # they stay disabled
        else:
            self._try(entry, as_role(statement), attempts)

    def _try(self, entry: Object, statement: bytes, attempts: int) -> None:
        self._refused.clear()
        try:
            self._retried(entry, [statement], attempts)
        except e.RestoreFailed as error:
            harmless = isinstance(error.__cause__, _OF_SUPERUSERS) and self._is_harmless(statement)
            if not harmless:
                raise
            self._as_superuser(entry, statement)
        if self._refused:
            self._confinement.note(entry, self._refused[0])

    def _is_harmless(self, statement: bytes) -> bool:
        function = Function.of(statement)
        return (
            is_harmless(statement)
            or EVENT_TRIGGER.fullmatch(statement) is not None
            or (function is not None and self._confinement.may_create(function))
        )

    def _as_superuser(self, entry: Object, statement: bytes) -> None:
        confinement = self._confinement
        try:
            if match := EVENT_TRIGGER.fullmatch(statement):
                confinement.create_event_trigger(match["name"], statement)
            else:
                confinement.execute(statement)
            if statement.startswith(b"CREATE FOREIGN DATA WRAPPER "):
                confinement.open_extensions()
        except psycopg.Error as error:
            raise restore_error(error, describe(entry)) from error

    def _give(self, entry: Object, match: re.Match[bytes]) -> None:
        owner = statements.unquoted(match["owner"], self._confinement.codec)
        try:
            self._confinement.give(match.group(), owner)
        except psycopg.errors.InsufficientPrivilege as error:
            self._confinement.note(entry, error.diag.message_primary or str(error))
        except psycopg.Error as error:
            raise restore_error(error, describe(entry)) from error

    def _excuse(self, entry: Object, text: bytes, error: e.RestoreFailed) -> None:
        """Note that an object is not proved, where the reason is only that; else raise."""
        cause = error.__cause__
        message = error.message.partition(": ")[2] or error.message
        if isinstance(cause, pe.InsufficientPrivilege):
            reason = cause.diag.message_primary or str(cause)
            if self._confinement.is_of_superusers(cause):
                self._confinement.note(entry, reason)
                return
        elif isinstance(cause, _MISSING) and self._confinement.depends(entry, text):
            self._confinement.note(entry, message)
            return
        raise error

    def copy(self, entry: Object, header: bytes, blocks: Iterator[bytes]) -> int:
        """Send rows; of a table that only a superuser could load they count as taken."""
        try:
            return super().copy(entry, header, blocks)
        except e.RestoreFailed as error:
            self._excuse(entry, header, error)
            for _ in blocks:
                pass
            return entry.rows or 0
