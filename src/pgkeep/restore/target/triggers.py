"""Find triggers that fire while rows are loaded into existing tables, and what they changed."""

from collections.abc import Iterable, Mapping, Sequence
from enum import IntFlag

from ... import errors as e
from ...postgres.connection import Connection
from ...sql.encodings import codec

NAMED = 7  # in one message

# Tables of extensions may hold rows of their own.
_TABLES = """
SELECT pg_catalog.convert_to(n.nspname, pg_catalog.getdatabaseencoding()),
       pg_catalog.convert_to(c.relname, pg_catalog.getdatabaseencoding()),
       coalesce(pg_catalog.pg_partition_root(c.oid), c.oid)::pg_catalog.regclass::pg_catalog.text,
       pg_catalog.format('SELECT pg_catalog.count(*) FROM ONLY %I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
      AND d.deptype = 'e')
ORDER BY c.oid
"""


class Event(IntFlag):
    """What a trigger fires on, as pg_trigger.tgtype has it."""

    INSERT = 4
    UPDATE = 16


def firing(
    connection: Connection, oids: Iterable[int], events: Event, *, replica: bool = False
) -> dict[str, list[str]]:
    """Return the triggers of tables and their partitions that will fire, by table.

    With session_replication_role = replica only those do that are made for it (manual, "ALTER
    TABLE", "ENABLE REPLICA TRIGGER").
    """
    rows = connection.execute(
        """
        SELECT DISTINCT t.tgrelid::pg_catalog.regclass::pg_catalog.text, t.tgname::pg_catalog.text
        FROM pg_catalog.unnest(%s::pg_catalog.oid[]) AS r(oid)
        CROSS JOIN LATERAL (
            SELECT r.oid AS relid UNION
            SELECT p.relid FROM pg_catalog.pg_partition_tree(r.oid) p) AS tree
        JOIN pg_catalog.pg_trigger t ON t.tgrelid = tree.relid
        WHERE NOT t.tgisinternal AND t.tgenabled = ANY (%s::pg_catalog."char"[])
          AND t.tgtype::pg_catalog.int4 & %s::pg_catalog.int4 <> 0
        ORDER BY 1, 2
        """,
        [list(oids), ["R", "A"] if replica else ["O", "A"], int(events)],
    )
    found: dict[str, list[str]] = {}
    for table, name in rows:
        found.setdefault(table, []).append(name)
    return found


def listed(found: Mapping[str, Sequence[str]]) -> str:
    """Name triggers with their tables, the first ones of many."""
    names = [f"{name} of {table}" for table, of_table in found.items() for name in of_table]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def compare(connection: Connection, rows: Mapping[tuple[str, str], int]) -> None:
    """Compare tables that were filled with the numbers of rows that they must have.

    A partition's rows may lie in another one than in the source: what counts is their sum.

    Raises:
        RestoreFailed: a trigger has added or removed rows.

    """
    expected: dict[str, int] = {}
    found: dict[str, int] = {}
    encoding = codec(connection.info.parameter_status("server_encoding") or "UTF8")
    for *names, root, statement in connection.execute(_TABLES).fetchall():
        schema, name = (name.decode(encoding, "backslashreplace") for name in names)
        if (schema, name) in rows:
            row = connection.execute(statement).fetchone()
            expected[root] = expected.get(root, 0) + rows[schema, name]
            found[root] = found.get(root, 0) + (row[0] if row is not None else 0)
    for root, count in found.items():
        if count != expected[root]:
            raise e.RestoreFailed(
                f"table {root} has {count} rows after loading, the backup has {expected[root]}: a"
                " trigger has added or removed rows; nothing was changed",
                hint="Use --disable-triggers, or disable the trigger first.",
            )
