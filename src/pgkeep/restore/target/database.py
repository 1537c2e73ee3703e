"""Query what the role can do with the target database, its sessions, and its contents."""

from collections.abc import Iterator

from ...postgres.connection import Connection


def may_create(connection: Connection) -> bool:
    """Tell whether the role may create databases."""
    row = connection.execute(
        "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
    ).fetchone()
    return bool(row and row[0])


def may_rename(connection: Connection, name: str) -> bool:
    """Tell whether the role may rename a database: as its owner, or a member of its owner."""
    row = connection.execute(
        "SELECT pg_catalog.pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database"
        " WHERE datname = %s",
        [name],
    ).fetchone()
    return row is None or bool(row[0])  # it was dropped: nothing to rename


def sessions_in_the_way(connection: Connection, name: str) -> Iterator[str]:
    """Warn of sessions that the role may not end (manual, table "Server Signaling Functions")."""
    row = connection.execute(
        """
        SELECT count(*) FROM pg_catalog.pg_stat_activity a
        JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
        JOIN pg_catalog.pg_roles me ON me.rolname = current_user
        WHERE a.datname = %s AND NOT me.rolsuper
          AND (r.rolsuper OR NOT (pg_catalog.pg_has_role(r.oid, 'USAGE')
                                  OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')))
        """,
        [name],
    ).fetchone()
    if row is not None and row[0]:
        noun = "session" if row[0] == 1 else "sessions"
        yield (
            f"the role may not end {row[0]} {noun} of database {name}: GRANT pg_signal_backend to"
            " it (sessions of superusers need a superuser), or end them yourself"
        )
