"""Detect changes of names and functions, which a dump reads outside its snapshot.

A lock on a table prevents others from renaming it, but not from renaming its schema: `schema.table`
can become another relation while a dump reads it (trap G2.1). Each change of a catalog row creates
a new row version with another xmin. A row with the same xmin at two times had the same name all
the time in between; the same name at both times alone proves nothing.

pg_dump reads arguments and SQL bodies of functions with server functions that see the newest
catalogs. Of a function that was dropped, it dumps a part without an error (trap G2.6).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from .. import errors as e
from .facts import shared_rows

# Since PostgreSQL 18, pg_dump reads sequences by their OIDs (pg_get_sequence_data).
SEQUENCES_BY_OID_SINCE = 180000

_VERSIONS = """
SELECT 'schema', n.oid, n.xmin::pg_catalog.text,
       pg_catalog.convert_to(pg_catalog.quote_ident(n.nspname), e.name)
FROM pg_catalog.pg_namespace n CROSS JOIN pg_catalog.getdatabaseencoding() AS e(name)
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT 'function', p.oid, p.xmin::pg_catalog.text,
       pg_catalog.convert_to(pg_catalog.format('%I.%I', n.nspname, p.proname), e.name)
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
CROSS JOIN pg_catalog.getdatabaseencoding() AS e(name)
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""
# Nobody locks a sequence, so the sequence itself can be renamed.
_SEQUENCES = """
UNION ALL
SELECT 'sequence', c.oid, c.xmin::pg_catalog.text,
       pg_catalog.convert_to(pg_catalog.format('%I.%I', n.nspname, c.relname), e.name)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN pg_catalog.getdatabaseencoding() AS e(name)
WHERE c.relkind = 'S' AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

_HINT = "Run the backup when no migration is running, or increase --lock-timeout."


class Moved(e.DumpFailed):
    """A name changed its meaning, so that another relation may have been read."""

    def __init__(self, what: str) -> None:
        super().__init__(what, hint=_HINT)


@dataclass(frozen=True, slots=True)
class Names:
    """The versions of the catalog rows by which names are found."""

    versions: Mapping[tuple[str, int], tuple[str, str]]  # (kind, OID) -> (xmin, name)

    def moved(self, now: "Names") -> list[str]:
        """Return the names whose row has changed.

        A schema that was dropped contained no table of ours, because ours are locked. Its functions
        and sequences were dropped with it.
        """
        return [
            f"{kind} {name}"
            for (kind, oid), (xmin, name) in self.versions.items()
            if now.versions.get((kind, oid), (xmin if kind == "schema" else None,))[0] != xmin
        ]


def read(connection: "psycopg.Connection[Any]", codec: str) -> Names:
    """Read the versions as of the connection's snapshot."""
    query = _VERSIONS
    if connection.info.server_version < SEQUENCES_BY_OID_SINCE:
        query += _SEQUENCES
    rows = connection.execute(query.encode()).fetchall()
    return Names(
        {
            (kind, oid): (xmin, name.decode(codec, "backslashreplace"))
            for kind, oid, xmin, name in rows
        }
    )


def check(names: Names, connection: "psycopg.Connection[Any]", codec: str) -> None:
    """Raise Moved if any name has changed since; requires a new snapshot."""
    moved = names.moved(read(connection, codec))
    if moved:
        raise Moved(_said(moved))


def check_roles(connection: "psycopg.Connection[Any]") -> None:
    """Raise Moved if a role in use was dropped or renamed since the snapshot of the connection.

    pg_dump reads privileges with server functions that see the newest roles: of a dropped role
    they contain only its OID. pg_get_userbyid() sees what they see.
    """
    rows = shared_rows(
        connection,
        """
        SELECT r.rolname FROM pg_catalog.pg_roles r
        WHERE pg_catalog.pg_get_userbyid(r.oid) <> r.rolname AND r.oid IN (
            SELECT s.refobjid
            FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_database d ON d.oid = s.dbid
            WHERE d.datname = pg_catalog.current_database()
              AND s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass)
        ORDER BY 1
        """,
    )
    if rows:
        raise Moved(_said([f"role {row[0]}" for row in rows]))


def _said(moved: Sequence[str]) -> str:
    more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
    verb = "was" if len(moved) == 1 else "were"
    return (
        f"{', '.join(moved[:3])}{more} {verb} renamed, replaced or altered while the backup read"
        " by name"
    )
