"""Query the catalogs of the target about relations: keys, columns, children, privileges."""

from collections.abc import Sequence

from ...postgres import database_names
from ...postgres.connection import Connection
from ...sql.statements import Name

# Of what a statement may need, these can be looked up by their names.
_RELATIONS = frozenset({"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"})
_ROUTINES = frozenset({"FUNCTION", "PROCEDURE", "AGGREGATE"})
_TYPES = frozenset({"TYPE", "DOMAIN"})


def relation(connection: Connection, name: Name) -> int | None:
    """Return the identifier of a relation, None if it does not exist."""
    row = connection.execute(
        "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
        " ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        list(name),
    ).fetchone()
    return None if row is None else int(row[0])


def is_there(connection: Connection, kind: str, name: Name) -> bool:
    """Tell whether an object that a statement needs exists; True if unknown."""
    if kind in _RELATIONS:
        return relation(connection, name) is not None
    catalog, prefix = ("pg_proc", "pro") if kind in _ROUTINES else ("pg_type", "typ")
    if kind not in _ROUTINES | _TYPES:
        return True  # the server reports it, if it is missing
    query = (
        f"SELECT FROM pg_catalog.{catalog} o JOIN pg_catalog.pg_namespace n"
        f" ON n.oid = o.{prefix}namespace WHERE n.nspname = %s AND o.{prefix}name = %s LIMIT 1"
    )
    return connection.execute(query.encode(), list(name)).fetchone() is not None


def columns(connection: Connection, oid: int) -> list[str]:
    """Return the columns that can be filled."""
    rows = connection.execute(
        "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attnum > 0"
        " AND NOT attisdropped AND attgenerated = ''",
        [oid],
    )
    return [row[0] for row in rows]


def primary_key(connection: Connection, oid: int) -> list[str]:
    """Return the columns of the primary key, none where there is no such key."""
    rows = connection.execute(
        "SELECT a.attname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a"
        " ON a.attrelid = i.indrelid AND a.attnum = ANY"
        " ((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1])"  # not those that it only includes
        " WHERE i.indrelid = %s AND i.indisprimary",
        [oid],
    )
    return [row[0] for row in rows]


def tells_conflicts(connection: Connection, oid: int) -> bool:
    """Tell whether ON CONFLICT can find existing rows.

    It needs a unique index, and refuses to work where any constraint is deferrable.
    """
    row = connection.execute(
        "SELECT pg_catalog.bool_or(indisunique AND indpred IS NULL)"
        " AND pg_catalog.bool_and(indimmediate)"
        " FROM pg_catalog.pg_index WHERE indrelid = %s",
        [oid],
    ).fetchone()
    return row is not None and bool(row[0])


def unique_keys(connection: Connection, oid: int) -> list[dict[str, str]]:
    """Return the unique keys of whole columns, each column with the operator of its index."""
    rows = connection.execute(
        """
        SELECT i.indexrelid, a.attname,
               pg_catalog.format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)
        FROM pg_catalog.pg_index i
        CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(i.indkey::pg_catalog.int2[]),
            pg_catalog.unnest(i.indclass::pg_catalog.oid[]))
            WITH ORDINALITY AS k(attnum, class, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        JOIN pg_catalog.pg_opclass c ON c.oid = k.class
        JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amopstrategy = 3
            AND p.amoplefttype = c.opcintype AND p.amoprighttype = c.opcintype
        JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr
        JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
        WHERE i.indrelid = %s AND i.indisunique AND i.indimmediate AND i.indpred IS NULL
          AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
        """,
        [oid],
    )
    found: dict[int, dict[str, str]] = {}
    for index, column, operator in rows:
        found.setdefault(index, {})[column] = operator
    return list(found.values())


def is_deferrable(connection: Connection, oid: int) -> bool:
    """Tell whether the primary key is checked later: by it ON CONFLICT finds no row."""
    query = (
        "SELECT FROM pg_catalog.pg_index WHERE indrelid = %s AND indisprimary AND NOT indimmediate"
    )
    return connection.execute(query, [oid]).fetchone() is not None


def oids(connection: Connection, names: Sequence[Name]) -> list[int]:
    """Return the identifiers of relations, of those that exist."""
    found = (relation(connection, name) for name in names)
    return [oid for oid in found if oid is not None]


