"""Copy tables with psql: one session that shares a snapshot with others.

COPY in psql costs less CPU time than in any Python driver, which create an object for each row, and
it does not hold the interpreter lock. A session reads one COPY after the other from its standard
input, so that a connection is opened only once.
"""

from collections.abc import Callable, Iterator

from .. import processes
from ..postgres import programs
from ..postgres.connection import ChildAccess
from ..postgres.moved_names import Moved
from ..postgres.snapshot import Table
from ..sql.script import COPY_DATA_END

_SETUP = """\
\\set ON_ERROR_STOP on
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET TRANSACTION SNAPSHOT '{snapshot}';
"""
# The relations, except indexes, on which the session holds locks. SELECT on the catalogs cannot
# answer this, because the snapshot can be older than the locks.
_LOCKED = b"""\
SELECT pg_catalog.concat('locked ', pg_catalog.string_agg(relation::pg_catalog.text, ' '))
FROM pg_catalog.pg_locks
WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted
  AND database <> 0 AND relation >= 16384
  AND pg_catalog.pg_index_has_property(relation, 'clusterable') IS NULL;
"""
# A table that cannot be locked at once is behind another session's queued ALTER. That session waits
# for the coordinator, which waits for us: a deadlock that the server cannot detect (trap D4).
_LOCK = b"""\
\\set ON_ERROR_STOP off
SAVEPOINT before;
LOCK TABLE ONLY %s IN ACCESS SHARE MODE NOWAIT;
\\if :ERROR
ROLLBACK TO SAVEPOINT before;
RELEASE SAVEPOINT before;
\\echo busy
\\else
%s\\endif
\\set ON_ERROR_STOP on
"""
_UNLOCK = b"""\
ROLLBACK TO SAVEPOINT before;
RELEASE SAVEPOINT before;
"""
# A query locks the indexes of its table when it is planned. REINDEX holds them exclusively for long
# and if it has to wait for us, all other queries on the table wait behind it (D31). So a slice
# holds them only while it is copied, and does not wait for them. EXPLAIN takes the same locks.
_PLAN = b"""\
\\set ON_ERROR_STOP off
SAVEPOINT slice;
SET LOCAL lock_timeout = %d;
EXPLAIN %s \\g /dev/null
\\if :ERROR
ROLLBACK TO SAVEPOINT slice;
RELEASE SAVEPOINT slice;
\\echo busy
\\else
SET LOCAL lock_timeout = 0;
\\echo planned
\\endif
\\set ON_ERROR_STOP on
"""
_UNPLAN = b"""\
ROLLBACK TO SAVEPOINT slice;
RELEASE SAVEPOINT slice;
"""
INDEX_LOCK_WAIT = 200  # ms
_ECHO_END = b"\\echo '\\\\.'\n"


class CopySession:
    """A psql process that copies tables as of a snapshot."""

    def __init__(
        self, client: programs.Installation, access: ChildAccess, encoding: str, snapshot: str
    ) -> None:
        self._locked: int | None = None  # OID of the only table that the session has locked
        self._child = processes.Child(
            [client.program("psql"), "-X", "-q", "-A", "-t", "-w", *access.arguments],
            {**access.environment, "PGCLIENTENCODING": encoding},
            access.descriptors,
            with_input=True,
        )
        self._child.write(_SETUP.format(snapshot=snapshot).encode())

    def wait_until_ready(self) -> None:
        """Wait until the session is connected and has the snapshot."""
        self._child.write(b"\\echo ready\n")
        self._line()

    def lock(self, table: Table) -> bool:
        """Lock a table and release the previous one; return whether the lock was free.

        Raises:
            Moved: its name refers to another relation.

        """
        if self._locked == table.oid:
            return True
        if self._locked is not None:
            self._child.write(_UNLOCK)
            self._locked = None
        self._child.write(_LOCK % (table.sql, _LOCKED))
        locked = self._line()
        if locked == b"busy\n":
            return False
        _check_locked(table, locked)
        self._locked = table.oid
        return True

    def plan(self, table: Table, first: int, last: int | None) -> bool:
        """Lock what a query for some pages of a locked table needs; return whether it was free.

        If so, these pages must be copied next.
        """
        self._child.write(_PLAN % (INDEX_LOCK_WAIT, _slice_query(table, first, last)))
        return self._line() == b"planned\n"

    def copy(self, table: Table, first: int | None, last: int | None) -> Iterator[bytes]:
        """Yield the rows of a locked table, or of some of its planned pages, in COPY's text format.

        A statement locks what it reads by name until the end of the subtransaction. If no other
        relation is locked afterwards, nothing else was read, whatever the name meant in between
        (trap G2.1).

        Raises:
            Moved: another relation was read.

        """
        yield from self.run(copy_statement(table, first, last))
        self._child.write(_LOCKED)
        _check_locked(table, self._line())
        if first is not None:
            self._child.write(_UNPLAN)

    def run(self, statement: bytes) -> Iterator[bytes]:
        """Yield the rows of any `COPY ... TO STDOUT`."""
        self._child.write(statement + b";\n" + _ECHO_END)
        yield from rows_until_end(self._read)

    def finish(self) -> None:
        """End the session; raise if it failed."""
        self._child.finish()

    def kill(self) -> None:
        """End the session at once."""
        self._child.kill()

    def close(self) -> None:
        """End the session and release its resources."""
        self._child.close()

    def _read(self) -> bytes:
        block = self._child.read()
        if not block:
            raise self._child.failure()
        return block

    def _line(self) -> bytes:
        line = self._read()
        while not line.endswith(b"\n"):
            line += self._read()
        return line


def _check_locked(table: Table, line: bytes) -> None:
    if line != b"locked %d\n" % table.oid:
        name = f"{table.schema}.{table.name}"
        raise Moved(f"{name} refers to a different table than when the backup started")


def rows_until_end(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Yield what `read` returns up to the line that ends COPY data, which must be the last line."""
    # A row cannot look like the end marker: COPY doubles a backslash (manual, "COPY", "Text
    # Format"). psql prints nothing after the marker, so it is always at the end of a block. Only
    # bytes that can be its beginning are held back; all others are passed on without a copy.
    held, at_row = b"", True
    while True:
        block = held + read()
        if block.endswith(b"\n" + COPY_DATA_END) or (at_row and block == COPY_DATA_END):
            break
        length = len(block)
        for beginning in (b"\\", b"\\."):
            if block.endswith(b"\n" + beginning) or (at_row and block == beginning):
                length -= len(beginning)
        held = block[length:]
        if length:
            yield block[:length]
            at_row = block[length - 1] == ord("\n")
    yield block[: -len(COPY_DATA_END)]


def copy_statement(table: Table, first: int | None, last: int | None) -> bytes:
    """Return the COPY statement for a table, or for its pages from `first` to before `last`.

    FROM ONLY is required, because an inheritance parent would include its children's rows (trap
    D8). The last pages have no upper bound, because a growing table would lose rows (trap D9).
    """
    if first is None:
        return b"COPY %s (%s) TO STDOUT" % (table.sql, table.columns)
    return b"COPY (%s) TO STDOUT" % _slice_query(table, first, last)


def _slice_query(table: Table, first: int, last: int | None) -> bytes:
    condition = b"ctid >= '(%d,0)'" % first
    if last is not None:
        condition += b" AND ctid < '(%d,0)'" % last
    return b"SELECT %s FROM ONLY %s WHERE %s" % (table.columns, table.sql, condition)
