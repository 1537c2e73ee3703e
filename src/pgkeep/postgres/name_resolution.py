"""Objects that change their meaning, or fail, when their SQL is read with an empty search path.

pg_dump's SQL is read with an empty search path. Operators that it cannot name are found in the
catalogs (see node_trees.py). The backup records which operators were meant, so that a drill can
compare them.
"""

from collections.abc import Iterable, Mapping, Sequence

from ..model.manifest import Operators, Resolution
from ..sql import node_trees
from .connection import Connection
from .facts import shared_rows

BODIES_SINCE = 140000  # SQL function bodies and statistics on expressions are stored as trees
ROW_FILTERS_SINCE = 150000  # of publications

Key = tuple[int, int]  # of pg_depend: classid and objid

# Every stored expression in a dump: the object whose dependencies it has, its parent, its name.
_EXPRESSIONS = """
SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass::pg_catalog.oid AS classid, r.oid AS objid,
       'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid AS holder_class,
       r.ev_class AS holder,
       CASE WHEN r.rulename <> '_RETURN'
           THEN pg_catalog.format('rule %%I of %%s', r.rulename, r.ev_class::pg_catalog.regclass)
           WHEN c.relkind = 'm'
           THEN 'materialized view ' || r.ev_class::pg_catalog.regclass::pg_catalog.text
           ELSE 'view ' || r.ev_class::pg_catalog.regclass::pg_catalog.text END AS name,
       t.tree
FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
CROSS JOIN LATERAL (VALUES (r.ev_action), (r.ev_qual)) AS t(tree)
UNION ALL
SELECT k.classid, k.objid, 'pg_catalog.pg_class'::pg_catalog.regclass, d.adrelid,
       pg_catalog.format('column %%s.%%I', d.adrelid::pg_catalog.regclass, a.attname), d.adbin
FROM pg_catalog.pg_attrdef d
JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
-- Before 15 a generated column itself depends on what its expression uses.
CROSS JOIN LATERAL (VALUES
    ('pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid, d.oid),
    ('pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, d.adrelid)) AS k(classid, objid)
UNION ALL
SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, o.oid,
       CASE o.contypid WHEN 0 THEN 'pg_catalog.pg_class'::pg_catalog.regclass
           ELSE 'pg_catalog.pg_type'::pg_catalog.regclass END,
       CASE o.contypid WHEN 0 THEN o.conrelid ELSE o.contypid END,
       pg_catalog.format('constraint %%I of %%s', o.conname, CASE o.contypid
           WHEN 0 THEN o.conrelid::pg_catalog.regclass::pg_catalog.text
           ELSE o.contypid::pg_catalog.regtype::pg_catalog.text END), o.conbin
FROM pg_catalog.pg_constraint o WHERE o.conbin IS NOT NULL AND (o.contypid <> 0 OR o.conislocal)
UNION ALL
SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass, g.oid,
       'pg_catalog.pg_class'::pg_catalog.regclass, g.tgrelid,
       pg_catalog.format('trigger %%I of %%s', g.tgname, g.tgrelid::pg_catalog.regclass), g.tgqual
FROM pg_catalog.pg_trigger g WHERE g.tgqual IS NOT NULL AND NOT g.tgisinternal
UNION ALL
SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid,
       'pg_catalog.pg_class'::pg_catalog.regclass, i.indrelid,
       'index ' || i.indexrelid::pg_catalog.regclass::pg_catalog.text, t.tree
FROM pg_catalog.pg_index i CROSS JOIN LATERAL (VALUES (i.indexprs), (i.indpred)) AS t(tree)
UNION ALL
SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid,
       'pg_catalog.pg_class'::pg_catalog.regclass, p.polrelid,
       pg_catalog.format('policy %%I of %%s', p.polname, p.polrelid::pg_catalog.regclass), t.tree
FROM pg_catalog.pg_policy p
CROSS JOIN LATERAL (VALUES (p.polqual), (p.polwithcheck)) AS t(tree)
UNION ALL
SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, y.oid,
       'pg_catalog.pg_type'::pg_catalog.regclass, y.oid,
       'domain ' || y.oid::pg_catalog.regtype::pg_catalog.text, y.typdefaultbin
FROM pg_catalog.pg_type y WHERE y.typdefaultbin IS NOT NULL
UNION ALL
SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, f.oid,
       'pg_catalog.pg_proc'::pg_catalog.regclass, f.oid,
       'function ' || f.oid::pg_catalog.regprocedure::pg_catalog.text, t.tree
FROM pg_catalog.pg_proc f CROSS JOIN LATERAL (VALUES (f.proargdefaults){body}) AS t(tree)
"""
_BODY = ", (f.prosqlbody)"
_STATISTICS = """
UNION ALL
SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, s.oid,
       'pg_catalog.pg_class'::pg_catalog.regclass, s.stxrelid,
       pg_catalog.format('statistics %%I.%%I', n.nspname, s.stxname), s.stxexprs
FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
"""
_ROW_FILTERS = """
UNION ALL
SELECT 'pg_catalog.pg_publication_rel'::pg_catalog.regclass, l.oid,
       'pg_catalog.pg_class'::pg_catalog.regclass, l.prrelid,
       pg_catalog.format('publication %%I of %%s', b.pubname, l.prrelid::pg_catalog.regclass),
       l.prqual
FROM pg_catalog.pg_publication_rel l JOIN pg_catalog.pg_publication b ON b.oid = l.prpubid
"""


