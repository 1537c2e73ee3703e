"""Check a recovered cluster: every table and index with pg_amcheck, and the user's queries.

The cluster can contain code of untrusted owners. The superuser's sessions disable event triggers
before anything fires them, pg_amcheck switches to the owner of a table before it computes an
expression of an index, and the user's queries run as a role that can only read.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from .. import errors as e
from .. import processes
from ..postgres.connection import Connection, Endpoint
from . import assertions
from .assertions import Assertion
from .checks import DrillCheck

# Settings of a database cannot change how pg_amcheck works.
_SESSION = ("default_transaction_read_only=off", "statement_timeout=0", "lock_timeout=0")
SHOWN = 20  # findings of pg_amcheck

# What pg_amcheck reads: tables, their TOAST tables, materialized views, sequences, B-trees.
_RELATIONS = """
SELECT pg_catalog.count(*)
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
WHERE c.relpersistence <> 't' AND c.relkind IN ('r', 'm', 't', 'i', 'S')
  AND (c.relkind <> 'i' OR a.amname = 'btree')
"""
_AMCHECK = "SELECT FROM pg_catalog.pg_extension WHERE extname = 'amcheck'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is checked besides tables and indexes."""

    database: str | None = None
    assertions: Sequence[Assertion] = ()
    timeout: float = 60.0  # of each assertion, in seconds
    jobs: int = 1


@dataclass(slots=True)
class Checked:
    """What the checks of one recovered cluster have shown."""

    checks: list[DrillCheck] = field(default_factory=list)
    unproved: list[str] = field(default_factory=list)


def check(endpoint: Endpoint, programs: Path, wanted: Wanted) -> Checked:
    """Check a promoted cluster.

    Raises:
        ConnectionFailed, RestoreFailed: the server does not answer.

    """
    found = Checked()
    try:
        databases = _databases(endpoint, found)
        relations = sum(_prepare(endpoint.to(name)) for name in databases)
        if not (programs / "pg_amcheck").is_file():
            found.unproved.append(f"tables and indexes: {programs} has no pg_amcheck")
        elif not _has_amcheck(endpoint):
            found.unproved.append("tables and indexes: the extension amcheck is not installed")
        else:
            findings = _amcheck(endpoint, programs, wanted.jobs)
            found.checks.append(
                DrillCheck(name="tables and indexes", checked=relations, findings=findings)
            )
        if wanted.assertions:
            found.checks.append(_assertions(endpoint, databases, wanted))
    except psycopg.Error as error:
        message = error.diag.message_primary or str(error).strip()
        raise e.RestoreFailed(f"checking the recovered cluster: {message}") from error
    return found


def _databases(endpoint: Endpoint, found: Checked) -> list[str]:
    """Return the databases that allow connections; others are not proved."""
    with endpoint.connect() as connection:
        rows = connection.execute(
            "SELECT datname, datallowconn FROM pg_catalog.pg_database"
            " WHERE datname <> 'template0' ORDER BY 1"
        ).fetchall()
        found.unproved += [
            f"database {name}: it allows no connections" for name, allowed in rows if not allowed
        ]
        return [name for name, allowed in rows if allowed]


def _prepare(endpoint: Endpoint) -> int:
    """Keep code of the database away from pg_amcheck; return how many relations it reads.

    CREATE EXTENSION would run functions of event triggers as superuser. ALTER EVENT TRIGGER fires
    none. pg_amcheck calls amcheck's functions in the schema where it finds them: in one in which
    others can create functions, an overloaded one could be called instead.
    """
    with endpoint.connect() as connection:
        for (name,) in connection.execute(
            "SELECT evtname FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D'"
        ).fetchall():
            statement = sql.SQL("ALTER EVENT TRIGGER {} DISABLE").format(sql.Identifier(name))
            connection.execute(statement)
        if connection.execute(_AMCHECK.encode()).fetchone() is not None:
            schema = sql.Identifier(f"pgkeep_{secrets.token_hex(8)}")
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
            connection.execute(sql.SQL("ALTER EXTENSION amcheck SET SCHEMA {}").format(schema))
        row = connection.execute(_RELATIONS.encode()).fetchone()
    return 0 if row is None else int(row[0])


def _has_amcheck(endpoint: Endpoint) -> bool:
    with endpoint.connect() as connection:
        found = connection.execute(
            "SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'"
        )
        return found.fetchone() is not None


def _amcheck(endpoint: Endpoint, programs: Path, jobs: int) -> list[str]:
    """Return what pg_amcheck finds."""
    params = endpoint.params
    command = [
        str(programs / "pg_amcheck"), "--all", "--heapallindexed", "--install-missing",
        "--no-password", f"--jobs={jobs}", f"--host={params['host']}", f"--port={params['port']}",
        f"--username={params['user']}",
    ]  # fmt: skip
    options = [params.get("options", ""), *(f"-c {setting}" for setting in _SESSION)]
    environment = processes.environment({"PGOPTIONS": " ".join(options)})
    with processes.Child(command, environment) as child:
        output = b"".join(iter(child.read, b""))
        try:
            child.finish()
        except e.ProgramFailed as error:
            return _findings(output.decode("utf-8", "replace")) or [error.message]
    return []


def _findings(output: str) -> list[str]:
    """Return the messages of pg_amcheck: one names a relation, indented lines follow."""
    found: list[str] = []
    for line in output.splitlines():
        if line.startswith(" ") and found:
            found[-1] += f" {line.strip()}"
        elif len(found) <= SHOWN:
            found.append(line)
    return found[:SHOWN]


def _assertions(endpoint: Endpoint, databases: Sequence[str], wanted: Wanted) -> DrillCheck:
    """Ask the user's queries as a role that can read every table, and nothing else."""
    database = str(wanted.database)
    if database not in databases:
        finding = f"database {database} does not exist, or allows no connections"
        return DrillCheck(name="assertions", checked=0, findings=[finding])
    role = f"pgkeep_drill_{secrets.token_hex(4)}"
    with endpoint.to(database).connect() as connection:
        _create_reader(connection, role, database)
    # Event triggers are disabled, and only a superuser can set the options of its session.
    params = {**endpoint.params, "user": role, "dbname": database, "options": ""}
    return assertions.check(Endpoint(params), wanted.assertions, wanted.timeout)


def _create_reader(connection: Connection, role: str, database: str) -> None:
    name = sql.Identifier(role)
    for statement in (
        sql.SQL("CREATE ROLE {} LOGIN BYPASSRLS").format(name),
        sql.SQL("GRANT pg_read_all_data TO {}").format(name),
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), name),
    ):
        connection.execute(statement)
