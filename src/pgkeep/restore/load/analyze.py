"""Analyze or vacuum all tables of a loaded database, the largest first, by several sessions."""

from collections.abc import Sequence

import psycopg

from ...task_group import TaskGroup, for_each
from .session import Session

# A partition is analyzed with its root, unless a foreign table there may end that early.
_STATEMENTS = """
SELECT pg_catalog.convert_to(pg_catalog.format('%%s %%I.%%I', %s::pg_catalog.text, n.nspname,
                                               c.relname),
                             pg_catalog.getdatabaseencoding())
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND (c.relkind IN ('r', 'm', 'p') AND NOT c.relispartition
       OR c.relkind = 'r' AND pg_catalog.pg_partition_root(c.oid) IN (
           SELECT pg_catalog.pg_partition_root(f.oid) FROM pg_catalog.pg_class f
           WHERE f.relkind = 'f' AND f.relispartition))
ORDER BY CASE c.relkind
    WHEN 'p' THEN (SELECT sum(pg_catalog.pg_relation_size(t.relid))
                   FROM pg_catalog.pg_partition_tree(c.oid) t)
    ELSE pg_catalog.pg_relation_size(c.oid) END DESC NULLS LAST
"""


def analyze(sessions: Sequence[Session], *, vacuum: bool = False) -> list[str]:
    """Collect statistics; with `vacuum` also freeze rows and write visibility maps.

    Return what the server refused: no reason to lose a restore.
    """
    warnings: list[str] = []

    def execute(statement: bytes, session: Session, _: TaskGroup) -> None:
        try:
            session.connection.execute(statement)
        except psycopg.Error as error:
            if session.connection.closed:
                raise
            what = statement.decode("utf-8", "replace")
            warnings.append(f"{what}: {error.diag.message_primary}")

    def for_each_table(command: str) -> None:
        statements = [row[0] for row in sessions[0].connection.execute(_STATEMENTS, [command])]
        for_each(statements, sessions, execute, name="analyze", cancel=Session.cancel)

    if vacuum:
        # Not VACUUM (ANALYZE): ANALYZE holds a snapshot, and the snapshot of one session keeps
        # the rows from being frozen by another while an older transaction runs anywhere.
        for_each_table("VACUUM (FREEZE)")
    for_each_table("ANALYZE")
    return warnings
