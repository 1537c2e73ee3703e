"""Create a database like another one, apply its settings, drop it."""

import contextlib
import re
import secrets
from collections.abc import Iterable, Iterator

import psycopg
from psycopg import sql

from .. import errors as e
from ..model.manifest import DatabaseFacts
from ..sql import portability
from . import advisory_locks
from .connection import Connection, Endpoint
from .database_names import COMPLETE, derived, renaming
from .facts import shared_rows

UNFINISHED = "__restore_"  # in the name of a database that is being loaded
INCOMPLETE = "__incomplete_"  # in the name of a database that is kept although objects failed
FORCE_SINCE = 130000
PROVIDER_SINCE = 150000
MEMBERSHIP_OPTIONS_SINCE = 160000  # INHERIT and SET
TRUSTED_SINCE = 130000  # extensions that a database's owner can create

# Settings whose value is a list of quoted identifiers (guc.h, GUC_LIST_QUOTE).
_LISTS = frozenset({
    "local_preload_libraries", "search_path", "session_preload_libraries",
    "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories",
})  # fmt: skip
_LIST_ITEM = re.compile(r'\s*(?:"((?:[^"]|"")*+)"|([^,"]*))\s*(?:,|$)')


def create(
    connection: Connection,
    name: str,
    facts: DatabaseFacts | None,
    encoding: str | None = None,
    owner: str | None = None,
) -> None:
    """Create an empty database with the encoding, locale and tablespace of another one.

    A role that is not a superuser gives it to its owner at once: only the owner has CREATE on
    schema public since PostgreSQL 15, and only such a role can own what is in the schema.

    The template is template0: template1 can contain additional objects (trap A3.10), and only
    template0 can be copied with another encoding. PUBLIC is denied CONNECT at once (trap G3.5).
    """
    database = sql.Identifier(name)
    try:
        creation = _creation(connection, name, facts, encoding)
        if owner is not None and not is_superuser(connection):
            creation += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
        connection.execute(creation)
    except psycopg.Error as error:
        hint = None
        if "has a collation version" in str(error):
            hint = (
                "Since an upgrade of the operating system, template0 records another version. Run"
                " ALTER DATABASE template0 REFRESH COLLATION VERSION."
            )
        elif "locale" in str(error) or "collation" in str(error):
            hint = "Install the backup's locale on the server. List locales with: locale -a."
        raise e.RestoreFailed(
            f"could not create a database: {error.diag.message_primary}", hint=hint
        ) from error
    try:
        connection.execute(
            sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(database)
        )
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(database))
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            drop(connection, name)
        raise


def is_superuser(connection: Connection) -> bool:
    """Return whether the current role is a superuser."""
    row = connection.execute(
        "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
    ).fetchone()
    return row is not None and bool(row[0])


def opening(name: str) -> sql.Composed:
    """Return the statement that grants PUBLIC the default privileges on a new database."""
    return sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC").format(sql.Identifier(name))


def _creation(
    connection: Connection, name: str, facts: DatabaseFacts | None, encoding: str | None
) -> sql.Composed:
    parts: list[sql.Composable] = [
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 ALLOW_CONNECTIONS false").format(
            sql.Identifier(name)
        )
    ]
    if facts is None or not facts.collate:  # a plain dump does not contain its locale
        encoding = encoding if facts is None else facts.encoding
        if encoding is not None:
            parts.append(sql.SQL("ENCODING {}").format(encoding))
            if encoding != _own_encoding(connection):
                # The server's locale is made for its own encoding; C is valid for any.
                parts.append(sql.SQL("LC_COLLATE 'C' LC_CTYPE 'C'"))
        return sql.SQL(" ").join(parts)
    parts.append(
        sql.SQL("ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
            facts.encoding, facts.collate, facts.ctype
        )
    )
    if connection.info.server_version >= PROVIDER_SINCE:
        parts += _provider(facts)
    if facts.tablespace != "pg_default" and _has_tablespace(connection, facts.tablespace):
        parts.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(facts.tablespace)))
    return sql.SQL(" ").join(parts)


def _own_encoding(connection: Connection) -> str | None:
    row = connection.execute(
        "SELECT pg_catalog.pg_encoding_to_char(encoding) FROM pg_catalog.pg_database"
        " WHERE datname = 'template0'"
    ).fetchone()
    return row[0] if row else None


