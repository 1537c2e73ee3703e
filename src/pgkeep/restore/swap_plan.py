"""Plan a swap: which database gets the name of which, and what prevents it. Changes nothing."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from .. import errors as e
from ..postgres.connection import Connection, Endpoint
from ..postgres.database_names import State, exists, parse_mark, state_of, time_of
from ..postgres.databases import UNFINISHED
from ..postgres.facts import shared_rows
from . import maintenance, protected_databases
from .target import database as target_database
from .target import swap_findings
from .target.swap_findings import Effect, Finding, Kind

MAX_OUTAGE = 5.0  # seconds
_LOADING = re.compile(rf"{UNFINISHED}[0-9a-f]{{8}}$")
_NEVERTHELESS = (
    "To swap nevertheless, use --accept-replication-loss: enabled subscriptions of the old database"
    " are then disabled, its slots are kept."
)
INVALID = -2  # datconnlimit of a database whose DROP was interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapOptions:
    """How to swap two databases."""

    incoming: str | None = None  # default: the newest one
    undo: bool = False
    accept_replication_loss: bool = False
    max_outage: float = MAX_OUTAGE


class SwapSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a swap would do, and what prevents it; for people and for JSON."""

    database: str
    incoming: str  # the database that gets the name
    others: list[str] = []  # that could be chosen instead
    sessions: int  # of both databases, which would be ended
    max_outage: float
    steps: list[str]
    findings: list[Finding] = []
    problems: list[str] = []
    remedies: list[str] = []
    warnings: list[str] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapPlan:
    """A swap that can be executed."""

    endpoint: Endpoint
    target: str
    incoming: str
    replaces: bool  # the target exists
    options: SwapOptions
    summary: SwapSummary

    @property
    def kept_state(self) -> State:
        """How the database is kept that loses the name."""
        return State.RESTORED if self.options.undo else State.OLD


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A database that could get the name."""

    name: str
    comment: str | None
    trusted: bool  # of a role that could swap it itself


def make_plan(endpoint: Endpoint, target: str, options: SwapOptions) -> SwapPlan:
    """Look at the server; nothing is changed.

    Raises:
        Refused: there is no database to swap with.

    """
    protected_databases.check_replaced(target, *filter(None, [options.incoming]))
    with maintenance.connection(endpoint, target, stays=False) as connection:
        state = State.OLD if options.undo else State.RESTORED
        if options.incoming is None:
            waiting = candidates(_databases(connection, target), target, state)
            if not waiting:
                raise _nothing(target, options)
            incoming, *others = waiting
        else:
            incoming, others = options.incoming, []
            _check_choice(connection, target, incoming)
        replaces = exists(connection, target)
        findings = look(connection, target, incoming)
        return SwapPlan(
            endpoint=endpoint,
            target=target,
            incoming=incoming,
            replaces=replaces,
            options=options,
            summary=_summary(connection, target, incoming, others, options, findings),
        )


def _summary(
    connection: Connection,
    target: str,
    incoming: str,
    others: Sequence[str],
    options: SwapOptions,
    findings: Sequence[Finding],
) -> SwapSummary:
    problems, warnings = judge(findings, accept_loss=options.accept_replication_loss)
    state = State.RESTORED if options.undo else State.OLD
    return SwapSummary(
        database=target,
        incoming=incoming,
        others=list(others),
        sessions=_sessions(connection, [target, incoming]),
        max_outage=options.max_outage,
        steps=steps(target, incoming, state, findings, replaces=exists(connection, target)),
        findings=list(findings),
        problems=[problem for problem, _ in problems],
        remedies=[remedy for _, remedy in problems if remedy is not None],
        warnings=warnings,
    )


def candidates(databases: Iterable[Candidate], target: str, state: State) -> list[str]:
    """Return the databases that belong to a target in this state, the newest first.

    Anybody who may create databases can choose a name and a comment like ours. Therefore only
    databases of roles that could swap them themselves are chosen without being named.
    """
    found = [
        database.name
        for database in databases
        if database.trusted
        and database.name != target
        and state_of(database.name, database.comment, target) == state
    ]
    return sorted(found, key=lambda name: (time_of(name), name), reverse=True)


def obstacles(findings: Iterable[Finding], *, accept_loss: bool) -> list[Finding]:
    """Return the findings for which a swap is refused."""
    return [
        finding
        for finding in findings
        if finding.effect == Effect.PREVENTS or (finding.effect == Effect.LOSES and not accept_loss)
    ]


def judge(
    findings: Sequence[Finding], *, accept_loss: bool
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Return the problems, each with what to do, and the warnings."""
    refused = obstacles(findings, accept_loss=accept_loss)
    problems: list[tuple[str, str | None]] = [
        (finding.message, finding.remedy) for finding in refused
    ]
    if any(finding.effect == Effect.LOSES for finding in refused):
        problems[-1] = (problems[-1][0], f"{problems[-1][1]}\n{_NEVERTHELESS}")
    warnings = [
        f"{finding.message}. {finding.remedy}" for finding in findings if finding not in refused
    ]
    return problems, warnings


