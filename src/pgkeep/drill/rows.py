"""Check that the tables of a restored database have the rows of the backup file, and no others.

Both sides are read as COPY writes them, by several threads, and hashed (see sketch.py). The columns
are those of the artifact's own COPY statements. Hash partitions over an enum are compared together:
a row need not lie in the same leaf elsewhere (trap A5.15).
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import psycopg

from .. import errors as e
from .. import interrupts
from ..artifact.copy_statements import COPY, copies, scan
from ..artifact.file import Artifact, Object
from ..backup.copy_session import CopySession, copy_statement
from ..backup.tasks import CopyTask, plan_tasks
from ..postgres import programs, snapshot
from ..postgres.connection import ChildAccess, Connection, Endpoint, session_settings
from ..postgres.facts import server_facts
from ..postgres.snapshot import Table
from ..postgres.table_locks import LockBudget
from ..progress import Progress, Silent
from ..restore.target import extension_tables
from ..sql.encodings import codec
from ..task_group import TaskGroup, for_each
from .checks import DrillCheck
from .sketch import Sketch, Sketcher

SLICES_SINCE = 140000  # TID range scans (trap D11)
LOCK_SECONDS = 60.0
BLOCK = 1 << 20

Key = tuple[str, str]  # schema and name


@dataclass(slots=True)
class _Group:
    """Tables whose rows are compared together: one, or the leaves that are loaded by their root."""

    relation: bytes  # as the COPY statements name it
    columns: bytes
    tables: list[Key] = field(default_factory=list)
    expected: Sketch = field(default_factory=Sketch)
    found: Sketch = field(default_factory=Sketch)
    findings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        if len(self.tables) == 1:
            return ".".join(self.tables[0])
        relation = self.relation.decode("utf-8", "backslashreplace")
        return f"{relation} ({len(self.tables)} partitions)"


def compare(
    endpoint: Endpoint,
    artifact: Artifact,
    *,
    zone: str | None,
    jobs: int,
    progress: Progress,
    unproved: Set[Key] = frozenset(),
) -> DrillCheck:
    """Compare every table of a database with the artifact that it was restored from.

    The zone is the one that the artifact's time stamps are written in. Where it is not known, a
    table that differs is compared once more as the server writes the artifact's rows. Tables whose
    rows are known not to be there are not compared.

    Raises:
        VerificationFailed: the artifact is damaged.
        ConnectionFailed, DumpFailed: the database cannot be read.

    """
    progress.total(
        2 * sum(member.raw for member in artifact.index.members if member.section == "data")
    )
    groups = _expected(artifact, jobs, progress)
    with endpoint.connect() as connection:
        database = _Database(connection, endpoint.pinned(connection), zone, jobs)
        extra = database.read(groups, progress, uncounted(artifact))
    if zone is None:
        # Time stamps may be written in another zone than the artifact's.
        for group in groups:
            if list(_differences(group)) and group.found.rows == group.expected.rows:
                # What the server does not take says nothing of the zone: they do differ.
                with contextlib.suppress(psycopg.Error):
                    group.expected = _rewritten(endpoint, artifact, group)
    findings = [
        finding
        for group in groups
        if unproved.isdisjoint(group.tables)
        for finding in (*group.findings, *_differences(group))
    ]
    return DrillCheck(
        name="rows", checked=len(artifact.index.table_rows()), findings=findings + extra
    )


def uncounted(artifact: Artifact) -> set[Key]:
    """Return the tables whose rows are INSERT statements, which cannot be compared."""
    return {
        (entry.schema, entry.name)
        for objects in artifact.index.objects_by_member()
        for entry in objects
        if entry.type == "TABLE DATA" and entry.rows is None
    }


def _differences(group: _Group) -> Iterator[str]:
    if group.findings or group.found == group.expected:
        return
    if group.found.rows != group.expected.rows:
        yield (
            f"table {group.name} has {group.found.rows} rows, the backup has {group.expected.rows}"
        )
    else:
        yield (
            f"table {group.name}: its {group.found.rows} rows are not those of the backup:"
            " at least one differs"
        )


def _expected(artifact: Artifact, jobs: int, progress: Progress) -> list[_Group]:
    """Read the rows of an artifact."""
    groups: dict[tuple[bytes, bytes], _Group] = {}
    lock = threading.Lock()
    objects = artifact.index.objects_by_member()

    def read(number: int) -> None:
        for entry, header, blocks in _copies(artifact, number, objects[number], progress):
            sketch = _sketch(blocks)
            match = COPY.fullmatch(header)
            if match is None:
                raise e.VerificationFailed(
                    f"{artifact.describe(number)}: unexpected statement {header[:60]!r}"
                )
            relation, columns = match["relation"], match["columns"] or b""
            with lock:
                group = groups.setdefault((relation, columns), _Group(relation, columns))
                if (entry.schema, entry.name) not in group.tables:
                    group.tables.append((entry.schema, entry.name))
                group.expected += sketch
                if sketch.rows != entry.rows:
                    group.findings.append(
                        f"{artifact.describe(number)}: {sketch.rows} rows, the index says"
                        f" {entry.rows}"
                    )

    members = [n for n, held in enumerate(objects) if any(entry.rows is not None for entry in held)]
    for_each(members, range(jobs), lambda number, *_: read(number), name="expected")
    return list(groups.values())


def _copies(
    artifact: Artifact, number: int, held: Sequence[Object], progress: Progress
) -> Iterator[tuple[Object, bytes, Iterator[bytes]]]:
    """Yield each COPY of a member: its object, its statement, its rows in blocks."""
    objects = iter([entry for entry in held if entry.rows is not None])
    for header, blocks in copies(scan(_counted(artifact.blocks(number), progress))):
        yield next(objects), header, blocks


def _counted(blocks: Iterator[bytes], progress: Progress) -> Iterator[bytes]:
    for block in blocks:
        yield block
        progress.advance(len(block))


def _sketch(blocks: Iterable[bytes]) -> Sketch:
    sketcher = Sketcher()
    for block in blocks:
        sketcher.feed(block)
    return sketcher.finish()


def _rewritten(endpoint: Endpoint, artifact: Artifact, group: _Group) -> Sketch:
    """Return what the rows of an artifact look like when this server writes them."""
    table, columns = b"pg_temp.pgkeep_again", b"(%s)" % group.columns if group.columns else b""
    objects = {
        number: held
        for number, held in enumerate(artifact.index.objects_by_member())
        if any(entry.rows and (entry.schema, entry.name) in group.tables for entry in held)
    }
    with endpoint.connect() as connection, connection.cursor() as cursor:
        encoding = connection.info.parameter_status("server_encoding") or "UTF8"
        cursor.execute(f"SET client_encoding = '{encoding}'".encode())
        cursor.execute(
            b"CREATE TEMPORARY TABLE pgkeep_again AS SELECT %s FROM %s WITH NO DATA"
            % (group.columns, group.relation)
        )
        for number, held in objects.items():
            for entry, _, blocks in _copies(artifact, number, held, Silent()):
                if (entry.schema, entry.name) in group.tables:
                    with cursor.copy(b"COPY %s %s FROM STDIN" % (table, columns)) as copy:
                        for block in blocks:
                            copy.write(block)
        with cursor.copy(b"COPY %s %s TO STDOUT" % (table, columns)) as copy:
            return _sketch(_gathered(map(bytes, copy)))


def _gathered(rows: Iterable[bytes]) -> Iterator[bytes]:
    """Yield rows in blocks that are worth a call of numpy."""
    held: list[bytes] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row)
        if size >= BLOCK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


class _Database:
    """The restored side: what tables there are, and their rows as of one snapshot."""

    def __init__(
        self, connection: Connection, endpoint: Endpoint, zone: str | None, jobs: int
    ) -> None:
        self._connection = connection
        self._endpoint = endpoint
        self._zone = zone
        self._jobs = jobs
        self._server = server_facts(connection)
        self._encoding = connection.info.parameter_status("server_encoding") or "UTF8"
        self._lock = threading.Lock()
        self._conditions: dict[int, bytes] = {}

    def read(self, groups: Sequence[_Group], progress: Progress, known: set[Key]) -> list[str]:
        """Read the rows of all groups; return which tables belong to none."""
        client = programs.choose(self._server.major, programs.installations())
        settings = session_settings(self._server.version_num)
        budget = LockBudget(LOCK_SECONDS)
        with (
            snapshot.hold(self._connection, codec(self._encoding), budget) as held,
            self._endpoint.child(**settings) as granted,
        ):
            access = _in_zone(granted, self._zone)
            tables = {
                (table.schema, table.name): table for table in held.tables if table.kind == "r"
            }
            readers = [_Reader(client, access, self._encoding, held.id) for _ in range(self._jobs)]
            try:
                for_each(
                    self._tasks(groups, tables), readers,
                    lambda task, reader, threads: self._read(threads, reader, *task, progress),
                    name="rows", cancel=_Reader.kill,
                )  # fmt: skip
            finally:
                with interrupts.held():
                    for reader in readers:
                        reader.close()
        named = {key for group in groups for key in group.tables} | known
        return [
            f"table {'.'.join(key)} is not in the backup"
            for key, table in tables.items()
            if key not in named and not table.extension and table.logged
        ]

    def _tasks(
        self, groups: Sequence[_Group], tables: Mapping[Key, Table]
    ) -> list[tuple[CopyTask, _Group]]:
        """Decide what to read in which pieces, the largest first."""
        wanted: dict[int, tuple[Table, _Group]] = {}
        for group in groups:
            for key in group.tables:
                if key in tables:
                    table = replace(tables[key], columns=group.columns)
                    wanted[table.oid] = (table, group)
                else:
                    group.findings.append(f"table {'.'.join(key)} is missing")
        listed = [table for table, _ in wanted.values()]
        sizes = snapshot.sizes(self._connection, listed)
        row = self._connection.execute("SHOW block_size").fetchone()
        assert row is not None  # noqa: S101 - SHOW gives a row
        slices = int(row[0]) if self._server.version_num >= SLICES_SINCE else None
        large = [table for table in listed if table.columns and not table.extension]
        tasks = plan_tasks(large, sizes, self._jobs, slices)
        planned = {task.table.oid for task in tasks}
        tasks += [
            CopyTask(table, sizes.get(table.oid, (0, 0))[1])
            for table in listed
            if table.oid not in planned
        ]
        self._conditions = extension_tables.conditions(self._connection)
        tasks.sort(key=lambda task: task.size, reverse=True)
        return [(task, wanted[task.table.oid][1]) for task in tasks]

    def _read(
        self,
        threads: TaskGroup,
        reader: "_Reader",
        task: CopyTask,
        group: _Group,
        progress: Progress,
    ) -> None:
        table = task.table
        sketcher = Sketcher()
        try:
            for block in reader.rows(_statement(task, self._conditions.get(table.oid))):
                threads.check()
                sketcher.feed(block)
                progress.advance(len(block))
        except e.ProgramFailed as error:
            threads.check()
            reason = "; ".join(error.said[-2:]) or error.message
            with self._lock:
                group.findings.append(f"table {table.schema}.{table.name} cannot be read: {reason}")
            return
        sketch = sketcher.finish()
        with self._lock:
            group.found += sketch


class _Reader:
    """A psql for one thread; another one is started after it has failed."""

    def __init__(
        self, client: programs.Installation, access: ChildAccess, encoding: str, snapshot_id: str
    ) -> None:
        self._arguments = (client, access, encoding, snapshot_id)
        self._session: CopySession | None = None

    def rows(self, statement: bytes) -> Iterator[bytes]:
        """Yield what a COPY TO STDOUT gives."""
        if self._session is None:
            self._session = CopySession(*self._arguments)
        try:
            yield from self._session.run(statement)
        except e.ProgramFailed:
            self.close()
            raise

    def kill(self) -> None:
        """End it at once; from another thread."""
        session = self._session
        if session is not None:
            session.kill()

    def close(self) -> None:
        """Leave nothing behind."""
        if self._session is not None:
            self._session.close()
            self._session = None


def _in_zone(access: ChildAccess, zone: str | None) -> ChildAccess:
    """Have time stamps written in a zone; as a variable, which libpq sends after PGOPTIONS."""
    if zone is None:
        return access
    return replace(access, environment={**access.environment, "PGTZ": zone})


def _statement(task: CopyTask, condition: bytes | None) -> bytes:
    """Return the COPY for a table or a piece of it, as pg_dump would write it."""
    table = task.table
    if condition is not None:
        # Rows of an extension's own are not in a dump (trap A5.8).
        return b"COPY (SELECT %s FROM ONLY %s %s) TO STDOUT" % (table.columns, table.sql, condition)
    if not table.columns:
        return b"COPY %s TO STDOUT" % table.sql
    return copy_statement(table, task.first, task.last)
