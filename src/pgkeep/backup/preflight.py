"""Find all problems that would make a backup fail, each with the statement that fixes it."""

import re
from collections.abc import Iterator, Sequence

from psycopg import sql

from .. import errors as e
from ..model.manifest import ServerFacts
from ..postgres import collation_versions, lock_table, name_resolution, versions
from ..postgres.connection import Connection
from ..postgres.facts import shared_rows, system_identifier
from ..postgres.snapshot import Table
from .connection_limits import connection_limits, shortages
from .findings import Finding

LARGE_OBJECT_PRIVILEGE_SINCE = 180000


def check(
    connection: Connection, server: ServerFacts, tables: Sequence[Table], connections: int
) -> list[Finding]:
    """Return all findings about the connected database.

    `connections` is the number of further connections that the backup needs.
    """
    return [
        *_server(connection, server),
        *_privileges(connection, tables),
        *_row_security(connection, tables),
        *_large_objects(connection, server),
        *_user_mappings(connection),
        *_collation_versions(connection),
        *_connections(connection, connections),
        *_locks(lock_table.forecast(connection, len(tables), connections - 1)),
        *_oddities(connection, server, tables),
        *_ambiguous(connection),
    ]


def emptiness(
    connection: Connection, tables: Sequence[Table], *, chosen: bool, named: bool
) -> Iterator[Finding]:
    """Warn if the database is empty and was probably selected by mistake.

    It can be `chosen` explicitly for backups, or `named` as the database to connect to.
    """
    name = connection.info.dbname
    if tables or chosen:
        return
    row = connection.execute(
        """
        SELECT count(*) FROM pg_catalog.pg_database
        WHERE NOT datistemplate AND datname NOT IN ('postgres', pg_catalog.current_database())
        """
    ).fetchone()
    others = row[0] if row is not None else 0
    if name == "postgres" or (others and not named):
        exist = f", and {others} other databases exist" if others > 1 else ""
        exist = ", and another database exists" if others == 1 else exist
        yield Finding(
            "warning",
            f"database {name} is empty{exist}: set PGDATABASE, POSTGRES_DB, DATABASE_URL or"
            " BACKUP_DATABASES to back up another one",
        )


def refuse(findings: Sequence[Finding]) -> None:
    """Raise DumpFailed if any finding is an error; the message contains all errors."""
    errors = [finding for finding in findings if finding.level == "error"]
    if not errors:
        return
    remedies = [error.remedy for error in errors if error.remedy]
    raise e.DumpFailed(
        "; ".join(error.message for error in errors),
        hint="\n".join(["Fix this first:", *remedies]) if remedies else None,
    )


def _server(connection: Connection, server: ServerFacts) -> Iterator[Finding]:
    if server.major < versions.OLDEST:
        yield Finding(
            "error",
            f"server is PostgreSQL {server.version}, version {versions.OLDEST} or newer is"
            " required",
        )
    newer = versions.problem(server.version, server.version_num)
    if newer is not None:
        yield Finding("warning", newer, versions.REMEDY)
    row = connection.execute(
        "SELECT FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'"
    ).fetchone()
    if row is None:
        yield Finding(
            "warning",
            f"server is PostgreSQL {server.version}: during a backup the owner of a table can"
            " run code as the role that backs up (CVE-2024-7348)",
            "Update the server to 12.20, 13.16, 14.13, 15.8, 16.4 or newer.",
        )
    if system_identifier(connection) is None:
        yield Finding(
            "warning",
            "the role is not allowed to execute pg_control_system(): backups identify the cluster"
            " by host and port of the connection",
            f"GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO {_user(connection)};"
            "  -- in each database; or use a separate BACKUP_DIR for each cluster",
        )
    row = connection.execute(
        "SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'standard_conforming_strings'"
    ).fetchone()
    if row is not None and row[0] == "off":
        yield Finding(
            "warning",
            "standard_conforming_strings is off, which PostgreSQL 19 does not support: functions"
            " that depend on it will change their meaning there",
        )


def _user(connection: Connection) -> str:
    (row,) = shared_rows(connection, "SELECT pg_catalog.quote_ident(current_user)")
    return str(row[0])


