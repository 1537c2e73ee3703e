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


@dataclass(frozen=True, kw_only=True)
class Result:
    """What happened on one server."""

    major: int
    phases: Sequence[Phase]
    noted: int  # waits in the manifests
    checked: int  # backups that were restored


INTRODUCTION = """\
# What pgkeep does to an application

`make production` writes this page. The [glossary](glossary.md) explains the terms.

Eight sessions use a database all the time: three transfer money between accounts, one reads, one
inserts orders, one executes DDL every second, one rebuilds indexes every second, and one holds a
transaction open for two seconds. A standby and a logical subscriber follow the server. Its
settings for locks are the defaults. Meanwhile pgkeep makes backups (`--verify`), replaces a
table that is read and referenced (`--table --drop-existing`), and replaces another database
(`--drop-existing`).

- *Waited* is the longest time that a session waited for a lock of pgkeep, and the number of such
  waits. A session that is queued behind another one which waits for pgkeep counts, too. The locks
  are sampled 20 times a second.
- *DDL* are the sessions that execute DDL and rebuild indexes.
- *Failed* is the number of transactions of the application that ended with an error.
- *Lag* is how far the standby or the subscriber was behind, at most.
"""


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


def page(results: Sequence[Result]) -> str:
    """Return the page in Markdown."""
    return INTRODUCTION + "".join(map(_section, results))


def _section(result: Result) -> str:
    waits = [wait.seconds for phase in result.phases for wait in phase.waits]
    median = f"{statistics.median(waits):.2f} s" if waits else "none"
    failures = sorted(
        {
            failure
            for phase in result.phases
            for session in phase.sessions
            for failure in session.failures
        }
    )
    summary = (
        f"The median of all {len(waits)} waits is {median}. The manifests record {result.noted}"
        f" waits: pgkeep looks four times a second. {result.checked} of the backups were restored,"
        " and the sum of all accounts was right."
    )
    lines = [
        f"## PostgreSQL {result.major}",
        "",
        "| phase | exit codes | transactions | failed | DDL waited | others waited | lag |",
        "|---|---|---|---|---|---|---|",
        *map(_row, result.phases),
        "",
        summary,
        *(f"- Failed: {failure}" for failure in failures),
    ]
    return "\n" + "\n".join(lines) + "\n"
