"""What the tests do not execute, as a page with the reasons; see tests/branch_coverage.py."""

import subprocess
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgkeep import __version__

REASONS = Path(__file__).parents[1] / "uncovered.toml"
PACKAGE = "src/pgkeep/"
NONE = "no reason yet"

_INTRODUCTION = """\
# Coverage

`make coverage` writes this page. The [glossary](glossary.md) explains the terms. The tests of
`make test` run under coverage.py, with the processes that they start. A branch is one of the ways
that a program can go on after a condition or a loop.

Measured on {date} with pgkeep {pgkeep} (commit {commit}). Tests: {summary}. They execute
{percent:.1f} % of {branches:,} branches, and {lines:.1f} % of {statements:,} statements.

| package | statements | executed | branches | executed |
|---|---|---|---|---|
"""

_MISSING = """
## What is not executed

The file `tests/uncovered.toml` contains the reasons. The command fails if a function has no reason,
or if a reason is about a function that is executed.

| reason | branches | functions |
|---|---|---|
"""


@dataclass(frozen=True)
class Function:
    """A function, or the statements of a module outside of all functions."""

    name: str  # path below the package, and qualified name
    statements: int
    branches: int
    lines: list[int]  # which are not executed
    arcs: list[tuple[int, int]]  # branches that are not executed, as two lines

    @property
    def is_missing(self) -> bool:
        """Whether a part is not executed."""
        return bool(self.lines or self.arcs)


@dataclass(frozen=True)
class Report:
    """What was measured, and the reasons for what is missing."""

    functions: list[Function]
    reasons: Mapping[str, str]

    @property
    def branches(self) -> int:
        return sum(function.branches for function in self.functions)

    @property
    def percent(self) -> float:
        """The share of branches that are executed."""
        missing = sum(len(function.arcs) for function in self.functions)
        return 100 * (1 - missing / max(self.branches, 1))

    def stale(self) -> Iterator[str]:
        """Yield the functions that need no reason, and those that do not exist."""
        missing = {function.name for function in self.functions if function.is_missing}
        for name in sorted(self.reasons.keys() - missing):
            yield f"{REASONS.name}: {name} is executed, or does not exist"

    def unexplained(self) -> Iterator[str]:
        """Yield the functions that need a reason."""
        for function in self.functions:
            if function.is_missing and function.name not in self.reasons:
                yield f"{function.name}: {NONE}"

    def missing(self) -> Iterator[str]:
        """Yield what is not executed, by function."""
        for function in self.functions:
            if function.is_missing:
                arcs = [f"{begin}->{end}" for begin, end in function.arcs]
                yield f"{function.name}: {' '.join(arcs)}; lines {function.lines}"


def read(measured: Mapping[str, Any]) -> Report:
    """Read what `coverage json` writes."""
    functions = [
        Function(
            f"{path.partition(PACKAGE)[2]}:{name}".rstrip(":"), found["summary"]["num_statements"],
            found["summary"]["num_branches"], found["missing_lines"],
            [(begin, end) for begin, end in found["missing_branches"]],
        )
        for path, file in sorted(measured["files"].items())
        for name, found in file["functions"].items()
    ]  # fmt: skip
    return Report(functions, reasons())


def reasons() -> dict[str, str]:
    """Return the reason for each function that is not executed completely."""
    groups = tomllib.loads(REASONS.read_text())
    return {name: reason for reason, names in groups.items() for name in names}


def page(report: Report, summary: str) -> str:
    """Return the page in Markdown."""
    commit = ["git", "rev-parse", "--short", "HEAD"]
    statements = sum(function.statements for function in report.functions)
    missing = sum(len(function.lines) for function in report.functions)
    return (
        _INTRODUCTION.format(
            date=f"{datetime.now(UTC):%Y-%m-%d}", pgkeep=__version__, percent=report.percent,
            commit=subprocess.check_output(commit, text=True).strip(), branches=report.branches,
            lines=100 * (1 - missing / max(statements, 1)), statements=statements,
            summary=summary,
        )
        + "".join(_packages(report)) + _MISSING + "".join(_reasons(report))
    )  # fmt: skip


def _packages(report: Report) -> Iterator[str]:
    packages: dict[str, list[Function]] = defaultdict(list)
    for function in report.functions:
        folder, slash, _ = function.name.partition("/")
        packages[f"`{folder}/`" if slash else "modules without a package"].append(function)
    for name, functions in packages.items():
        cells = [
            (sum(function.statements for function in functions),
             sum(len(function.lines) for function in functions)),
            (sum(function.branches for function in functions),
             sum(len(function.arcs) for function in functions)),
        ]  # fmt: skip
        shares = [f"{count:,} | {100 * (1 - out / max(count, 1)):.1f} %" for count, out in cells]
        yield f"| {name} | {' | '.join(shares)} |\n"


def _reasons(report: Report) -> Iterator[str]:
    branches: Counter[str] = Counter()
    names: dict[str, list[str]] = defaultdict(list)
    for function in report.functions:
        if function.is_missing:
            reason = report.reasons.get(function.name, NONE)
            branches[reason] += len(function.arcs)
            names[reason].append(f"`{function.name}`")
    for reason in sorted(names.keys() - {NONE}):
        yield f"| {reason} | {branches[reason]} | {', '.join(names[reason])} |\n"
    if NONE in names:
        functions = f"{len(names[NONE])} functions, `--missing` prints them"
        yield f"| {NONE} | {branches[NONE]} | {functions} |\n"
