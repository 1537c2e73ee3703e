"""Swap a database with a restored one, or back: by renaming, for a bounded time."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import psycopg
from psycopg import sql

from .. import errors as e
from .. import interrupts
from ..postgres.connection import Connection, Endpoint
from ..postgres.database_names import free_name
from ..postgres.database_swap import PATIENCE, Exchange, Names
from ..postgres.messages import one_line
from . import maintenance
from .swap_plan import SwapPlan, judge, look, obstacles, waiting
from .target import swap_findings
from .target.swap_findings import Finding, Kind

AGAIN = 0.2  # seconds between two looks at what prevents the swap
SUBSCRIPTION_TIME = "5s"


class SwapResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a swap has done."""

    database: str
    incoming: str
    old_database: str | None  # the new name of the database that had the name
    outage: float | None  # seconds for which sessions were refused
    seconds: float
    warnings: list[str] = []  # what remains to be done


def execute(plan: SwapPlan, report: Callable[[str], None]) -> SwapResult:
    """Do what the plan says.

    Raises:
        Refused: the plan has problems; no session was ended.
        RestoreFailed: both databases have the names that they had.

    """
    started = time.monotonic()
    with (
        maintenance.connection(plan.endpoint, plan.target, stays=False) as connection,
        maintenance.connection(plan.endpoint, plan.target, stays=False) as helper,
    ):
        findings = _wait(plan, connection)
        kept = free_name(connection, plan.target, plan.kept_state) if plan.replaces else None
        exchange = Exchange(
            connection,
            helper,
            Names(
                target=plan.target, incoming=plan.incoming, kept=kept, kept_state=plan.kept_state
            ),
            plan.options.max_outage if plan.replaces else PATIENCE,
        )
        kept_text = waiting(plan.target, plan.incoming)
        with _without_subscriptions(plan, findings, report):
            exchange.run(lambda: interrupts.completed(_done(plan, kept), kept_text))
        return SwapResult(
            database=plan.target,
            incoming=plan.incoming,
            old_database=kept,
            outage=exchange.outage,
            seconds=round(time.monotonic() - started, 3),
            warnings=_left_to_do(helper, plan, kept, findings),
        )


def _done(plan: SwapPlan, kept: str | None) -> str:
    if plan.options.undo:
        return f"database {plan.target} is {plan.incoming} again, the other one is kept as {kept}"
    former = f", the former one is kept as {kept}" if kept is not None else ""
    return f"database {plan.target} is restored{former}"


def _wait(plan: SwapPlan, connection: Connection) -> list[Finding]:
    """Look once more; wait a moment for what ends by itself, while no session is ended.

    Raises:
        Refused: something still prevents the swap.

    """
    deadline = time.monotonic() + plan.options.max_outage
    accept_loss = plan.options.accept_replication_loss
    while True:
        findings = look(connection, plan.target, plan.incoming)
        refused = obstacles(findings, accept_loss=accept_loss)
        if not refused:
            return findings
        if time.monotonic() > deadline or not all(finding.may_end for finding in refused):
            problems, _ = judge(findings, accept_loss=accept_loss)
            raise e.Refused(
                f"{'; '.join(problem for problem, _ in problems)}: no session was ended",
                hint="\n".join(remedy for _, remedy in problems if remedy) or None,
            )
        time.sleep(AGAIN)


@contextlib.contextmanager
def _without_subscriptions(
    plan: SwapPlan, findings: Sequence[Finding], report: Callable[[str], None]
) -> Iterator[None]:
    """Disable the subscriptions of the old database; after a failure they are enabled again.

    They belong to the OID of a database: enabled ones would go on writing into the old one.
    """
    endpoint, disabled = plan.endpoint.to(plan.target), list[str]()
    try:
        if any(finding.kind == Kind.SUBSCRIPTION for finding in findings):
            _disable(endpoint, plan.target, disabled, report)
        yield
    except BaseException as error:
        if disabled:
            with interrupts.held():
                _enable(endpoint, disabled)
        for name in disabled:
            left = f"subscription {name} of {plan.target} is still disabled"
            interrupts.completed(left)
            if isinstance(error, e.PgkeepError):
                error.message += f"; {left}"
        raise


def _disable(
    endpoint: Endpoint, target: str, disabled: list[str], report: Callable[[str], None]
) -> None:
    try:
        with endpoint.connect(statement_timeout=SUBSCRIPTION_TIME) as connection:
            for name, enabled, *_ in swap_findings.subscriptions(connection, target):
                if enabled:
                    report(f"disabling subscription {name} of {target}")
                    with interrupts.held():
                        _alter(connection, name, "DISABLE")
                        disabled.append(name)
    except psycopg.Error as error:
        raise e.RestoreFailed(
            f"could not disable the subscriptions of {target}: {one_line(error)}"
        ) from error


def _enable(endpoint: Endpoint, disabled: list[str]) -> None:
    """Enable subscriptions, and remove them from the list."""
    with (
        contextlib.suppress(psycopg.Error, e.PgkeepError),
        endpoint.connect(statement_timeout=SUBSCRIPTION_TIME) as connection,
    ):
        for name in [*disabled]:
            _alter(connection, name, "ENABLE")
            disabled.remove(name)


def _alter(connection: Connection, name: str, action: str) -> None:
    connection.execute(
        sql.SQL("ALTER SUBSCRIPTION {} {}").format(sql.Identifier(name), sql.SQL(action))
    )


def _left_to_do(
    connection: Connection, plan: SwapPlan, kept: str | None, findings: Iterable[Finding]
) -> list[str]:
    """Say what the swap has left: slots and subscriptions of both databases, replicas."""
    left: list[str] = []
    for finding in findings:
        match finding.kind:
            case Kind.SLOT:
                left.append(
                    f"logical replication slot {finding.name} belongs to {kept} and retains WAL:"
                    f" drop it with {swap_findings.drop_slot(finding.name)}"
                )
            case Kind.SUBSCRIPTION:
                left.append(
                    f"subscription {finding.name} of {kept} is disabled. To drop it, run in {kept}:"
                    f" {swap_findings.drop_subscription(finding.name)}"
                )
            case Kind.REPLICA:
                left.append(
                    f"replica {finding.name or '(without a name)'} can have sessions in {kept}:"
                    " end them there with SELECT pg_catalog.pg_terminate_backend(pid) FROM"
                    " pg_catalog.pg_stat_activity WHERE datname ="
                    f" {sql.Literal(kept).as_string(None)};"
                )
    for name, enabled, *_ in swap_findings.subscriptions(connection, plan.target):
        if not enabled:
            identifier = sql.Identifier(name).as_string(None)
            then = (
                "it continues where it stopped, unless its slot was used meanwhile"
                if plan.options.undo
                else f"then empty its tables, and ALTER SUBSCRIPTION {identifier} REFRESH"
                " PUBLICATION; copies them again"
            )
            left.append(
                f"subscription {name} of {plan.target} is disabled. To receive changes again,"
                f" run in {plan.target}: ALTER SUBSCRIPTION {identifier} ENABLE; {then}"
            )
    return left
