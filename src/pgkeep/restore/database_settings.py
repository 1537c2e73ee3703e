"""Restore the properties of the database itself: settings, grants, owner (trap A3.6)."""

import re

import msgspec
import psycopg
from psycopg import sql

from .. import errors as e
from ..model.manifest import DatabaseFacts
from ..postgres import databases
from ..postgres.connection import Connection
from ..postgres.messages import restore_error
from .run import Run
from .target import database

# Of a setting or a comment: it may be a secret, or long.
_VALUE = re.compile(r"( SET \S+) TO .*| IS .*", re.DOTALL)


def apply(run: Run, connection: Connection, name: str) -> None:
    """Give a new database its settings, and let others into it as far as the backup says.

    Raises:
        RestoreFailed: the server refuses a setting.

    """
    options = run.plan.options
    facts = run.plan.meta.database if run.plan.meta is not None else None
    if facts is not None and options.closed:
        facts = msgspec.structs.replace(facts, grants=None, is_template=False)
    if facts is not None:
        _apply_facts(run, connection, name, facts)
    if options.closed:
        return
    if facts is None or facts.grants is None or not options.privileges:
        try:
            connection.execute(databases.opening(name))
        except psycopg.Error as error:
            raise restore_error(error, "privileges of the database") from error


def owner_of(run: Run) -> str | None:
    """Return the role that owns a new database, None for the role that restores."""
    if run.plan.meta is None or not run.plan.options.owner:
        return None
    owner, selection = run.plan.meta.database.owner, run.selection
    keeps_out = selection.keeps_owners_out if selection is not None else frozenset()
    return owner if owner and owner not in keeps_out else None


def _apply_facts(run: Run, connection: Connection, name: str, facts: DatabaseFacts) -> None:
    for statement in databases.facts_statements(
        sql.Identifier(name), facts, owner=owner_of(run) is not None,
        privileges=run.plan.options.privileges,
    ):  # fmt: skip
        try:
            connection.execute(statement)
        except psycopg.Error as error:
            _refused(run, error)


def _refused(run: Run, error: psycopg.Error) -> None:
    privileged = isinstance(error, psycopg.errors.InsufficientPrivilege)
    if privileged and run.plan.options.portable:
        run.warnings.append(f"skipped: a setting ({error.diag.message_primary})")
        return
    failure = restore_error(error, "settings of the database")
    if privileged:
        failure.hint = "Restore as a superuser, or skip them with --portable."
    if run.failed is None:
        raise failure from error
    run.failed.note(failure)


def apply_in_place(run: Run, facts: DatabaseFacts) -> None:
    """Give an existing database everything but its owner; what is refused is a warning."""
    target = run.plan.target
    refused = f"the role is not the owner of database {target}"
    try:
        with run.plan.endpoint.to(target).connect() as connection:
            owns = database.may_rename(connection, target)
            for statement in databases.facts_statements(
                sql.Identifier(target), facts, owner=False,
                privileges=run.plan.options.privileges,
            ):  # fmt: skip
                try:
                    if owns:
                        connection.execute(statement)
                        continue
                except psycopg.Error as error:
                    refused = error.diag.message_primary or str(error).strip()
                what = _VALUE.sub(r"\1", statement.as_string(connection))
                run.warnings.append(f"skipped: {what} ({refused})")
    except e.ConnectionFailed as error:
        run.warnings.append(f"skipped: settings of the database ({error.message})")
