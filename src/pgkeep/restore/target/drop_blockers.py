"""Find what prevents tables from being dropped, in pg_depend as DROP TABLE does."""

from collections.abc import Sequence

from ...postgres.connection import Connection

# First what goes with the tables by itself (an index, a sequence of a column, the row type), then
# what depends on any of that, and what depends on this in turn. Of what is internal to another
# object (the rule of a view) that object is meant. Foreign keys that refer to the tables are
# dropped and made again by the restore.
_DEPENDENTS = """
WITH RECURSIVE dropped(classid, objid) AS (
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, t.oid
    FROM pg_catalog.unnest(%(tables)s::pg_catalog.oid[]) AS t(oid)
    UNION
    SELECT d.classid, d.objid FROM dropped o JOIN pg_catalog.pg_depend d
        ON d.refclassid = o.classid AND d.refobjid = o.objid
    WHERE d.deptype IN ('a', 'i', 'P', 'S') AND d.objsubid = 0
), blocking(classid, objid, objsubid, named) AS (
    SELECT d.classid, d.objid, d.objsubid, true FROM dropped o JOIN pg_catalog.pg_depend d
        ON d.refclassid = o.classid AND d.refobjid = o.objid
    WHERE d.deptype = 'n' AND (d.classid, d.objid) NOT IN (SELECT classid, objid FROM dropped)
      AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_constraint k
          WHERE d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = d.objid
            AND k.contype = 'f' AND k.confrelid = ANY (%(tables)s::pg_catalog.oid[]))
      AND NOT (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
               AND d.objid IN (SELECT inhrelid FROM pg_catalog.pg_inherits
                               WHERE inhparent = ANY (%(tables)s::pg_catalog.oid[])))
    UNION
    SELECT next.classid, next.objid, next.objsubid, next.named
    FROM blocking b CROSS JOIN LATERAL (
        SELECT d.classid, d.objid, d.objsubid, d.deptype = 'n' FROM pg_catalog.pg_depend d
        WHERE d.refclassid = b.classid AND d.refobjid = b.objid
          AND (b.objsubid = 0 OR d.refobjsubid = b.objsubid)
        UNION ALL
        SELECT d.refclassid, d.refobjid, d.refobjsubid, true FROM pg_catalog.pg_depend d
        WHERE d.classid = b.classid AND d.objid = b.objid AND d.deptype = 'i'
    ) AS next(classid, objid, objsubid, named)
    WHERE (next.classid, next.objid) NOT IN (SELECT classid, objid FROM dropped)
)
SELECT DISTINCT i.type || ' ' || i.identity
FROM blocking b CROSS JOIN LATERAL
    pg_catalog.pg_identify_object(b.classid, b.objid, b.objsubid) i
WHERE b.named AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = b.classid AND d.objid = b.objid AND d.deptype = 'i')
  AND (b.objsubid = 0 OR NOT EXISTS (  -- a column of what is named as a whole
    SELECT FROM blocking w
    WHERE w.classid = b.classid AND w.objid = b.objid AND w.objsubid = 0 AND w.named))
ORDER BY 1
"""


def find(connection: Connection, tables: Sequence[int]) -> list[str]:
    """Return what keeps tables from being dropped, each with its kind and qualified name."""
    rows = connection.execute(_DEPENDENTS, {"tables": list(tables)})
    return [row[0] for row in rows]
