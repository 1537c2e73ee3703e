"""One attempt to dump a database: pg_dump and the workers, on one snapshot."""

import functools
import re
import time
from collections.abc import Sequence
from enum import Enum, auto

import psycopg
from psycopg import sql

from .. import __version__, processes
from .. import errors as e
from ..artifact.file import ArtifactWriter
from ..model.manifest import Computed
from ..model.naming import Compression
from ..postgres import computed_values, moved_names, snapshot
from ..postgres.connection import Connection
from ..postgres.messages import is_lock_table_full
from ..postgres.snapshot import Snapshot
from ..progress import Progress
from ..sql.scanner import Scanner
from ..task_group import TaskGroup
from .assembly import Assembler, MemberOrder
from .rate_limit import RateLimit
from .source import DumpSource, lost_snapshot, program_error
from .tasks import CopyTask, exclusion
from .workers import Workers

# The coordinator already holds every lock that pg_dump requests. If pg_dump has to wait, then for a
# session that waits for the coordinator. pg_dump is started again after that session had its turn.
# Meanwhile all sessions that need the table wait, so this time is short.
PG_DUMP_LOCK_WAIT = 1_000  # ms


class Roles(Enum):
    """Whether pg_dump has read the privileges of roles, and these still existed afterwards."""

    NOT_READ = auto()
    READ = auto()
    CHECKED = auto()


class RefusedError(Exception):
    """The server rejected pg_dump before it wrote anything; another attempt can succeed.

    Another session is queued between the coordinator's lock and pg_dump's, or an object that
    cannot be locked, such as a view or function, was dropped while pg_dump read it (trap D5).
    """

    def __init__(self, error: e.ProgramFailed) -> None:
        super().__init__(error.message)
        self.error = error

    @property
    def queued(self) -> bool:
        """Whether a lock was not available; the coordinator holds it, so a session is queued."""
        stderr = " ".join(self.error.said)
        return "LOCK TABLE" in stderr and not is_lock_table_full(stderr)


