"""Whether a backup can open its connections: the limits of the server, the role, the database."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..postgres.connection import Connection
from .findings import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The limits that apply to the role of the session, and the connections that exist now.

    A role without pg_read_all_stats cannot see which sessions of other roles are clients. These are
    counted separately, because some of them do not count towards a limit.
    """

    role: str  # quoted
    superuser: bool  # only max_connections applies
    max_connections: int
    reserved: int  # connections that this role cannot use
    clients: int
    hidden: int
    role_limit: int  # -1: none
    role_clients: int
    database: str  # quoted
    database_limit: int
    database_clients: int
    database_hidden: int


def connection_limits(connection: Connection) -> ConnectionLimits | None:
    """Read the limits for the role that logged in, which is not always the current one."""
    row = connection.execute(
        """
        SELECT pg_catalog.quote_ident(r.rolname), r.rolsuper,
               pg_catalog.current_setting('max_connections')::pg_catalog.int4,
               CASE WHEN r.rolsuper THEN 0 ELSE
                 pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4
                 + CASE WHEN pg_catalog.to_regrole('pg_use_reserved_connections') IS NULL THEN 0
                        WHEN pg_catalog.pg_has_role(r.oid,
                          pg_catalog.to_regrole('pg_use_reserved_connections'), 'USAGE') THEN 0
                        ELSE pg_catalog.current_setting('reserved_connections')::pg_catalog.int4
                   END
               END,
               a.clients, a.hidden, r.rolconnlimit, a.role_clients,
               pg_catalog.quote_ident(d.datname), d.datconnlimit, a.database_clients,
               a.database_hidden
        FROM pg_catalog.pg_roles r, pg_catalog.pg_database d, (
          SELECT pg_catalog.count(*) FILTER (WHERE backend_type = 'client backend'),
                 pg_catalog.count(*) FILTER (WHERE backend_type IS NULL AND datid IS NOT NULL),
                 pg_catalog.count(*) FILTER (WHERE backend_type = 'client backend'
                                             AND usename = session_user),
                 pg_catalog.count(*) FILTER (WHERE backend_type = 'client backend'
                                             AND datname = pg_catalog.current_database()),
                 pg_catalog.count(*) FILTER (WHERE backend_type IS NULL
                                             AND datname = pg_catalog.current_database())
          FROM pg_catalog.pg_stat_activity
        ) AS a (clients, hidden, role_clients, database_clients, database_hidden)
        WHERE r.rolname = session_user AND d.datname = pg_catalog.current_database()
        """
    ).fetchone()
    if row is None:
        return None
    return ConnectionLimits(**dict(zip(_COLUMNS, row, strict=True)))


_COLUMNS = (
    "role", "superuser", "max_connections", "reserved", "clients", "hidden", "role_limit",
    "role_clients", "database", "database_limit", "database_clients", "database_hidden",
)  # fmt: skip


def shortages(limits: ConnectionLimits, needed: int) -> Iterator[Finding]:
    """Yield the limits that do not allow as many further connections as the backup needs.

    `needed` is one connection for pg_dump, and one for each job.
    """
    usable = limits.max_connections - limits.reserved
    free = usable - limits.clients
    if (level := _level(free, limits.hidden, needed)) is not None:
        certain = free if level == "error" else free - limits.hidden
        yield Finding(
            level,
            f"the server has {max(0, certain)} free connections, the backup needs {needed} more",
            f"{_fewer_jobs(certain, 'Use --jobs={}, or increase')}max_connections, which is"
            f" {limits.max_connections}, {limits.reserved} of them reserved for other roles.",
        )
    if limits.superuser:
        return
    enough = needed + limits.role_clients
    if 0 <= limits.role_limit < enough:
        yield Finding(
            "error",
            f"role {limits.role} can open {limits.role_limit} connections, the backup needs"
            f" {enough}",
            f"ALTER ROLE {limits.role} CONNECTION LIMIT {enough};"
            + _or_fewer_jobs(limits.role_limit - limits.role_clients),
        )
    if limits.database_limit < 0:
        return
    free = limits.database_limit - limits.database_clients
    if (level := _level(free, limits.database_hidden, needed)) is not None:
        certain = free if level == "error" else free - limits.database_hidden
        enough = limits.database_limit - certain + needed
        yield Finding(
            level,
            f"database {limits.database} accepts {limits.database_limit} connections, the backup"
            f" needs {enough} with those that exist",
            f"ALTER DATABASE {limits.database} CONNECTION LIMIT {enough};"
            + _or_fewer_jobs(certain),
        )


def _level(free: int, hidden: int, needed: int) -> Literal["error", "warning"] | None:
    """Return an error if connections are missing, a warning if sessions that are hidden decide."""
    if free < needed:
        return "error"
    return "warning" if free - hidden < needed else None


def _fewer_jobs(free: int, text: str) -> str:
    return f"{text.format(free - 1)} " if free > 1 else "Increase "


def _or_fewer_jobs(free: int) -> str:
    return f"  -- or use --jobs={free - 1}" if free > 1 else ""
