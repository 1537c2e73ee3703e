"""A session that executes pg_dump's statements one object at a time.

So an error names the object. Each statement must be one that pg_dump writes, and is sent alone: the
server refuses several in one message of the extended query protocol (manual, section 55.2.3).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from ... import errors as e
from ...artifact.file import Object
from ...postgres.connection import Connection
from ...postgres.messages import restore_error
from ...sql import dialect

Statement = bytes | sql.Composed
EntryText = tuple[Object, bytes]  # an object of a backup and its SQL

BATCH_BYTES = 64 << 10
BATCH_OBJECTS = 100  # more would hold too many locks in one transaction
RETRIES = 3  # of statements that the server gave up to resolve a deadlock


class Session:
    """A connection with the dump's settings, and which SET default_... hold in it."""

    def __init__(self, connection: Connection, header: Sequence[Statement]) -> None:
        self.connection = connection
        self.tolerates: Callable[[Object, bytes, e.RestoreFailed], bool] | None = None
        # Few statements come twice, and those that do are cheap.
        connection.prepare_threshold = None
        self._settings = ""
        try:
            for statement in header:
                connection.execute(statement, binary=True)
            # Nothing of an unfinished database can be lost; the last commit waits for all.
            connection.execute("SET synchronous_commit = off")
        except BaseException:
            connection.close()
            raise
        # What standard_conforming_strings is: the SQL is cut into statements by it.
        self.strings = self._parameter_strings

    @property
    def _parameter_strings(self) -> str | None:
        return self.connection.info.parameter_status("standard_conforming_strings")

    def execute(self, objects: Sequence[EntryText]) -> None:
        """Execute objects, several in one message; on an error find the one that is to blame."""
        batch: list[EntryText] = []
        for pair in objects:
            batch.append(pair)
            if len(batch) >= BATCH_OBJECTS or sum(len(text) for _, text in batch) > BATCH_BYTES:
                self._batch(batch)
                batch = []
        self._batch(batch)

    def _batch(self, batch: Sequence[EntryText]) -> None:
        if len(batch) > 1 and self.connection.info.transaction_status == 0:
            try:
                self.send([statement for pair in batch for statement in self._statements(*pair)])
                return
            except psycopg.Error:
                if self.connection.closed:
                    raise
                # The implicit transaction of the batch is gone, and with it what SET did.
                self._settings = ""
        for entry, text in batch:
            self.try_one(entry, text)

    def try_one(self, entry: Object, text: bytes, attempts: int = RETRIES) -> None:
        """Execute one object, whose failure may be tolerated."""
        if self.tolerates is None:
            self.execute_one(entry, text, attempts)
            return
        try:
            with self.savepoint():
                self.execute_one(entry, text, attempts)
        except e.RestoreFailed as error:
            again = attempts == 1 and is_deadlock(error.__cause__)
            if again or not self.is_tolerated(entry, text, error):
                raise
            if self.connection.info.transaction_status == TransactionStatus.INERROR:
                self.connection.execute("ROLLBACK")  # of a BEGIN in the text

    def is_tolerated(self, entry: Object, text: bytes, error: e.RestoreFailed) -> bool:
        """Tell whether the restore may go on: only what the server says of one object."""
        if self.tolerates is None or self.connection.closed:
            return False
        return isinstance(error.__cause__, psycopg.Error) and self.tolerates(entry, text, error)

    def savepoint(self) -> contextlib.AbstractContextManager[object]:
        """Within a transaction, keep what was done before where something fails."""
        if self.connection.info.transaction_status == TransactionStatus.IDLE:
            return contextlib.nullcontext()
        return self.connection.transaction()

    def execute_one(self, entry: Object, text: bytes, attempts: int = RETRIES) -> None:
        """Execute one object; where that ends in a deadlock, so many times.

        Raises:
            RestoreFailed: names the object and what the server said.
            VerificationFailed: pg_dump does not write such a statement.

        """
        self._retried(entry, text, attempts)

    def _retried(self, entry: Object, text: bytes | list[bytes], attempts: int) -> None:
        for left in reversed(range(attempts)):
            try:
                self.send(self._statements(entry, text) if isinstance(text, bytes) else text)
                return
            except psycopg.Error as error:
                self._settings = ""  # what SET did is gone with the statement
                again = is_deadlock(error) and self.connection.info.transaction_status == 0
                if not again or not left:
                    extension = entry.type == "EXTENSION"
                    kind = e.ExtensionFailed if extension else e.RestoreFailed
                    raise restore_error(error, describe(entry), kind) from error

    def send(self, statements: Sequence[bytes]) -> None:
        """Execute statements in one transaction, each by itself."""
        if len(statements) == 1:
            self.connection.execute(statements[0], binary=True)
        else:
            with self.connection.pipeline():
                for statement in statements:
                    self.connection.execute(statement)
        if self._parameter_strings != self.strings:
            raise e.RestoreFailed(
                "the database's own code has changed standard_conforming_strings: what follows"
                " would be read differently"
            )

    def _statements(self, entry: Object, text: bytes) -> list[bytes]:
        """Return the statements of an object, after the settings that it needs.

        Raises:
            VerificationFailed: pg_dump does not write them for one database.

        """
        found: list[bytes] = []
        if entry.settings != self._settings:
            found += self._split(entry, entry.settings.encode())
            if not all(dialect.is_setting(statement) for statement in found):
                raise e.VerificationFailed(f"{describe(entry)}: unexpected settings in the index")
            self._settings = entry.settings
        return found + self._split(entry, text)

    def _split(self, entry: Object, text: bytes) -> list[bytes]:
        try:
            backslash_strings = self.strings == "off"
            found = list(dialect.statements_of(text, backslash_strings=backslash_strings))
        except e.VerificationFailed as error:
            raise e.VerificationFailed(f"{describe(entry)}: {error.message}") from error
        for statement in found:
            dialect.check(statement, describe(entry))
        return found

    def copy(self, entry: Object, header: bytes, blocks: Iterator[bytes]) -> int:
        """Send rows; return how many the server took."""
        with self.connection.cursor() as cursor:
            try:
                with cursor.copy(header) as copy:
                    for block in blocks:
                        copy.write(block)
            except psycopg.Error as error:
                raise restore_error(error, f"rows of {entry.schema}.{entry.name}") from error
            return cursor.rowcount

    def cancel(self) -> None:
        """End what the session is doing, from another thread, without waiting for long."""
        try:
            self.connection.cancel_safe(timeout=5)
        except psycopg.Error:
            self.connection.close()


def describe(entry: Object) -> str:
    """Name an object for messages."""
    name = f"{entry.schema}.{entry.name}" if entry.schema else entry.name
    return f"{entry.type.lower()} {name}"


def is_deadlock(error: BaseException | None) -> bool:
    """Tell whether the server gave a statement up to resolve a deadlock."""
    return isinstance(error, psycopg.errors.DeadlockDetected)