class Attempt:
    """One execution of pg_dump and the workers on one snapshot."""

    def __init__(
        self,
        source: DumpSource,
        writer: ArtifactWriter,
        held: Snapshot,
        tasks: Sequence[CopyTask],
        targets: Sequence[computed_values.ComputedRelation],
        progress: Progress,
    ) -> None:
        self._source = source
        self._writer = writer
        self._held = held
        self._progress = progress
        self.warnings: list[str] = []
        self.names_are_checked = True
        self._schemas: frozenset[bytes] = frozenset()
        self.computed: list[Computed] = []
        self._targets = targets
        self._threads = TaskGroup()
        # First, because a thread that waits for the store can hold locks that others need.
        self._threads.on_stop(writer.stop)
        source.watch.on_give_up(self._threads.fail)
        self._rate_limit = RateLimit(source.watch.limits.rate, self._check)
        self._threads.on_stop(self._rate_limit.stop)
        self._copied_by_workers = {task.table.oid: task.table for task in tasks}
        self._size = sum(task.size for task in tasks)
        self._jobs = min(source.workers, len(tasks))
        self._order = MemberOrder(writer, self._threads, self._jobs)
        self._workers = Workers(
            source, tasks, self._order, self._threads, self._read, self._check_names
        )
        self._waiting: dict[int, float] = {}  # process id of a child -> start of its wait
        self._roles = Roles.NOT_READ

    def execute(self) -> None:
        """Run to the end; raise the first failure after every child has ended."""
        self._progress.step("dumping")
        # Read before the threads start: a worker that uses the coordinator's connection can be
        # waiting for pg_dump (trap G2.5).
        self._schemas = self._read_schemas()
        if self._size:
            self._progress.total(self._size)
        with processes.in_long_slices(), self._threads:
            self._threads.start(self._run_pg_dump, "pg_dump")
            for number in range(self._jobs):
                copy = functools.partial(self._workers.run, self._held.id, self._progress)
                self._threads.start(copy, f"worker-{number}")
            if self._targets:
                self._threads.start(self._hash, "hashes")
            try:
                self._threads.wait(self._tick)
            except e.ProgramFailed as error:
                raise program_error(error, self._source.database.name) from error
        self._check_roles()

    def _check_roles(self) -> None:
        """Check once, as soon as pg_dump has read privileges, that all roles still exist."""
        if self._roles == Roles.READ:
            moved_names.check_roles(self._source.connection)
            self._roles = Roles.CHECKED

    def _tick(self) -> None:
        """Check that the snapshot is still held and who waits for it, and report progress."""
        self._progress.wrote(self._writer.raw, self._writer.size)
        if not self._workers.coordinator.acquire(blocking=False):
            self._source.lock_watch.look(None)
        else:
            try:
                self._look_for_waits()
                self._source.lock_watch.look(self._source.connection)
                self._check_roles()
            except psycopg.Error as error:
                raise lost_snapshot(error) from error
            finally:
                self._workers.coordinator.release()

    def _look_for_waits(self) -> None:
        """Fail if a child waits too long to lock a non-table: pg_dump has no timeout for that."""
        now = time.monotonic()
        limit = max(self._source.lock_timeout, 2 * PG_DUMP_LOCK_WAIT / 1000)
        waiting = snapshot.waiting(self._source.connection)
        self._waiting = {pid: self._waiting.get(pid, now) for pid in waiting}
        for pid, since in self._waiting.items():
            if now - since >= limit:
                error = snapshot.waits_too_long(self._source.connection, pid, limit)
                if error is not None:
                    raise error

    def _run_pg_dump(self) -> None:
        command: list[str | bytes] = [
            self._source.client.program("pg_dump"), "--format=plain", "--verbose", "--no-password",
            f"--snapshot={self._held.id}", f"--lock-wait-timeout={PG_DUMP_LOCK_WAIT}",
            f"--encoding={self._source.database.encoding}", *self._source.access.arguments,
        ]  # fmt: skip
        if self._source.schema_only:
            command.append("--schema-only")
        command += [exclusion(table) for table in self._copied_by_workers.values()]
        assembler = Assembler(
            _header(self._source, self._held, self._writer.compression),
            self._source.codec,
            self._held.tables,
            self._order,
            rows_are_read=self._check_names,
            settings=_money(self._source.lc_monetary),
        )
        access = self._source.access
        with processes.Child(command, access.environment, access.descriptors) as child:
            self._threads.on_stop(child.kill)
            try:
                scanner = Scanner(self._schemas)
                while block := child.read():
                    if self._roles == Roles.NOT_READ:
                        self._roles = Roles.READ  # pg_dump reads all catalogs before it writes
                    self._read(len(block))
                    for piece in scanner.feed(block):
                        assembler.add(piece)
                child.finish()
                for piece in scanner.close():
                    assembler.add(piece)
            except e.ProgramFailed as error:
                if "query failed" in " ".join(error.said) and not assembler.begun:
                    raise RefusedError(error) from error
                raise
            except e.VerificationFailed as error:  # exit status 0, but incomplete output
                raise e.DumpFailed(f"incomplete output of pg_dump: {error.message}") from error
            self.warnings += child.warnings
        assembler.finish()
        self._check_coverage(assembler.tables)

    def _check_names(self) -> None:
        """Check that the names by which data was read kept their meaning since the snapshot.

        This needs another connection, because ours sees nothing newer than its snapshot. If none
        is available, the check runs after the snapshot is released.
        """
        try:
            with self._source.endpoint.connect(0) as observer:
                moved_names.check(self._held.names, observer, self._source.codec)
        except e.OtherServer as error:
            raise e.DumpFailed(error.message, hint=error.hint) from error
        except e.ConnectionFailed:
            self.names_are_checked = False

    def _read_schemas(self) -> frozenset[bytes]:
        """Return the names of all schemas as pg_dump writes them into its comments."""
        rows = self._source.connection.execute(
            "SELECT pg_catalog.convert_to(nspname, pg_catalog.getdatabaseencoding())"
            " FROM pg_catalog.pg_namespace"
        ).fetchall()
        return frozenset(re.sub(rb"[\r\n]", b" ", row[0]) for row in rows)

    def _check_coverage(self, by_pg_dump: set[int]) -> None:
        """Check that the backup contains the rows of every locked table exactly once."""
        if self._source.schema_only:
            return
        twice = by_pg_dump & self._copied_by_workers.keys()
        covered = by_pg_dump | self._copied_by_workers.keys()
        missing = [
            table
            for table in self._held.tables
            if table.kind == "r"
            and not table.extension
            and table.oid not in covered
            and (table.logged or not self._source.server.in_recovery)
        ]
        for tables, how in (
            ([table for table in self._held.tables if table.oid in twice], "twice"),
            (missing, "not at all"),
        ):
            if tables:
                names = ", ".join(f"{table.schema}.{table.name}" for table in tables[:5])
                raise e.DumpFailed(f"{len(tables)} tables dumped {how}, such as {names}")

    def _hash(self) -> None:
        """Hash the values that a restore computes; only drills need them, so failures only warn."""
        try:
            with self._source.endpoint.connect(**self._source.settings) as connection:
                self._threads.on_stop(lambda: _cancel(connection))
                self._source.lock_watch.patient.add(connection.info.backend_pid)
                computed_values.begin(connection, self._held.id, self._source.database.encoding)
                self.computed, warnings = computed_values.read_all(
                    connection, self._targets, self._source.codec, self._check
                )
                connection.execute("ROLLBACK")
                moved_names.check(self._held.names, connection, self._source.codec)
                self.warnings += warnings
        except (psycopg.Error, e.ConnectionFailed, moved_names.Moved) as error:
            self._threads.check()
            self.computed = []
            message = str(error).strip().partition("\n")[0]
            self.warnings.append(
                "hashes of generated columns and materialized views were not recorded, a drill will"
                f" not compare them: {message}"
            )

    def _check(self) -> None:
        """Record that something was read, and leave the thread if the group was stopped."""
        self._source.watch.advanced()
        self._threads.check()

    def _read(self, size: int) -> None:
        """Record that so many bytes were read, and wait until more are allowed."""
        self._rate_limit.take(size)
        self._check()