def ambiguous(connection: Connection) -> list[Resolution]:
    """Find the objects whose SQL does not name all operators that they use.

    What uses an operator outside of pg_catalog depends on it, so most databases cost one look.
    """
    rows = connection.execute(
        """
        SELECT DISTINCT d.classid, d.objid FROM pg_catalog.pg_depend d
        WHERE d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
          AND d.deptype <> 'e' AND d.classid NOT IN (
              'pg_catalog.pg_operator'::pg_catalog.regclass,
              'pg_catalog.pg_amop'::pg_catalog.regclass,
              'pg_catalog.pg_opclass'::pg_catalog.regclass,
              'pg_catalog.pg_opfamily'::pg_catalog.regclass)
        """
    ).fetchall()
    return _resolutions(connection, [(classid, objid) for classid, objid in rows])


def resolved(connection: Connection, names: Iterable[str]) -> dict[str, Resolution]:
    """Return what existing objects of a restored database use, given their names."""
    wanted = set(names)
    if not wanted:
        return {}
    query = f"SELECT q.classid, q.objid, q.name FROM ({_expressions(connection)}) q WHERE %s"
    keys = {(row[0], row[1]): row[2] for row in shared_rows(connection, query, True)}
    existing = {key: Resolution(key, []) for key in keys.values() if key in wanted}
    found = _resolutions(connection, [key for key, name in keys.items() if name in wanted])
    return existing | {entry.object: entry for entry in found if entry.object in wanted}


def _expressions(connection: Connection) -> str:
    version = connection.info.server_version
    query = _EXPRESSIONS.replace("{body}", _BODY if version >= BODIES_SINCE else "")
    query += _STATISTICS if version >= BODIES_SINCE else ""
    return query + (_ROW_FILTERS if version >= ROW_FILTERS_SINCE else "")


def _resolutions(connection: Connection, keys: Sequence[Key]) -> list[Resolution]:
    if not keys:
        return []
    rows = shared_rows(
        connection,
        f"""
        SELECT q.name, q.tree::pg_catalog.text FROM ({_expressions(connection)}) q
        JOIN ROWS FROM (pg_catalog.unnest(%s::pg_catalog.oid[]),
                        pg_catalog.unnest(%s::pg_catalog.oid[])) AS k(classid, objid)
          ON k.classid = q.classid AND k.objid = q.objid
        WHERE q.tree IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_class t
            WHERE q.holder_class = 'pg_catalog.pg_class'::pg_catalog.regclass
              AND t.oid = q.holder AND t.relpersistence = 't')
          AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_depend d
            WHERE d.classid = q.holder_class AND d.objid = q.holder AND d.deptype = 'e')
        ORDER BY q.name
        """,
        [classid for classid, _ in keys],
        [objid for _, objid in keys],
    )
    uses: dict[str, list[node_trees.Use]] = {}
    for name, tree in rows:
        uses.setdefault(name, []).extend(node_trees.uses(tree))
    operators = _operators(
        connection, {oid for found in uses.values() for use in found for oid in use.operators}
    )
    schemas = {oid: schema for oid, (schema, _) in operators.items()}
    return [
        Resolution(name, _described(node_trees.unnamed(found, schemas), operators))
        for name, found in uses.items()
        if node_trees.unnamed(found, schemas)
    ]


def _operators(connection: Connection, oids: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Return the schema and the qualified name of each operator."""
    rows = shared_rows(
        connection,
        """
        SELECT o.oid, n.nspname, o.oid::pg_catalog.regoperator::pg_catalog.text
        FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
        WHERE o.oid = ANY (%s::pg_catalog.oid[])
        """,
        list(oids),
    )
    return {oid: (schema, name) for oid, schema, name in rows}


def _described(
    uses: Sequence[node_trees.Use], operators: Mapping[int, tuple[str, str]]
) -> list[Operators]:
    """Return each construct once with its operators; the order in a tree depends on the major."""
    found = {
        (use.construct, tuple(operators[oid] for oid in use.operators if oid in operators))
        for use in uses
    }
    return [
        Operators(construct, [name for _, name in named], sorted({schema for schema, _ in named}))
        for construct, named in sorted(found)
    ]
