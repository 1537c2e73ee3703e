"""A plain dump to a database: its statements and rows in their order, through one session.

No psql takes part, so nothing in a dump can be a command for it.
"""

import re
from collections.abc import Iterator

import psycopg
from psycopg.pq import TransactionStatus

from ... import errors as e
from ...artifact.copy_statements import rows_of
from ...artifact.file import Object
from ...artifact.packer import object_of_entry
from ...artifact.plain_reader import PlainReading
from ...postgres.connection import Endpoint
from ...postgres.messages import restore_error
from ...progress import Progress
from ...sql import dialect, script
from ...sql.encodings import codec
from ...sql.scanner import Scanner
from ...stores.store import Source
from . import settings
from .session import BATCH_BYTES, Session, describe

BATCH_STATEMENTS = 100
_STRINGS = re.compile(rb"SET standard_conforming_strings = (?P<value>on|off);")
_SET = re.compile(rb"SET (?P<name>[a-z_]+) = ")
_DROP_PUBLIC = re.compile(rb"DROP SCHEMA (?:IF EXISTS )?public;")
_NOTHING = Object(type="DUMP", schema="", name="", owner="", member=0, start=0)


def load(
    endpoint: Endpoint,
    source: Source,
    encoding: str,
    progress: Progress,
    *,
    sha256: str | None,
    allow: bool = False,
) -> int:
    """Load a dump whose structure has been checked; return the number of rows that were copied.

    `sha256` is that of the file when it was checked. With `allow` statements are executed that
    pg_dump does not write, but none about other databases or roles.

    Raises:
        RestoreFailed: names the object and what the server said.
        VerificationFailed: the file is damaged, or not the one that was checked.

    """
    progress.step("loading")
    progress.total(source.size)
    reading = PlainReading(source, progress.advance, statements=False)
    reading.scanner = Scanner(statements=True)
    with endpoint.connect() as connection:
        loading = _Loading(
            Session(connection, settings.header(connection, None)), codec(encoding), allow=allow
        )
        pieces = reading.pieces()
        for piece in pieces:
            if isinstance(piece, script.CopyBegin):
                loading.copy(piece, pieces)
            else:
                loading.add(piece)
        loading.finish()
    if sha256 is not None and reading.sha256 != sha256:
        raise e.VerificationFailed(f"{source.name} has changed since it was checked")
    return loading.rows


class _Loading:
    """Execute the statements of a dump in batches, each named by the entry that it belongs to."""

    def __init__(self, session: Session, codec_name: str, *, allow: bool) -> None:
        self._session = session
        self._codec = codec_name
        self._allow = allow
        self._statements = dialect.Statements()
        self._waiting: list[tuple[Object, bytes]] = []
        self._size = 0
        self._entry: Object | None = None
        self._dropping = False
        rows = session.connection.execute("SELECT name FROM pg_catalog.pg_settings")
        self._known_settings = {name.encode() for (name,) in rows}
        self.rows = 0

    def add(self, piece: script.Piece) -> None:
        """Take the next piece that is no row."""
        if isinstance(piece, script.Entry):
            self._entry = object_of_entry(piece, self._codec)
        statement = self._statements.add(piece)
        if statement is None or not statement.text or self._is_passed_over(statement.text):
            return
        self._check(statement)
        if self._goes_alone(statement.text):
            self._flush()
            self._execute(statement.text)
            return
        self._waiting.append((self._entry or _NOTHING, statement.text))
        self._size += len(statement.text)
        if len(self._waiting) >= BATCH_STATEMENTS or self._size > BATCH_BYTES:
            self._flush()

    def _goes_alone(self, statement: bytes) -> bool:
        """Whether a statement cannot share a transaction with others, which may be repeated.

        Large objects come in transactions of their own; what pg_dump does not write may not be
        allowed in any.
        """
        return (
            self._session.connection.info.transaction_status != TransactionStatus.IDLE
            or statement in (b"BEGIN;", b"COMMIT;")
            or _STRINGS.match(statement) is not None
            or not dialect.is_known(statement)
        )

    def _execute(self, statement: bytes) -> None:
        entry = self._entry or _NOTHING
        match = _STRINGS.match(statement)
        if match is not None:
            self._session.strings = match["value"].decode()
        try:
            self._session.send([statement])
        except psycopg.Error as error:
            raise restore_error(error, describe(entry)) from error

    def copy(self, begin: script.CopyBegin, pieces: Iterator[script.Piece]) -> None:
        """Send the rows of one COPY statement."""
        self._statements.finish()
        self._flush()
        entry = self._entry or _NOTHING
        sent = 0

        def counted() -> Iterator[bytes]:
            nonlocal sent
            for block in rows_of(pieces):
                sent += block.count(b"\n")
                yield block

        taken = self._session.copy(entry, begin.data.rstrip(b";\n"), counted())
        if taken != sent:
            raise e.RestoreFailed(f"{describe(entry)}: the server took {taken} rows of {sent}")
        self.rows += taken

    def finish(self) -> None:
        """Execute what is left."""
        self._statements.finish()
        self._flush()

    def _check(self, statement: dialect.Statement) -> None:
        if dialect.is_of_cluster(statement.text):
            raise e.VerificationFailed(
                f"a statement about another database or a role: {dialect.shown(statement.text)}"
            )
        if not statement.whole:
            raise e.VerificationFailed("a statement of more than 1 GiB, which no server takes")
        if not self._allow:
            dialect.check(statement.text, "the dump")

    def _is_passed_over(self, statement: bytes) -> bool:
        """Whether it does nothing in a new database: a setting of others, or what --clean drops.

        Only the schema `public` is there: pg_dump before 15 drops it and creates it anew.
        """
        match = _SET.match(statement)
        if match is not None:
            return match["name"] not in self._known_settings
        if self._entry is not None or not dialect.is_setting(statement, cleaning=True):
            return False
        self._dropping |= statement.startswith(b"DROP ")
        return self._dropping and _DROP_PUBLIC.match(statement) is None

    def _flush(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        if len(waiting) > 1:
            try:
                self._session.send([text for _, text in waiting])
                return
            except psycopg.Error:
                if self._session.connection.closed:
                    raise
        for entry, text in waiting:
            try:
                self._session.send([text])
            except psycopg.Error as error:
                raise restore_error(error, describe(entry)) from error
