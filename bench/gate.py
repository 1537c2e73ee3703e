"""Decide whether pgkeep has become slower, from its shares of other tools' times."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .record import Compared, Record

LIMIT = 1.10  # see docs/design.md, "Speed gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A share of another tool's time: the recorded one, and that of this run."""

    compared: Compared
    recorded: float
    now: float

    @property
    def limit(self) -> float:
        return self.recorded * LIMIT

    @property
    def failed(self) -> bool:
        return self.now > self.limit


def changes(recorded: Mapping[Compared, float], now: Mapping[Compared, float]) -> list[Change]:
    """Return the changes of all shares that both runs measured."""
    return [
        Change(compared=compared, recorded=recorded[compared], now=share)
        for compared, share in now.items()
        if compared in recorded
    ]


def not_comparable(recorded: Record, now: Record) -> str:
    """Return why the shares of two runs cannot be compared, or an empty string."""
    # A share depends on these: pg_dump | gzip uses two cores, whatever the machine has.
    for name in ("scale", "cores", "jobs"):
        before, here = getattr(recorded, name), getattr(now, name)
        if before != here:
            return f"{name}: the record has {before}, this run {here}"
    return ""


def table(found: Sequence[Change]) -> Iterator[str]:
    """Yield the lines of a table, the worst changes first."""
    width = max(len(str(change.compared)) for change in found)
    yield f"{'share of the time':{width}}  recorded    now  limit"
    for change in sorted(found, key=lambda change: change.now / change.recorded, reverse=True):
        shares = f"{change.recorded:8.0%} {change.now:6.0%} {change.limit:6.0%}"
        yield f"{change.compared!s:{width}}  {shares}{'  SLOWER' if change.failed else ''}"
