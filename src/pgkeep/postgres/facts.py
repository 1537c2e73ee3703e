"""Facts about a server and a database that a backup records."""

import hashlib
from typing import Any

from ..model.manifest import DatabaseFacts, Extension, Grant, ServerFacts, Setting
from ..sql.encodings import codec, shared_text
from .connection import Connection


def server_facts(connection: Connection) -> ServerFacts:
    """Return the identity of a server."""
    row = connection.execute(
        """
        SELECT pg_catalog.current_setting('server_version'),
               pg_catalog.current_setting('server_version_num')::pg_catalog.int4,
               pg_catalog.pg_is_in_recovery()
        """
    ).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns a row
    version, number, in_recovery = row
    identifier = system_identifier(connection) or _substitute_identifier(connection)
    return ServerFacts(version.split()[0], number, identifier, in_recovery)


def system_identifier(connection: Connection) -> str | None:
    """Return the system identifier; None if the role is not allowed to read it.

    The privilege is checked first: an error would end a transaction, and the server also checks
    calls that are not executed.
    """
    row = connection.execute(
        "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')"
    ).fetchone()
    if row is None or not row[0]:
        return None
    row = connection.execute(
        "SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()"
    ).fetchone()
    return row[0] if row is not None else None


def _substitute_identifier(connection: Connection) -> str:
    """Return what identifies a cluster whose system identifier cannot be read.

    No fact that such a role can read is both unique to a cluster and the same after a failover:
    initdb writes the same catalogs everywhere. The host and the port, as they were given, are the
    same after a failover of a managed service.
    """
    given = connection.info.get_parameters()
    host = given.get("host") or given.get("hostaddr") or connection.info.host
    port = given.get("port") or str(connection.info.port)
    return f"host-{hashlib.sha256(f'{host}:{port}'.encode()).hexdigest()[:16]}"


def database_facts(connection: Connection) -> DatabaseFacts:
    """Return the properties of the connected database, without its contents."""
    version = connection.info.server_version
    # PostgreSQL 15, 16 and 17 added these columns.
    provider = "d.datlocprovider::pg_catalog.text" if version >= 150000 else "'c'"
    collation = "d.datcollversion" if version >= 150000 else "NULL"
    rules = "d.daticurules" if version >= 160000 else "NULL"
    locale = "NULL"
    if version >= 170000:
        locale = "d.datlocale"
    elif version >= 150000:
        locale = "d.daticulocale"
    (row,) = shared_rows(
        connection,
        f"""
        SELECT d.datname, pg_catalog.pg_get_userbyid(d.datdba),
               pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
               {provider}, {locale}, {rules}, {collation}, t.spcname, d.datconnlimit,
               d.datistemplate, pg_catalog.shobj_description(d.oid, 'pg_database'), d.oid,
               d.datacl IS NULL OR
               ARRAY(SELECT a::pg_catalog.text FROM pg_catalog.unnest(d.datacl) a ORDER BY 1) =
               ARRAY(SELECT a::pg_catalog.text
                     FROM pg_catalog.unnest(pg_catalog.acldefault('d', d.datdba)) a ORDER BY 1)
        FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
        WHERE d.datname = pg_catalog.current_database()
        """,
    )
    *facts, oid, default_acl = row
    settings = shared_rows(
        connection,
        """
        SELECT CASE WHEN s.setrole <> 0 THEN pg_catalog.pg_get_userbyid(s.setrole) END, c.value
        FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS c(value)
        WHERE s.setdatabase = %s ORDER BY 1 NULLS FIRST, 2
        """,
        oid,
    )
    grants = shared_rows(
        connection,
        """
        SELECT CASE WHEN a.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
               a.privilege_type, a.is_grantable
        FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a
        WHERE d.oid = %s ORDER BY 1, 2
        """,
        oid,
    )
    return DatabaseFacts(
        **dict(zip(_DATABASE_COLUMNS, facts, strict=True)),
        settings=[Setting(*setting) for setting in settings],
        grants=None if default_acl else [Grant(*grant) for grant in grants],
    )


def database_size(connection: Connection) -> int:
    """Return the bytes of the connected database on the server's disk, with indexes."""
    row = connection.execute(
        "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"
    ).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns a row
    return int(row[0])


def shared_rows(connection: Connection, query: str, *params: object) -> list[tuple[Any, ...]]:
    """Read names that all databases of a cluster share, which can be in any encoding.

    Text is returned as bytes: psycopg does not decode it with this setting.
    """
    encoding = connection.info.parameter_status("server_encoding") or ""
    connection.execute("SET client_encoding = 'SQL_ASCII'")
    rows = connection.execute(query.encode(), params or None).fetchall()
    connection.execute("SET client_encoding = 'UTF8'")
    return [
        tuple(
            shared_text(value, codec(encoding)) if isinstance(value, bytes) else value
            for value in row
        )
        for row in rows
    ]


_DATABASE_COLUMNS = (
    "name", "owner", "encoding", "collate", "ctype", "provider", "locale", "icu_rules",
    "collation_version", "tablespace", "connection_limit", "is_template", "comment",
)  # fmt: skip


def extensions(connection: Connection) -> list[Extension]:
    """Return the extensions of the database, except plpgsql."""
    rows = connection.execute(
        "SELECT extname, extversion FROM pg_catalog.pg_extension"
        " WHERE extname <> 'plpgsql' ORDER BY 1"
    )
    return [Extension(*row) for row in rows]


def roles_in_use(connection: Connection) -> list[str]:
    """Return the roles that own objects or have privileges in the database, or on it.

    The bootstrap superuser is pinned and has no rows in pg_shdepend (manual, section 51.49). Names
    are those of the snapshot: pg_get_userbyid() would not find a role that was dropped since.
    """
    rows = shared_rows(
        connection,
        """
        SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.oid IN (
            SELECT datdba FROM pg_catalog.pg_database
            WHERE datname = pg_catalog.current_database()
            UNION
            SELECT s.refobjid
            FROM pg_catalog.pg_database d JOIN pg_catalog.pg_shdepend s
              ON s.dbid = d.oid
              OR s.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND s.objid = d.oid
            WHERE d.datname = pg_catalog.current_database()
              AND s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
            UNION
            SELECT s.setrole
            FROM pg_catalog.pg_database d
            JOIN pg_catalog.pg_db_role_setting s ON s.setdatabase = d.oid
            WHERE d.datname = pg_catalog.current_database() AND s.setrole <> 0)
        ORDER BY 1
        """,
    )
    return [row[0] for row in rows]
