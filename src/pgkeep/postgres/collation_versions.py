"""Versions of default collations: what a database records, and what the server provides.

Since PostgreSQL 15 a database records the version of the library that sorts its text. After an
upgrade of the operating system text can sort differently (traps A3.11, A3.12).
"""

from typing import NamedTuple

from ..model.manifest import DatabaseFacts
from .connection import Connection
from .facts import shared_rows

VERSIONS_SINCE = 150000
ONE_LOCALE_COLUMN_SINCE = 170000


class Mismatch(NamedTuple):
    """A database whose recorded version is not the provided one."""

    database: str
    recorded: str
    provided: str


def mismatches(connection: Connection) -> list[Mismatch]:
    """Return the mismatches of the connected database and of template0."""
    if connection.info.server_version < VERSIONS_SINCE:
        return []
    rows = shared_rows(
        connection,
        """
        SELECT d.datname, d.datcollversion, coalesce(a.version, 'none')
        FROM pg_catalog.pg_database d,
             pg_catalog.pg_database_collation_actual_version(d.oid) AS a(version)
        WHERE d.datname IN (pg_catalog.current_database(), 'template0')
          AND d.datcollversion <> coalesce(a.version, 'none')
        ORDER BY 1
        """,
    )
    return [Mismatch(*row) for row in rows]


def provided(connection: Connection, facts: DatabaseFacts) -> str | None:
    """Return the version that the server provides for the locale of a database.

    Only known from a database with this locale. The C library has one version for all locales.
    """
    server = connection.info.server_version
    if server < VERSIONS_SINCE:
        return None
    locale = "d.datlocale" if server >= ONE_LOCALE_COLUMN_SINCE else "d.daticulocale"
    rows = shared_rows(
        connection,
        f"""
        SELECT a.version
        FROM pg_catalog.pg_database d,
             pg_catalog.pg_database_collation_actual_version(d.oid) AS a(version)
        WHERE a.version IS NOT NULL AND d.datlocprovider::pg_catalog.text = %s
          AND (d.datlocprovider = 'c' OR {locale} = %s)
        LIMIT 1
        """,
        facts.provider,
        facts.locale,
    )
    return rows[0][0] if rows else None


def restore_warning(connection: Connection, facts: DatabaseFacts) -> str | None:
    """Return a warning if text can sort differently on this server."""
    found = provided(connection, facts)
    if facts.collation_version is None or found is None or found == facts.collation_version:
        return None
    return (
        f"the backup records version {facts.collation_version} of its collation, the server"
        f" provides {found}: text can sort differently; indexes are built again, but range"
        " partitions and constraints over text can refuse rows"
    )
