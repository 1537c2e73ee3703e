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
from . import attempts, overview, status
from .pages import charts, rendering
from .point_in_time import Cluster

SHOWN = 500  # backups of a database
RUNS = 10  # shown of a database


class Card(NamedTuple):
    """The summary of a database."""

    database: status.Database
    link: str
    calendar: charts.Calendar
    oldest: datetime | None
    size: int  # of all its backups that can be restored
    failures: list[str]  # of the last runs
    notes: list[str]  # what is unusual, and warnings of the newest


class Section(NamedTuple):
    """A target's databases."""

    name: str | None
    readable: bool
    cards: list[Card]
    failures: list[str]  # of runs that concern no single database
    off_site: str | None  # what is to say of copies, if none are configured
    clusters: Sequence[Cluster]  # with point in time


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
    id: str
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
            if place.name == target and _key(database.database) == key:
                return _database_page(database, place, state)
    return None


def link(database: str, target: str | None) -> str:
    """Return the path of a database's page; names can contain any character."""
    path = f"/database/{quote(_key(database), safe='')}"
    return path if target is None else f"{path}?target={quote(target, safe='')}"


def _key(database: str) -> str:
    """Return the last part of a link; browsers drop the parts `.` and `..`, also if encoded."""
    encoded = encode_database(database)
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")


def _section(place: status.TargetState, state: status.State) -> Section:
    worst_first = sorted(
        place.databases, key=lambda database: (not database.expected, not database.problems)
    )
    entries = _entries(place, state)
    cards = [_card(database, place, state, entries[database.database]) for database in worst_first]
    return Section(
        place.name,
        place.readable,
        cards,
        [] if place.failed_prune is None else status.failure_texts(place.failed_prune, state.now),
        _off_site(place.target),
        place.clusters,
    )


def _off_site(target: overview.Target) -> str | None:
    if target.copy is not None:
        return None
    if target.store.remote:
        return f"The backups are only in {target.store.url}: no second store is configured."
    return "No off-site copy configured: the backups are only in this directory."


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
        calendar=charts.calendar({**database.gaps, **database.days}, _today(place, state)),
        oldest=whole[0].as_of if whole else None,
        size=sum(each.artifact.size for each in whole),
        failures=[
            text
            for failure in database.failures
            for text in status.failure_texts(failure, state.now)
        ],
        notes=[
            *database.notes,
            *([] if newest is None else [*newest.drift, *newest.warnings]),
        ],
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
        off_site=_off_site(place.target),
        runs=attempts.recent(place.target, state.attempts, database.database, RUNS),
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
        ((drill, entry.manifest.name) for entry in entries for drill in entry.manifest.drills),
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
            backup=backup.stem,
            id=backup.id,
            bars=charts.bars(drill.seconds, longest),
        )
        for drill, backup in drills
    ]


def _row(entry: ListedBackup) -> Row:
    manifest = entry.manifest
    return Row(
        manifest=manifest,
        seconds=(manifest.finished - manifest.taken).total_seconds(),
        state=", ".join(filter(None, [entry.manifest.cipher, entry.state])),
        where=[url for url, missing in entry.stores.items() if not missing],
    )


def _commands(database: status.Database, place: status.TargetState) -> list[str]:
    """Return shell commands that restore the newest backup."""
    if database.newest is None:
        return []
    which = ["pgkeep", "restore", "--latest", *place.options, f"--database={database.database}"]
    variants = (
        [f"--target-db={_copy_of(database.database)}"],
        ["--table=SCHEMA.TABLE", "--as=TABLE_copy"],
        ["--drop-existing"],
    )
    return [" ".join(map(_word, [*which, *options])) for options in variants]


def _copy_of(database: str) -> str:
    """Return a name for a second database, of at most the 63 bytes to which the server cuts."""
    return database.encode()[:58].decode("utf-8", "ignore") + "_copy"


def _word(text: str) -> str:
    """Quote a word for a shell; bash and zsh know the form for bytes that cannot be shown."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = (
        character
        if character.isprintable() and character not in "'\\"
        else "".join(f"\\{byte:03o}" for byte in character.encode())
        for character in text
    )
    return f"$'{''.join(escaped)}'"