def belongings(connection: Connection, oid: int) -> set[str]:
    """Return the names of a relation's constraints, policies and rules."""
    rows = connection.execute(
        "SELECT conname FROM pg_catalog.pg_constraint WHERE conrelid = %(oid)s"
        " UNION ALL SELECT polname FROM pg_catalog.pg_policy WHERE polrelid = %(oid)s"
        " UNION ALL SELECT rulename FROM pg_catalog.pg_rewrite WHERE ev_class = %(oid)s",
        {"oid": oid},
    )
    return {row[0] for row in rows}


def privileges_taken(connection: Connection, names: Sequence[Name]) -> list[str]:
    """Return what gives relations the privileges that they have by nature: all to their owner."""
    rows = connection.execute(
        """
        SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %%s %%I.%%I FROM %%s', o.kind, n.nspname,
                   c.relname, CASE a.grantee WHEN 0 THEN 'PUBLIC'
                   ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END),
               pg_catalog.format('GRANT ALL ON %%s %%I.%%I TO %%I', o.kind, n.nspname,
                   c.relname, pg_catalog.pg_get_userbyid(c.relowner))
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
        CROSS JOIN LATERAL (VALUES (CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END))
            AS o(kind)
        WHERE c.oid = ANY (%s)
        """,
        [oids(connection, names)],
    ).fetchall()
    return [row[0] for row in rows] + sorted({row[1] for row in rows})


def children(connection: Connection, names: Sequence[Name]) -> set[Name]:
    """Return the partitions and the tables that inherit."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_inherits i"
        " JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE i.inhparent = ANY (%s)",
        [oids(connection, names)],
    )
    return {(row[0], row[1]) for row in rows}


def partition_roots(connection: Connection) -> dict[Name, Name]:
    """Return the partitioned table of each partition that has rows of its own."""
    rows = connection.execute(
        """
        SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
               m.nspname::pg_catalog.text, r.relname::pg_catalog.text
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_class r ON r.oid = pg_catalog.pg_partition_root(c.oid)
        JOIN pg_catalog.pg_namespace m ON m.oid = r.relnamespace
        WHERE c.relispartition AND c.relkind = 'r'
        """
    )
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


def is_partitioned(connection: Connection, oid: int) -> bool:
    """Tell whether a relation is a partitioned table."""
    query = "SELECT FROM pg_catalog.pg_class WHERE oid = %s AND relkind = 'p'"
    return connection.execute(query, [oid]).fetchone() is not None


def around(connection: Connection, names: Sequence[Name]) -> list[int]:
    """Return tables with those that refer to them, that they refer to, and their parents."""
    rows = connection.execute(
        """
        SELECT pg_catalog.unnest(ARRAY[conrelid, confrelid]) FROM pg_catalog.pg_constraint
        WHERE contype = 'f' AND (conrelid = ANY (%(oids)s) OR confrelid = ANY (%(oids)s))
        UNION SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = ANY (%(oids)s)
        UNION SELECT pg_catalog.unnest(%(oids)s::pg_catalog.oid[])
        """,
        {"oids": oids(connection, names)},
    )
    return [row[0] for row in rows]


def in_schema(connection: Connection, schema: str) -> list[tuple[str, str]]:
    """Return what a schema has by kind and name; constraints follow their indexes."""
    rows = connection.execute(
        """
        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'INDEX' END, c.relname
        FROM pg_catalog.pg_class c WHERE c.relnamespace = %(schema)s::pg_catalog.regnamespace
          AND c.relkind IN ('i', 'I', 'S')
        UNION ALL
        SELECT 'TABLE', relname FROM pg_catalog.pg_class
        WHERE relnamespace = %(schema)s::pg_catalog.regnamespace AND relkind IN ('r', 'p')
        UNION ALL
        SELECT 'STATISTICS', stxname FROM pg_catalog.pg_statistic_ext
        WHERE stxnamespace = %(schema)s::pg_catalog.regnamespace
        """,
        {"schema": schema},
    )
    return [(row[0], row[1]) for row in rows]


def free_name(connection: Connection, schema: str, name: str) -> str:
    """Return a name that no relation and no statistics of a schema has."""
    candidate = database_names.derived(name, "")
    number = 1
    while (
        connection.execute(
            """
        SELECT FROM pg_catalog.pg_class WHERE relname = %(name)s
          AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
        UNION ALL
        SELECT FROM pg_catalog.pg_statistic_ext WHERE stxname = %(name)s
          AND stxnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
        """,
            {"name": candidate, "schema": schema},
        ).fetchone()
        is not None
    ):
        number += 1
        candidate = database_names.derived(name, f"_{number}")
    return candidate
