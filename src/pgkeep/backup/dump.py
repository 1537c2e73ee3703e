"""Database to artifact: one pg_dump for everything, and parallel COPY of the large tables.

One run of pg_dump writes all three sections, so that they cannot disagree (trap D7). It leaves the
rows of the large tables to workers that see the same snapshot, and waits, held back by its pipe,
where its next section must not begin yet.
"""

import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import msgspec
import psycopg
from psycopg import sql

from .. import __version__
from .. import errors as e
from ..artifact.file import BLOCK, ArtifactWriter, Index, Meta
from ..artifact.packer import Packer
from ..model.manifest import Computed
from ..postgres import computed_values, moved_names, name_resolution, programs, snapshot
from ..postgres.connection import ChildAccess, Connection, Endpoint, apply, reading_settings
from ..postgres.facts import database_facts, extensions, roles_in_use, server_facts
from ..postgres.messages import one_line, translated
from ..postgres.snapshot import Snapshot, Table
from ..progress import Progress
from ..sql import script
from ..sql.encodings import codec
from ..task_group import Crew
from . import preflight
from .assembly import Assembler, Order, announcement, object_of
from .copy_session import CopySession, copy_statement
from .tasks import Task, exclusion, plan_tasks
from .trust import may_be_queried

SLICES_SINCE = 140000  # TID range scans came with PostgreSQL 14 (trap D11)
# Every lock that pg_dump asks for is held by the coordinator already. If it must wait, then for
# somebody who waits for us; it is started anew, after letting that one pass. All who want that
# table wait meanwhile, so it should not be long.
PG_DUMP_LOCK_WAIT = 2_000  # ms
BEHIND = 60.0  # seconds of a standby that are worth a warning
MIN_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """How to dump."""

    jobs: int
    schema_only: bool = False
    lock_timeout: float = 300.0  # seconds
    chosen: bool = False  # the database by its name, for backups
    named: bool = False  # the database by its name, to connect to
    computed: bool = True  # hash what a restore computes, for drills to compare


@dataclass(frozen=True, slots=True)
class DumpResult:
    """What was dumped."""

    index: Index
    snapshot: datetime
    client: programs.Installation
    settings: Mapping[str, str]  # of every session that reads
    warnings: list[str]


def dump(
    endpoint: Endpoint,
    connection: Connection,
    writer: ArtifactWriter,
    options: DumpOptions,
    progress: Progress,
) -> DumpResult:
    """Write the connected database into an artifact, which is finished only if all went well.

    Raises:
        DumpFailed, ConnectionFailed, StoreError: nothing of the artifact is of any use then.

    """
    with translated():
        return _Dump(endpoint, connection, writer, options, progress).run()


