"""Restore rows of one table: load all into a temporary table, count, insert those that are wanted.

Nothing of the database is locked, and no transaction is open, before the rows are written.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from psycopg import sql

from ... import errors as e
from ...postgres.connection import Connection
from ...progress import Progress
from ..load.session import Session
from ..target import locks, relations
from . import where_condition
from .plan import Conflict, TablesPlan

ROWS = "pgkeep_rows"


class MergeCount(NamedTuple):
    """What a merge of rows will do, as far as it can be known before."""

    chosen: int  # rows of the backup for which the condition is true
    existing: int  # of them, that the table has by one of its unique keys
    conflict: Conflict

    @property
    def written(self) -> int:
        """Rows that will be inserted or updated."""
        return self.chosen - (self.existing if self.conflict == Conflict.SKIP else 0)


Confirm = Callable[[MergeCount], bool]


class RowMerge:
    """Merge rows of the backup into the existing table."""

    def __init__(self, plan: TablesPlan, session: Session) -> None:
        self._options = plan.options
        self._tables = plan.tables
        self._session = session
        self._connection = session.connection
        (self._name,) = plan.tables.roots
        self._root = sql.Identifier(*self._name)
        self._alias = sql.Identifier(self._name[1])  # by which the condition may name the table
        self._columns = plan.tables.columns()
        oid = relations.relation(self._connection, self._name)
        assert oid is not None  # noqa: S101 - the plan has seen it
        self._oid = oid
        self._key = relations.primary_key(self._connection, oid)
        self._tells_conflicts = relations.tells_conflicts(self._connection, oid)
        self._unique = relations.unique_keys(self._connection, oid)
        self._chosen = sql.SQL("FROM pg_temp.{} AS {} WHERE {}").format(
            sql.Identifier(ROWS), self._alias, where_condition.embedded(self._options.where)
        )

    def load(self, progress: Progress) -> None:
        """Load all rows into a temporary table, which locks nothing that others use."""
        # From here on as in any session of the database: the condition, triggers and checks may
        # use operators and names of its own (trap G4.3).
        self._connection.execute("RESET search_path")
        progress.step("loading rows")
        self._load(self._connection, progress)
        self._connection.execute("RESET lc_monetary")  # for literals of the condition

    def count(self) -> MergeCount:
        """Count the rows that match, and those that exist, without locks that last."""
        existing = self._exist()
        query = sql.SQL("SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE {}) {}")
        row = self._connection.execute(query.format(existing, self._chosen)).fetchone()
        assert row is not None  # noqa: S101 - count gives a row
        return MergeCount(row[0], row[1], self._options.conflict)

    def write(self, progress: Progress, expected: MergeCount) -> int:
        """Write the rows in an open transaction; return how many were written.

        Raises:
            RestoreFailed: more rows than were counted, or locks were not available.

        """
        progress.step("inserting rows")
        columns = _list(self._columns)
        insert = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} {} {}").format(
            self._root, columns, columns, self._chosen, self._on_conflict()
        )
        if self._options.disable_triggers:
            self._connection.execute("SET LOCAL session_replication_role = replica")
        written = locks.within(
            self._connection, self._options.lock_timeout,
            lambda: self._connection.execute(insert).rowcount, lambda: [self._oid],
        )  # fmt: skip
        if written > expected.written:
            raise e.RestoreFailed(
                f"{written} rows would be written, expected {expected.written}: the table has"
                " changed since they were counted; nothing was changed"
            )
        return written

    def _exist(self) -> sql.Composable:
        """Return the condition that a row exists."""
        match self._options.conflict:
            case Conflict.SKIP if not self._tells_conflicts:
                return self._exists(self._key or self._columns)
            case Conflict.UPDATE:
                keys = [key for key in self._unique if set(key) == set(self._key)]
            case _:
                keys = self._unique
        found = [
            sql.SQL("EXISTS (SELECT FROM {} AS pgkeep_live WHERE {})").format(
                self._root,
                sql.SQL(" AND ").join(
                    sql.SQL("pgkeep_live.{0} {2} {1}.{0}").format(
                        sql.Identifier(column), self._alias, sql.SQL(operator)
                    )
                    for column, operator in key.items()
                ),
            )
            for key in keys
            if set(key) <= set(self._columns)
        ]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(found) if found else sql.SQL("false"))

    def _load(self, connection: Connection, progress: Progress) -> None:
        connection.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE {} ON COMMIT PRESERVE ROWS AS"
                " SELECT {} FROM {} WITH NO DATA"
            ).format(sql.Identifier(ROWS), _list(self._columns), self._root)
        )
        temporary = sql.Identifier("pg_temp", ROWS)
        if self._options.where is not None:
            aliased = sql.SQL("{} AS {}").format(temporary, self._alias)
            where_condition.check(connection, aliased, self._options.where)
        target = temporary.as_bytes(connection)
        for name in self._tables.names:
            self._tables.copy(self._session, name, target, progress)

    def _on_conflict(self) -> sql.Composable:
        match self._options.conflict:
            case Conflict.FAIL:
                return sql.SQL("")
            case Conflict.SKIP if self._tells_conflicts:
                return sql.SQL("ON CONFLICT DO NOTHING")
            case Conflict.SKIP:
                return sql.SQL("AND NOT {}").format(self._exist())
            case Conflict.UPDATE:
                return self._update(self._key)

    def _exists(self, columns: Sequence[str]) -> sql.Composable:
        """Return the condition that a row exists, where no unique index tells.

        Without a key nothing tells rows apart but all of their columns; as text, for not every
        type can be compared. That is a hash join, and one column list for both.
        """
        row = sql.SQL("ROW({})::pg_catalog.text")
        mine, theirs = (
            row.format(
                sql.SQL(", ").join(
                    sql.SQL("{}.{}").format(alias, sql.Identifier(column)) for column in columns
                )
            )
            for alias in (self._alias, sql.Identifier("pgkeep_live"))
        )
        return sql.SQL(
            "EXISTS (SELECT FROM {} {} AS pgkeep_live WHERE {} OPERATOR(pg_catalog.=) {})"
        ).format(sql.SQL("" if len(self._tables.names) > 1 else "ONLY"), self._root, mine, theirs)

    def _update(self, key: Sequence[str]) -> sql.Composable:
        sets = [
            sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(column))
            for column in self._columns
            if column not in key
        ]
        if not sets:
            return sql.SQL("ON CONFLICT ({}) DO NOTHING").format(_list(key))
        return sql.SQL("ON CONFLICT ({}) DO UPDATE SET {}").format(
            _list(key), sql.SQL(", ").join(sets)
        )


def _list(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
