"""The result of a drill as a page to look at, to print and to hand on: one file, no scripts.

It fetches nothing from anywhere, and says so to the browser.
"""

from collections.abc import Iterator
from datetime import UTC
from html import escape

from . import progress
from .drill import Outcome
from .rows import Check

WIDTH, BAR, GAP, LABEL = 680, 22, 10, 90

_STYLE = """
:root { color-scheme: light dark; --text: #1d232a; --dim: #5c6670; --line: #d7dce1;
  --page: #ffffff; --card: #f5f7f9; --good: #1a7f37; --bad: #c2262e; --bar: #2f6db5; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --dim: #98a2ad; --line: #3a424b;
  --page: #15191e; --card: #1e242b; --good: #4fc06a; --bad: #ff7b72; --bar: #6aa5e8; } }
* { box-sizing: border-box; }
body { margin: 2rem auto; max-width: 46rem; padding: 0 1rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.outcome { display: inline-block; padding: 0 .6rem; border-radius: .3rem; color: var(--page); }
.good { background: var(--good); } .bad { background: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
ul { padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { fill: var(--text); font-size: 13px; }
svg rect { fill: var(--bar); }
footer { margin-top: 2rem; color: var(--dim); font-size: .85rem; }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_FOOTER = (
    "The backup was restored into a scratch database and compared with its own contents; the"
    " database was dropped afterwards."
)
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


def page(outcome: Outcome) -> str:
    """Return the report as HTML."""
    word, kind = ("passed", "good") if outcome.green else ("failed", "bad")
    name = outcome.database or outcome.backup
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>Restore drill of {_text(name)}: {word}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f'<h1>Restore drill of {_text(name)} <span class="outcome {kind}">{word}</span></h1>',
        *_facts(outcome),
        *_list("Findings", outcome.findings),
        *_list("Warnings", outcome.warnings),
        *_times(outcome),
        *_checks(outcome.checks),
        f"<footer>pgkeep {_text(outcome.pgkeep)}. {_FOOTER}</footer>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _text(value: object) -> str:
    """Escape what may come from anywhere: databases and tables may be called anything."""
    return escape(str(value), quote=True)


def _facts(outcome: Outcome) -> Iterator[str]:
    where = "started for it" if outcome.throw_away else "that was given"
    facts = {
        "Backup": outcome.backup,
        "Taken": f"{outcome.taken.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if outcome.taken else "",
        "Drill": f"{outcome.began.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "Server": f"PostgreSQL {outcome.server}, {where}" if outcome.server else "",
        "Size": f"{progress.size(outcome.size)}, {progress.size(outcome.raw_bytes)} of SQL",
        "Contents": f"{outcome.tables:,} tables, {outcome.rows:,} rows",
        "Time": progress.duration(sum(outcome.seconds.values())),
    }
    yield "<dl>"
    for name, value in facts.items():
        if value:
            yield f"<dt>{name}</dt><dd>{_text(value)}</dd>"
    yield "</dl>"


def _list(heading: str, items: list[str]) -> Iterator[str]:
    if items:
        yield f"<h2>{heading}</h2><ul>"
        yield from (f"<li>{_text(item)}</li>" for item in items)
        yield "</ul>"


def _times(outcome: Outcome) -> Iterator[str]:
    """Draw a bar for each phase, one beginning where the last has ended."""
    whole = sum(outcome.seconds.values())
    if not whole:
        return
    height = len(outcome.seconds) * (BAR + GAP)
    yield "<h2>Where the time went</h2>"
    yield f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Seconds by phase">'
    scale = (WIDTH - LABEL - 80) / whole
    start = 0.0
    for number, (phase, seconds) in enumerate(outcome.seconds.items()):
        top = number * (BAR + GAP)
        left, width = LABEL + start * scale, max(1.0, seconds * scale)
        middle = top + BAR * 0.7
        meaning = _MEANINGS.get(phase, phase)
        yield (
            f'<text x="0" y="{middle:.1f}">{_text(phase)}</text>'
            f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" rx="3">'
            f"<title>{_text(meaning)}: {progress.duration(seconds)}</title></rect>"
            f'<text x="{left + width + 6:.1f}" y="{middle:.1f}">'
            f"{progress.duration(seconds)}</text>"
        )
        start += seconds
    yield "</svg>"
    yield '<table><tr><th>Phase</th><th></th><th class="number">Seconds</th></tr>'
    for phase, seconds in outcome.seconds.items():
        yield (
            f"<tr><td>{_text(phase)}</td><td>{_text(_MEANINGS.get(phase, ''))}</td>"
            f'<td class="number">{seconds:.1f}</td></tr>'
        )
    yield "</table>"


def _checks(checks: list[Check]) -> Iterator[str]:
    yield "<h2>What was checked</h2>"
    yield '<table><tr><th>Check</th><th class="number">Objects</th><th>Result</th></tr>'
    for check in checks:
        result = f"{len(check.findings)} wrong" if check.findings else "ok"
        yield (
            f'<tr><td>{_text(check.name)}</td><td class="number">{check.checked:,}</td>'
            f"<td>{result}</td></tr>"
        )
    yield "</table>"
