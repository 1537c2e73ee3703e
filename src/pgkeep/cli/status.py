"""pgkeep status."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from .. import config, progress
from .. import errors as e
from ..crypt.opening import CIPHERTEXT
from ..monitor import attempts, overview, pgbackrest, point_in_time, status
from ..monitor import nagios as plugin
from ..monitor.point_in_time import Cluster
from ..monitor.spans import span
from ..stores.local import LocalStore
from ..terminal import printable
from . import directories, output
from .clusters import clusters_of, goals_of
from .command import pgkeep_command
from .common import dir_option, json_option, load_configs, print_json, target_option
from .contents import contents_of, target_of
from .rules import AtMostOne
from .stanzas import stanzas_of

_MARKS = {
    "monthly": "M", "weekly": "W", "daily": "d", "manual": "m",
    "removed": "-", "gone": "?", "failed": "x", None: ".",
}  # fmt: skip
_COLOURS = {
    "monthly": "cyan", "weekly": "blue", "daily": "green", "manual": "yellow", "gone": "red",
    "failed": "red",
}  # fmt: skip


@pgkeep_command(
    "status",
    examples=(
        "pgkeep status",
        "BACKUP_MAX_AGE=2d BACKUP_RTO=30min pgkeep status",
        'pgkeep status >/dev/null || echo "check the backups"',
        "pgkeep status --nagios --database=app",
    ),
    rules=(AtMostOne(("--nagios", "--json")),),
)
@click.option(
    "--nagios",
    is_flag=True,
    help="Print one line with performance data, and exit as a Nagios plugin: 0 OK, 1 WARNING, 2"
    " CRITICAL, 3 UNKNOWN.",
)
@click.option(
    "--database",
    "databases",
    metavar="NAME",
    multiple=True,
    help="Check only this database. Can be repeated.",
)
@target_option
@dir_option
@json_option
def command(
    *,
    nagios: bool,
    databases: tuple[str, ...],
    target: str | None,
    directory: str | None,
    as_json: bool,
) -> None:
    """Check every database against its backup goals; exit code 5 if one is missed.

    Checked are the databases of BACKUP_DATABASES, or all databases that have backups. The goals are
    the age of the newest complete backup (BACKUP_MAX_AGE) and, if set, the age of the last passed
    drill (BACKUP_DRILL_MAX_AGE) and its recovery time (BACKUP_RTO). The same goals apply to the
    stanzas of pgBackRest in BACKUP_PGBACKREST_STANZA. The first line is the summary,
    for Nagios and similar systems.
    """
    if nagios:
        click.get_current_context().exit(_plugin(target, directory, databases))
    configs = load_configs(target=target, directory=directory)
    directories.check(configs)
    state = _chosen(state_of(configs), databases)
    out = output.current()
    if not state.readable:
        raise e.StoreError("; ".join(state.problems))
    if as_json:
        print_json(document(state))
    else:
        _print(state)
    for problem in state.problems:
        out.warning(problem)
    if not state.ok:
        raise e.VerificationFailed(printable(". ".join(state.reasons)))


def _plugin(target: str | None, directory: str | None, databases: Sequence[str]) -> int:
    """Print the line of a Nagios plugin and return its exit code, whatever happens."""
    data: list[str] = []
    try:
        configs = load_configs(target=target, directory=directory)
        directories.check(configs)
        state = _chosen(state_of(configs), databases)
        code, text = plugin.verdict(state)
        data = list(plugin.performance_data(state))
    except e.VerificationFailed as error:
        code, text = plugin.CRITICAL, error.message
    except e.PgkeepError as error:
        code, text = plugin.UNKNOWN, error.message
    except Exception as error:  # noqa: BLE001 - a plugin prints one line
        code, text = plugin.UNKNOWN, f"{type(error).__name__}: {error}"
    output.plugin(plugin.line(code, text, data))
    return code


def _chosen(state: status.State, names: Sequence[str]) -> status.State:
    """Return the state of these databases only, if any are given.

    Raises:
        VerificationFailed: one of them is not backed up.

    """
    if not names or not state.readable:
        return state
    expected = {database.database for database in state.databases if database.expected}
    for name in names:
        if name not in expected:
            raise e.VerificationFailed(f"database {name} is not among those that are backed up")
    places = [
        replace(
            place,
            databases=[found for found in place.databases if found.database in names],
            clusters=(),
            stanzas=(),
        )
        for place in state.places
    ]
    return replace(state, places=[place for place in places if place.databases])


def state_of(configs: Sequence[config.Config]) -> status.State:
    """Read all stores and check their backups."""
    now = datetime.now(UTC)
    targets = [(found, target_of(found)) for found in configs]
    contents, problems, unreadable, runs, lost, having = contents_of(
        target for _, target in targets
    )
    places = []
    for found, stores in targets:
        target = attempts.with_tried(stores, runs)
        goals = status.Goals(
            max_age=found.settings.max_age,
            drill_max_age=found.settings.drill_max_age,
            rto=found.settings.rto,
            encrypted=found.encrypts,
        )
        readable = not contents.keys().isdisjoint(store.url for store in target.stores)
        databases = (
            status.judge(target, contents, goals, now, found.settings.zone, found.target, lost)
            if readable
            else []
        )
        databases = status.with_runs(databases, target, contents, runs, now, found.settings.zone)
        clusters, unread = clusters_of(found, having, now)
        unreadable += [problem for problem in unread if problem not in unreadable]
        places.append(
            status.TargetState(
                name=found.target, target=target, zone=found.settings.zone, goals=goals,
                readable=readable, databases=databases,
                failed_prune=attempts.failed_prune(target, runs),
                options=_options(found, target),
                clusters=clusters,
                stanzas=stanzas_of(found, now),
                cluster_goals=goals_of(found),
            )
        )  # fmt: skip
    return status.State(
        now=now, places=places, contents=contents, problems=problems, unreadable=unreadable,
        attempts=runs,
    )  # fmt: skip


def _options(found: config.Config, target: overview.Target) -> list[str]:
    """Return the options with which a command uses the same stores, in any folder."""
    store = target.store
    place = str(store.directory.absolute()) if isinstance(store, LocalStore) else store.url
    options = [] if found.target is None else [f"--target={found.target}"]
    given = found.values.get("BACKUP_DIR")
    if found.target is None or (given is not None and given.origin == config.COMMAND_LINE):
        options.append(f"--dir={place}")
    return options


def document(state: status.State) -> dict[str, Any]:
    """Return the document for --json."""
    prunes = [
        {"target": place.name, **msgspec.structs.asdict(place.failed_prune)}
        for place in state.places
        if place.failed_prune is not None
    ]
    return {
        "ok": state.ok, "reasons": state.reasons, "databases": state.databases,
        "failed_prunes": prunes, "clusters": state.clusters,
        "stanzas": state.stanzas,
    }  # fmt: skip


def _print(state: status.State) -> None:
    output.say(output.style(state.summary, bold=True, fg="green" if state.ok else "red"))
    for place in state.places:
        if len(state.places) > 1:
            output.show(["", f"target {place.name}"])
        if place.failed_prune is not None:
            output.say()
            _say(status.failure_texts(place.failed_prune, state.now), "red")
        for database in place.databases:
            output.say()
            output.say(*_head(database))
            _say(database.problems, "red")
            for failure in database.failures:
                _say(
                    status.failure_texts(failure, state.now),
                    "red" if failure.succeeded is None else None,
                )
            _say(database.notes, "yellow")
            _say(_facts(database, state.now))
            weeks = status.calendar(
                {**database.gaps, **database.days}, state.now.astimezone(place.zone).date()
            )
            output.say(" ", *(mark for week in weeks for mark in (" ", *map(_mark, week))))
        for cluster in place.clusters:
            _print_cluster(cluster, state.now)
        for stanza in place.stanzas:
            output.say()
            word, colour = ("not ok", "red") if stanza.problems else ("ok", "green")
            head = output.style(f"stanza {stanza.stanza}", bold=True)
            output.say(head, "  ", output.style(word, fg=colour))
            _say(stanza.problems, "red")
            _say(pgbackrest.facts(stanza, state.now))
    if state.databases:
        output.say()
        output.say(
            f"{status.WEEKS} weeks from Monday until today: M monthly, W weekly, d daily, m manual,"
        )
        output.say("- removed by retention, ? no longer there, x run failed, . no run recorded")


def _print_cluster(cluster: Cluster, now: datetime) -> None:
    output.say()
    word, colour = ("not ok", "red") if cluster.problems else ("ok", "green")
    if not cluster.expected:
        word, colour = "not expected", "yellow"
    head = output.style(f"cluster {cluster.title}", bold=True)
    output.say(head, "  ", output.style(word, fg=colour))
    _say(cluster.problems, "red")
    _say(cluster.notes, "yellow")
    _say(point_in_time.facts(cluster, now))


def _say(texts: Iterable[str], colour: str | None = None) -> None:
    """Print lines about a database, indented and wrapped."""
    for text in texts:
        lines = textwrap.wrap(
            printable(text), output.WIDTH, initial_indent="  ", subsequent_indent="    ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        for line in lines:
            output.say(line if colour is None else output.style(line, fg=colour))


def _head(database: status.Database) -> tuple[str, ...]:
    if not database.expected:
        word, colour = "not expected", "yellow"
    elif database.problems:
        word, colour = "not ok", "red"
    else:
        word, colour = "ok", "green"
    return output.style(database.database, bold=True), "  ", output.style(word, fg=colour)


def _facts(database: status.Database, now: datetime) -> list[str]:
    lines: list[str] = []
    if (last := database.last_attempt) is not None and last.exit_code == 0:
        ago = span(max(0.0, (now - last.when).total_seconds()))
        lines.append(f"last run succeeded {ago} ago on {last.host}")
    if database.snapshot is not None:
        state = "" if database.cipher is None else f"{database.cipher}, "
        state += "verified" if database.verified else "not verified"
        if database.verified and database.verified_level == CIPHERTEXT:
            state += " without key"
        state += ", lag of the standby unknown" if database.lag_unknown else ""
        age = span(max(0.0, database.age_seconds or 0))
        lines.append(
            f"newest: {database.newest_id},"
            f" {database.snapshot.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {age} ago,"
            f" {database.type}, {progress.size(database.size or 0)}, {state}"
        )
    noun = "backup" if database.backups == 1 else "backups"
    pending = (
        f", {database.pending_copies} of them not copied yet" if database.pending_copies else ""
    )
    of = f" of cluster {database.cluster}" if database.cluster else ""
    if database.backups:
        lines.append(f"{database.backups} {noun}{of}{pending}")
    if database.drill is not None:
        ago = span(max(0.0, (now - database.drill.when).total_seconds()))
        took = span(database.drill.recovery_seconds)
        result = (
            f"passed {ago} ago, recovery in {took}"
            if database.drill.passed
            else f"failed {ago} ago"
        )
        lines.append(f"last drill: {result}")
    return lines


def _mark(tier: str | None) -> str:
    mark = _MARKS[tier]
    return mark if tier is None else output.style(mark, fg=_COLOURS.get(tier))