def facts_statements(
    database: sql.Identifier, facts: DatabaseFacts, *, owner: bool, privileges: bool
) -> Iterator[sql.Composed]:
    """Yield statements that make a database like another: owner, limit, settings, privileges."""
    if owner and facts.owner:
        yield sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, sql.Identifier(facts.owner))
    if facts.comment is not None:
        yield sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, facts.comment)
    if facts.connection_limit != -1:
        limit = sql.Literal(facts.connection_limit)
        yield sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(database, limit)
    if facts.is_template:
        yield sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(database)
    for setting in facts.settings:
        if setting.role is not None and not privileges:
            continue
        subject = sql.SQL("DATABASE {}").format(database)
        if setting.role is not None:
            role = sql.Identifier(setting.role)
            subject = sql.SQL("ROLE {} IN DATABASE {}").format(role, database)
        name, _, value = setting.value.partition("=")
        yield sql.SQL("ALTER {} SET {} TO {}").format(
            subject, sql.Identifier(*name.split(".")), setting_value(name, value)
        )
    if privileges and facts.grants is not None:
        yield sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database)
        if owner:
            own = sql.Identifier(facts.owner)
            yield sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(database, own)
        for grant in facts.grants:
            grantee = sql.Identifier(grant.grantee) if grant.grantee else sql.SQL("PUBLIC")
            yield sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(grant.privilege), database, grantee,
                sql.SQL(" WITH GRANT OPTION" if grant.grantable else ""),
            )  # fmt: skip


def setting_value(name: str, value: str) -> sql.Composable:
    """Return a pg_db_role_setting value in SET syntax; lists item by item, as pg_dump does."""
    if name not in _LISTS:
        return sql.Literal(value)
    items = [
        sql.Literal((match[1] or "").replace('""', '"') if match[1] is not None else match[2])
        for match in _LIST_ITEM.finditer(value)
        if match[1] is not None or match[2]
    ]
    return sql.SQL(", ").join(items) if items else sql.Literal("")


def _provider(facts: DatabaseFacts) -> Iterator[sql.Composable]:
    match facts.provider:
        case "i":
            yield sql.SQL("LOCALE_PROVIDER icu ICU_LOCALE {}").format(facts.locale)
            if facts.icu_rules:
                yield sql.SQL("ICU_RULES {}").format(facts.icu_rules)
        case "b":
            yield sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(facts.locale)
        case _:
            yield sql.SQL("LOCALE_PROVIDER libc")


def drop(connection: Connection, name: str) -> None:
    """Drop a database if it exists, and end its sessions."""
    force = " WITH (FORCE)" if connection.info.server_version >= FORCE_SINCE else ""
    connection.execute(
        sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)) + sql.SQL(force)
    )


def drop_unfinished(connection: Connection, name: str) -> None:
    """Drop a database that was being restored, and can already be a template."""
    with contextlib.suppress(psycopg.Error):  # it does not exist
        connection.execute(
            sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(name))
        )
    drop(connection, name)


def drop_subscriptions(endpoint: Endpoint) -> list[tuple[str, str | None]]:
    """Drop the subscriptions that prevent dropping a database, but not their slots.

    Return what was dropped, with the slot of each on its publisher.
    """
    dropped: list[tuple[str, str | None]] = []
    with contextlib.suppress(psycopg.Error, e.ConnectionFailed), endpoint.connect() as connection:
        rows = connection.execute(
            "SELECT subname, subslotname FROM pg_catalog.pg_subscription WHERE subdbid ="
            " (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
        ).fetchall()
        for name, slot in rows:
            subscription = sql.Identifier(name)
            for statement in (
                "ALTER SUBSCRIPTION {} DISABLE",
                "ALTER SUBSCRIPTION {} SET (slot_name = NONE)",
                "DROP SUBSCRIPTION {}",
            ):
                connection.execute(sql.SQL(statement).format(subscription))
            dropped.append((name, slot))
    return dropped


def claim(connection: Connection, target: str) -> str:
    """Return a name for a database to load, reserved until the connection ends.

    Databases that killed restores of the same target left behind are dropped: they are not
    reserved any more, and no session is connected to them.
    """
    name = derived(target, f"{UNFINISHED}{secrets.token_hex(4)}")
    pattern = re.compile(re.escape(name[:-8]) + "[0-9a-f]{8}")
    for left in abandoned(connection, pattern):
        identifier = sql.Identifier(left)
        with contextlib.suppress(psycopg.Error):  # another session uses it
            connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(identifier))
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(identifier))
    hold(connection, name)
    return name