class _Dump:
    """The facts that all steps of one dump share."""

    def __init__(
        self,
        endpoint: Endpoint,
        connection: Connection,
        writer: ArtifactWriter,
        options: DumpOptions,
        progress: Progress,
    ) -> None:
        self.connection = connection
        self.endpoint = endpoint.pinned(connection)
        self.writer = writer
        self.options = options
        self.progress = progress
        self.settings = reading_settings(connection)
        apply(connection, self.settings)
        self.server = server_facts(connection)
        self.database = database_facts(connection)
        self.codec = codec(self.database.encoding)
        self.client = programs.choose(self.server.major, programs.installations())
        self.warnings: list[str] = []

    def run(self) -> DumpResult:
        """Check, then try until no change of the schema is in the way."""
        self.progress.step("checking")
        self._preflight()
        deadline = time.monotonic() + self.options.lock_timeout
        refused: list[_RefusedError] = []
        while True:
            self.progress.step("locking tables")
            try:
                return self._attempt()
            except _RefusedError as error:
                refused.append(error)
            if _lasting(refused):
                raise _program_error(refused[-1].error, self.database.name)
            if len(refused) >= MIN_ATTEMPTS and time.monotonic() > deadline:
                raise e.DumpFailed(
                    f"each of {len(refused)} attempts met a change of the schema: {refused[-1]}",
                    hint="Run the backup when no migration is running, or raise --lock-timeout.",
                )

    def _preflight(self) -> None:
        tables = snapshot.tables(self.connection, self.codec)
        connections = 1 + self.options.jobs
        findings = preflight.check(self.connection, self.server, tables, connections)
        preflight.refuse(findings)
        findings += preflight.emptiness(
            self.connection, tables, chosen=self.options.chosen, named=self.options.named
        )
        self.warnings += [finding.message for finding in findings]

    def _attempt(self) -> DumpResult:
        held: Snapshot | None = None
        try:
            with snapshot.hold(self.connection, self.codec, self.options.lock_timeout) as held:
                result, checked = self._dump(held)
        except (e.DumpFailed, psycopg.Error):
            if held is not None:
                with suppress(psycopg.Error):
                    # If names have moved, that is the reason, and another attempt may do.
                    moved_names.check(held.names, self.connection, self.codec)
            raise
        if not checked:
            moved_names.check(held.names, self.connection, self.codec)
        return result

    def _dump(self, held: Snapshot) -> tuple[DumpResult, bool]:
        """Return the result, and whether all names were checked that something was read by."""
        tasks = [] if self.options.schema_only else self._plan(held)
        targets = self._targets(held)
        with self.endpoint.child(**self.settings) as access:
            run = _Run(self, held, tasks, access, targets)
            run.execute()
        index = self.writer.finish(self._meta(held, run.computed))
        warnings = self.warnings + run.warnings
        lag = held.replay_lag or 0.0
        if lag > BEHIND:
            warnings.append(f"the standby is {lag:.0f} s behind its primary: so is the backup")
        return DumpResult(
            index, held.taken, self.client, self.settings, warnings
        ), run.names_are_checked

    def _targets(self, held: Snapshot) -> list[computed_values.Target]:
        """Return what is hashed for drills; queries read it, so not what others own (trap G2.2)."""
        if self.options.schema_only or not self.options.computed:
            return []
        tables = computed_values.readable(held.tables, in_recovery=self.server.in_recovery)
        found = computed_values.targets(self.connection, tables)
        views = [one.view for one in found if one.view is not None]
        safe = may_be_queried(self.connection, [*(table.oid for table in tables), *views])
        unsafe = {table.sql for table in tables if table.oid not in safe}
        kept = [
            one
            for one in found
            if (unsafe.isdisjoint(one.parts) if one.view is None else one.view in safe)
        ]
        if len(kept) < len(found):
            warning = (
                f"no hash of {len(found) - len(kept)} materialized views or tables with generated"
                " columns is recorded, a drill will not compare them: others own them, and could"
                " run code in the query"
            )
            if warning not in self.warnings:
                self.warnings.append(warning)
        return kept

    def _plan(self, held: Snapshot) -> list[Task]:
        sizes = snapshot.sizes(self.connection, held.tables)
        row = self.connection.execute("SHOW block_size").fetchone()
        assert row is not None  # noqa: S101 - SHOW gives a row
        candidates = [
            table
            for table in held.tables
            if table.kind == "r"
            and not table.extension
            and table.columns
            and (table.logged or not self.server.in_recovery)
        ]
        slices = self.server.version_num >= SLICES_SINCE
        return plan_tasks(
            candidates,
            sizes,
            self.options.jobs,
            int(row[0]) if slices else None,
            may_be_queried(self.connection, [candidate.oid for candidate in candidates]),
        )

    def _meta(self, held: Snapshot, values: list[Computed]) -> Meta:
        return Meta(
            pgkeep=__version__,
            database=self.database,
            server=msgspec.structs.replace(self.server, replay_lag=held.replay_lag),
            client_version=".".join(map(str, self.client.version)),
            snapshot=held.taken.isoformat(),
            timezone=self.connection.info.parameter_status("TimeZone"),
            lc_monetary=_lc_monetary(self.connection),
            schema_only=self.options.schema_only,
            extensions=extensions(self.connection),
            roles=roles_in_use(self.connection),
            resolutions=name_resolution.ambiguous(self.connection),
            computed=values,
        )


