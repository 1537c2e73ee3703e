"""Suspend constraints that are NOT VALID: rows of the backup may violate them, new rows may not.

pg_dump adds them after the rows. Where the tables exist already, the same is done in the
transaction that loads the rows.
"""

from collections.abc import Iterable
from typing import NamedTuple

from ...postgres.connection import Connection

_FIND = """
SELECT k.conname || ' of ' || o.name, o.owned, o.alter || pg_catalog.format(
           'DROP CONSTRAINT %%I', k.conname),
       o.alter || pg_catalog.format('ADD CONSTRAINT %%I %%s', k.conname,
                                    pg_catalog.pg_get_constraintdef(k.oid)),
       pg_catalog.format('COMMENT ON CONSTRAINT %%I ON %%s%%s IS %%L', k.conname, o.kind, o.name,
                         pg_catalog.obj_description(k.oid, 'pg_constraint')),
       pg_catalog.obj_description(k.oid, 'pg_constraint') IS NOT NULL
FROM pg_catalog.pg_constraint k
CROSS JOIN LATERAL (
    SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), '',
           pg_catalog.pg_has_role(c.relowner, 'USAGE'),
           pg_catalog.format('ALTER TABLE %%I.%%I ', n.nspname, c.relname)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = k.conrelid
      AND coalesce(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, c.oid) = ANY (%s)
    UNION ALL
    SELECT pg_catalog.format('%%I.%%I', n.nspname, t.typname), 'DOMAIN ',
           pg_catalog.pg_has_role(t.typowner, 'USAGE'),
           pg_catalog.format('ALTER DOMAIN %%I.%%I ', n.nspname, t.typname)
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    WHERE t.oid = k.contypid
) AS o(name, kind, owned, alter)
WHERE NOT k.convalidated AND k.coninhcount = 0 AND k.conparentid = 0
  AND pg_catalog.pg_get_constraintdef(k.oid) LIKE '%% NOT VALID'
ORDER BY 1
"""


class Constraint(NamedTuple):
    """A constraint that is NOT VALID, of a table or of a domain."""

    name: str
    owned: bool  # by the role: only then it can be dropped and added again
    drop: str
    add: str
    comment: str
    has_comment: bool


def find(connection: Connection, tables: Iterable[int]) -> list[Constraint]:
    """Return those of these tables and of all domains; names are qualified."""
    return [Constraint(*row) for row in connection.execute(_FIND, [list(tables)])]


def warnings(found: Iterable[Constraint]) -> list[str]:
    """Say how rows are loaded that may violate them."""
    return [
        f"constraint {constraint.name} is NOT VALID, rows of the backup may violate it: "
        + (
            "they are loaded as they were"
            if constraint.owned
            else "the role is not the owner, so such rows would be refused"
        )
        for constraint in found
    ]


def drop(connection: Connection, found: Iterable[Constraint]) -> None:
    """Drop those that the role may drop."""
    for constraint in found:
        if constraint.owned:
            connection.execute(constraint.drop.encode())


def add(connection: Connection, found: Iterable[Constraint]) -> None:
    """Add those again that were dropped, NOT VALID as they were."""
    for constraint in found:
        if constraint.owned:
            connection.execute(constraint.add.encode())
            if constraint.has_comment:
                connection.execute(constraint.comment.encode())
