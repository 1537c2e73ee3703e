"""Ask a server which databases a run backs up, and which of them cannot be backed up."""

from collections.abc import Collection
from typing import NamedTuple

import psycopg
from psycopg import sql

from .. import errors as e
from ..model.database_patterns import Choice, DatabaseSelection, exclusion_of
from ..postgres import databases
from ..postgres.connection import Connection, Endpoint
from ..postgres.facts import shared_rows

INVALID = -2  # pg_database.datconnlimit of a database whose DROP was interrupted


class RunDatabases(NamedTuple):
    """The databases of a run."""

    choice: Choice
    unavailable: dict[str, e.PgkeepError]  # why chosen databases cannot be backed up
    dropped: list[str]  # databases that have backups but no longer exist on the server


class _Database(NamedTuple):
    name: str
    allowed: bool
    limit: int
    privilege: bool
    superuser: bool
    user: str


def choose(
    endpoint: Endpoint,
    connection: Connection,
    selection: DatabaseSelection,
    backed_up: Collection[str] = (),
) -> RunDatabases:
    """Choose from the databases that exist now, so that new ones are found (trap A3.15).

    `backed_up` are those that have backups. `postgres` is excluded if it is empty and has none.

    Raises:
        UsageError: no database is selected.

    """
    existing = {found.name: found for found in _databases(connection)}

    def empty(name: str) -> bool:
        database = existing[name]
        return name not in backed_up and _problem(database) is None and _is_empty(endpoint, name)

    choice = selection.choose(existing, empty)
    if not choice.chosen:
        given = ",".join(selection.patterns)
        raise e.UsageError(
            f"no database to back up: every database that matches {given} is excluded"
            if choice.excluded
            else f"no database to back up: no database of the server matches {given}",
            hint="Set BACKUP_DATABASES; a name without * and ? overrides every exclusion.",
        )
    problems = {
        name: _unavailable(existing[name], named=name in selection.names)
        for name in choice.chosen
        if name in existing
    }
    return RunDatabases(
        choice=choice,
        unavailable={name: error for name, error in problems.items() if error is not None},
        dropped=sorted(
            name for name in backed_up if name not in existing and selection.includes(name)
        ),
    )


def _databases(connection: Connection) -> list[_Database]:
    rows = shared_rows(
        connection,
        """
        SELECT d.datname, d.datallowconn, d.datconnlimit,
               pg_catalog.has_database_privilege(d.oid, 'CONNECT'), r.rolsuper, r.rolname
        FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
        WHERE r.rolname = current_user ORDER BY 1
        """,
    )
    return [_Database(*row) for row in rows]


def _is_empty(endpoint: Endpoint, name: str) -> bool:
    """Whether nobody has created anything; a database that cannot be read is not empty."""
    try:
        with endpoint.to(name).connect() as connection:
            return databases.contents(connection) is None
    except (e.ConnectionFailed, psycopg.Error):
        return False


def _unavailable(database: _Database, *, named: bool) -> e.PgkeepError | None:
    """Return the error of a database that cannot be backed up, with the ways out."""
    if database.name == "template0" and not database.allowed:
        # Nobody can have changed it, and a connection would end that.
        return e.ConnectionFailed(
            "database template0 is the server's own template: it has nothing to back up",
            hint="Remove it from BACKUP_DATABASES.",
        )
    problem = _problem(database)
    if problem is None:
        return None
    message, remedy = problem
    statement = remedy.format(
        database=sql.Identifier(database.name), role=sql.Identifier(database.user)
    ).as_string()
    leave_out = (
        "remove it from BACKUP_DATABASES"
        if named
        else f"exclude it with {exclusion_of(database.name)} in BACKUP_DATABASES"
    )
    return e.ConnectionFailed(message, hint=f"Run {statement}; or {leave_out}.")


def _problem(database: _Database) -> tuple[str, sql.SQL] | None:
    """Return why a database cannot be backed up, and the statement that changes it (trap A3.16)."""
    name = database.name
    if database.limit == INVALID:
        return f"database {name} is invalid: dropping it was interrupted", _DROP
    if not database.allowed:
        return f"database {name} does not accept connections", _ALLOW
    if not database.privilege:
        return f"role {database.user} has no CONNECT privilege on database {name}", _GRANT
    if database.limit == 0 and not database.superuser:
        return f"database {name} has connection limit 0", _UNLIMIT
    return None


_DROP = sql.SQL("DROP DATABASE {database}")
_ALLOW = sql.SQL("ALTER DATABASE {database} ALLOW_CONNECTIONS true")
_GRANT = sql.SQL("GRANT CONNECT ON DATABASE {database} TO {role}")
_UNLIMIT = sql.SQL("ALTER DATABASE {database} CONNECTION LIMIT -1")