def keep_incomplete(connection: Connection, temporary: str, target: str) -> str:
    """Rename a database that is being loaded to a name that no later restore drops."""
    name = derived(target, f"{INCOMPLETE}{secrets.token_hex(4)}")
    connection.execute(renaming(temporary, name))
    return name


def hold(connection: Connection, name: str) -> None:
    """Claim the name of a database that does not exist yet, until the connection ends."""
    advisory_locks.acquire(connection, advisory_locks.key_of(name))


def abandoned(
    connection: Connection, pattern: re.Pattern[str], claimed: int | None = None
) -> list[str]:
    """Return the databases with such names that no session reserved and no restore completed.

    The complete name is reserved, or its beginning. An advisory lock belongs to the database of its
    session, which can be any database: pg_locks contains all of them.
    """
    taken = advisory_locks.held(connection)
    return [
        name
        for name, comment in shared_rows(
            connection,
            "SELECT datname, pg_catalog.shobj_description(oid, 'pg_database')"
            " FROM pg_catalog.pg_database",
        )
        if pattern.fullmatch(name)
        and advisory_locks.key_of(name[:claimed]) not in taken
        and not (comment or "").startswith(COMPLETE)
    ]


def contents(connection: Connection) -> str | None:
    """Return what a database that should be empty holds; extensions count too, except plpgsql."""
    row = connection.execute(
        """
        SELECT (SELECT count(*) FROM pg_catalog.pg_class c WHERE c.oid >= 16384
                AND c.relnamespace IN (SELECT oid FROM pg_catalog.pg_namespace
                    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')),
               (SELECT count(*) FROM pg_catalog.pg_proc WHERE oid >= 16384),
               (SELECT count(*) FROM pg_catalog.pg_type WHERE oid >= 16384),
               (SELECT count(*) FROM pg_catalog.pg_namespace
                WHERE oid >= 16384 AND nspname !~ '^pg_'),
               (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata)
        """
    ).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM gives a row
    names = ("relations", "functions", "types", "schemas", "large objects")
    found = [f"{count} {name}" for count, name in zip(row, names, strict=True) if count]
    return ", ".join(found) or None


def missing_roles(connection: Connection, needed: Iterable[str]) -> list[str]:
    """Return the roles that the server does not have."""
    rows = shared_rows(connection, "SELECT rolname FROM pg_catalog.pg_roles")
    existing = {row[0] for row in rows}
    return [name for name in needed if name not in existing]


def portability_of(connection: Connection) -> portability.TargetServer:
    """Return what the role is allowed to do on this server."""
    version, superuser = connection.info.server_version, is_superuser(connection)
    # What belongs to another role is created, given to it, and filled: since PostgreSQL 16 the
    # membership has separate options for both.
    act_as = "SET" if version >= MEMBERSHIP_OPTIONS_SINCE else "MEMBER"
    rows = shared_rows(
        connection,
        "SELECT rolname, pg_catalog.pg_has_role(oid, 'MEMBER'),"
        f" pg_catalog.pg_has_role(oid, '{act_as}'), pg_catalog.pg_has_role(oid, 'USAGE')"
        " FROM pg_catalog.pg_roles",
    )
    trusted = "trusted" if version >= TRUSTED_SINCE else "false"
    extensions = connection.execute(
        f"SELECT DISTINCT name FROM pg_catalog.pg_available_extension_versions WHERE {trusted}"
        .encode()
    )  # fmt: skip
    return portability.TargetServer(
        version_num=version,
        superuser=superuser,
        roles=frozenset(name for name, _, sets, inherits in rows if sets and inherits),
        memberships=frozenset(name for name, member, _, _ in rows if member),
        privileges=frozenset(name for name, _, _, inherits in rows if inherits),
        extensions=frozenset(row[0] for row in extensions),
    )


def _has_tablespace(connection: Connection, name: str) -> bool:
    query = "SELECT FROM pg_catalog.pg_tablespace WHERE spcname = %s"
    return connection.execute(query, [name]).fetchone() is not None
