"""The outcome as lines for the terminal, and as docs/mutants.md."""

import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tests.support.servers import DEFAULT

from .bug import Bug
from .tree import ROOT, Outcome

DOCUMENT = ROOT / "docs" / "mutants.md"
NOT_TRIED = "not tried since the last change of the bug, its file or the test"
SHOWN = 110  # characters of an assertion

INTRODUCTION = """# Planted bugs

`make mutants` writes this page. The [glossary](glossary.md) explains the terms.

The program copies the code and plants one bug. It runs the tests that have to notice the bug, until
the first one fails. At the end, it runs these tests once more without a bug, and they must pass. If
no test notices a bug, the program fails. The list of bugs is in `tests/mutants`.

Written on {date}, commit {commit}, Python {python}, servers of PostgreSQL {servers}: {count} bugs,
{noticed} noticed. The seconds include the start of pytest and of the servers, on a machine with
other work. A result of an earlier run is used as long as the bug, its file and the test have not
changed.
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What the tests made of a bug."""

    bug: Bug
    outcome: Outcome
    error: str = ""

    @property
    def problem(self) -> str:
        """Why this bug is not noticed; empty if it is."""
        return self.error or ("" if self.outcome.test else "no test notices it")


def failing(result: Result, test: str) -> Result:
    """Return the result of a bug again; if only a test that always fails noticed it, with that."""
    if result.outcome.test != test:
        return result
    return replace(result, error=f"{test} also fails without it")


def line(result: Result) -> str:
    """Return the outcome of a bug for the terminal."""
    outcome = result.outcome
    found = f"{outcome.test}: {_short(outcome.message)}" if outcome.test else ""
    return f"{outcome.seconds:6.1f} s  {result.bug.name}: {result.problem or found}"


def write(kinds: Mapping[str, Sequence[Bug]], results: Sequence[Result]) -> None:
    """Write the document."""
    by_name = {result.bug.name: result for result in results}
    text = INTRODUCTION.format(
        date=datetime.now(UTC).date().isoformat(),
        commit=_commit(),
        python=platform.python_version(),
        servers=", ".join(map(str, DEFAULT)),
        count=len(results),
        noticed=sum(not result.problem for result in results),
    )
    for kind, bugs in kinds.items():
        text += "\n".join(_section(kind, [by_name[bug.name] for bug in bugs]))
    DOCUMENT.write_text(text, encoding="utf-8")


def _section(kind: str, results: Sequence[Result]) -> Iterator[str]:
    yield f"\n## {kind}\n"
    yield "| bug | in | it would cause | noticed by | s |"
    yield "|---|---|---|---|---|"
    for result in results:
        bug, outcome = result.bug, result.outcome
        if result.problem:
            noticed = f"**{_cell(result.problem)}**"
        else:
            file, _, test = _cell(outcome.test or "").partition("::")
            noticed = f"`{test}` in `{file}`: {_code(outcome.message)}"
        yield (
            f"| {_cell(bug.name)} | `{bug.file}` | {_cell(bug.effect)} | {noticed}"
            f" | {outcome.seconds:.0f} |"
        )
    yield ""


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _short(message: str) -> str:
    """Return the assertion, else the first line."""
    lines = [*filter(None, map(str.strip, message.splitlines())), ""]
    first = next((line for line in lines if line.startswith("assert ")), lines[0])
    return first if len(first) <= SHOWN else f"{first[:SHOWN]}..."


def _code(message: str) -> str:
    return f"`{_cell(_short(message)).replace('`', chr(39))}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
