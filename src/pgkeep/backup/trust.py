"""Decide which tables a query can read safely: planning it runs functions of the table's owner.

The planner simplifies the expressions of all indexes and statistics of a table, and calls immutable
functions in them as the role that runs the query. COPY of a complete table is not planned and calls
none (trap G2.2). An index can be created, and a schema renamed, at any time. Therefore the decision
depends on what the owners could do, not on what exists.
"""

from collections.abc import Collection

from ..postgres.connection import Connection

PG_DATABASE_OWNER = 6171  # pg_authid.dat

_SAFE = """
SELECT c.oid
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
WHERE c.oid = ANY (%(tables)s)
  AND pg_catalog.pg_has_role(c.relowner, current_user, 'MEMBER')
  AND pg_catalog.pg_has_role(
      CASE n.nspowner WHEN %(database_owner)s THEN d.datdba ELSE n.nspowner END,
      current_user, 'MEMBER')
  AND NOT EXISTS (
      SELECT FROM (
          SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, indexrelid
          FROM pg_catalog.pg_index WHERE indrelid = c.oid
          UNION ALL
          SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, oid
          FROM pg_catalog.pg_statistic_ext WHERE stxrelid = c.oid) AS i(classid, objid)
      JOIN pg_catalog.pg_depend x ON x.classid = i.classid AND x.objid = i.objid
      LEFT JOIN pg_catalog.pg_operator o ON o.oid = x.refobjid
           AND x.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
      JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode OR p.oid = x.refobjid
           AND x.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
      WHERE NOT pg_catalog.pg_has_role(p.proowner, current_user, 'MEMBER'))
"""


def may_be_queried(connection: Connection, tables: Collection[int]) -> set[int]:
    """Return the tables that are controlled only by roles that the current role can act as."""
    rows = connection.execute(_SAFE, {"tables": list(tables), "database_owner": PG_DATABASE_OWNER})
    return {row[0] for row in rows}
