"""Add foreign keys between a restored table and existing ones without blocking those for long.

ADD FOREIGN KEY locks both tables against writes while it reads all rows. NOT VALID does not read
them, and VALIDATE CONSTRAINT does so without such locks. So rows are checked before, the key is
added NOT VALID, and validated after the commit.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from ...postgres.connection import Connection
from ...sql import statements
from ...sql.statements import IDENTIFIER, Name
from . import relations

_LIST = rb"%b(?:, %b)*" % (IDENTIFIER, IDENTIFIER)
_KEY = re.compile(
    rb"ALTER TABLE (?:ONLY )?%b\s+ADD CONSTRAINT (?P<constraint>%b) FOREIGN KEY"
    rb" \((?P<columns>%b)\) REFERENCES (?P<to_schema>%b)\.(?P<to_name>%b)\((?P<to_columns>%b)\)"
    % (statements.QUALIFIED, IDENTIFIER, _LIST, IDENTIFIER, IDENTIFIER, _LIST)
)
_UNCHECKED = re.compile(rb"(?:NOT VALID|NOT ENFORCED)\s*;?\s*\Z")

# Their operator = of pg_catalog is the one with which the server compares them.
_COMPARABLE = """
SELECT pg_catalog.count(*), pg_catalog.count(DISTINCT NULLIF(a.attcollation, 0)),
       pg_catalog.bool_and(t.typtype = 'e'
           OR t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace)
FROM ROWS FROM (pg_catalog.unnest(%s::pg_catalog.oid[]), pg_catalog.unnest(%s::pg_catalog.text[]))
    AS c(relation, name)
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.relation AND a.attname = c.name
JOIN pg_catalog.pg_type d ON d.oid = a.atttypid
JOIN pg_catalog.pg_type t ON t.oid = coalesce(NULLIF(d.typbasetype, 0), d.oid)
"""

_FROM_ELSEWHERE = """
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, k.conname::pg_catalog.text,
       pg_catalog.format('ADD CONSTRAINT %%I %%s', k.conname,
                         pg_catalog.pg_get_constraintdef(k.oid)),
       c.relkind = 'p', x.nspname::pg_catalog.text, t.relname::pg_catalog.text,
       conditions.on_row, conditions.in_table
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class t ON t.oid = k.confrelid
JOIN pg_catalog.pg_namespace x ON x.oid = t.relnamespace
CROSS JOIN LATERAL (
    SELECT pg_catalog.string_agg(pg_catalog.format('k.%%I IS NOT NULL', f.attname), ' AND '),
           pg_catalog.string_agg(pg_catalog.format('r.%%I OPERATOR(%%I.%%s) k.%%I', p.attname,
                                 s.nspname, o.oprname, f.attname), ' AND ')
    FROM ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey),
                    pg_catalog.unnest(k.conpfeqop)) AS u(own, referenced, operator)
    JOIN pg_catalog.pg_attribute f ON f.attrelid = k.conrelid AND f.attnum = u.own
    JOIN pg_catalog.pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = u.referenced
    JOIN pg_catalog.pg_operator o ON o.oid = u.operator
    JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace
) AS conditions(on_row, in_table)
WHERE k.contype = 'f' AND k.conparentid = 0
  AND k.confrelid = ANY (%(oids)s) AND k.conrelid <> ALL (%(oids)s)