def _privileges(connection: Connection, tables: Sequence[Table]) -> Iterator[Finding]:
    rows = shared_rows(
        connection,
        """
        SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname),
               pg_catalog.quote_ident(n.nspname),
               pg_catalog.has_schema_privilege(n.oid, 'USAGE'), c.relkind = 'S',
               pg_catalog.quote_ident(current_user)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE (c.oid = ANY (%s)
               OR c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
                  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE objid = c.oid
                      AND classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND deptype = 'e'))
          AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                   AND CASE c.relkind WHEN 'S' THEN
                       pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
                       ELSE pg_catalog.has_table_privilege(c.oid, 'SELECT') END)
        ORDER BY 1
        """,
        [table.oid for table in tables],
    )
    if not rows:
        return
    user = rows[0][4]
    relations = [row[0] for row in rows]
    schemas = sorted({row[1] for row in rows if not row[2]})
    remedy = []
    if connection.info.server_version >= 140000:
        remedy.append(f"GRANT pg_read_all_data TO {user};")
    else:
        remedy += [f"GRANT USAGE ON SCHEMA {schema} TO {user};" for schema in schemas]
        remedy += [
            f"GRANT SELECT ON {'SEQUENCE ' if row[3] else ''}{row[0]} TO {user};" for row in rows
        ]
    yield Finding(
        "error",
        f"role {user} is not allowed to read {_listed(relations)}",
        "\n".join(remedy),
    )


def _row_security(connection: Connection, tables: Sequence[Table]) -> Iterator[Finding]:
    rows = shared_rows(
        connection,
        """
        SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname),
               pg_catalog.quote_ident(current_user)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = ANY (%s) AND c.relrowsecurity AND pg_catalog.row_security_active(c.oid)
        ORDER BY 1
        """,
        [table.oid for table in tables],
    )
    if rows:
        yield Finding(
            "error",
            f"row security hides rows of {_listed([row[0] for row in rows])} from role"
            f" {rows[0][1]}: the backup would be incomplete",
            f"ALTER ROLE {rows[0][1]} BYPASSRLS;",
        )


def _large_objects(connection: Connection, server: ServerFacts) -> Iterator[Finding]:
    readable = "pg_catalog.pg_has_role(l.lomowner, 'USAGE') OR a.grantee IS NOT NULL"
    if server.version_num >= LARGE_OBJECT_PRIVILEGE_SINCE:
        readable = "pg_catalog.has_largeobject_privilege(l.oid, 'SELECT')"
    row = connection.execute(
        f"""
        SELECT count(*), min(l.oid)::pg_catalog.text, pg_catalog.quote_ident(current_user),
               pg_catalog.quote_literal(current_user)
        FROM pg_catalog.pg_largeobject_metadata l
        LEFT JOIN LATERAL (
            SELECT x.grantee FROM pg_catalog.aclexplode(l.lomacl) x
            WHERE x.privilege_type = 'SELECT'
              AND (x.grantee = 0 OR pg_catalog.pg_has_role(x.grantee, 'USAGE')) LIMIT 1
        ) a ON true
        WHERE NOT ({readable})
          AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
        """
    ).fetchone()
    if row is not None and row[0]:
        # pg_read_all_data does not include large objects (trap A4.4).
        yield Finding(
            "error",
            f"role {row[2]} is not allowed to read {row[0]} large objects, such as {row[1]}",
            f"GRANT SELECT ON LARGE OBJECT {row[1]} TO {row[2]};"
            if row[0] == 1
            else "DO $$ DECLARE o oid; BEGIN FOR o IN SELECT oid FROM pg_largeobject_metadata LOOP"
            f" EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO %I', o, {row[3]});"
            " END LOOP; END $$;",
        )


def _collation_versions(connection: Connection) -> Iterator[Finding]:
    """Warn about text that sorts differently than when its indexes were built (trap A3.11)."""
    for name, recorded, provided in collation_versions.mismatches(connection):
        database = sql.Identifier(name).as_string()
        refresh = f"ALTER DATABASE {database} REFRESH COLLATION VERSION;"
        if name == connection.info.dbname:
            yield Finding(
                "warning",
                f"database {name} records version {recorded} of its collation, the server provides"
                f" {provided}: indexes on text can be damaged",
                f"REINDEX DATABASE {database};\n{refresh}",
            )
        else:
            yield Finding(
                "warning",
                f"{name} records version {recorded} of its collation, the server provides"
                f" {provided}: the server cannot create databases, and restores fail",
                refresh,
            )


