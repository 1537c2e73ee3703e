"""Remove what retention does not keep: base backups, dependents first, and then WAL.

Also what interrupted base backups have left.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from .. import errors as e
from ..crypt.options import Encryption
from ..model import wal
from ..model.wal import PARTIAL
from ..stores.store import Item, Store
from . import retention
from .archive import WalArchive
from .base_manifest import SUFFIX, BaseManifest, name_of, started_of
from .bases import BaseCatalog
from .location import Location

# A base backup that another host takes or copies has files and no manifest yet. So long after the
# newest of them, which can be days after it was started, that host has ended.
SAFE_AGE = timedelta(days=2)


@dataclass(slots=True)
class Expired:
    """What was removed from one location."""

    store: str
    bases: list[str] = field(default_factory=list)
    segments: int = 0  # files of WAL
    leftovers: int = 0  # files of interrupted base backups
    retained: list[str] = field(default_factory=list)  # messages: what cannot be removed yet
    damaged: list[str] = field(default_factory=list)  # messages: base backups that cannot be used

    @property
    def messages(self) -> list[str]:
        """What to tell people."""
        found = [f"{text}; it is kept, and takes no part in retention" for text in self.damaged]
        if self.bases or self.segments:
            found.append(
                f"removed {len(self.bases)} base backups and {self.segments} files of WAL, which"
                " were before the window"
            )
        if self.leftovers:
            found.append(f"removed {self.leftovers} files of interrupted base backups")
        if self.retained:
            more = f", and {len(self.retained) - 1} more files" if self.retained[1:] else ""
            found.append(f"{self.retained[0]}{more}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalPlan:
    """What can be removed from one location, and the names that the decision is based on."""

    location: Location
    expiry: retention.Expiry
    wal: dict[int, list[str]]  # stored files of expired WAL by number
    leftovers: dict[str, list[str]]  # files of interrupted base backups, by its name
    is_dead: Callable[[str], bool]  # whether no run works on the base backup with this name
    damaged: list[str]

    @property
    def first_kept(self) -> str | None:
        """The name of the first segment that is kept, without its timeline."""
        if self.expiry.first_kept is None:
            return None
        return wal.Segment(1, self.expiry.first_kept).name(self.location.facts.segment_size)[8:]


def plan(
    location: Location, encryption: Encryption, window: timedelta, now: datetime,
    dead: Collection[str] = (),
) -> RemovalPlan:  # fmt: skip
    """Return what can be removed from a location.

    A base backup whose manifest is damaged takes no part: neither its files nor what they need are
    a reason to keep or to remove another one. If a manifest only cannot be read now, nothing is
    removed: the WAL before others can be what it needs. `dead` has the names of base backups that a
    killed run of this host did not finish.

    Raises:
        StoreError: the location could not be listed.

    """
    catalog = location.bases()
    bases = catalog.read()
    archive = location.archive(encryption)
    if catalog.incomplete:
        expiry = retention.keep_all(bases.values(), "another base backup cannot be read now")
    else:
        expiry = retention.decide(bases, archive.segments(), window, now, _timelines(archive))

    def is_dead(name: str) -> bool:
        return name in dead or _is_old(name, catalog.leftovers.get(name, ()), now)

    return RemovalPlan(
        location=location,
        expiry=expiry,
        wal={} if expiry.first_kept is None else _wal_before(archive, expiry.first_kept),
        leftovers=_files(catalog, is_dead),
        is_dead=is_dead,
        damaged=list(catalog.unreadable),
    )


def _timelines(archive: WalArchive) -> set[int]:
    names = (name.removesuffix(PARTIAL) for name in archive.files())
    size = archive.origin.segment_size
    found = {wal.parse_history(name) for name in archive.files()} - {None}
    segments = (wal.parse_segment(name, size) for name in names)
    return {t for t in found if t is not None} | {s.timeline for s in segments if s is not None}


def _wal_before(archive: WalArchive, first: int) -> dict[int, list[str]]:
    """Return the stored files before a segment: complete and unfinished ones, and backup labels."""
    found: dict[int, list[str]] = {}
    for name, files in archive.files().items():
        own = name[:24] if wal.is_backup_label(name) else name.removesuffix(PARTIAL)
        segment = wal.parse_segment(own, archive.origin.segment_size)
        if segment is not None and segment.number < first:
            found.setdefault(segment.number, []).extend(file.stored for file in files)
    return found


def _is_old(name: str, files: Iterable[Item], now: datetime) -> bool:
    started, safe = started_of(name), now - SAFE_AGE
    written = [item.modified for item in files if item.modified is not None]
    return started is not None and started < safe and max(written, default=0) < safe.timestamp()


def _files(catalog: BaseCatalog, is_dead: Callable[[str], bool]) -> dict[str, list[str]]:
    """Return the files of interrupted base backups, by their names."""
    found = catalog.leftovers.items()
    return {name: [item.name for item in items] for name, items in found if is_dead(name)}


def execute(decided: RemovalPlan) -> Expired:
    """Remove what was decided. After an interruption, the rest is removed by the next run.

    Object Lock can retain a base backup. Then its parents and its WAL stay too: what is listed can
    be restored.

    Raises:
        StoreError: a file could not be removed.

    """
    done = Expired(decided.location.url, damaged=decided.damaged)
    store = decided.location.base
    left = {decision.base.name: decision.base for decision in decided.expiry.bases}
    for base in decided.expiry.removed:
        if not any(other.parent == base.name for other in left.values()):
            _remove_base(store, base, done, left)
    _remove_leftovers(store, decided.leftovers, done)
    _abort_uploads(decided.location, decided.is_dead)
    first = retention.first_needed(left.values())
    for number, files in sorted(decided.wal.items()):
        if first is not None and number < first:
            done.segments += _remove(decided.location.wal, files, done)
    return done


def sweep(location: Location, dead: Collection[str]) -> None:
    """Remove what killed runs of this host left of base backups with these names.

    Raises:
        StoreError: a file could not be removed.

    """
    if not dead:
        return
    catalog = location.bases()
    catalog.read()
    _remove_leftovers(location.base, _files(catalog, dead.__contains__), Expired(location.url))
    _abort_uploads(location, dead.__contains__)


def _remove_leftovers(store: Store, leftovers: Mapping[str, list[str]], done: Expired) -> None:
    for name, files in leftovers.items():
        # The manifest would be the proof that they belong to a base backup.
        if not store.exists(name + SUFFIX):
            done.leftovers += _remove(store, files, done)


def _abort_uploads(location: Location, is_dead: Callable[[str], bool]) -> None:
    location.base.sweep(
        lambda file: (name := name_of(file)) is not None and is_dead(name),
        location.facts.system_identifier,
    )


def _remove_base(
    store: Store, base: BaseManifest, done: Expired, left: dict[str, BaseManifest]
) -> None:
    """Remove the files of a base backup, the manifest first: without it, it does not exist."""
    manifest, *others = base.files
    if not _remove(store, [manifest], done):
        return
    del left[base.name]
    done.bases.append(base.name)
    _remove(store, others, done)


def _remove(store: Store, files: Sequence[str], done: Expired) -> int:
    """Remove files, and return how many were."""
    count = 0
    for file in files:
        try:
            store.delete(file)
            count += 1
        except e.Retained as error:
            done.retained.append(error.message)
    return count
