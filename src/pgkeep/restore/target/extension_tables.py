"""Find which rows of extensions' configuration tables are in a dump (manual, 36.17.3)."""

from psycopg import sql

from ...postgres.connection import Connection
from ...sql.statements import Name


def conditions(connection: Connection) -> dict[int, bytes]:
    """Return, by OID of the table, the condition of those that have one, beginning with WHERE."""
    rows = connection.execute(
        """
        SELECT c.oid, pg_catalog.convert_to(c.condition, pg_catalog.getdatabaseencoding())
        FROM pg_catalog.pg_extension,
             ROWS FROM (pg_catalog.unnest(extconfig), pg_catalog.unnest(extcondition))
             AS c(oid, condition)
        """
    )
    return {oid: condition for oid, condition in rows if condition}


def has_rows(connection: Connection, table: Name, condition: bytes = b"") -> bool:
    """Tell whether a table has rows that would be in a dump of it."""
    rows = sql.SQL("SELECT FROM {} ").format(sql.Identifier(*table)).as_bytes(connection)
    row = connection.execute(b"SELECT EXISTS (%b%b)" % (rows, condition)).fetchone()
    return row is not None and bool(row[0])


def delete_rows(connection: Connection, table: Name, condition: bytes = b"") -> None:
    """Delete the rows that would be in a dump; those of the extension itself stay."""
    begin = sql.SQL("DELETE FROM ONLY {} ").format(sql.Identifier(*table)).as_bytes(connection)
    connection.execute(begin + condition)


def sequences(connection: Connection, table: int) -> set[Name]:
    """Return the sequences that columns of a table own."""
    rows = connection.execute(
        """
        SELECT n.nspname, c.relname FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND d.refobjid = %s AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
        """,
        [table],
    )
    return {(row[0], row[1]) for row in rows}
