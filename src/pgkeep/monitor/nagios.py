"""The state of the backups as one line of a Nagios plugin, with performance data.

The form is that of the guidelines for Nagios plugins, which Icinga, Naemon and NRPE also read.
"""

from collections.abc import Iterator, Sequence

from ..terminal import printable
from . import status

OK, WARNING, CRITICAL, UNKNOWN = range(4)
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
LONGEST = 1000  # characters of the text; NRPE cuts a long line, and with it the performance data


def line(code: int, text: str, data: Sequence[str] = ()) -> str:
    """Return the line of a plugin: a bar separates the text from the performance data."""
    plain = printable(text).replace("|", "/")
    if len(plain) > LONGEST:
        plain = f"{plain[: LONGEST - 3]}..."
    shown = f"PGKEEP {_WORDS[code]}: {plain}"
    return f"{shown} | {' '.join(data)}" if data else shown


def verdict(state: status.State) -> tuple[int, str]:
    """Return the exit code of a plugin and its text.

    Critical is what endangers a restore now: no recent backup, or a failed drill.
    """
    if not state.readable:
        return UNKNOWN, "; ".join(state.reasons)
    if not state.ok:
        critical = (
            state.bare
            or any(database.critical for database in state.databases)
            or any(cluster.critical for cluster in state.clusters)
            or any(stanza.critical for stanza in state.stanzas)
        )
        return (CRITICAL if critical else WARNING), "; ".join(state.reasons)
    if state.problems:
        return WARNING, "; ".join(state.problems)
    return OK, state.summary.removeprefix("ok: ")


def performance_data(state: status.State) -> Iterator[str]:
    """Yield age and size of each newest backup, and the recovery time of each last drill."""
    title = status.titles(state.databases)
    for place in state.places:
        for database in place.databases:
            if not database.expected:
                continue
            name = title(database)
            if database.age_seconds is not None:
                age = max(0, round(database.age_seconds))
                yield f"{_label(f'{name} age')}={age}s;;{round(place.goals.max_age)};0"
            if database.size is not None:
                yield f"{_label(f'{name} size')}={database.size}B;;;0"
            if database.drill is not None:
                limit = "" if place.goals.rto is None else round(place.goals.rto)
                seconds = round(database.drill.recovery_seconds, 1)
                yield f"{_label(f'{name} recovery')}={seconds}s;;{limit};0"
    for cluster in state.clusters:
        if cluster.rpo_seconds is not None:
            yield f"{_label(f'{cluster.title} rpo')}={round(cluster.rpo_seconds)}s;;;0"


def _label(name: str) -> str:
    """Return a quoted label; it cannot contain an equals sign, and a quote is doubled."""
    text = printable(name).replace("|", "/").replace("=", "_").replace("'", "''")
    return f"'{text}'"
