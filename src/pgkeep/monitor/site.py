"""The pages of `pgkeep serve`: the state of all databases, and the details of one."""

import shlex
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import NamedTuple
from urllib.parse import quote

from .. import progress
from ..catalog.catalog import ListedBackup, merge
from ..model.manifest import Manifest
from ..model.naming import encode_database
from ..stores.local import LocalStore
from ..stores.store import Store
from . import status
from .pages import charts, rendering

SHOWN = 500  # backups of a database


class Card(NamedTuple):
    """The summary of a database."""

    database: status.Database
    link: str
    calendar: charts.Calendar
    oldest: datetime | None
    size: int  # of all its backups that can be restored
    notes: list[str]  # warnings of the newest


class Section(NamedTuple):
    """A target's databases."""

    name: str | None
    readable: bool
    cards: list[Card]


class Holding(NamedTuple):
    """The contents of a store; None if unknown."""

    url: str
    backups: int | None
    size: int
    free: int | None


class PendingCopy(NamedTuple):
    """A copy that failed and is still pending."""

    backup: str
    store: str
    since: datetime


class Drilled(NamedTuple):
    """One drill of a database."""

    when: datetime
    passed: bool
    findings: int
    recovery: float
    backup: str
    bars: list[charts.Bar]


class Row(NamedTuple):
    """One backup of a database."""

    manifest: Manifest
    seconds: float
    state: str
    where: list[str]


def overview_page(state: status.State) -> bytes:
    """Return the page with the state of all databases."""
    return rendering.render(
        "overview.html",
        now=state.now,
        ok=state.ok,
        summary=state.summary,
        problems=state.problems + state.unreadable,
        places=[_section(place, state) for place in state.places],
        stores=list(_holdings(state)),
        pending_copies=list(_pending_copies(state)),
    )


def database_page(state: status.State, key: str, target: str | None) -> bytes | None:
    """Return the page of the database in the last part of a link, or None if it is unknown."""
    for place in state.places:
        for database in place.databases:
            if place.name == target and encode_database(database.database) == key:
                return _database_page(database, place, state)
    return None


def link(database: str, target: str | None) -> str:
    """Return the path of a database's page; names can contain any character."""
    path = f"/database/{quote(encode_database(database))}"
    return path if target is None else f"{path}?target={quote(target, safe='')}"


def _section(place: status.TargetState, state: status.State) -> Section:
    worst_first = sorted(
        place.databases, key=lambda database: (not database.expected, not database.problems)
    )
    entries = _entries(place, state)
    cards = [_card(database, place, state, entries[database.database]) for database in worst_first]
    return Section(place.name, place.readable, cards)


def _card(
    database: status.Database,
    place: status.TargetState,
    state: status.State,
    entries: Sequence[ListedBackup],
) -> Card:
    whole = [entry.manifest for entry in entries if _restorable(entry)]
    newest = whole[-1] if whole else None
    return Card(
        database=database,
        link=link(database.database, place.name),
        calendar=charts.calendar(database.days, _today(place, state)),
        oldest=whole[0].as_of if whole else None,
        size=sum(each.artifact.size for each in whole),
        notes=[] if newest is None else [*newest.drift, *newest.warnings],
    )


def _today(place: status.TargetState, state: status.State) -> date:
    return state.now.astimezone(place.zone).date()


def _entries(place: status.TargetState, state: status.State) -> Mapping[str, list[ListedBackup]]:
    """Return the backups by database, oldest first, without duplicates."""
    found: dict[str, list[ListedBackup]] = defaultdict(list)
    for entry in merge((s.url, state.contents.get(s.url, ())) for s in place.target.stores):
        found[entry.manifest.database.name].append(entry)
    return found


def _restorable(entry: ListedBackup) -> bool:
    return not entry.missing and entry.manifest.full


def _holdings(state: status.State) -> Iterator[Holding]:
    for store in _stores(state):
        backups = state.contents.get(store.url)
        whole = [backup.manifest.artifact.size for backup in backups or () if not backup.missing]
        yield Holding(
            url=store.url,
            backups=None if backups is None else len(whole),
            size=sum(whole),
            free=_free(store),
        )


def _stores(state: status.State) -> Sequence[Store]:
    """Return all stores without duplicates: two targets can share a store."""
    found = {store.url: store for place in state.places for store in place.target.stores}
    return list(found.values())


def _free(store: Store) -> int | None:
    if isinstance(store, LocalStore):
        with suppress(OSError):
            return shutil.disk_usage(store.directory).free
    return None


def _pending_copies(state: status.State) -> Iterator[PendingCopy]:
    seen = set()
    for place in state.places:
        copy = place.target.copy
        for backup in () if copy is None else state.contents.get(place.target.store.url, ()):
            copy_ = (backup.manifest.name.stem, copy.url if copy is not None else "")
            if copy_[1] in backup.manifest.pending and copy_ not in seen:
                seen.add(copy_)
                yield PendingCopy(*copy_, backup.manifest.finished)


def _database_page(
    database: status.Database, place: status.TargetState, state: status.State
) -> bytes:
    entries = _entries(place, state)[database.database]
    whole = [entry.manifest for entry in entries if _restorable(entry)]
    return rendering.render(
        "database.html",
        now=state.now,
        card=_card(database, place, state, entries),
        sizes=charts.chart([_point(each, "size") for each in whole], progress.size),
        durations=charts.chart([_point(each, "time") for each in whole], progress.duration),
        drills=_drills(entries),
        backups=[_row(entry) for entry in entries[: -SHOWN - 1 : -1]],
        more=len(entries) > SHOWN,
        commands=_commands(database, place),
    )


def _point(manifest: Manifest, what: str) -> charts.Point:
    took = (manifest.finished - manifest.taken).total_seconds()
    value, text = (
        (manifest.artifact.size, progress.size(manifest.artifact.size))
        if what == "size"
        else (took, progress.duration(took))
    )
    title = f"{rendering.moment(manifest.as_of)}, {manifest.type}: {text}"
    return charts.Point(manifest.as_of, value, str(manifest.type), title)


def _drills(entries: Sequence[ListedBackup]) -> list[Drilled]:
    """Return all drills, newest first, with phases in the same scale."""
    drills = sorted(
        ((drill, entry.manifest.name.stem) for entry in entries for drill in entry.manifest.drills),
        key=lambda pair: pair[0].when,
        reverse=True,
    )
    longest = max((sum(drill.seconds.values()) for drill, _ in drills), default=0.0)
    return [
        Drilled(
            when=drill.when,
            passed=drill.passed,
            findings=max(drill.findings, 0 if drill.passed else 1),
            recovery=drill.recovery_seconds,
            backup=backup,
            bars=charts.bars(drill.seconds, longest),
        )
        for drill, backup in drills
    ]


def _row(entry: ListedBackup) -> Row:
    manifest = entry.manifest
    return Row(
        manifest=manifest,
        seconds=(manifest.finished - manifest.taken).total_seconds(),
        state=entry.state,
        where=[url for url, missing in entry.stores.items() if not missing],
    )


def _commands(database: status.Database, place: status.TargetState) -> list[str]:
    """Return shell commands that restore the newest backup."""
    if database.newest is None:
        return []
    which = ["pgkeep", "restore", "--latest", f"--database={database.database}"]
    if place.name is not None:
        which.insert(2, f"--target={place.name}")
    variants = (
        [f"--target-db={database.database}_copy"],
        ["--table=SCHEMA.TABLE", "--as=TABLE_copy"],
        ["--drop-existing", "--yes"],
    )
    return [shlex.join([*which, *options]) for options in variants]