def _user_mappings(connection: Connection) -> Iterator[Finding]:
    """Warn about user mappings whose options, such as passwords, only others can read (A4.11).

    The conditions are those of the view pg_user_mappings, which pg_dump reads.
    """
    rows = shared_rows(
        connection,
        """
        SELECT pg_catalog.format('%s on %s', m.usename, m.srvname)
        FROM pg_catalog.pg_user_mappings m
        JOIN pg_catalog.pg_foreign_server s ON s.oid = m.srvid
        JOIN pg_catalog.pg_roles me ON me.rolname = current_user
        WHERE m.umoptions IS NULL AND NOT me.rolsuper
          AND NOT (m.umuser = me.oid AND (pg_catalog.pg_has_role(s.srvowner, 'USAGE')
                                          OR pg_catalog.has_server_privilege(s.oid, 'USAGE'))
                   OR m.umuser = 0 AND pg_catalog.pg_has_role(s.srvowner, 'USAGE'))
        ORDER BY 1
        """,
    )
    if rows:
        yield Finding(
            "warning",
            "the role cannot read options of user mappings, so they are restored without user and"
            f" password: {_listed([row[0] for row in rows])}",
            "Back up as a superuser; or after a restore run ALTER USER MAPPING FOR ... SERVER ..."
            " OPTIONS (ADD ...).",
        )


def _connections(connection: Connection, needed: int) -> Iterator[Finding]:
    limits = connection_limits(connection)
    if limits is not None:
        yield from shortages(limits, needed)


def _locks(forecast: lock_table.LockForecast) -> Iterator[Finding]:
    if forecast.share <= lock_table.WARN:
        return
    refused = forecast.share > lock_table.REFUSE
    consequence = ": other sessions would run out of shared memory" if refused else ""
    yield Finding(
        "error" if refused else "warning",
        f"the lock table of the server has room for {forecast.size} locks, {forecast.used} are in"
        f" use, the backup needs {forecast.needed} more with"
        f" --jobs={forecast.workers}{consequence}",
        f"ALTER SYSTEM SET max_locks_per_transaction = {forecast.suggested};"
        "  -- and restart the server",
    )


def _oddities(
    connection: Connection, server: ServerFacts, tables: Sequence[Table]
) -> Iterator[Finding]:
    """Warn about objects that a dump omits unexpectedly."""
    invalid = [
        row[0]
        for row in shared_rows(
            connection,
            """
            SELECT indexrelid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_index i
            JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
            WHERE NOT indisvalid AND c.relkind = 'i' ORDER BY 1
            """,
        )
    ]
    if invalid:
        yield Finding(
            "warning",
            f"invalid index {_listed(invalid)}: it is not dumped, so a restored database does not"
            " have it",
            f"REINDEX INDEX CONCURRENTLY {invalid[0]};",
        )
    unlogged = [f"{table.schema}.{table.name}" for table in tables if not table.logged]
    if server.in_recovery and unlogged:
        yield Finding(
            "warning",
            f"rows of unlogged tables are not available on a standby: {_listed(unlogged)} not"
            " dumped",
        )


def _ambiguous(connection: Connection) -> Iterator[Finding]:
    """Warn about objects whose SQL changes its meaning with an empty search path (trap G4.1)."""
    found = name_resolution.ambiguous(connection)
    if found:
        names = [
            f"{entry.object} ({', '.join(dict.fromkeys(use.construct for use in entry.uses))})"
            for entry in found
        ]
        yield Finding(
            "warning",
            "SQL cannot name the operators outside pg_catalog that are used by"
            f" {_listed(names)}: a restore with an empty search_path fails or changes the results",
            "Restore with --search-path=database.",
        )


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(re.sub(r"\s", " ", name) for name in names[:most]) + more
