"""Calculate the positions of shapes in charts, which the templates draw."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

from ...model.manifest import NOT_RECOVERY
from .. import status

WEEKS = 26  # of a calendar
CELL = 13  # of which 2 are the gap
MARGIN = 30, 14  # of a calendar, for the names of days and months

WIDTH, HEIGHT = 400, 130  # of a chart, of which the lines' own area is
LEFT, RIGHT, TOP, BOTTOM = 4, 396, 18, 108
MOST = 400  # points of a chart


_MEANINGS = {
    None: "no run recorded",
    "removed": "removed by retention",
    "gone": "its backup is no longer there",
    "failed": "the run failed",
}


class Cell(NamedTuple):
    """One day of a calendar."""

    x: int
    y: int
    tier: str
    title: str


class Label(NamedTuple):
    """A label in a chart."""

    x: int
    text: str


class Calendar(NamedTuple):
    """Half a year, with one column for each week, starting on Monday."""

    width: int
    height: int
    cells: list[Cell]
    months: list[Label]
    summary: str


def calendar(days: Mapping[str, str], today: date) -> Calendar:
    """Lay out the days with the highest tier of their backups, or the reason why there are none."""
    left, top = MARGIN
    weeks = status.calendar(days, today, WEEKS)
    monday = today - timedelta(days=today.weekday() + 7 * (WEEKS - 1))
    cells, months = [], []
    for column, week in enumerate(weeks):
        begins = monday + timedelta(weeks=column)
        # A name does not fit above the last column.
        if begins.day <= 7 and column < WEEKS - 1:
            months.append(Label(left + column * CELL, f"{begins:%b}"))
        for row, tier in enumerate(week):
            day = begins + timedelta(days=row)
            title = f"{day:%a} {day}: {_MEANINGS.get(tier, tier)}"
            cells.append(Cell(left + column * CELL, top + row * CELL, tier or "none", title))
    with_backup = sum(cell.tier not in {"none", *_MEANINGS} for cell in cells)
    summary = f"backups on {with_backup} of the last {len(cells)} days"
    return Calendar(left + WEEKS * CELL, top + 7 * CELL, cells, months, summary)


class Point(NamedTuple):
    """A value at a time, with its backup."""

    when: datetime
    value: float
    tier: str
    title: str


class Dot(NamedTuple):
    """A point of a chart."""

    x: float
    y: float
    tier: str
    title: str


class Chart(NamedTuple):
    """Values over time, from zero to the highest value."""

    dots: list[Dot]
    line: str  # points of an SVG polyline
    highest: str
    first: str
    last: str


def chart(points: Sequence[Point], text: Callable[[float], str]) -> Chart | None:
    """Lay out the newest points, given oldest first; None without points."""
    shown = points[-MOST:]
    if not shown:
        return None
    begin, end = shown[0].when, shown[-1].when
    highest = max(point.value for point in shown)
    dots = [
        Dot(
            round(LEFT + (RIGHT - LEFT) * _share((point.when - begin) / timedelta(seconds=1),
                                                 (end - begin) / timedelta(seconds=1)), 1),
            round(BOTTOM - (BOTTOM - TOP) * _share(point.value, highest), 1),
            point.tier,
            point.title,
        )
        for point in shown
    ]  # fmt: skip
    line = " ".join(f"{dot.x},{dot.y}" for dot in dots)
    return Chart(dots, line, text(highest), f"{begin:%Y-%m-%d}", f"{end:%Y-%m-%d}")


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 1.0


class Bar(NamedTuple):
    """A part of a row of bars, in percent."""

    start: float
    width: float
    kind: str
    name: str
    seconds: float


def bars(seconds: Mapping[str, float], longest: float) -> list[Bar]:
    """Lay out a drill's phases one after the other; a row of `longest` seconds is full.

    Phases that delay a recovery alternate between two kinds, so that their borders are visible.
    """
    laid, start, waited = [], 0.0, 0
    for name, value in seconds.items():
        width = 100 * _share(value, longest)
        kind = "own"
        if name not in NOT_RECOVERY:
            kind = ("even", "odd")[waited % 2]
            waited += 1
        laid.append(Bar(round(start, 2), round(width, 2), kind, name, value))
        start += width
    return laid
