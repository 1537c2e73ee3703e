"""Copy tables out through psql: one session that shares a snapshot with others.

psql's COPY costs less processor time than any Python driver's, which make an object of each row,
and leaves the interpreter free. A session is told what to do through its standard input, one COPY
after the other, so that a connection costs its start once.
"""

from collections.abc import Callable, Iterator

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
# The relations whose locks the session holds, apart from indexes: the snapshot may be older than
# these, so the catalogs cannot be asked by SELECT.
_LOCKED = b"""\
SELECT pg_catalog.concat('locked ', pg_catalog.string_agg(relation::pg_catalog.text, ' '))
FROM pg_catalog.pg_locks
WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted
  AND database <> 0 AND relation >= 16384
  AND pg_catalog.pg_index_has_property(relation, 'clusterable') IS NULL;
"""
# A table whose lock cannot be had at once is behind somebody's queued ALTER, which waits for the
# coordinator, which waits for us: the server cannot see that deadlock (trap D4).
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
_ECHO_END = b"\\echo '\\\\.'\n"


class CopySession:
    """A psql that copies tables as they were in a snapshot."""

    def __init__(
        self, client: programs.Installation, access: ChildAccess, encoding: str, snapshot: str
    ) -> None:
        self._locked: int | None = None  # OID of the only table that the session holds
        self._child = programs.Child(
            [client.program("psql"), "-X", "-q", "-A", "-t", "-w", *access.arguments],
            {**access.environment, "PGCLIENTENCODING": encoding},
            access.descriptors,
            with_input=True,
        )
        self._child.write(_SETUP.format(snapshot=snapshot).encode())

    def lock(self, table: Table) -> bool:
        """Lock a table and no other any more; tell whether it could be had at once.

        Raises:
            Moved: its name means another relation.

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

    def copy(self, table: Table, first: int | None, last: int | None) -> Iterator[bytes]:
        """Yield the rows of a locked table, all or those of some pages, in COPY's text format.

        What a statement reads by name it locks until the end of the subtransaction. So nothing else
        has been read if no other relation is locked afterwards, whatever the name has meant in
        between (trap G2.1).

        Raises:
            Moved: another relation was read.

        """
        yield from self.run(copy_statement(table, first, last))
        self._child.write(_LOCKED)
        _check_locked(table, self._line())

    def run(self, statement: bytes) -> Iterator[bytes]:
        """Yield the rows of any `COPY ... TO STDOUT`."""
        self._child.write(statement + b";\n" + _ECHO_END)
        yield from rows_until_end(self._read)

    def finish(self) -> None:
        """End the session; raise if it did not end well."""
        self._child.finish()

    def kill(self) -> None:
        """End the session at once."""
        self._child.kill()

    def close(self) -> None:
        """Leave nothing behind."""
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
        raise Moved(f"{name} meant another table than when the backup began")


def rows_until_end(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Yield what `read` gives up to the line that ends COPY data, which must be its last."""
    # A row cannot look like the end: COPY doubles a backslash (manual, "COPY", "Text Format").
    # psql says nothing after it, so it can only stand at the end of what was read; what may be
    # its beginning is held back, everything else is passed on without being copied.
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
    """Return the COPY for a table, or for its pages from `first` up to before `last`.

    FROM ONLY, or an inheritance parent would give its children's rows too (trap D8); no upper bound
    for the last pages, or rows of a table that has grown would be lost (trap D9).
    """
    if first is None:
        return b"COPY %s (%s) TO STDOUT" % (table.sql, table.columns)
    condition = b"ctid >= '(%d,0)'" % first
    if last is not None:
        condition += b" AND ctid < '(%d,0)'" % last
    return b"COPY (SELECT %s FROM ONLY %s WHERE %s) TO STDOUT" % (
        table.columns, table.sql, condition,
    )  # fmt: skip
