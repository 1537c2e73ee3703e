"""What the last drill of a cluster shows, of pgkeep's own files or of pgBackRest's."""

from collections.abc import Iterator
from datetime import datetime

from ..drill.pitr_result import LastDrill
from .metrics import Sample, labelled
from .spans import span


def drill_problems(
    last: LastDrill | None, drill_max_age: float | None, rto: float | None, now: datetime
) -> Iterator[str]:
    """Yield the goals of drills that are not met, as for the drills of databases."""
    if last is not None and not last.passed:
        yield f"its last drill failed (findings: {last.findings})"
    if drill_max_age is not None:
        passed = None if last is None else last.last_passed
        if passed is None:
            yield "no drill has passed"
        elif (age := (now - passed).total_seconds()) > drill_max_age:
            limit = span(drill_max_age)
            yield f"its last passed drill was {span(age)} ago, BACKUP_DRILL_MAX_AGE is {limit}"
    took = None if last is None else last.recovery_seconds
    if rto is not None and took is not None and took > rto:
        yield f"its recovery took {span(took)}, BACKUP_RTO is {span(rto)}"


def fact(last: LastDrill | None, now: datetime) -> Iterator[str]:
    """Describe the last drill in a line for people, if there was one."""
    if last is None:
        return
    ago = span(max(0.0, (now - last.when).total_seconds()))
    took = last.recovery_seconds
    recovery = "" if took is None else f", recovery in {span(took)}"
    yield f"last drill: {'passed' if last.passed else 'failed'} {ago} ago{recovery}"


def samples(prefix: str, last: LastDrill | None, **labels: str) -> Iterator[Sample]:
    """Yield the metrics of the last drill."""
    passed = None if last is None else last.last_passed
    found: dict[str, float | None] = {
        "last_success_timestamp_seconds": 0.0 if passed is None else passed.timestamp(),
        "last_findings": None if last is None else last.findings,
        "rto_seconds": None if last is None else last.recovery_seconds,
    }
    for name, value in found.items():
        if value is not None:
            yield Sample(f"{prefix}_drill_{name}", labelled(**labels), value)
