"""Database to backup file: one pg_dump, and parallel COPY of the large tables.

One run of pg_dump writes all three sections, so that they cannot contradict each other (trap D7).
It skips the rows of large tables, which workers copy from the same snapshot. Its pipe blocks it at
the point where its next section must wait.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import msgspec
import psycopg

from .. import __version__
from .. import errors as e
from ..artifact.file import ArtifactWriter, Index, Meta
from ..model.manifest import Computed
from ..postgres import (
    computed_values,
    lock_table,
    moved_names,
    name_resolution,
    programs,
    snapshot,
    wal,
)
from ..postgres.connection import (
    SEVERAL_SERVERS,
    ChildAccess,
    Connection,
    Endpoint,
    apply,
    reading_settings,
)
from ..postgres.facts import database_facts, extensions, roles_in_use, server_facts
from ..postgres.messages import translated
from ..postgres.snapshot import Snapshot
from ..postgres.table_locks import LockBudget
from ..progress import Progress
from ..sql.encodings import codec
from . import preflight
from .attempt import Attempt, RefusedError
from .blocking import BlockedSessions, LockWatch
from .deadlines import Watch
from .source import DumpSource, lost_snapshot, program_error
from .tasks import CopyTask, plan_tasks
from .trust import may_be_queried

SLICES_SINCE = 140000  # PostgreSQL 14 introduced TID range scans (trap D11)
BEHIND = 60.0  # replay lag of a standby, in seconds, that causes a warning
MIN_ATTEMPTS = 5
# Of SET TRANSACTION SNAPSHOT: PostgreSQL 16 has the second message.
_NO_SNAPSHOT = re.compile(r'invalid snapshot identifier|snapshot "[^"]*" does not exist')


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """Options of a dump."""

    jobs: int
    budget: LockBudget  # for table locks
    blocked: BlockedSessions  # records who waits for the backup
    yield_after: float | None = None  # seconds that another session can wait for the backup
    schema_only: bool = False
    chosen: bool = False  # the database was named explicitly, for backups
    named: bool = False  # the database was named explicitly, to connect to
    computed: bool = True  # hash the values that a restore computes, for drills to compare


@dataclass(frozen=True, slots=True)
class DumpResult:
    """The result of a dump."""

    index: Index
    snapshot: datetime
    client: programs.Installation
    settings: Mapping[str, str]  # of every session that reads data
    warnings: list[str]


def dump(
    endpoint: Endpoint,
    connection: Connection,
    writer: ArtifactWriter,
    options: DumpOptions,
    progress: Progress,
    watch: Watch,
) -> DumpResult:
    """Dump the connected database into an artifact, which is finished only after a success.

    Raises:
        DumpFailed, ConnectionFailed, StoreError: the artifact is not usable.

    """
    with translated():
        return _Dump(endpoint, connection, writer, options, progress, watch).run()


class _Dump:
    """The state that all steps of one dump share."""

    def __init__(
        self,
        endpoint: Endpoint,
        connection: Connection,
        writer: ArtifactWriter,
        options: DumpOptions,
        progress: Progress,
        watch: Watch,
    ) -> None:
        self.connection = connection
        self.endpoint = endpoint.pinned(connection)
        self.writer = writer
        self.options = options
        self.progress = progress
        self.watch = watch
        self.settings = reading_settings(connection)
        apply(connection, self.settings)
        self.server = server_facts(connection)
        self.database = database_facts(connection)
        self.codec = codec(self.database.encoding)
        self.client = programs.choose(self.server.major, programs.installations())
        self.jobs = options.jobs
        self.warnings: list[str] = []

    def run(self) -> DumpResult:
        """Check, then try until no schema change interferes."""
        self.progress.step("checking")
        self._preflight()
        deadline = time.monotonic() + self.options.budget.seconds
        refused: list[RefusedError] = []
        while True:
            self.progress.step("locking tables")
            try:
                return self._attempt()
            except RefusedError as error:
                refused.append(error)
            if _lasting(refused):
                raise program_error(refused[-1].error, self.database.name)
            if len(refused) >= MIN_ATTEMPTS and time.monotonic() > deadline:
                raise e.DumpFailed(
                    f"schema changes interrupted each of {len(refused)} attempts: {refused[-1]}",
                    hint="Run the backup when no migration is running, or increase --lock-timeout.",
                )

    def _preflight(self) -> None:
        tables = snapshot.tables(self.connection, self.codec)
        connections = 1 + self.options.jobs + (self.options.yield_after is not None)
        findings = preflight.check(self.connection, self.server, tables, connections)
        preflight.refuse(findings)
        self.jobs = lock_table.forecast(self.connection, len(tables), self.jobs).workers
        findings += preflight.emptiness(
            self.connection, tables, chosen=self.options.chosen, named=self.options.named
        )
        self.warnings += [finding.message for finding in findings]

    def _attempt(self) -> DumpResult:
        lock_watch = LockWatch(
            self.endpoint,
            self.connection.info.backend_pid,
            self.options.blocked,
            self.options.yield_after,
        )
        with lock_watch.watching():
            return self._watched(lock_watch)

    def _watched(self, lock_watch: LockWatch) -> DumpResult:
        held: Snapshot | None = None
        try:
            with (
                snapshot.hold(self.connection, self.codec, self.options.budget) as held,
                self.watch.snapshot(),
                self._missing_snapshot_explained(),
            ):
                result, checked = self._dump(held, lock_watch)
        except (e.DumpFailed, psycopg.Error):
            if held is not None:
                with suppress(psycopg.Error):
                    # If names have moved, that is the cause, and another attempt can succeed.
                    moved_names.check(held.names, self.connection, self.codec)
            raise
        if not checked:
            moved_names.check(held.names, self.connection, self.codec)
        return result

    @contextmanager
    def _missing_snapshot_explained(self) -> Iterator[None]:
        """Replace the error that the snapshot does not exist by its cause.

        Before the transaction of the session that holds it ends, because a session that the server
        has ended reports the reason only once.
        """
        try:
            yield
        except (e.DumpFailed, RefusedError) as error:
            if _NO_SNAPSHOT.search(str(error)) is None:
                raise
            try:
                self.connection.execute("SELECT")
            except psycopg.OperationalError as lost:
                raise lost_snapshot(lost) from error
            raise e.DumpFailed(
                f"a session of the backup reached a different server: {error}",
                hint=SEVERAL_SERVERS,
            ) from error

    def _dump(self, held: Snapshot, lock_watch: LockWatch) -> tuple[DumpResult, bool]:
        """Return the result, and whether all names by which data was read were checked."""
        tasks = [] if self.options.schema_only else self._plan(held)
        targets = self._targets(held)
        money = _lc_monetary(self.connection)
        with self.endpoint.child(**self.settings) as access:
            source = self._source(access, money, lock_watch)
            run = Attempt(source, self.writer, held, tasks, targets, self.progress)
            run.execute()
        index = self.writer.finish(self._meta(held, run.computed, money))
        warnings = self.warnings + run.warnings
        if self.server.in_recovery:
            warnings += _lag_warnings(held, self.connection)
        return DumpResult(
            index, held.taken, self.client, self.settings, warnings
        ), run.names_are_checked

    def _source(self, access: ChildAccess, money: str | None, lock_watch: LockWatch) -> DumpSource:
        return DumpSource(
            lock_watch=lock_watch,
            connection=self.connection,
            endpoint=self.endpoint,
            access=access,
            client=self.client,
            server=self.server,
            database=self.database,
            codec=self.codec,
            settings=self.settings,
            workers=self.jobs,
            schema_only=self.options.schema_only,
            lock_timeout=self.options.budget.seconds,
            lc_monetary=money,
            watch=self.watch,
        )

    def _targets(self, held: Snapshot) -> list[computed_values.ComputedRelation]:
        """Return what to hash for drills; not what others own, as queries read it (trap G2.2)."""
        if self.options.schema_only or not self.options.computed:
            return []
        tables = computed_values.readable(held.tables, in_recovery=self.server.in_recovery)
        found = computed_values.targets(self.connection, tables)
        views = [target.view for target in found if target.view is not None]
        safe = may_be_queried(self.connection, [*(table.oid for table in tables), *views])
        unsafe = {table.sql for table in tables if table.oid not in safe}
        kept = [
            target
            for target in found
            if (unsafe.isdisjoint(target.parts) if target.view is None else target.view in safe)
        ]
        if len(kept) < len(found):
            warning = (
                f"hashes of {len(found) - len(kept)} materialized views or tables with generated"
                " columns were not recorded, a drill will not compare them: other roles own them"
                " and could run code in the query"
            )
            if warning not in self.warnings:
                self.warnings.append(warning)
        return kept

    def _plan(self, held: Snapshot) -> list[CopyTask]:
        sizes = snapshot.sizes(self.connection, held.tables)
        row = self.connection.execute("SHOW block_size").fetchone()
        assert row is not None  # noqa: S101 - SHOW returns a row
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
            self.jobs,
            int(row[0]) if slices else None,
            may_be_queried(self.connection, [candidate.oid for candidate in candidates]),
        )

    def _meta(self, held: Snapshot, values: list[Computed], money: str | None) -> Meta:
        return Meta(
            pgkeep=__version__,
            database=self.database,
            server=msgspec.structs.replace(
                self.server,
                replay_lag=held.replay_lag,
                lsn=held.position.lsn,
                timeline=held.position.timeline,
            ),
            client_version=".".join(map(str, self.client.version)),
            snapshot=held.taken.isoformat(),
            timezone=self.connection.info.parameter_status("TimeZone"),
            lc_monetary=money,
            schema_only=self.options.schema_only,
            extensions=extensions(self.connection),
            roles=roles_in_use(self.connection),
            resolutions=name_resolution.ambiguous(self.connection),
            computed=values,
        )


def _lag_warnings(held: Snapshot, connection: Connection) -> Iterator[str]:
    if wal.waits_for_queries(connection):
        lag = wal.replay_lag(connection)
        behind = "" if lag is None else f"; it was {lag:.0f} s behind at the end"
        yield (
            "max_standby_streaming_delay is -1: where the backup conflicts with it, replay on the"
            f" standby waits for the backup{behind}"
        )
    if (held.replay_lag or 0.0) > BEHIND:
        yield f"the standby, and so the backup, is {held.replay_lag:.0f} s behind its primary"
    elif held.replay_lag is None:
        yield (
            "it is unknown how far the standby, and so the backup, is behind: it has received no"
            f" WAL for more than {wal.SILENCE} s, so its primary is idle, or a server between them"
            " is disconnected"
        )


def _lc_monetary(connection: Connection) -> str | None:
    """Return the session's lc_monetary if the database can contain money (trap A5.25)."""
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


def _lasting(refused: Sequence[RefusedError]) -> bool:
    """Whether the last error will recur: an object that was dropped cannot be dropped twice."""
    last = refused[-1]
    return not last.queued and any(
        earlier.error.said == last.error.said for earlier in refused[:-1]
    )
