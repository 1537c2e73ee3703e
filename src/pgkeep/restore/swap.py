"""Put a complete database in its place by renaming, and drop the one that it replaces."""

import contextlib

import psycopg

from .. import errors as e
from .. import interrupts
from ..postgres import databases
from .plan import Mode
from .run import Run


class NotRenamed(e.RestoreFailed):
    """The new database is complete, and does not have its name."""


def put(run: Run, temporary: str) -> str | None:
    """Put the new database in its place, and return the new name of the old one.

    Both renamings or none. If they fail, what was loaded stays (trap G3.6).

    Raises:
        NotRenamed: says how to complete the restore by hand.

    """
    target = run.plan.target
    old = None

    def swapped() -> None:
        kept = f", the former one is kept as {old}" if old is not None else ""
        interrupts.completed(f"database {target} is restored{kept}")

    try:
        with run.maintenance() as connection, run.maintenance() as helper:
            if run.plan.mode == Mode.SWAP:
                old = databases.free_name(connection, target)
            databases.swap(connection, helper, target, old, temporary, swapped)
    except (e.PgkeepError, psycopg.Error) as error:
        raise _kept(run, temporary, old, error) from error
    return old


def _kept(
    run: Run, temporary: str, old: str | None, error: e.PgkeepError | psycopg.Error
) -> NotRenamed:
    """Return the error that says how to complete the restore by hand."""
    target = run.plan.target
    with contextlib.suppress(psycopg.Error, e.PgkeepError), run.maintenance() as connection:
        databases.keep(connection, temporary, target)
    pairs = [(target, old)] if old is not None else []
    statements = "; ".join(
        databases.renaming(*pair).as_string(None) for pair in (*pairs, (temporary, target))
    )
    message = error.message if isinstance(error, e.PgkeepError) else str(error).strip()
    reason = f" {error.hint}" if isinstance(error, e.PgkeepError) and error.hint else ""
    return NotRenamed(
        f"database {temporary} is complete, but could not be renamed to {target}: {message}",
        hint=f"Rename it by hand, no session may be in it: {statements};{reason}",
    )


def keep_incomplete(run: Run, name: str) -> str:
    """Give a database in which objects failed a name that no later restore drops."""
    with run.maintenance() as connection:
        return databases.keep_incomplete(connection, name, run.plan.target)


def renamings(run: Run, kept: str) -> list[str]:
    """Return the statements that put an incomplete database in its place."""
    target = run.plan.target
    with run.maintenance() as connection:
        found = [databases.renaming(kept, target)]
        if run.plan.mode == Mode.SWAP:
            old = databases.free_name(connection, target)
            found.insert(0, databases.renaming(target, old))
        return [f"{renaming.as_string(connection)};" for renaming in found]


def discard(run: Run, old: str) -> bool:
    """Drop the database that was replaced; if that fails, the restore has succeeded all the same.

    Returns whether it was dropped.
    """
    for subscription, slot in databases.drop_subscriptions(run.plan.endpoint.to(old)):
        if slot is not None:
            run.warnings.append(
                f"subscription {subscription} of the old database is dropped, its replication"
                f" slot {slot} stays on the publisher"
            )
    try:
        with run.maintenance() as connection:
            databases.drop(connection, old)
    except (psycopg.Error, e.PgkeepError) as error:
        message = str(error).partition("\n")[0]
        run.warnings.append(f"could not drop the old database: {message}")
        return False
    return True