def _cancel(connection: Connection) -> None:
    """Cancel the current query of a session, from another thread."""
    try:
        connection.cancel_safe(timeout=5)
    except psycopg.Error:
        connection.close()


def _header(source: DumpSource, held: Snapshot, compression: Compression) -> bytes:
    """Return the first lines of the SQL: its origin, and how to restore it by hand."""
    database = source.database
    name = database.name.encode("ascii", "backslashreplace").decode()
    name = re.sub(r"\s", " ", name)
    locale = f"--lc-collate={database.collate} --lc-ctype={database.ctype}"
    return f"""\
--
-- Backup of database {name} as it was at {held.taken:%Y-%m-%d %H:%M:%S} UTC
-- Server {source.server.version}, made by pgkeep {__version__}
--
-- To restore it:          pgkeep restore --backup=FILE
-- Without pgkeep, roles first, into a new and empty database:
--   sha256sum -c FILE.sha256
--   zcat NAME.globals.sql.gz | psql -X -d postgres
--   createdb -T template0 -E {database.encoding} {locale} NEWDB
--   {compression.program} FILE | psql -X -v ON_ERROR_STOP=1 -d NEWDB && psql -c ANALYZE NEWDB
-- A complete file ends with the index of its contents, in comments such as this one.
--

""".encode()


def _money(locale: str | None) -> bytes:
    """Return the setting with which psql reads money as it was written (trap A5.25)."""
    if locale is None:
        return b""
    return f"SET lc_monetary = {sql.Literal(locale).as_string(None).strip()};\n\n".encode()
