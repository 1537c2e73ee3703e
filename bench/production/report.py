"""The figures of a run as a page."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .application import Session
from .observer import Wait


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What happened while one kind of work was done."""

    name: str
    seconds: float
    codes: Mapping[int, int]  # exit code -> number of runs
    sessions: Sequence[Session]
    waits: Sequence[Wait]
    lag: Mapping[str, float]  # bytes


def copied(session: Session) -> Session:
    """Return the figures of a session as they are now."""
    return dataclasses.replace(session, failures=list(session.failures))


def _longest(waits: Sequence[Wait], *, ddl: bool) -> str:
    seconds = [wait.seconds for wait in waits if (wait.application in ("DDL", "REINDEX")) == ddl]
    return f"{max(seconds):.1f} s ({len(seconds)})" if seconds else "none"


def _row(phase: Phase) -> str:
    codes = ", ".join(f"{count} x {code}" for code, count in sorted(phase.codes.items()))
    transactions = sum(session.transactions for session in phase.sessions)
    failures = sum(len(session.failures) for session in phase.sessions)
    lag = max((seconds for seconds in phase.lag.values()), default=0.0)
    cells = [
        phase.name, codes or "-", f"{transactions / phase.seconds:,.0f}/s", str(failures),
        _longest(phase.waits, ddl=True), _longest(phase.waits, ddl=False), f"{lag / 1e6:.1f} MB",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def text(phases: Sequence[Phase], major: int, noted: int, checked: int) -> str:
    """Return the page in Markdown."""
    waits = [wait.seconds for phase in phases for wait in phase.waits]
    median = f"{statistics.median(waits):.2f} s" if waits else "none"
    failures = sorted(
        {failure for phase in phases for session in phase.sessions for failure in session.failures}
    )
    introduction = (
        f"PostgreSQL {major}, default settings for locks. Waits are those for a lock of pgkeep,"
        " directly or behind a session that waits for pgkeep: the longest, and how many."
    )
    summary = (
        f"The median of all {len(waits)} waits is {median}. The manifests record {noted} waits."
        f" {checked} of the backups were restored, and the sum of all accounts was right."
    )
    lines = [
        introduction,
        "",
        "| phase | exit codes | transactions | failed | DDL waited | others waited | lag |",
        "|---|---|---|---|---|---|---|",
        *map(_row, phases),
        "",
        summary,
    ]
    lines += [f"Failed: {failure}" for failure in failures]
    return "\n".join(lines) + "\n"
