"""The outcome as lines for the terminal, and as docs/regression.md."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from . import reasons, source
from .facts import Difference
from .lab import Step
from .steps import TABLES

DOCUMENT = Path(__file__).parents[2] / "docs" / "regression.md"
SHOWN = 160  # characters of a name or message
LISTED = 12  # differences of one reason and one step

INTRODUCTION = """# PostgreSQL's own regression database

`make regress` writes this page. The [glossary](glossary.md) explains the terms. The command \
downloads Debian's source package of PostgreSQL {major} and runs its regression tests \
(`src/test/regress`) on a temporary server. Then it backs up and restores the resulting database, \
with the tests' library `regress.so`. It requires Debian, gcc and make, and takes some minutes.

Functions in C name the library by its absolute path. Every server on the same machine finds it, \
also that of a drill. A server of another major version cannot load it. PostgreSQL 18 uses its own \
build of the library, and a copy of the database that names the library without a directory.

The test compares each restored database with the source. It compares the definitions that pg_dump \
writes, the rows of every table and materialized view (their number, and a hash that does not \
depend on their order), sequences, large objects, extensions, and settings of the database. Each \
difference is listed below with its reason. `make regress` ends with exit code 1 if a difference \
has no reason.

Measured on {date}. Tests: PostgreSQL {version}, {tests}

## Steps

*Also plain* counts the differences that `pg_dump | psql` into a new database also has.

| step | commands | seconds | differences | also plain |
|---|---|---|---|---|
"""

REASONS = """
## Differences and their reasons

"""

COUNTS = """
## Objects

| kind | source | restored |
|---|---|---|
"""

CHOSEN = """
## Single tables

The test restores these tables one by one, next to the existing table and in its place:

| table | why it was chosen |
|---|---|
"""


def line(step: Step) -> str:
    """Return a step's outcome in one line."""
    plain = sum(difference in step.plain for difference in step.differences)
    open_ = len([*unexplained(step)])
    return (
        f"{step.name:<48} {step.seconds:6.1f} s  {len(step.differences):3} differences,"
        f" {plain:2} also of pg_dump | psql, {open_:2} without a reason"
    )


def unexplained(step: Step) -> Iterator[Difference]:
    """Yield the differences that no reason explains."""
    for difference in step.differences:
        if _reason(step, difference) is None:
            yield difference


def unused(steps: Sequence[Step]) -> list[reasons.Reason]:
    """Return the reasons that explain nothing."""
    used = {_reason(step, difference) for step in steps for difference in step.differences}
    return [one for one in reasons.REASONS if one not in used]


def write(
    tests: str, steps: Sequence[Step], before: Mapping[str, int], after: Mapping[str, int]
) -> None:
    """Write the document."""
    date = datetime.now(UTC).date().isoformat()
    text = INTRODUCTION.format(major=source.MAJOR, date=date, version=source.version(), tests=tests)
    text += "".join(_step(step) for step in steps)
    text += REASONS + "\n".join(_reasons(steps))
    text += COUNTS + "".join(
        f"| {kind} | {before.get(kind, 0):,} | {after.get(kind, 0):,} |\n"
        for kind in dict.fromkeys([*before, *after])
    )
    text += CHOSEN + "".join(f"| `{table}` | {why} |\n" for table, why in TABLES.items())
    DOCUMENT.write_text(text, encoding="utf-8")


def _reason(step: Step, one: Difference) -> reasons.Reason | None:
    found = reasons.reason(f"{step.name}: {one}: {one.after}")
    if found is None and one in step.plain and step.name.startswith("restore into"):
        return reasons.SERVER_LACKS
    return found


def _step(step: Step) -> str:
    plain = sum(difference in step.plain for difference in step.differences)
    commands = "<br>".join(f"`{_cell(command)}`" for command in step.commands)
    count = len(step.differences)
    return f"| {_cell(step.name)} | {commands} | {step.seconds:.1f} | {count} | {plain} |\n"


def _reasons(steps: Sequence[Step]) -> Iterator[str]:
    for reason in (*reasons.REASONS, reasons.SERVER_LACKS, None):
        found = [
            (
                step,
                [
                    difference
                    for difference in step.differences
                    if _reason(step, difference) == reason
                ],
            )
            for step in steps
        ]
        if not any(differences for _, differences in found):
            continue
        title = "No reason is known." if reason is None else f"Caused by {reason.whose}."
        yield f"**{title}** {'' if reason is None else reason.text}\n"
        by_difference: dict[str, list[str]] = {}
        for step, differences in found:
            for one in differences:
                by_difference.setdefault(_shown(one), []).append(step.name)
        for number, (shown, names) in enumerate(by_difference.items()):
            if number == LISTED:
                yield f"- and {len(by_difference) - LISTED} more"
                break
            yield f"- {shown}: {', '.join(dict.fromkeys(names))}"
        yield ""


def _shown(one: Difference) -> str:
    name = _short(f"{one.kind} {one.name}")
    if one.kind == "exit code":
        return f"{name}: {_short(one.after)}"
    return name


def _short(text: str) -> str:
    text = _cell(text)
    return f"`{text if len(text) <= SHOWN else text[:SHOWN] + '...'}`"


def _cell(text: str) -> str:
    # Libraries are named by their absolute paths, which are another machine's elsewhere.
    text = text.replace(f"{Path(__file__).parents[2]}/", "")
    return text.replace("|", "\\|").replace("\n", " ").replace("`", "'")
