"""Restore rows of one table: load all into a temporary table, insert those that are wanted."""

from collections.abc import Callable, Sequence

from psycopg import sql

from ... import errors as e
from ...postgres.connection import Connection
from ...progress import Progress
from ..load.session import Session
from ..target import relations
from . import where_condition
from .plan import Conflict, TablesPlan

ROWS = "pgkeep_rows"
Confirm = Callable[[int, int], bool]  # takes the rows that match, and those that were written


class RowMerge:
    """Merge rows of the backup into the existing table."""

    def __init__(self, plan: TablesPlan, session: Session) -> None:
        self._options = plan.options
        self._tables = plan.tables
        self._session = session
        (self._name,) = plan.tables.roots
        self._root = sql.Identifier(*self._name)
        self._alias = sql.Identifier(self._name[1])  # by which the condition may name the table
        self._columns = plan.tables.columns()

    def restore(self, progress: Progress, confirm: Confirm) -> tuple[int, int]:
        """Insert the rows; return how many match the condition, and how many were written.

        Raises:
            Refused: `confirm` says no.

        """
        connection = self._session.connection
        on_conflict = self._on_conflict(connection)
        if self._options.disable_triggers:
            connection.execute("SET LOCAL session_replication_role = replica")
        # From here on as in any session of the database: the condition, triggers and checks may
        # use operators and names of its own (trap G4.3).
        connection.execute("RESET search_path")
        progress.step("loading rows")
        self._load(connection, progress)
        connection.execute("RESET lc_monetary")  # for literals of the condition
        progress.step("inserting rows")
        columns = _list(self._columns)
        chosen = sql.SQL("FROM pg_temp.{} AS {} WHERE {}").format(
            sql.Identifier(ROWS), self._alias, where_condition.embedded(self._options.where)
        )
        query = sql.SQL("SELECT pg_catalog.count(*) {}").format(chosen)
        count = connection.execute(query).fetchone()
        assert count is not None  # noqa: S101 - count gives a row
        insert = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} {} {}").format(
            self._root, columns, columns, chosen, on_conflict
        )
        written = connection.execute(insert).rowcount
        if not confirm(count[0], written):
            connection.execute("ROLLBACK")
            raise e.Refused("cancelled: nothing was changed")
        return count[0], written

    def _load(self, connection: Connection, progress: Progress) -> None:
        connection.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA"
            ).format(sql.Identifier(ROWS), _list(self._columns), self._root)
        )
        temporary = sql.Identifier("pg_temp", ROWS)
        if self._options.where is not None:
            aliased = sql.SQL("{} AS {}").format(temporary, self._alias)
            where_condition.check(connection, aliased, self._options.where)
        target = temporary.as_bytes(connection)
        for name in self._tables.names:
            self._tables.copy(self._session, name, target, progress)

    def _on_conflict(self, connection: Connection) -> sql.Composable:
        oid = relations.relation(connection, self._name)
        assert oid is not None  # noqa: S101 - the plan has seen it
        key = relations.primary_key(connection, oid)
        match self._options.conflict:
            case Conflict.FAIL:
                return sql.SQL("")
            case Conflict.SKIP if relations.tells_conflicts(connection, oid):
                return sql.SQL("ON CONFLICT DO NOTHING")
            case Conflict.SKIP:
                return self._not_exists(key or self._columns)
            case Conflict.UPDATE:
                return self._update(key)

    def _not_exists(self, columns: Sequence[str]) -> sql.Composable:
        """Return what excludes rows that exist, where no unique index tells them.

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
            "AND NOT EXISTS (SELECT FROM {} {} AS pgkeep_live WHERE {} OPERATOR(pg_catalog.=) {})"
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
