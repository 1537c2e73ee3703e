"""The results of fuzzing as a page."""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from . import seeds
from .findings import FINDINGS
from .targets import TARGETS

_INTRODUCTION = """\
# Fuzzing

`make fuzz` writes this page. The [glossary](glossary.md) explains the terms.

Fuzzing gives changed bytes to a function, and keeps each input that executes new code. pgkeep reads
bytes that others wrote: backup files, dumps, manifests, names of files, answers of a bucket. Every
function that reads them must return a value or raise an error of pgkeep, in bounded time and
memory. It cannot write outside its directory, or start a program. Where bytes are behind a hash, a
MAC or a checksum, the input gets the correct one, so that the code behind it is reached.

The program is atheris {atheris} with Python {python}. The targets ran at the lowest priority on a
machine with other work, so processor time is less than elapsed time. `make test` repeats the kept
inputs, and changes examples of each reader with Hypothesis.
"""


@dataclass(kw_only=True)
class Result:
    """What the runs of a target have shown."""

    target: str
    seconds: float = 0.0
    processor: float = 0.0  # seconds of processor time
    executions: int = 0
    edges: int = 0
    features: int = 0
    inputs: int = 0
    findings: list[str] = field(default_factory=list)
    commit: str = ""
    ended: str = ""


def page(results: Sequence[Result]) -> str:
    """Return the page in Markdown."""
    lines = [
        _INTRODUCTION.format(atheris=_atheris(), python=platform.python_version()),
        "## Runs\n",
        (
            "| target | commit, date | elapsed | processor time | inputs tried | edges | features"
            " | kept inputs | open findings |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(result) for result in results),
        (
            "\nEdges and features count what atheris has seen of the code. Kept inputs are in"
            " `tests/fixtures/corpus`.\n"
        ),
        "## Targets\n",
        "| target | reads |",
        "|---|---|",
        *(f"| {name} | {_readers(name)} |" for name in TARGETS),
        "\n## Findings\n",
        (
            "All but the open ones are fixed, and each of them has a test in"
            " `tests/fuzz/test_findings.py`. Some were"
            " found by reading the code for the targets, before the first run.\n"
        ),
        "| target | before the fix | test |",
        "|---|---|---|",
        *(f"| {found.target} | {found.found} | `{found.test}` |" for found in FINDINGS),
    ]
    return "\n".join(lines) + "\n"


def _atheris() -> str:
    try:
        return version("atheris")
    except PackageNotFoundError:
        return "(not installed)"


def _row(result: Result) -> str:
    kept = list(seeds.kept(result.target))
    size = sum(map(len, kept)) / 1000
    return (
        f"| {result.target} | {result.commit}, {result.ended} | {result.seconds / 60:.0f} min"
        f" | {result.processor / 60:.0f} min | {result.executions:,} | {result.edges:,}"
        f" | {result.features:,} | {len(kept)} ({size:.0f} kB) | {len(result.findings)} |"
    )


def _readers(name: str) -> str:
    """Return what the readers of a target read, from the docstring of their module."""
    description = sys.modules[TARGETS[name][0].__module__].__doc__ or name
    return description.partition("\n")[0].removeprefix("Readers of ").removesuffix(".")
