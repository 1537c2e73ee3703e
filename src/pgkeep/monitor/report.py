"""The result of a drill as an HTML page."""

from collections.abc import Iterator

from .. import progress
from ..drill.result import DrillResult, isolation_of
from .pages import charts, rendering

_MEANINGS = {
    "download": "fetching the file",
    "start": "starting a server",
    "verify": "checking the file's hashes",
    "load": "tables and rows",
    "index": "indexes and constraints",
    "analyze": "statistics",
    "check": "comparing with the backup",
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
