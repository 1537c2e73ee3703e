"""A database that is loaded completely: give it its name, or keep it for a later swap."""

import contextlib
from collections.abc import Callable

import psycopg

from .. import errors as e
from .. import interrupts
from ..postgres import databases
from ..postgres.database_names import Mark, State, comment_of, commented, free_name, own_comment
from ..postgres.database_swap import PATIENCE, Exchange, Names
from ..postgres.messages import one_line
from . import swap, swap_plan
from .run import Run
from .swap_plan import SwapOptions
from .target import swap_findings


class NotRenamed(e.RestoreFailed):
    """The new database is complete, and does not have its name."""


def name(run: Run, temporary: str) -> None:
    """Give a new database its name; if that fails, it is kept (trap G3.6).

    Raises:
        NotRenamed: names the database and the command that swaps it in.

    """
    target = run.plan.target
    try:
        _rename(run, Names(target=target, incoming=temporary), f"database {target} is restored")
    except (e.PgkeepError, psycopg.Error) as error:
        kept = temporary
        with contextlib.suppress(NotRenamed):
            kept = keep(run, temporary)
        raise _not_renamed(target, kept, error) from error


def keep(run: Run, temporary: str) -> str:
    """Give a database that waits for a swap its dated name, which no restore drops.

    Raises:
        NotRenamed: it has a comment that says so instead.

    """
    target = run.plan.target
    try:
        with run.maintenance() as connection:
            kept = free_name(connection, target, State.RESTORED)
        names = Names(target=kept, incoming=temporary, waits_for=target)
        _rename(run, names, swap_plan.waiting(target, kept))
    except (e.PgkeepError, psycopg.Error) as error:
        with contextlib.suppress(psycopg.Error, e.PgkeepError), run.maintenance() as connection:
            mark = Mark(State.RESTORED, target, own_comment(comment_of(connection, temporary)))
            connection.execute(commented(temporary, mark.text()))
        raise _not_renamed(target, temporary, error) from error
    return kept


def put(run: Run, ready: str, report: Callable[[str], None]) -> swap.SwapResult:
    """Swap the finished database with the existing one.

    Raises:
        NotRenamed: the existing database is as it was; the finished one is kept.

    """
    plan = run.plan
    options = SwapOptions(
        incoming=ready,
        accept_replication_loss=plan.options.accept_replication_loss,
        max_outage=plan.options.max_outage,
    )
    try:
        return swap.execute(swap_plan.make_plan(plan.endpoint, plan.target, options), report)
    except (e.PgkeepError, psycopg.Error) as error:
        raise _not_renamed(plan.target, ready, error) from error


def _rename(run: Run, names: Names, done: str) -> None:
    """Rename a database that nobody misses meanwhile."""
    with run.maintenance() as connection, run.maintenance() as helper:
        exchange = Exchange(connection, helper, names, PATIENCE)
        exchange.run(lambda: interrupts.completed(done))


def _not_renamed(target: str, kept: str, error: e.PgkeepError | psycopg.Error) -> NotRenamed:
    message = error.message if isinstance(error, e.PgkeepError) else one_line(error)
    reason = f"\n{error.hint}" if isinstance(error, e.PgkeepError) and error.hint else ""
    return NotRenamed(
        f"database {kept} is complete, but could not be renamed to {target}: {message}",
        hint=f"Nothing has to be restored again. Swap it in later with:"
        f" {swap_plan.command(target, kept)}{reason}",
    )


def keep_incomplete(run: Run, name: str) -> str:
    """Give a database in which objects failed a name that no later restore drops."""
    with run.maintenance() as connection:
        return databases.keep_incomplete(connection, name, run.plan.target)


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
            slots = swap_findings.slots(connection, old)
            databases.drop(connection, old)
    except (psycopg.Error, e.PgkeepError) as error:
        run.warnings.append(f"could not drop the old database: {one_line(error)}")
        return False
    run.warnings += [
        f"logical replication slot {slot} was dropped with the old database" for slot, _ in slots
    ]
    return True
