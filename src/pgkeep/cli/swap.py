"""pgkeep swap, and what pgkeep undo shares with it."""

import sys
from collections.abc import Callable
from typing import Any

import click

from .. import errors as e
from ..restore.swap import execute
from ..restore.swap_plan import MAX_OUTAGE, SwapOptions, SwapSummary, make_plan
from . import output, run_log
from .command import pgkeep_command
from .common import dsn_option, json_option, load_config, plural, print_json, target_option

Function = Callable[..., Any]


def swap_options(function: Function) -> Function:
    """Add the argument and the options of pgkeep swap and pgkeep undo."""
    for decorator in reversed(
        (
            click.argument("database"),
            click.option(
                "--from",
                "incoming",
                metavar="NAME",
                help="Use this database instead of the newest one.",
            ),
            click.option(
                "--accept-replication-loss",
                is_flag=True,
                help="Swap although logical replication slots or subscriptions stay with the"
                " database that loses its name.",
            ),
            click.option(
                "--max-outage",
                type=click.FloatRange(min=1),
                metavar="SECONDS",
                default=MAX_OUTAGE,
                show_default=True,
                help="Maximum time for which sessions are refused.",
            ),
            click.option("--dry-run", is_flag=True, help="Print the plan and stop."),
            click.option(
                "--yes", is_flag=True, help="Do not ask before the databases are swapped."
            ),
            dsn_option,
            target_option,
            json_option,
        )
    ):
        function = decorator(function)
    return function


@pgkeep_command(
    "swap",
    examples=(
        "pgkeep restore --latest --no-swap && pgkeep swap app --dry-run",
        "pgkeep swap app --yes",
        "pgkeep swap app --from=app_copy",
    ),
    recorded=True,
)
@swap_options
def command(**given: Any) -> None:
    """Put a restored database in the place of DATABASE.

    By default it is the newest database that pgkeep restore --no-swap has made, or that a failed
    swap has left. Both databases are renamed in one transaction. DATABASE is kept as
    DATABASE__old_TIME, and pgkeep undo swaps back.
    """
    run(undo=False, **given)


def run(
    *,
    database: str,
    incoming: str | None,
    accept_replication_loss: bool,
    max_outage: float,
    dry_run: bool,
    yes: bool,
    dsn: str | None,
    target: str | None,
    as_json: bool,
    undo: bool,
) -> None:
    """Plan a swap, ask, and execute it."""
    config = load_config(target=target, dsn=dsn)
    run_log.current().used(config, database)
    options = SwapOptions(
        incoming=incoming,
        undo=undo,
        accept_replication_loss=accept_replication_loss,
        max_outage=max_outage,
    )
    plan = make_plan(config.endpoint(), database, options)
    summary = plan.summary
    if dry_run:
        print_json(summary) if as_json else _print(summary)
    if summary.problems and (dry_run or not yes):  # else `execute` waits for what ends by itself
        raise e.Refused(
            f"this swap would be refused: {'; '.join(summary.problems)}",
            hint="\n".join(summary.remedies),
        )
    if dry_run:
        return
    if not yes:
        _ask(summary, as_json=as_json)
    result = execute(plan, output.current().info)
    if as_json:
        print_json(result)
        return
    for warning in result.warnings:
        output.current().warning(warning)
    if result.outage is not None:
        output.note(f"sessions were refused for {result.outage:.1f} s")
    if result.old_database is not None:
        output.note(f"the former database is kept as {result.old_database}")
    output.current().done(f"database {result.database} is the former {result.incoming}")


def _ask(summary: SwapSummary, *, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise e.Refused(
            f"database {summary.database} would be swapped with {summary.incoming}",
            hint="Use --yes to skip the confirmation.",
        )
    _print(summary)
    if not output.ask(f"Swap database {summary.database}?"):
        raise e.Refused("cancelled")


def _print(summary: SwapSummary) -> None:
    output.say(f"swap     {summary.database}")
    output.say(f"with     {summary.incoming}")
    for other in summary.others:
        output.say(f"not      {other}")
    output.say(f"ends     {plural(summary.sessions, 'session')}")
    for number, step in enumerate(summary.steps, 1):
        output.say(f"{number:5}. {step}")
    for warning in summary.warnings:
        output.say(f"warning: {warning}")
    for problem in summary.problems:
        output.say(f"problem: {problem}")
