"""Load the rows of a backup file: large objects, sequences and the COPY statements of tables.

The rows go to the server in large blocks as they are in the file; the server says how many it has
taken, which must be as many as the index says.
"""

import collections
import functools
import threading
from collections.abc import Callable, Iterator, Sequence

import psycopg
from psycopg import sql

from ... import errors as e
from ...artifact import consistency, copy_statements
from ...artifact.file import Artifact, Object
from ...progress import Progress
from ...sql import script
from ...sql.encodings import codec
from ...sql.statements import Name
from ...task_group import TaskGroup, for_each
from ..target import foreign_keys, not_valid_constraints, relations
from .entries import EntryReader, is_large_object
from .options import LoadOptions
from .session import BATCH_BYTES, EntryText, Session


class RowLoader:
    """Load all rows of a backup file."""

    def __init__(
        self,
        artifact: Artifact,
        options: LoadOptions,
        entries: EntryReader,
        sessions: Sequence[Session],
        progress: Progress,
    ) -> None:
        self._artifact = artifact
        self._options = options
        self._entries = entries
        self._objects = entries.objects
        self._sessions = sessions
        self._progress = progress
        self._lock = threading.Lock()
        self._codec = codec(artifact.index.meta.database.encoding)
        self._roots: dict[Name, Name] = {}
        self.loaded: dict[Name, int] = {}

    def load(self) -> None:
        """Load rows, tables side by side; into existing tables in an order that their keys allow.

        Raises:
            RestoreFailed: the server refuses rows, or has not taken as many as the index says.

        """
        self._roots = relations.partition_roots(self._main.connection)
        rows: list[int] = []
        others: list[int] = []
        for number, member in enumerate(self._artifact.index.members):
            if member.section == "data":
                is_rows = all(entry.rows is not None for entry in self._objects[number])
                (rows if is_rows else others).append(number)
        if not self._options.schema:
            self._load_in_one_transaction(rows, others)
            return
        # Large objects and sequences: in their order, by one session; first, for they may be many.
        tasks: list[Callable[[Session, TaskGroup], None]] = []
        if others:
            tasks.append(lambda session, threads: self._load_others(session, threads, others))
        keyed = self._with_keys(rows)
        if keyed:
            tasks.append(lambda session, threads: self._load_rows(session, threads, *keyed))
        tasks += [
            lambda session, threads, number=number: self._load_rows(session, threads, number)  # type: ignore[misc]
            for number in rows
            if number not in keyed
        ]
        for_each(
            tasks, self._sessions, lambda task, session, threads: task(session, threads),
            name="load", cancel=Session.cancel,
        )  # fmt: skip

    @property
    def _main(self) -> Session:
        return self._sessions[0]

    def _load_in_one_transaction(self, rows: Sequence[int], others: Sequence[int]) -> None:
        self._main.execute(self._large_objects("pre"))
        self._load_others(self._main, TaskGroup(), others)
        self._main.execute(self._large_objects("post"))
        self._load_in_order(rows)

    def _large_objects(self, section: str) -> list[EntryText]:
        return [pair for pair in self._entries.section(section) if is_large_object(pair[0])]

    def _with_keys(self, members: Sequence[int]) -> dict[int, None]:
        """Return the members, in the dump's order, whose tables have foreign keys already.

        Those of extensions do; pg_dump writes what is referred to first.
        """
        connection = self._main.connection
        keys = foreign_keys.foreign_keys(connection)
        if not keys:
            return {}
        oids = foreign_keys.tables(connection, self._codec)
        having = {oid for key in keys for oid in (key.table, key.referenced)}
        return dict.fromkeys(
            number
            for number in members
            if any(
                oids.get((entry.schema, entry.name)) in having for entry in self._objects[number]
            )
        )

    def _load_others(self, session: Session, threads: TaskGroup, members: Sequence[int]) -> None:
        for number in members:
            threads.check()
            pairs = list(self._entries.member(number))
            if any(entry.type in script.LARGE_OBJECT_TYPES for entry, _ in pairs):
                # libpq keeps the result of every statement of a message until its end.
                for entry, text in pairs:
                    for part in _lines(text) if entry.type == "BLOBS" else [text]:
                        session.try_one(entry, part)
            else:
                session.execute(pairs)
            self._progress.advance(self._artifact.index.members[number].raw)

    def _load_in_order(self, members: Sequence[int]) -> None:
        """Load rows into tables that have their foreign keys: what is referred to goes first.

        A key in a circle, or within a table that comes in several parts, is checked at the end.
        """
        session = self._main
        oids = foreign_keys.tables(session.connection, self._codec)
        keys = foreign_keys.foreign_keys(session.connection)
        parts = [
            (oids[entry.schema, entry.name], number, entry)
            for number in members
            for entry in self._objects[number]
            if not self._options.skips_rows(entry)
        ]
        places = foreign_keys.order((oid for oid, _, _ in parts), keys)
        deferred: list[foreign_keys.ForeignKey] = []
        if not self._options.disable_triggers:
            counts = collections.Counter(oid for oid, _, _ in parts)
            deferred = foreign_keys.unsatisfied(keys, places, counts)
        # Before the path is set: so the names in their definitions are qualified.
        not_valid = not_valid_constraints.find(session.connection, places)
        for statement in self._options.settings:
            session.connection.execute(statement)
        for key in deferred:
            session.connection.execute(key.defer)
        not_valid_constraints.drop(session.connection, not_valid)
        read = functools.lru_cache(maxsize=4)(self._artifact.read)
        for _, number, entry in sorted(parts, key=lambda part: places[part[0]]):
            text = read(number)[entry.start : entry.start + entry.length]
            self._copy_all(session, iter([entry]), copy_statements.scan(iter([text])))
            self._progress.advance(entry.length)
        session.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for key in deferred:
            session.connection.execute(key.reset)
        not_valid_constraints.add(session.connection, not_valid)

    def _load_rows(self, session: Session, threads: TaskGroup, *numbers: int) -> None:
        for number in numbers:
            self._copy_all(session, iter(self._objects[number]), self._pieces(threads, number))

    def _copy_all(
        self, session: Session, objects: Iterator[Object], pieces: Iterator[script.Piece]
    ) -> None:
        for header, blocks in copy_statements.copies(pieces):
            entry = next(objects, None)
            if entry is None:
                raise e.VerificationFailed("the file has more COPY statements than its index")
            loaded = self._copy(session, entry, header, blocks)
            if loaded is None:
                continue
            if loaded != entry.rows:
                raise e.RestoreFailed(
                    f"{entry.schema}.{entry.name}: the server took {loaded} rows of {entry.rows}"
                )
            with self._lock:
                key = (entry.schema, entry.name)
                self.loaded[key] = self.loaded.get(key, 0) + loaded

    def _copy(
        self, session: Session, entry: Object, header: bytes, blocks: Iterator[bytes]
    ) -> int | None:
        """Copy rows; return None where they are left out, or their failure is tolerated."""
        if self._options.skips_rows(entry):
            return None
        if self._options.tolerates is None:
            return self._copy_to_partition(session, entry, header, blocks)
        try:
            with session.savepoint():
                return self._copy_to_partition(session, entry, header, blocks)
        except e.RestoreFailed as error:
            if not session.is_tolerated(entry, header, error):
                raise
        return None

    def _copy_to_partition(
        self, session: Session, entry: Object, header: bytes, blocks: Iterator[bytes]
    ) -> int:
        """Copy rows; through the partitioned root where they belong to another partition here.

        Collations, enums and hash functions can sort them otherwise than in the source (trap D16).
        """
        root = self._roots.get((entry.schema, entry.name))
        if root is None:
            return session.copy(entry, header, blocks)
        try:
            with session.savepoint():
                return session.copy(entry, header, blocks)
        except e.RestoreFailed as error:
            if not _is_of_partition(error.__cause__):
                raise
        text = self._artifact.read(entry.member)[entry.start : entry.start + entry.length]
        header, blocks = next(copy_statements.copies(copy_statements.scan(iter([text]))))
        columns = header[header.index(b"(") :] if b"(" in header else b"FROM stdin"
        target = sql.Identifier(*root).as_bytes(session.connection)
        return session.copy(entry, b"COPY %b %b" % (target, columns), blocks)

    def _pieces(self, threads: TaskGroup, number: int) -> Iterator[script.Piece]:
        for piece in consistency.pieces(self._artifact, number, self._objects[number]):
            threads.check()
            yield piece
            if not isinstance(piece, script.Entry):
                self._progress.advance(len(piece.data))


def _is_of_partition(cause: BaseException | None) -> bool:
    """Tell whether a row does not belong to a partition; a CHECK constraint has a name."""
    return isinstance(cause, psycopg.errors.CheckViolation) and cause.diag.constraint_name is None


def _lines(text: bytes) -> Iterator[bytes]:
    """Cut large objects' statements, each of which is a line, into messages."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start + BATCH_BYTES)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end
