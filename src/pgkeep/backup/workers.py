"""Copy the rows of large tables with several sessions, while pg_dump writes everything else."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from psycopg import sql

from .. import errors as e
from ..artifact.compression import BLOCK
from ..artifact.packer import Packer
from ..postgres.snapshot import Table
from ..progress import Progress
from ..task_group import TaskGroup
from .assembly import MemberOrder, announcement, object_of
from .copy_session import CopySession, copy_statement
from .slices import CopiedSlice, SliceQueue
from .source import DumpSource, program_error
from .tasks import CopyTask

# A worker does not queue for a lock, but tries again: a migration with a short lock_timeout comes
# and goes. Copied as a whole, a large table takes as long as with one job.
TRIES = 5
AGAIN = 0.05  # seconds


class Workers:
    """The sessions that copy tables or slices, and the coordinator where these are not able to."""

    def __init__(
        self,
        source: DumpSource,
        tasks: Sequence[CopyTask],
        order: MemberOrder,
        threads: TaskGroup,
        read: Callable[[int], None],
        check_names: Callable[[], None],
    ) -> None:
        self._source = source
        self._slices = SliceQueue(tasks, threads)
        self._order = order
        self._threads = threads
        self._read = read  # called after so many bytes were read
        self._check_names = check_names
        self.coordinator = threading.Lock()  # of the connection that holds the snapshot

    def run(self, snapshot: str, progress: Progress) -> None:
        """Copy until no task is left, with one session; to be run in several threads."""
        source = self._source
        session = CopySession(source.client, source.access, source.database.encoding, snapshot)
        try:
            self._threads.on_stop(session.kill)
            session.wait_until_ready()
            packer = self._order.rows_packer()
            while (taken := self._take(session)) is not None:
                task, blocks = taken
                try:
                    self._pack(packer, task, blocks)
                except e.ProgramFailed as error:
                    raise program_error(error, source.database.name, task.table) from error
                progress.advance(task.size)
            packer.flush()
            session.finish()
        finally:
            session.close()
        self._order.worker_is_done()

    def _take(self, session: CopySession) -> tuple[CopyTask, Iterator[bytes]] | None:
        """Return the next task and its rows, read by this session or by the coordinator."""
        with self._slices.taking:
            self._threads.check()
            task = self._slices.take()
            if task is None:
                return None
            table = task.table
            locked = _lock(session, table)
            if locked and (task.first is None or session.plan(table, task.first, task.last)):
                return task, self._limited(session.copy(table, task.first, task.last))
            task = self._slices.take_rest(task)
        blocks = session.copy(table, None, None) if locked else self._copy_by_coordinator(task)
        return task, self._slices.rest(task, self._limited(blocks))

    def _limited(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self._read(len(block))
            yield block

    def _copy_by_coordinator(self, task: CopyTask) -> Iterator[bytes]:
        """Copy on the connection that already holds the lock (trap D4)."""
        connection = self._source.connection
        with self.coordinator:
            encoding = sql.SQL("SET LOCAL client_encoding = {}")
            connection.execute(encoding.format(self._source.database.encoding))
            statement = copy_statement(task.table, None, None)
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                # The driver returns one row at a time, and a row can be large.
                block = bytearray()
                for row in copy:
                    block += row
                    if len(block) >= BLOCK:
                        yield bytes(block)
                        block.clear()
                yield bytes(block)
            connection.execute("SET LOCAL client_encoding = 'UTF8'")
        self._check_names()

    def _pack(self, packer: Packer, task: CopyTask, blocks: Iterator[bytes]) -> None:
        table = task.table
        rows = size = 0
        packer.begin(object_of(table))
        packer.write(announcement(table, self._source.codec))
        packer.begin_copy(b"COPY %s (%s) FROM stdin;\n" % (table.target, table.columns))
        for block in blocks:
            packer.rows(block)
            if task.first is not None:
                rows += block.count(b"\n")
                size += len(block)
        packer.end_copy()
        packer.write(b"\n\n")
        if task.first is not None:
            self._slices.copied(task, CopiedSlice(rows, size))


def _lock(session: CopySession, table: Table) -> bool:
    """Lock a table if it is free, or becomes free soon."""
    for _ in range(TRIES - 1):
        if session.lock(table):
            return True
        time.sleep(AGAIN)
    return session.lock(table)
