"""The figures of a run as a page."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_INTRODUCTION = """\
# Point in time for hours

`make soak SOAK_ARGS='--minutes={result.minutes:g} --seed={result.seed} --major={result.major}'`
writes this page. The [glossary](glossary.md) explains the terms.

pgbench executes {result.rate} transactions per second on PostgreSQL {result.major}, and one more
session inserts numbered rows. `pgkeep pitr stream` stores the WAL in a directory and in a bucket.
At random times the receiver is killed, stopped or kept down, `pg_receivewal` is killed, or the
bucket does not respond. A base backup is taken every 20 minutes. Every minute, the newest commit in
the bucket is compared with the clock (RPO). At the end, random seconds are restored from the bucket
alone. The restored cluster must have exactly the rows that were committed until then, and the four
sums of pgbench must be equal.
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    major: int
    minutes: float
    seed: int
    rate: int
    commits: int  # of the ledger
    faults: Mapping[str, int]
    bases: Mapping[str, int]
    rpo: Sequence[float]  # seconds; the bucket was reachable
    rpo_down: Sequence[float]  # seconds; it was not, shortly before
    memory: Sequence[int]  # bytes, every second
    ended: Mapping[str, int]  # exit statuses of receivers that ended by themselves
    windows: list[dict[str, Any]]
    restores: Sequence[float]  # seconds
    failed: Sequence[str]


def page(result: Result) -> str:
    """Return the page in Markdown."""
    gaps = sum(len(found["gaps"]) for found in result.windows)
    windows = sum(len(found["windows"]) for found in result.windows)
    lines = [
        _INTRODUCTION.format(result=result),
        "| measured | result |",
        "|---|---|",
    ]
    restores = f"{len(result.restores)}, all exact, {statistics.median(result.restores):.1f} s"
    rows = {
        "time": f"{result.minutes:g} minutes, {result.commits:,} rows",
        **{name: f"{count} times" for name, count in sorted(result.faults.items())},
        "base backups": _counts(result.bases),
        "RPO while the bucket was reachable": _spread(result.rpo),
        "RPO within two minutes after it was not": _spread(result.rpo_down),
        "receivers that ended by themselves": _counts(result.ended) or "none",
        "gaps in the WAL archive": str(gaps),
        "windows": str(windows),
        "memory of the receiver and its programs": _memory(result.memory),
        "restores to a random second": f"{restores} (median)",
        "errors of the load": "; ".join(result.failed) or "none",
    }
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(lines) + "\n"


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items()))


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "not measured"
    return (
        f"{statistics.median(seconds):.1f} s (median), {max(seconds):.1f} s (maximum),"
        f" {len(seconds)} samples"
    )


def _memory(samples: Sequence[int]) -> str:
    """Compare the first and the last quarter: memory must not grow."""
    own = [sample for sample in samples if sample] or [0]
    quarter = max(1, len(own) // 4)
    first, last = (statistics.median(part) / 2**20 for part in (own[:quarter], own[-quarter:]))
    return (
        f"{first:.0f} MiB (median of the first quarter), {last:.0f} MiB (of the last),"
        f" {max(own) / 2**20:.0f} MiB (maximum)"
    )
