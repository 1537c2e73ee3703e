"""Database to artifact: one pg_dump for everything, and parallel COPY of the large tables.

One run of pg_dump writes all three sections, so that they cannot disagree (trap D7). It leaves the
rows of the large tables to workers that see the same snapshot, and waits, held back by its pipe,
where its next section must not begin yet.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import msgspec
import psycopg

from .. import __version__
from .. import errors as e
from ..artifact.file import ArtifactWriter, Index, Meta
from ..model.manifest import Computed
from ..postgres import computed_values, moved_names, name_resolution, programs, snapshot
from ..postgres.connection import ChildAccess, Connection, Endpoint, apply, reading_settings
from ..postgres.facts import database_facts, extensions, roles_in_use, server_facts
from ..postgres.messages import translated
from ..postgres.snapshot import Snapshot
from ..progress import Progress
from ..sql.encodings import codec
from . import preflight
from .attempt import Attempt, DumpSource, RefusedError, program_error
from .tasks import Task, plan_tasks
from .trust import may_be_queried

SLICES_SINCE = 140000  # TID range scans came with PostgreSQL 14 (trap D11)
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
            run = Attempt(self._source(access), self.writer, held, tasks, targets, self.progress)
            run.execute()
        index = self.writer.finish(self._meta(held, run.computed))
        warnings = self.warnings + run.warnings
        lag = held.replay_lag or 0.0
        if lag > BEHIND:
            warnings.append(f"the standby is {lag:.0f} s behind its primary: so is the backup")
        return DumpResult(
            index, held.taken, self.client, self.settings, warnings
        ), run.names_are_checked

    def _source(self, access: ChildAccess) -> DumpSource:
        return DumpSource(
            connection=self.connection,
            endpoint=self.endpoint,
            access=access,
            client=self.client,
            server=self.server,
            database=self.database,
            codec=self.codec,
            settings=self.settings,
            workers=self.options.jobs,
            schema_only=self.options.schema_only,
            lock_timeout=self.options.lock_timeout,
        )

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


def _lasting(refused: Sequence[RefusedError]) -> bool:
    """Tell whether the last refusal will come again: what has gone does not go twice."""
    last = refused[-1]
    return not last.queued and any(one.error.said == last.error.said for one in refused[:-1])
