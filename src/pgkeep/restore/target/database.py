"""Query what the role can do with the target database."""

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
