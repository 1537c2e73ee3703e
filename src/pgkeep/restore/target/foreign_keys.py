"""Order the loading of rows into tables that already have their foreign keys."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ...postgres.connection import Connection


class ForeignKey(NamedTuple):
    """A constraint, between whole partitioned tables where it is on one."""

    table: int  # OID of the referring table
    referenced: int  # OID of the table that it refers to
    defer: str | bytes  # SQL that has it checked at the end of the transaction
    reset: str | bytes  # SQL that makes it again what it was


def tables(connection: Connection, codec: str) -> dict[tuple[str, str], int]:
    """Return the OID of each table by schema and name; of a partition that of its root."""
    rows = connection.execute(
        """
        SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
               coalesce(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, c.oid)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p')
        """
    )
    return {(_text(schema, codec), _text(name, codec)): oid for schema, name, oid in rows}


def foreign_keys(connection: Connection) -> list[ForeignKey]:
    """Return the foreign keys of the database, those of partitions as parts of their root's."""
    rows = connection.execute(
        """
        SELECT k.conrelid, k.confrelid, a.sql || 'DEFERRABLE INITIALLY DEFERRED',
               a.sql || CASE WHEN k.condeferred THEN 'DEFERRABLE INITIALLY DEFERRED'
                             WHEN k.condeferrable THEN 'DEFERRABLE INITIALLY IMMEDIATE'
                             ELSE 'NOT DEFERRABLE' END
        FROM (SELECT conrelid AS oid, conname, condeferred, condeferrable,
                     coalesce(pg_catalog.pg_partition_root(conrelid)::pg_catalog.oid, conrelid)
                         AS conrelid,
                     coalesce(pg_catalog.pg_partition_root(confrelid)::pg_catalog.oid, confrelid)
                         AS confrelid
              FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conparentid = 0) k
        JOIN pg_catalog.pg_class c ON c.oid = k.oid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL pg_catalog.format(
            'ALTER TABLE %I.%I ALTER CONSTRAINT %I ', n.nspname, c.relname, k.conname) AS a(sql)
        """
    )
    return [ForeignKey(*row) for row in rows]


def order(tables: Iterable[int], keys: Sequence[ForeignKey]) -> dict[int, int]:
    """Return each table's place: after those that it refers to, where there is no circle."""
    refers: dict[int, list[int]] = {}
    for key in keys:
        refers.setdefault(key.table, []).append(key.referenced)
    places: dict[int, int] = {}
    begun: set[int] = set()
    for table in tables:
        stack = [table]
        while stack:
            current = stack[-1]
            if current not in begun:
                begun.add(current)
                stack += [
                    referenced for referenced in refers.get(current, ()) if referenced not in begun
                ]
            else:
                stack.pop()
                places.setdefault(current, len(places))
    return places


def unsatisfied(
    keys: Sequence[ForeignKey], places: Mapping[int, int], parts: Mapping[int, int]
) -> list[ForeignKey]:
    """Return the keys that no order satisfies: in circles, or within a table of several parts."""
    return [
        key
        for key in keys
        if key.table in places
        and (
            places[key.referenced] > places[key.table]
            or (key.referenced == key.table and parts.get(key.table, 0) > 1)
        )
    ]


def _text(value: Any, codec: str) -> str:
    """Return a name; psycopg leaves it bytes where the client's encoding is SQL_ASCII."""
    return value.decode(codec, "backslashreplace") if isinstance(value, bytes) else value