def _lc_monetary(connection: Connection) -> str | None:
    """Return the locale of the session's money, if the database may have some (trap A5.25)."""
    row = connection.execute(
        """
        SELECT pg_catalog.current_setting('lc_monetary')
        WHERE EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE atttypid IN (
                'pg_catalog.money'::pg_catalog.regtype, 'pg_catalog.money[]'::pg_catalog.regtype))
            OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typbasetype IN (
                'pg_catalog.money'::pg_catalog.regtype, 'pg_catalog.money[]'::pg_catalog.regtype))
        """
    ).fetchone()
    return row[0] or None if row is not None else None


class _RefusedError(Exception):
    """The server refused pg_dump before it had written anything; another attempt may do.

    Somebody is queued for a lock between the coordinator's and pg_dump's, or something that no
    lock can hold, such as a view or a function, was dropped while pg_dump read about it (trap D5).
    """

    def __init__(self, error: e.ProgramFailed) -> None:
        super().__init__(error.message)
        self.error = error

    @property
    def queued(self) -> bool:
        """Tell whether a lock was not to be had; the coordinator had it, so it is a queue's."""
        said = " ".join(self.error.said)
        return "LOCK TABLE" in said and "out of shared memory" not in said


def _lasting(refused: Sequence[_RefusedError]) -> bool:
    """Tell whether the last refusal will come again: what has gone does not go twice."""
    last = refused[-1]
    return not last.queued and any(one.error.said == last.error.said for one in refused[:-1])


