"""Artifact to database: schema first, rows by several sessions at once, then the indexes.

pg_dump's own SQL is executed as it stands, one object at a time, so that an error names the object.
Each of its statements must be one that pg_dump writes, and is sent alone: the server refuses
several in one message of the extended query protocol (manual, section 55.2.3).
The rows go to the server in large blocks as they are in the file; the server says how many it has
taken, which must be as many as the index says.
"""

import collections
import contextlib
import functools
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from .. import errors as e
from .. import interrupts
from ..artifact import consistency
from ..artifact.file import Artifact, Object
from ..postgres.connection import Connection, Endpoint
from ..postgres.messages import restore_error
from ..progress import Progress
from ..sql import dialect, script, statements
from ..sql.encodings import codec
from ..task_group import Crew
from .target import default_privileges, foreign_keys, unvalidated

Statement = bytes | sql.Composed

BATCH_BYTES = 64 << 10
BATCH_OBJECTS = 100  # more would hold too many locks in one transaction
RETRIES = 3  # of statements that the server gave up to resolve a deadlock

# These can be made side by side once the rows are there; everything else keeps pg_dump's order.
PARALLEL_TYPES = frozenset({"INDEX", "CONSTRAINT", "FK CONSTRAINT"})
PRIVILEGE_TYPES = frozenset({"ACL", "DEFAULT ACL"})

