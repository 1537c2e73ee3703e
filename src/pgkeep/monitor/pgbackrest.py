"""Check the stanzas of pgBackRest against the same goals as backups: decisions from its own report.

pgBackRest does not say how old the newest archived WAL is. A drill measures it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import msgspec

from ..drill.pgbackrest_info import OK, Stanza
from ..drill.pitr_result import LastDrill
from . import cluster_drills
from .metrics import Sample, labelled
from .spans import span

TYPES = ("full", "diff", "incr")
UNREADABLE = 255  # no status of pgBackRest


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What is expected of a stanza; in seconds, as of a database."""

    max_age: float
    drill_max_age: float | None = None  # None: not checked
    rto: float | None = None


class StanzaState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one stanza."""

    stanza: str
    target: str | None
    system_identifier: str | None
    code: int | None  # of its status; 0 is "ok". None: it could not be read
    message: str
    newest: str | None  # the label of the newest backup
    stopped: dict[str, datetime]  # the end of the newest backup of each type
    archive_min: str | None  # names of segments
    archive_max: str | None
    drill: LastDrill | None
    problems: list[str]
    critical: bool  # whether nothing can be restored, or nothing new enough


def judge(
    found: Stanza, drill: LastDrill | None, goals: Goals, now: datetime, target: str | None
) -> StanzaState:
    """Check a stanza that was read."""
    newest = found.newest()
    severe = list(_backup_problems(found, goals, now))
    other = list(cluster_drills.drill_problems(drill, goals.drill_max_age, goals.rto, now))
    return StanzaState(
        stanza=found.name,
        target=target,
        system_identifier=found.system_identifier,
        code=found.code,
        message=found.message,
        newest=None if newest is None else newest.label,
        stopped={
            kind: backup.stopped for kind in TYPES if (backup := found.newest(kind)) is not None
        },
        archive_min=found.archive_min,
        archive_max=found.archive_max,
        drill=drill,
        problems=[*severe, *other],
        critical=bool(severe) or (drill is not None and not drill.passed),
    )


def unreadable(name: str, problem: str, target: str | None) -> StanzaState:
    """Return the state of a stanza that cannot be read."""
    return StanzaState(
        stanza=name, target=target, system_identifier=None, code=None, message=problem,
        newest=None, stopped={}, archive_min=None, archive_max=None, drill=None,
        problems=[problem], critical=True,
    )  # fmt: skip


def _backup_problems(found: Stanza, goals: Goals, now: datetime) -> Iterator[str]:
    newest = found.newest()
    if found.code != OK:
        yield f"pgBackRest reports: {found.message}"
    elif newest is None:
        yield "no backup"
    if newest is None:
        return
    age = (now - newest.stopped).total_seconds()
    if age > goals.max_age:
        yield f"its newest backup is {span(age)} old, BACKUP_MAX_AGE is {span(goals.max_age)}"
    if newest.damaged:
        yield f"its newest backup {newest.label} has pages with wrong checksums"
    if newest.archive_max is None or newest.archive_max[8:] < newest.first_segment[8:]:
        yield f"the archive has no WAL of its newest backup {newest.label}"


def facts(state: StanzaState, now: datetime) -> Iterator[str]:
    """Describe a stanza in lines for people."""
    if state.stopped:
        ages = (
            f"{kind} {span(max(0.0, (now - when).total_seconds()))} ago"
            for kind, when in state.stopped.items()
        )
        yield f"newest backups: {', '.join(ages)}"
    if state.archive_max is not None:
        yield f"archive: {state.archive_min} to {state.archive_max}"
    yield from cluster_drills.fact(state.drill, now)


def samples(states: Iterable[StanzaState]) -> Iterator[Sample]:
    """Yield the metrics of stanzas; one that cannot be read has no time of a backup."""
    for state in states:
        name = state.stanza
        code = UNREADABLE if state.code is None else state.code
        yield Sample("pgkeep_pgbackrest_status_code", labelled(stanza=name), code)
        for kind, when in state.stopped.items():
            labels = labelled(stanza=name, type=kind)
            yield Sample("pgkeep_pgbackrest_backup_timestamp_seconds", labels, when.timestamp())
        if state.code is not None:
            yield from cluster_drills.samples("pgkeep_pgbackrest", state.drill, stanza=name)