class _Run:
    """One attempt: pg_dump and the workers on one snapshot."""

    def __init__(
        self,
        dump: _Dump,
        held: Snapshot,
        tasks: Sequence[Task],
        access: ChildAccess,
        targets: Sequence[computed_values.Target],
    ) -> None:
        self.dump = dump
        self.held = held
        self.access = access
        self.warnings: list[str] = []
        self.names_are_checked = True
        self._schemas: frozenset[bytes] = frozenset()
        self.computed: list[Computed] = []
        self._targets = targets
        self._crew = Crew()
        # First, for whoever waits for the store may hold what the others have to take.
        self._crew.on_stop(dump.writer.stop)
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            self._tasks.put(task)
        self._copied_by_workers = {task.table.oid: task.table for task in tasks}
        self._size = sum(task.size for task in tasks)
        self._workers = min(dump.options.jobs, len(tasks))
        self._order = Order(dump.writer, self._crew, self._workers)
        self._coordinator = threading.Lock()
        self._waiting: dict[int, float] = {}  # process id of a child -> since when

    def execute(self) -> None:
        """Do it all; raise the first failure when every child has gone."""
        self.dump.progress.step("dumping")
        # By nobody who works at the same time: a worker that has the coordinator's connection may
        # wait for pg_dump (trap G2.5).
        self._schemas = self._read_schemas()
        if self._size:
            self.dump.progress.total(self._size)
        with self._crew:
            self._crew.start(self._run_pg_dump, "pg_dump")
            for number in range(self._workers):
                self._crew.start(self._run_worker, f"worker-{number}")
            if self._targets:
                self._crew.start(self._hash, "hashes")
            try:
                self._crew.wait(self._tick)
            except e.ProgramFailed as error:
                raise _program_error(error, self.dump.database.name) from error

    def _tick(self) -> None:
        """See that the snapshot is still held, and tell how far we are."""
        self.dump.progress.wrote(self.dump.writer.raw, self.dump.writer.size)
        if self._coordinator.acquire(blocking=False):
            try:
                self._look_for_waits()
            except psycopg.Error as error:
                raise e.DumpFailed(
                    f"lost the connection that holds the snapshot: {one_line(error)}"
                ) from error
            finally:
                self._coordinator.release()

    def _look_for_waits(self) -> None:
        """Give up when a child waits for a lock on what is no table: pg_dump would for ever."""
        now = time.monotonic()
        limit = max(self.dump.options.lock_timeout, 2 * PG_DUMP_LOCK_WAIT / 1000)
        waiting = snapshot.waiting(self.dump.connection)
        self._waiting = {pid: self._waiting.get(pid, now) for pid in waiting}
        for pid, since in self._waiting.items():
            if now - since >= limit:
                error = snapshot.waits_too_long(self.dump.connection, pid, limit)
                if error is not None:
                    raise error

    def _run_pg_dump(self) -> None:
        command: list[str | bytes] = [
            self.dump.client.program("pg_dump"), "--format=plain", "--verbose", "--no-password",
            f"--snapshot={self.held.id}", f"--lock-wait-timeout={PG_DUMP_LOCK_WAIT}",
            f"--encoding={self.dump.database.encoding}", *self.access.arguments,
        ]  # fmt: skip
        if self.dump.options.schema_only:
            command.append("--schema-only")
        command += [exclusion(table) for table in self._copied_by_workers.values()]
        assembler = Assembler(
            _header(self.dump, self.held),
            self.dump.codec,
            self.held.tables,
            self._order,
            rows_are_read=self._check_names,
        )
        with programs.Child(command, self.access.environment, self.access.descriptors) as child:
            self._crew.on_stop(child.kill)
            try:
                scanner = script.Scanner(self._schemas)
                while block := child.read():
                    self._crew.check()
                    for piece in scanner.feed(block):
                        assembler.add(piece)
                child.finish()
                for piece in scanner.close():
                    assembler.add(piece)
            except e.ProgramFailed as error:
                if "query failed" in " ".join(error.said) and not assembler.begun:
                    raise _RefusedError(error) from error
                raise
            except e.VerificationFailed as error:  # exit status 0, and yet not all of it
                raise e.DumpFailed(f"pg_dump's output is not whole: {error.message}") from error
            self.warnings += child.warnings
        assembler.finish()
        self._check_coverage(assembler.tables)

    def _check_names(self) -> None:
        """See that the names by which something was read have meant the same since the snapshot.

        By a connection of its own, for ours sees nothing newer than its snapshot. If there is none
        to be had, that is done when the snapshot has been let go.
        """
        try:
            with self.dump.endpoint.connect(0) as observer:
                moved_names.check(self.held.names, observer, self.dump.codec)
        except e.ConnectionFailed:
            self.names_are_checked = False

    def _read_schemas(self) -> frozenset[bytes]:
        """Return the names of all schemas as pg_dump writes them into its comments."""
        rows = self.dump.connection.execute(
            "SELECT pg_catalog.convert_to(nspname, pg_catalog.getdatabaseencoding())"
            " FROM pg_catalog.pg_namespace"
        ).fetchall()
        return frozenset(re.sub(rb"[\r\n]", b" ", row[0]) for row in rows)

    def _check_coverage(self, by_pg_dump: set[int]) -> None:
        """Every table that we locked has its rows in the artifact exactly once."""
        if self.dump.options.schema_only:
            return
        twice = by_pg_dump & self._copied_by_workers.keys()
        covered = by_pg_dump | self._copied_by_workers.keys()
        missing = [
            table
            for table in self.held.tables
            if table.kind == "r"
            and not table.extension
            and table.oid not in covered
            and (table.logged or not self.dump.server.in_recovery)
        ]
        for wrong, how in (
            ([table for table in self.held.tables if table.oid in twice], "twice"),
            (missing, "not at all"),
        ):
            if wrong:
                names = ", ".join(f"{one.schema}.{one.name}" for one in wrong[:5])
                raise e.DumpFailed(f"{len(wrong)} tables dumped {how}, such as {names}")

    def _run_worker(self) -> None:
        session = CopySession(
            self.dump.client, self.access, self.dump.database.encoding, self.held.id
        )
        try:
            self._crew.on_stop(session.kill)
            packer = Packer("data", self._order.write_rows)
            while (task := self._next_task()) is not None:
                self._crew.check()
                if session.lock(task.table):
                    blocks = session.copy(task.table, task.first, task.last)
                else:
                    blocks = self._copy_by_coordinator(task)
                try:
                    self._pack(packer, task, blocks)
                except e.ProgramFailed as error:
                    raise _program_error(error, self.dump.database.name, task.table) from error
                self.dump.progress.advance(task.size)
            packer.flush()
            session.finish()
        finally:
            session.close()
        self._order.worker_is_done()

    def _hash(self) -> None:
        """Hash what a restore will compute; as only drills need that, failures are warnings."""
        try:
            with self.dump.endpoint.connect(**self.dump.settings) as connection:
                self._crew.on_stop(lambda: _cancel(connection))
                computed_values.begin(connection, self.held.id, self.dump.database.encoding)
                self.computed, warnings = computed_values.read_all(
                    connection, self._targets, self.dump.codec, self._crew.check
                )
                connection.execute("ROLLBACK")
                moved_names.check(self.held.names, connection, self.dump.codec)
                self.warnings += warnings
        except (psycopg.Error, e.ConnectionFailed, moved_names.Moved) as error:
            self._crew.check()
            self.computed = []
            said = str(error).strip().partition("\n")[0]
            self.warnings.append(
                "no hashes of generated columns and materialized views are recorded, a drill will"
                f" not compare them: {said}"
            )

    def _next_task(self) -> Task | None:
        try:
            return self._tasks.get_nowait()
        except queue.Empty:
            return None

    def _copy_by_coordinator(self, task: Task) -> Iterator[bytes]:
        """Copy on the connection that holds the lock already (trap D4)."""
        connection = self.dump.connection
        with self._coordinator:
            encoding = sql.SQL("SET LOCAL client_encoding = {}")
            connection.execute(encoding.format(self.dump.database.encoding))
            statement = copy_statement(task.table, task.first, task.last)
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                # The driver gives a row at a time; a row may be large.
                block = bytearray()
                for row in copy:
                    block += row
                    if len(block) >= BLOCK:
                        yield bytes(block)
                        block.clear()
                yield bytes(block)
            connection.execute("SET LOCAL client_encoding = 'UTF8'")
        self._check_names()

    def _pack(self, packer: Packer, task: Task, blocks: Iterator[bytes]) -> None:
        table = task.table
        packer.begin(object_of(table))
        packer.write(announcement(table, self.dump.codec))
        packer.begin_copy(b"COPY %s (%s) FROM stdin;\n" % (table.target, table.columns))
        for block in blocks:
            self._crew.check()
            packer.rows(block)
        packer.end_copy()
        packer.write(b"\n\n")