# pg_dump ends an entry with this where the object has an owner.
_OWNER = re.compile(
    rb'^ALTER [A-Z ]+ (?:"(?:[^"]|"")*"|[^";])+? OWNER TO (?:"(?:[^"]|"")*"|[^";\s]+);\n+\Z',
    re.MULTILINE,
)
_LARGE_OBJECT_OWNER = re.compile(
    rb'^ALTER LARGE OBJECT \d+ OWNER TO (?:"(?:[^"]|"")*"|[^";\s]+);\n', re.MULTILINE
)
_TRANSACTION = re.compile(rb"^(?:BEGIN|COMMIT);\n", re.MULTILINE)
_CLOSED = re.compile(rb"^REVOKE ALL ON (?:FUNCTION|PROCEDURE) .* FROM PUBLIC;$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What to load, and how."""

    jobs: int
    schema: bool = True
    data: bool = True
    owner: bool = True
    privileges: bool = True
    one_transaction: bool = False  # by one session: all or nothing, at the price of time
    disable_triggers: bool = False  # user triggers and foreign keys; needs a superuser
    analyze: bool = True
    adapt: Callable[[Object, bytes], bytes | None] = lambda _, text: text  # None: leave it out
    leaves_out: Callable[[Object], bool] = lambda _: False  # of the rows of a table
    tolerates: Callable[[Object, bytes, e.RestoreFailed], bool] | None = None  # what has failed
    session: Callable[[Endpoint, Sequence[Statement]], "Session"] = lambda endpoint, header: (
        Session(endpoint.connect(), header)
    )
    settings: Sequence[Statement] = ()  # after those of the dump's header, before SQL or rows
    check: Callable[[Connection], None] = lambda _: None  # in the one transaction, at its end


def load(
    endpoint: Endpoint, artifact: Artifact, options: LoadOptions, progress: Progress
) -> "Loaded":
    """Load an artifact whose hashes have been checked.

    Raises:
        RestoreFailed: names the object and what the server said.

    """
    return _Load(endpoint, artifact, options, progress).run()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load has done."""

    rows: dict[tuple[str, str], int]  # of each table, by schema and name
    warnings: list[str]


@dataclass(slots=True, eq=False)
class _Job:
    """One object of the post-data and the tables that it locks."""

    one: Object
    text: bytes
    exclusive: frozenset[tuple[bytes, bytes]]
    shared: frozenset[tuple[bytes, bytes]]

    def conflicts(self, other: "_Job") -> bool:
        mine, theirs = self.exclusive, other.exclusive
        return bool(mine & (theirs | other.shared) or theirs & self.shared)


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

    def execute(self, objects: Sequence[tuple[Object, bytes]]) -> None:
        """Execute objects, several in one message; on an error find the one that is to blame."""
        batch: list[tuple[Object, bytes]] = []
        for pair in objects:
            batch.append(pair)
            if len(batch) >= BATCH_OBJECTS or sum(len(text) for _, text in batch) > BATCH_BYTES:
                self._batch(batch)
                batch = []
        self._batch(batch)

    def _batch(self, batch: Sequence[tuple[Object, bytes]]) -> None:
        if len(batch) > 1 and self.connection.info.transaction_status == 0:
            try:
                self.send([statement for pair in batch for statement in self._statements(*pair)])
                return
            except psycopg.Error:
                if self.connection.closed:
                    raise
                # The implicit transaction of the batch is gone, and with it what SET did.
                self._settings = ""
        for one, text in batch:
            self.try_one(one, text)

    def try_one(self, entry: Object, text: bytes, attempts: int = RETRIES) -> None:
        """Execute one object, whose failure may be tolerated."""
        if self.tolerates is None:
            self.execute_one(entry, text, attempts)
            return
        try:
            with self.savepoint():
                self.execute_one(entry, text, attempts)
        except e.RestoreFailed as error:
            again = attempts == 1 and _is_deadlock(error.__cause__)
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
                again = _is_deadlock(error) and self.connection.info.transaction_status == 0
                if not again or not left:
                    raise restore_error(error, describe(entry)) from error

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


class _Load:
    def __init__(
        self, endpoint: Endpoint, artifact: Artifact, options: LoadOptions, progress: Progress
    ) -> None:
        self._endpoint = endpoint
        self._artifact = artifact
        self._options = options
        self._progress = progress
        self._objects = artifact.index.objects_by_member()
        self._rows: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self.warnings: list[str] = []
        self._opened: list[str] = []  # what PUBLIC may execute only here
        self._sessions: list[Session] = []
        self._deadlocks = 0  # of what was built side by side
        self._header: list[Statement] = []

    def run(self) -> Loaded:
        try:
            with self._endpoint.connect() as connection:
                self._header = [
                    *known_settings(connection, self._artifact),
                    *(self._options.settings if self._options.schema else ()),
                ]
            for _ in range(1 if self._options.one_transaction else self._options.jobs):
                # One by one: those that are there must be closed when the next is refused.
                session = self._options.session(self._endpoint, self._header)
                session.tolerates = self._options.tolerates
                self._sessions.append(session)
            self._load()
        except psycopg.Error as error:
            raise restore_error(error, "loading") from error
        finally:
            for session in self._sessions:
                session.connection.close()
        if self._opened:
            # They may be SECURITY DEFINER (trap A4.7).
            names = ", ".join(self._opened[:5])
            self.warnings.append(
                f"without privileges everybody may execute {len(self._opened)} functions that were"
                f" not for everybody, such as {names}"
            )
        return Loaded(self._rows, self.warnings)

    @property
    def _main(self) -> Session:
        return self._sessions[0]

    def _load(self) -> None:
        options = self._options
        if options.one_transaction:
            self._main.connection.execute("BEGIN")
        if options.disable_triggers:
            self._main.connection.execute("SET LOCAL session_replication_role = replica")
        suspended = self._suspend_default_privileges()
        if options.schema:
            self._progress.step("creating tables")
            self._main.execute(list(self._texts("pre")))
        if options.data:
            self._progress.step("loading rows")
            raw = sum(
                member.raw for member in self._artifact.index.members if member.section == "data"
            )
            self._progress.total(raw)
            self._load_data()
        if options.schema:
            self._load_post_data()
        elif options.data:
            self._refresh(self._existing_views())
        default_privileges.resume(self._main.connection, suspended)
        self._main.connection.execute("SET synchronous_commit = on")
        if options.one_transaction:
            options.check(self._main.connection)
            with interrupts.held():
                self._main.connection.execute("COMMIT")
                interrupts.completed("the rows are committed")
        elif options.analyze:
            self._progress.step("analyzing")
            self._analyze()
        # Waits until everything that was committed before is on the disk.
        self._main.connection.execute("SELECT pg_catalog.txid_current()")

    def _suspend_default_privileges(self) -> list[default_privileges.Difference]:
        """Have objects created as the backup has them; a new database has no default privileges."""
        options = self._options
        if not (options.one_transaction and options.privileges):
            return []
        kinds = None if options.schema else "L"  # rows alone create large objects only
        return default_privileges.suspend(self._main.connection, kinds=kinds)

    def _texts(self, section: str) -> Iterator[tuple[Object, bytes]]:
        """Yield the objects of a section with their SQL, without what the options leave out."""
        for number, member in enumerate(self._artifact.index.members):
            if member.section == section:
                yield from self._member_texts(number)

    def _member_texts(self, number: int) -> Iterator[tuple[Object, bytes]]:
        data = self._artifact.read(number)
        consistency.check_entries(self._artifact, number, self._objects[number], data)
        for one in self._objects[number]:
            if not self._options.data and _is_large_object(one):
                continue  # pg_dump of 16 and older creates them in the pre-data
            text = data[one.start : one.start + one.length]
            if one.type in PRIVILEGE_TYPES and not self._options.privileges:
                if _CLOSED.search(text):
                    self._opened.append(f"{one.schema}.{one.name.partition(' ')[2]}")
                continue
            if not self._options.owner:
                text = without_owner(text)
            adapted = self._options.adapt(one, text)
            if adapted is None:
                continue
            text = adapted
            if one.type == "BLOBS" and self._options.one_transaction:
                text = _TRANSACTION.sub(b"", text)
            yield one, text

    def _load_data(self) -> None:
        rows: list[int] = []
        others: list[int] = []
        for number, member in enumerate(self._artifact.index.members):
            if member.section == "data":
                is_rows = all(one.rows is not None for one in self._objects[number])
                (rows if is_rows else others).append(number)
        if not self._options.schema:
            self._main.execute([pair for pair in self._texts("pre") if _is_large_object(pair[0])])
            self._load_others(self._main, Crew(), others)
            self._main.execute([pair for pair in self._texts("post") if _is_large_object(pair[0])])
            self._load_in_order(rows)
            return
        # Large objects and sequences: in their order, by one session; first, for they may be many.
        tasks: list[Callable[[Session, Crew], None]] = []
        if others:
            tasks.append(lambda session, crew: self._load_others(session, crew, others))
        keyed = self._with_keys(rows)
        if keyed:
            tasks.append(lambda session, crew: self._load_rows(session, crew, *keyed))
        tasks += [
            lambda session, crew, number=number: self._load_rows(session, crew, number)  # type: ignore[misc]
            for number in rows
            if number not in keyed
        ]
        self._in_parallel(tasks)

    def _with_keys(self, members: Sequence[int]) -> dict[int, None]:
        """Return the members, in the dump's order, whose tables have foreign keys already.

        Those of extensions do; pg_dump writes what is referred to first.
        """
        connection = self._main.connection
        keys = foreign_keys.foreign_keys(connection)
        if not keys:
            return {}
        oids = foreign_keys.tables(connection, codec(self._artifact.index.meta.database.encoding))
        having = {oid for key in keys for oid in (key.table, key.referenced)}
        return dict.fromkeys(
            number
            for number in members
            if any(oids.get((one.schema, one.name)) in having for one in self._objects[number])
        )

    def _load_others(self, session: Session, crew: Crew, members: Sequence[int]) -> None:
        for number in members:
            crew.check()
            pairs = list(self._member_texts(number))
            if any(one.type in script.LARGE_OBJECT_TYPES for one, _ in pairs):
                # libpq keeps the result of every statement of a message until its end.
                for one, text in pairs:
                    for part in _lines(text) if one.type == "BLOBS" else [text]:
                        session.try_one(one, part)
            else:
                session.execute(pairs)
            self._progress.advance(self._artifact.index.members[number].raw)

    def _load_in_order(self, members: Sequence[int]) -> None:
        """Load rows into tables that have their foreign keys: what is referred to goes first.

        A key in a circle, or within a table that comes in several parts, is checked at the end.
        """
        session = self._main
        encoding = self._artifact.index.meta.database.encoding
        oids = foreign_keys.tables(session.connection, codec(encoding))
        keys = foreign_keys.foreign_keys(session.connection)
        parts = [
            (oids[one.schema, one.name], number, one)
            for number in members
            for one in self._objects[number]
            if not self._options.leaves_out(one)
        ]
        places = foreign_keys.order((oid for oid, _, _ in parts), keys)
        deferred: list[foreign_keys.ForeignKey] = []
        if not self._options.disable_triggers:
            counts = collections.Counter(oid for oid, _, _ in parts)
            deferred = foreign_keys.unsatisfied(keys, places, counts)
        # Before the path is set: so the names in their definitions are qualified.
        not_valid = unvalidated.find(session.connection, places)
        for statement in self._options.settings:
            session.connection.execute(statement)
        for key in deferred:
            session.connection.execute(key.defer)
        unvalidated.drop(session.connection, not_valid)
        read = functools.lru_cache(maxsize=4)(self._artifact.read)
        for _, number, one in sorted(parts, key=lambda part: places[part[0]]):
            scanner = script.Scanner()
            pieces = itertools.chain(
                scanner.feed(read(number)[one.start : one.start + one.length]), scanner.close()
            )
            self._copy_all(session, iter([one]), pieces)
            self._progress.advance(one.length)
        session.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for key in deferred:
            session.connection.execute(key.reset)
        unvalidated.add(session.connection, not_valid)

    def _load_rows(self, session: Session, crew: Crew, *numbers: int) -> None:
        for number in numbers:
            self._copy_all(session, iter(self._objects[number]), self._pieces(crew, number))

    def _copy_all(
        self, session: Session, objects: Iterator[Object], pieces: Iterator[script.Piece]
    ) -> None:
        for piece in pieces:
            if isinstance(piece, script.CopyBegin):
                one = next(objects, None)
                if one is None:
                    raise e.VerificationFailed("there are more COPY statements than in the index")
                blocks = rows_of(pieces)
                loaded = self._copy(session, one, piece.data.rstrip(b";\n"), blocks)
                collections.deque(blocks, maxlen=0)  # of what is left out, or has failed
                if loaded is None:
                    continue
                if loaded != one.rows:
                    raise e.RestoreFailed(
                        f"{one.schema}.{one.name}: the server took {loaded} rows of {one.rows}"
                    )
                with self._lock:
                    key = (one.schema, one.name)
                    self._rows[key] = self._rows.get(key, 0) + loaded

    def _copy(
        self, session: Session, entry: Object, header: bytes, blocks: Iterator[bytes]
    ) -> int | None:
        """Copy rows; return None where they are left out, or their failure is tolerated."""
        if self._options.leaves_out(entry):
            return None
        if self._options.tolerates is None:
            return session.copy(entry, header, blocks)
        try:
            with session.savepoint():
                return session.copy(entry, header, blocks)
        except e.RestoreFailed as error:
            if not session.is_tolerated(entry, header, error):
                raise
        return None

    def _pieces(self, crew: Crew, number: int) -> Iterator[script.Piece]:
        for piece in consistency.pieces(self._artifact, number, self._objects[number]):
            crew.check()
            yield piece
            if not isinstance(piece, script.Entry):
                self._progress.advance(len(piece.data))

    def _load_post_data(self) -> None:
        """Execute the post-data in its order, but runs of indexes and keys in parallel."""
        self._progress.step("building indexes")
        serial: list[tuple[Object, bytes]] = []
        run: list[_Job] = []
        comments: list[tuple[Object, bytes]] = []
        refreshes: list[tuple[Object, bytes]] = []
        defaults: list[tuple[Object, bytes]] = []
        for one, text in self._texts("post"):
            if one.type == "DEFAULT ACL":
                defaults.append((one, text))  # they must not apply to anything of the backup
                continue
            if _is_refresh(one):
                if self._options.data:  # without rows they would be populated, and empty
                    refreshes.append((one, text))  # pg_dump sorts them to the end
                continue
            job = _job(one, text) if not self._options.one_transaction else None
            if job is not None and not (run and _kind(run[-1].one) != _kind(one)):
                self._main.execute(serial)
                serial = []
                run.append(job)
            elif run and one.type == "COMMENT":
                comments.append((one, text))  # on what is being built; can wait for it
            else:
                self._build(run)
                self._main.execute(comments)
                run, comments = [], []
                if job is not None:
                    run.append(job)
                else:
                    serial.append((one, text))
        self._build(run)
        self._main.execute([*comments, *serial])
        self._refresh(refreshes)
        self._main.execute(defaults)

    def _refresh(self, waiting: list[tuple[Object, bytes]]) -> None:
        """Refresh materialized views, again and again as long as that gets some further.

        One may read another through a function, which pg_dump does not see (trap A5.6).
        """
        while waiting:
            failed: list[tuple[Object, bytes]] = []
            errors: list[e.RestoreFailed] = []
            for one, text in waiting:
                try:
                    with self._main.connection.transaction():
                        self._main.execute_one(one, text)
                except e.RestoreFailed as error:
                    failed.append((one, text))
                    errors.append(error)
            if len(failed) == len(waiting):
                for (one, text), failure in zip(failed, errors, strict=True):
                    if not self._main.is_tolerated(one, text, failure):
                        raise failure
                return
            waiting = failed

    def _existing_views(self) -> list[tuple[Object, bytes]]:
        """Return what fills the materialized views that an existing database has."""
        rows = self._main.connection.execute(
            "SELECT schemaname, matviewname FROM pg_catalog.pg_matviews"
        )
        names = set(rows.fetchall())
        return [
            (one, text)
            for one, text in self._texts("post")
            if _is_refresh(one) and (one.schema, one.name) in names
        ]

    def _build(self, jobs: list[_Job]) -> None:
        """Execute jobs side by side, never two that want the same table for themselves.

        What an event trigger locks besides cannot be told: after some deadlocks one goes by one.
        """
        if not jobs:
            return
        sizes = {
            (table.schema, table.name): table.rows for table in self._artifact.index.table_rows()
        }
        waiting = sorted(jobs, key=lambda job: _weight(job, sizes), reverse=True)
        running: list[_Job] = []
        apart: set[_Job] = set()
        changed = threading.Condition()

        def take(crew: Crew) -> _Job | None:
            with changed:
                while waiting:
                    crew.check()
                    for job in waiting:
                        if not any(job.conflicts(other) for other in running):
                            waiting.remove(job)
                            running.append(job)
                            return job
                    changed.wait(0.5)
                return None

        def work(session: Session, crew: Crew) -> None:
            while (job := take(crew)) is not None:
                done = _executed(session, job)
                with changed:
                    running.remove(job)
                    if not done:
                        self._deadlocks += 1
                        waiting.append(job)
                    if self._deadlocks >= RETRIES:
                        apart.update(waiting)
                        waiting.clear()
                    changed.notify_all()

        self._in_parallel([work] * min(len(self._sessions), len(jobs)))
        for job in jobs:
            if job in apart:
                self._main.try_one(job.one, job.text)

    def _analyze(self) -> None:
        # A partition is analyzed with its root, unless a foreign table there may end that early.
        rows = self._main.connection.execute(
            """
            SELECT pg_catalog.convert_to(pg_catalog.format('ANALYZE %I.%I', n.nspname, c.relname),
                                         pg_catalog.getdatabaseencoding())
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
              AND (c.relkind IN ('r', 'm', 'p') AND NOT c.relispartition
                   OR c.relkind = 'r' AND pg_catalog.pg_partition_root(c.oid) IN (
                       SELECT pg_catalog.pg_partition_root(f.oid) FROM pg_catalog.pg_class f
                       WHERE f.relkind = 'f' AND f.relispartition))
            ORDER BY CASE c.relkind
                WHEN 'p' THEN (SELECT sum(pg_catalog.pg_relation_size(t.relid))
                               FROM pg_catalog.pg_partition_tree(c.oid) t)
                ELSE pg_catalog.pg_relation_size(c.oid) END DESC NULLS LAST
            """
        ).fetchall()
        statements = iter([row[0] for row in rows])
        lock = threading.Lock()

        def work(session: Session, crew: Crew) -> None:
            while True:
                crew.check()
                with lock:
                    statement = next(statements, None)
                if statement is None:
                    return
                try:
                    session.connection.execute(statement)
                except psycopg.Error as error:  # statistics are no reason to lose a restore
                    if session.connection.closed:
                        raise
                    what = statement.decode("utf-8", "replace")
                    with lock:
                        self.warnings.append(f"{what}: {error.diag.message_primary}")

        self._in_parallel([work] * len(self._sessions))

    def _in_parallel(self, tasks: Sequence[Callable[[Session, Crew], None]]) -> None:
        """Let the sessions take tasks in their order until all are done."""
        crew = Crew()
        remaining = iter(tasks)
        lock = threading.Lock()

        def work(session: Session) -> None:
            while True:
                crew.check()
                with lock:
                    task = next(remaining, None)
                if task is None:
                    return
                task(session, crew)

        with crew:
            for number, session in enumerate(self._sessions[: len(tasks)]):
                crew.on_stop(lambda session=session: _cancel(session.connection))  # type: ignore[misc]
                crew.start(lambda session=session: work(session), f"load-{number}")  # type: ignore[misc]
            crew.wait()


def without_owner(text: bytes) -> bytes:
    """Return an entry's SQL without what gives the object to its owner."""
    return _OWNER.sub(b"", _LARGE_OBJECT_OWNER.sub(b"", text))


def _is_large_object(entry: Object) -> bool:
    """Whether this is a large object, or says something about one: they count as rows."""
    return entry.type in script.LARGE_OBJECT_TYPES or (
        entry.type in script.FOLLOWING_TYPES and entry.name.startswith("LARGE OBJECT")
    )


def _is_refresh(entry: Object) -> bool:
    """Whether this fills a materialized view, whose rows are computed from others."""
    return entry.type == "MATERIALIZED VIEW DATA"


def _lines(text: bytes) -> Iterator[bytes]:
    """Cut large objects' statements, each of which is a line, into messages."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start + BATCH_BYTES)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end


def describe(entry: Object) -> str:
    """Name an object for messages."""
    name = f"{entry.schema}.{entry.name}" if entry.schema else entry.name
    return f"{entry.type.lower()} {name}"


def rows_of(pieces: Iterator[script.Piece]) -> Iterator[bytes]:
    """Yield COPY data up to the end of the COPY."""
    for piece in pieces:
        if isinstance(piece, script.Rows):
            yield piece.data
        else:
            return


def known_settings(connection: Connection, artifact: Artifact) -> list[bytes]:
    """Return the header's SET statements that the target server knows (traps A1.2, A1.3)."""
    if not artifact.index.members:
        return []
    objects = artifact.index.objects_by_member()[0]
    header = artifact.read(0)[: objects[0].start if objects else None]
    names = {row[0] for row in connection.execute("SELECT name FROM pg_catalog.pg_settings")}
    return [
        match.group()
        for match in statements.SETTING.finditer(header)
        if match["name"] is None or match["name"].decode() in names
    ]


def _kind(entry: Object) -> str:
    """Foreign keys need the keys that they refer to: they make runs of their own."""
    return "foreign" if entry.type == "FK CONSTRAINT" else "index"


def _job(entry: Object, text: bytes) -> _Job | None:
    """Return what locks a statement takes; None if that cannot be told."""
    if entry.type not in PARALLEL_TYPES:
        return None
    match = (statements.INDEX_ON if entry.type == "INDEX" else statements.ALTER_TABLE).search(text)
    if match is None:
        return None
    table = (match["schema"], match["name"])
    if entry.type == "INDEX" and not statements.ALTER_TABLE.search(text):
        return _Job(entry, text, frozenset(), frozenset({table}))
    tables = {table}
    if entry.type == "FK CONSTRAINT":
        referenced = statements.REFERENCES.search(text, match.end())
        if referenced is None:
            return None
        tables.add((referenced["schema"], referenced["name"]))
    return _Job(entry, text, frozenset(tables), frozenset())


def _executed(session: Session, job: _Job) -> bool:
    """Execute a job; False if the server gave it up to resolve a deadlock."""
    try:
        session.try_one(job.one, job.text, attempts=1)
    except e.RestoreFailed as error:
        if _is_deadlock(error.__cause__):
            return False
        raise
    return True


def _is_deadlock(error: BaseException | None) -> bool:
    return isinstance(error, psycopg.errors.DeadlockDetected)


def _weight(job: _Job, rows: dict[tuple[str, str], int]) -> int:
    return sum(
        rows.get((statements.unquoted(schema), statements.unquoted(name)), 0)
        for schema, name in job.exclusive | job.shared
    )


def _cancel(connection: Connection) -> None:
    """End what a session is doing; a server that does not answer must not hold us up."""
    try:
        connection.cancel_safe(timeout=5)
    except psycopg.Error:
        connection.close()
