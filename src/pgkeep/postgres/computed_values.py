"""Values that a dump does not contain: stored generated columns and rows of materialized views.

A restore computes them again, possibly with other results (trap G4.2). Both sides are read in COPY
format. The BLAKE2 hashes of all rows are added, so that their order does not matter. Backups need
this without numpy, which sketch.py uses.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from ..model.manifest import Computed
from .connection import Connection
from .snapshot import Table

SIZE = 16  # bytes of a hash
LOCK_MILLISECONDS = 1000  # do not wait for a refresh that is running

_GENERATED = """
SELECT a.attrelid, pg_catalog.convert_to(
    pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum),
    pg_catalog.getdatabaseencoding())
FROM pg_catalog.pg_attribute a
WHERE a.attgenerated = 's' AND NOT a.attisdropped AND a.attrelid = ANY (%s)
GROUP BY a.attrelid
"""
_VIEWS = """
SELECT c.oid, pg_catalog.convert_to(pg_catalog.format('%I.%I', n.nspname, c.relname),
                                    pg_catalog.getdatabaseencoding())
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND c.relispopulated
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.oid
"""
# A refresh writes a new file, whose rows older snapshots see too.
_REFRESHED = (
    "SELECT c.relfilenode <> pg_catalog.pg_relation_filenode(c.oid)"
    " FROM pg_catalog.pg_class c WHERE c.oid = %s"
)


@dataclass(frozen=True, slots=True)
class ComputedRelation:
    """What to read: generated columns of tables that count as one, or a materialized view."""

    relation: bytes  # SQL in the database's own encoding, as the other fields
    columns: bytes
    parts: tuple[bytes, ...]  # tables; a partitioned table's rows may lie in other ones elsewhere
    view: int | None  # OID of a materialized view

    @property
    def statements(self) -> Iterator[bytes]:
        """Yield the statements that read the values."""
        if self.view is not None:
            yield b"COPY (TABLE %s) TO STDOUT" % self.relation
        for part in self.parts:
            yield b"COPY (SELECT %s FROM ONLY %s) TO STDOUT" % (self.columns, part)

    def label(self, codec: str) -> str:
        """Return a name for messages."""
        name = self.relation.decode(codec, "backslashreplace")
        return f"materialized view {name}" if self.view is not None else f"table {name}"


def targets(connection: Connection, tables: Sequence[Table]) -> list[ComputedRelation]:
    """List such values of a database; `tables` are those whose rows can be read."""
    columns: dict[int, bytes] = dict(
        connection.execute(_GENERATED, [[table.oid for table in tables]]).fetchall()
    )
    grouped: dict[tuple[bytes, bytes], list[bytes]] = {}
    for table in tables:
        if table.oid in columns:
            grouped.setdefault((table.target, columns[table.oid]), []).append(table.sql)
    return [
        *(ComputedRelation(relation, listed, tuple(parts), None)
          for (relation, listed), parts in grouped.items()),
        *(ComputedRelation(relation, b"", (), oid) for oid, relation in connection.execute(_VIEWS)),
    ]  # fmt: skip


def readable(tables: Iterable[Table], *, in_recovery: bool) -> list[Table]:
    """Return the tables that contain rows and do not belong to an extension."""
    return [
        table
        for table in tables
        if table.kind == "r" and not table.extension and (table.logged or not in_recovery)
    ]


def read(
    connection: Connection,
    target: ComputedRelation,
    codec: str,
    check: Callable[[], None] = lambda: None,
) -> Computed | None:
    """Hash the values of one target; None if they are not those of the transaction's snapshot.

    The connection must use the encoding of the database.

    Raises:
        psycopg.Error: an error of the server; the transaction remains usable.

    """
    rows = total = 0
    # The rollback releases the locks that the query has taken, also on indexes.
    with connection.transaction(force_rollback=True), connection.cursor() as cursor:
        for statement in target.statements:
            with cursor.copy(statement) as copy:
                for row in copy:  # the server sends each row in its own message
                    rows += 1
                    total += int.from_bytes(hashlib.blake2b(row, digest_size=SIZE).digest())
                    if not rows & 0xFFF:
                        check()
        if target.view is not None:
            refreshed = cursor.execute(_REFRESHED, [target.view]).fetchone()
            if refreshed is None or refreshed[0]:
                return None
    return Computed(
        target.relation.decode(codec, "backslashreplace"),
        target.columns.decode(codec, "backslashreplace"),
        rows,
        (total % (1 << 8 * SIZE)).to_bytes(SIZE).hex(),
    )


def read_all(
    connection: Connection,
    listed: Sequence[ComputedRelation],
    codec: str,
    check: Callable[[], None],
) -> tuple[list[Computed], list[str]]:
    """Hash all targets in the connection's transaction; also return why some are skipped."""
    found: list[Computed] = []
    warnings: list[str] = []
    connection.execute(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}".encode())
    for target in listed:
        check()
        try:
            values = read(connection, target, codec, check)
            reason = "refreshed meanwhile"
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable) as error:
            values, reason = None, error.diag.message_primary or str(error)
        if values is not None:
            found.append(values)
        else:
            label = target.label(codec)
            warnings.append(f"hash of {label} not recorded, a drill will not compare it: {reason}")
    return found, warnings


def begin(connection: Connection, snapshot: str, encoding: str) -> None:
    """Begin a transaction with a snapshot, in the database's own encoding.

    A materialized view cannot be locked. If a view gets its name meanwhile, that view's functions
    would run as the role that backs up. A server that cannot reject views is therefore not read.
    """
    connection.execute("SET restrict_nonsystem_relation_kind = 'view, foreign-table'")
    connection.execute(sql.SQL("SET client_encoding = {}").format(encoding))
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
