"""The result of a drill as an HTML page."""

from collections.abc import Iterator, Sequence

from .. import progress
from ..drill.pitr_result import PitrDrillResult
from ..drill.result import ISOLATION, DrillResult, isolation_of
from .pages import charts, rendering

_MEANINGS = {
    "download": "fetching the file",
    "start": "starting a server",
    "verify": "checking the file's hashes",
    "load": "tables and rows",
    "index": "indexes and constraints",
    "analyze": "statistics",
    "fetch": "fetching and checking WAL",
    "assemble": "restoring and verifying the base backup",
    "recover": "replaying WAL, until the server answers",
    "check": "comparing with the backup, or checking the recovered cluster",
    "clean": "cleaning up",
}


def page(outcome: DrillResult) -> bytes:
    """Return the report as HTML."""
    whole = sum(outcome.seconds.values())
    return rendering.render(
        "drill.html",
        outcome=outcome,
        facts=list(_facts(outcome)),
        phases=charts.bars(outcome.seconds, whole),
        meanings=_MEANINGS,
    )


def _facts(outcome: DrillResult) -> Iterator[tuple[str, str]]:
    yield "Backup", outcome.backup
    if outcome.taken:
        yield "Taken", rendering.moment(outcome.taken)
    yield "Drill", rendering.moment(outcome.began)
    if outcome.server:
        where = "started for it" if outcome.temporary else "that was given"
        yield "Server", f"PostgreSQL {outcome.server}, {where}"
        if outcome.temporary:
            yield "Isolation", isolation_of(outcome)
    yield "Size", f"{progress.size(outcome.size)}, {progress.size(outcome.raw_bytes)} of SQL"
    yield "Contents", f"{outcome.tables:,} tables, {outcome.rows:,} rows"
    yield "Time", progress.duration(sum(outcome.seconds.values()))


def cluster_page(outcomes: Sequence[PitrDrillResult]) -> bytes:
    """Return the report of drills of clusters as HTML."""
    longest = max(
        (sum(point.seconds.values()) for each in outcomes for point in each.points), default=0.0
    )
    return rendering.render(
        "cluster_drill.html",
        outcomes=outcomes,
        passed=all(outcome.passed for outcome in outcomes),
        facts=[list(_cluster_facts(outcome)) for outcome in outcomes],
        phases=[
            [charts.bars(point.seconds, longest) for point in outcome.points]
            for outcome in outcomes
        ],
        meanings=_MEANINGS,
    )


def _cluster_facts(outcome: PitrDrillResult) -> Iterator[tuple[str, str]]:
    yield "Files", outcome.place
    yield "Drill", rendering.moment(outcome.began)
    if outcome.server:
        yield "Server", f"PostgreSQL {outcome.server}, started for it"
        isolation = ", ".join(ISOLATION.get(kind, kind) for kind in outcome.isolation)
        yield "Isolation", isolation or "none"
    if outcome.recovery_seconds is not None:
        yield "Recovery time (RTO)", progress.duration(outcome.recovery_seconds)
    if outcome.lost_seconds is not None:
        newest = f"{progress.duration(outcome.lost_seconds)} before the drill"
        yield "Newest change that can be restored (RPO)", newest
    yield "Seed of the random second", str(outcome.seed)