"""


class FromElsewhere(NamedTuple):
    """A foreign key of a table that stays, which refers to a table that is replaced."""

    table: Name
    constraint: str
    definition: str  # ADD CONSTRAINT ...
    partitioned: bool
    referenced: Name
    on_row: str  # conditions on a row k of the table, and on one r of the referenced table
    in_table: str

    @property
    def is_checkable(self) -> bool:
        """Whether a query of ours finds what the server would refuse, and NOT VALID exists."""
        return not self.partitioned and " PERIOD " not in self.definition

    @property
    def alter(self) -> sql.Composed:
        """The beginning of statements about its table."""
        return sql.SQL("ALTER TABLE {} ").format(sql.Identifier(*self.table))

    def violations(self, referenced: Name) -> sql.Composed:
        """Return a query for rows that refer to nothing in the table that comes."""
        return _violations(
            self.table,
            sql.SQL(self.on_row),
            referenced,
            sql.SQL(self.in_table),
        )


class Key(NamedTuple):
    """A foreign key in pg_dump's statement."""

    table: Name
    constraint: str
    columns: list[str]
    referenced: Name
    referenced_columns: list[str]

    def violations(self) -> sql.Composed:
        """Return a query for rows that refer to nothing."""
        equal = sql.SQL(" AND ").join(
            sql.SQL("r.{} OPERATOR(pg_catalog.=) k.{}").format(*map(sql.Identifier, pair))
            for pair in zip(self.referenced_columns, self.columns, strict=True)
        )
        given = sql.SQL(" AND ").join(
            sql.SQL("k.{} IS NOT NULL").format(sql.Identifier(column)) for column in self.columns
        )
        return _violations(self.table, given, self.referenced, equal)


def from_elsewhere(connection: Connection, tables: Sequence[Name]) -> list[FromElsewhere]:
    """Return the foreign keys of other tables that refer to these."""
    oids = relations.oids(connection, tables)
    rows = connection.execute(_FROM_ELSEWHERE, {"oids": oids})
    return [
        FromElsewhere(
            table=(row[0], row[1]), constraint=row[2], definition=row[3], partitioned=row[4],
            referenced=(row[5], row[6]), on_row=row[7], in_table=row[8],
        )
        for row in rows
    ]  # fmt: skip


def read(text: bytes, codec: str) -> Key | None:
    """Return the foreign key that a statement adds, None of one with a period (PostgreSQL 18)."""
    match = _KEY.search(text)
    if match is None:
        return None

    def names(part: str) -> list[str]:
        return [statements.unquoted(name, codec) for name in re.findall(IDENTIFIER, match[part])]

    referenced = (names("to_schema")[0], names("to_name")[0])
    return Key(
        statements.name_of(match, codec), names("constraint")[0], names("columns"), referenced,
        names("to_columns"),
    )  # fmt: skip


def not_valid(definition: bytes) -> bytes | None:
    """Return a statement that does not read the rows, None if it does not anyway."""
    if _UNCHECKED.search(definition):
        return None
    return definition.rstrip().removesuffix(b";") + b" NOT VALID;\n"


def may_be_checked(connection: Connection, key: Key) -> bool:
    """Tell whether a query of ours finds what the server would refuse, and NOT VALID exists."""
    own, other = (relations.relation(connection, name) for name in (key.table, key.referenced))
    if own is None or other is None or relations.is_partitioned(connection, own):
        return False
    columns = [*key.columns, *key.referenced_columns]
    oids = [own] * len(key.columns) + [other] * len(key.referenced_columns)
    row = connection.execute(_COMPARABLE, [oids, columns]).fetchone()
    return row is not None and row[0] == len(columns) and row[1] <= 1 and bool(row[2])


def is_violated(connection: Connection, query: sql.Composed) -> bool | None:
    """Tell whether a row refers to nothing; None if the role or the types do not allow to know."""
    try:
        with connection.transaction():
            # Where a table was replaced by a view, its owner's code would run (trap G2.2).
            connection.execute(
                "SELECT pg_catalog.set_config(name, 'view, foreign-table', true)"
                " FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'"
            )
            return connection.execute(query).fetchone() is not None
    except psycopg.Error:
        if connection.closed:
            raise
        return None


def validation(table: Name, constraint: str) -> sql.Composed:
    """Return the statement that reads the rows without keeping others from writing."""
    return sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
        sql.Identifier(*table), sql.Identifier(constraint)
    )


def _violations(
    table: Name, given: sql.Composable, referenced: Name, equal: sql.Composable
) -> sql.Composed:
    return sql.SQL(
        "SELECT FROM ONLY {} k WHERE {} AND NOT EXISTS (SELECT FROM {} r WHERE {}) LIMIT 1"
    ).format(sql.Identifier(*table), given, sql.Identifier(*referenced), equal)