def _cancel(connection: Connection) -> None:
    """End what a session is doing, from another thread."""
    try:
        connection.cancel_safe(timeout=5)
    except psycopg.Error:
        connection.close()


def _header(dump: _Dump, held: Snapshot) -> bytes:
    """Return the first lines of the SQL: what this is, and how to bring it back by hand."""
    database = dump.database
    name = database.name.encode("ascii", "backslashreplace").decode()
    name = re.sub(r"\s", " ", name)
    locale = f"--lc-collate={database.collate} --lc-ctype={database.ctype}"
    return f"""\
--
-- Backup of database {name} as it was at {held.taken:%Y-%m-%d %H:%M:%S} UTC
-- Server {dump.server.version}, made by pgkeep {__version__}
--
-- To restore it:          pgkeep restore --backup=FILE
-- Without pgkeep, roles first, into a new and empty database:
--   sha256sum -c FILE.sha256
--   zcat NAME.globals.sql.gz | psql -X -d postgres
--   createdb -T template0 -E {database.encoding} {locale} NEWDB
--   zcat FILE | psql -X -v ON_ERROR_STOP=1 -d NEWDB && psql -c ANALYZE NEWDB
-- A whole file ends with the index of its contents, in comments such as this one.
--

""".encode()


def _program_error(
    error: e.ProgramFailed, database: str, table: Table | None = None
) -> e.DumpFailed:
    said = " ".join(error.said)
    hint = None
    if "invalid memory alloc request size" in said or "Cannot enlarge string buffer" in said:
        hint = "A row is larger than 1 GB as text, which COPY cannot express; shorten it."
    elif "out of shared memory" in said:
        hint = "ALTER SYSTEM SET max_locks_per_transaction = 1024; and restart the server."
    elif "conflict with recovery" in said:
        hint = "Raise max_standby_streaming_delay on the standby, or back up the primary."
    of = f", table {table.schema}.{table.name}" if table is not None else ""
    return e.DumpFailed(f"database {database}{of}: {error.message}", hint=hint)