def judge_early(
    findings: Sequence[Finding], *, accept_loss: bool
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Return the same for a swap that follows in hours: sessions only warn, they come and go."""
    sessions = [finding for finding in findings if finding.kind == Kind.SESSION]
    others = [finding for finding in findings if finding.kind != Kind.SESSION]
    problems, warnings = judge(others, accept_loss=accept_loss)
    return problems, warnings + [f"{finding.message}. {finding.remedy}" for finding in sessions]


def look(connection: Connection, target: str, incoming: str) -> list[Finding]:
    """Return what a swap of two databases has to respect."""
    return [
        *_privileges(connection, target, incoming),
        *_usable(connection, target, incoming),
        *swap_findings.in_use(connection, [target, incoming]),
        *swap_findings.replication(connection, target, incoming),
    ]


def steps(
    target: str, incoming: str, kept: State, findings: Iterable[Finding], *, replaces: bool
) -> list[str]:
    """Say in their order what a swap does."""
    if not replaces:
        return [f"end the sessions of {incoming}", f"rename {incoming} to {target}"]
    subscriptions = any(finding.kind == Kind.SUBSCRIPTION for finding in findings)
    return [
        *([f"disable the enabled subscriptions of {target}"] if subscriptions else []),
        f"end the sessions of {incoming} and of {target}",
        f"rename {target} to {target}__{kept}_TIME and {incoming} to {target}, in one transaction",
    ]


def command(target: str, incoming: str | None = None) -> str:
    """Return the command that swaps a database in later."""
    chosen = f" --from={shlex.quote(incoming)}" if incoming is not None else ""
    end_of_options = " --" if target.startswith("-") else ""
    return f"pgkeep swap{chosen}{end_of_options} {shlex.quote(target)}"


def waiting(target: str, incoming: str) -> str:
    """Say that a database waits for its swap."""
    return f"database {incoming} is complete, swap it in with: {command(target, incoming)}"


def _databases(connection: Connection, target: str) -> list[Candidate]:
    rows = shared_rows(
        connection,
        """
        SELECT d.datname::pg_catalog.text, pg_catalog.shobj_description(d.oid, 'pg_database'),
               o.rolsuper OR o.rolname = current_user OR o.oid =
               (SELECT datdba FROM pg_catalog.pg_database WHERE datname = %s)
        FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles o ON o.oid = d.datdba
        """,
        target,
    )
    return [
        Candidate(name=name, comment=comment, trusted=bool(trusted))
        for name, comment, trusted in rows
    ]


def _nothing(target: str, options: SwapOptions) -> e.Refused:
    if options.undo:
        return e.Refused(
            f"no database that was replaced as {target} exists",
            hint="It was dropped or renamed. Choose a database with --from=NAME.",
        )
    return e.Refused(
        f"no restored database waits for a swap with {target}",
        hint="pgkeep restore --no-swap makes one. Choose any other database with --from=NAME.",
    )


def _check_choice(connection: Connection, target: str, incoming: str) -> None:
    """Check the database that --from names.

    Raises:
        UsageError: it is the target.
        Refused: it does not exist.

    """
    if incoming == target:
        raise e.UsageError(f"database {target} cannot be swapped with itself")
    if not exists(connection, incoming):
        raise e.Refused(f"database {incoming} does not exist")


def _sessions(connection: Connection, databases: Sequence[str]) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = ANY (%s)"
        " AND pid <> pg_catalog.pg_backend_pid()",
        [list(databases)],
    ).fetchone()
    return row[0] if row is not None else 0


def _privileges(connection: Connection, target: str, incoming: str) -> Iterable[Finding]:
    for name in (target, incoming):
        if not target_database.may_rename(connection, name):
            yield Finding(
                kind=Kind.PRIVILEGE,
                name=name,
                database=name,
                effect=Effect.PREVENTS,
                message=f"the role is not the owner of database {name}: it is not allowed to"
                " rename it",
                remedy="Swap as its owner, as a member of its owner, or as a superuser.",
            )
    if not target_database.may_create(connection):
        yield Finding(
            kind=Kind.PRIVILEGE,
            name="CREATEDB",
            database=target,
            effect=Effect.PREVENTS,
            message="the role is not allowed to create databases, which renaming one requires",
            remedy="ALTER ROLE ... CREATEDB; or swap as another role.",
        )


def _usable(connection: Connection, target: str, incoming: str) -> Iterable[Finding]:
    """Yield why nobody could use the new database."""
    rows = {
        name: (opens, limit, comment)
        for name, opens, limit, comment in shared_rows(
            connection,
            "SELECT datname::pg_catalog.text, datallowconn, datconnlimit,"
            " pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database"
            " WHERE datname = ANY (%s)",
            [target, incoming],
        )
    }
    if incoming not in rows:
        return
    opens, limit, comment = rows[incoming]
    reason, remedy, effect = None, "", Effect.PREVENTS
    if _LOADING.search(incoming) and parse_mark(comment) is None:
        reason = "is incomplete: a restore loads it now, or was interrupted"
        remedy = "Wait for the end of the restore, or restore again."
    elif limit == INVALID:
        reason, remedy = "is invalid: its removal was interrupted", "Drop it, and restore again."
    elif not opens:
        reason = "accepts no connections"
        remedy = "ALTER DATABASE ... ALLOW_CONNECTIONS true; before the swap."
    elif target in rows and limit != rows[target][1]:
        reason = f"has connection limit {limit}, {target} has {rows[target][1]}"
        remedy = "ALTER DATABASE ... CONNECTION LIMIT changes it."
        effect = Effect.NOTE
    if reason is not None:
        yield Finding(
            kind=Kind.DATABASE,
            name=incoming,
            database=incoming,
            effect=effect,
            message=f"database {incoming} {reason}",
            remedy=remedy,
        )
