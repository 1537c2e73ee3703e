"""Create the missing roles that a backup needs (--create-roles)."""

import contextlib
from collections.abc import Sequence

import psycopg
from psycopg import sql

from ...postgres.connection import Connection
from ...postgres.databases import MEMBERSHIP_OPTIONS_SINCE, is_superuser
from ...postgres.messages import restore_error


def may_create(connection: Connection) -> bool:
    """Return whether the role is allowed to create others."""
    row = connection.execute(
        "SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user"
    ).fetchone()
    return row is not None and bool(row[0])


def create(connection: Connection, names: Sequence[str]) -> None:
    """Create all of them or none. An ordinary role becomes a member, so it can give them objects.

    Raises:
        RestoreFailed: the server refuses one of them.

    """
    superuser = is_superuser(connection)
    options = ""
    if connection.info.server_version >= MEMBERSHIP_OPTIONS_SINCE:
        options = " WITH INHERIT TRUE, SET TRUE"
    with connection.transaction():
        for name in names:
            role = sql.Identifier(name)
            try:
                connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
                if not superuser:
                    grant = sql.SQL("GRANT {} TO CURRENT_USER").format(role) + sql.SQL(options)
                    connection.execute(grant)
            except psycopg.Error as error:
                raise restore_error(error, f"creating role {name}") from error


def drop(connection: Connection, names: Sequence[str]) -> None:
    """Drop those that own nothing: what they were created for has failed."""
    for name in names:
        with contextlib.suppress(psycopg.Error):
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
