"""What the files of a cluster in a store show: windows, gaps, base backups, what is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from .. import errors as e
from ..config import Config
from ..crypt.options import Encryption
from ..model import wal
from ..model.wal import PARTIAL, Extent, Lsn, Path, Segment, Switch
from . import chains, stream_state, windows
from .archive import WalArchive, history
from .base_manifest import BaseManifest, Kind
from .location import Location, spool_of
from .stream_state import StreamState
from .windows import Gap, Window


class BaseState(msgspec.Struct, frozen=True, kw_only=True):
    """The newest base backup."""

    name: str
    kind: Kind
    parent: str | None
    stopped: datetime  # UTC
    size: int  # bytes before compression
    chain: int | None  # base backups that a restore needs; None if one is missing


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """What can be restored of a cluster from one store."""

    system_identifier: str
    cluster: str | None  # BACKUP_CLUSTER
    store: str
    ended: datetime | None  # UTC; when `pgkeep pitr disable` was run
    windows: list[Window]  # along the way to the newest timeline, oldest first
    other_timelines: list[Window]  # of timelines that the newest one has left
    gaps: list[Gap]
    bases: int
    newest_base: BaseState | None
    segments: int
    newest_lsn: str | None  # the end of the newest segment on the newest timeline
    newest_wal: datetime | None  # UTC; when it, or the unfinished one after it, was stored
    unreadable: list[str]  # files that cannot be read
    waiting: list[str]  # base backups whose WAL is not stored yet
    unusable: list[str]  # why other base backups, or a timeline, cannot be restored
    timelines_by_name: bool = False  # no key decrypts the histories
    stream: StreamState | None = None  # of the receiver, on its host

    @property
    def current(self) -> Window | None:
        """The window that goes on with the WAL that is received; None if there is none."""
        last = self.windows[-1] if self.windows else None
        return last if last is not None and last.end == self.newest_lsn else None


@dataclass(frozen=True, slots=True)
class _Wal:
    """The archived WAL and the timelines in it."""

    archive: WalArchive
    segments: list[Segment]
    histories: Mapping[int, tuple[Switch, ...]]
    by_name: bool
    unreadable: list[str]

    def partial_after(self, segment: Segment, path: Path) -> str:
        """Return the name of the unfinished segment that follows."""
        size = self.archive.origin.segment_size
        number = segment.number + 1
        return path.segment(number, size).name(size) + PARTIAL

    def stored_at(self, segment: Segment) -> datetime | None:
        """Return when a segment was stored."""
        return self.archive.stored_at(segment.name(self.archive.origin.segment_size))


def read(
    location: Location, encryption: Encryption, stream: StreamState | None = None
) -> ClusterState:
    """Read names and manifests of a cluster, with the state of its receiver if that is here.

    Raises:
        StoreError: the store cannot be read.

    """
    catalog = location.bases()
    return examine(
        location, location.archive(encryption), catalog.read(), catalog.unreadable, stream
    )


def examine(
    location: Location, archive: WalArchive, bases: Mapping[str, BaseManifest],
    unreadable: Sequence[str], stream: StreamState | None = None,
) -> ClusterState:  # fmt: skip
    """Return what an archive and base backups show that were listed before.

    Raises:
        StoreError: the store cannot be read.

    """
    archived = _read_wal(archive)
    size = location.facts.segment_size
    path = windows.newest_path(archived.histories, archived.segments)
    runs = [] if path is None else wal.extents(path, archived.segments, size)
    found = [] if path is None else windows.windows(bases, path, runs, archived.stored_at)
    found = [_with_partial(window, archived, path) for window in found if path is not None]
    others = [] if path is None else _others(bases, archived, path)
    newest_lsn = None if not runs else str(runs[-1].last.end(size))
    if found and stream is not None and found[-1].end == newest_lsn:
        found[-1] = _completed(found[-1], stream, size)
    waiting, unusable = _outside(bases, archived, runs, [*found, *others])
    newest = max(bases.values(), key=lambda base: base.stop_lsn, default=None)
    return ClusterState(
        system_identifier=location.facts.system_identifier,
        cluster=location.facts.name,
        store=location.url,
        ended=location.facts.ended,
        windows=found,
        other_timelines=others,
        gaps=[] if path is None else windows.gaps(path, runs, size, found, archived.stored_at),
        bases=len(bases),
        newest_base=None if newest is None else _base(newest, bases),
        segments=len(archived.segments),
        newest_lsn=newest_lsn,
        newest_wal=None if path is None or not runs else _newest_wal(archived, path, runs[-1]),
        unreadable=[*archived.unreadable, *unreadable],
        waiting=waiting,
        unusable=unusable,
        timelines_by_name=archived.by_name,
        stream=stream,
    )


def _read_wal(archive: WalArchive) -> _Wal:
    segments = archive.segments()
    found: dict[int, tuple[Switch, ...]] = {}
    unreadable: list[str] = []
    by_name = False
    for name in sorted(archive.files()):
        timeline = wal.parse_history(name)
        if timeline is None:
            continue
        try:
            found[timeline] = history(archive, name)
        except e.VerificationFailed as error:
            unreadable.append(error.message)
        except (e.NoKey, e.OtherKey, e.UsageError):  # a receiver needs no private key
            by_name = True
    if by_name:
        size = archive.origin.segment_size
        names = [name.removesuffix(PARTIAL) for name in archive.files() if name.endswith(PARTIAL)]
        partial = [part for name in names if (part := wal.parse_segment(name, size)) is not None]
        found = windows.switches_from_names([*segments, *partial], size) | found
    return _Wal(archive, segments, found, by_name, unreadable)


def _with_partial(window: Window, archived: _Wal, path: Path) -> Window:
    """Return a window with the unfinished segment that follows it."""
    size = archived.archive.origin.segment_size
    number = Lsn.parse(window.end) // size - 1
    last = path.segment(number, size)
    stored = archived.archive.stored_at(archived.partial_after(last, path))
    if stored is None:
        return window
    until = stored if window.until is None else max(stored, window.until)
    return msgspec.structs.replace(window, partial=True, until=until)


def _completed(window: Window, stream: StreamState, size: int) -> Window:
    """Return the newest window with the time of which the receiver has stored everything.

    What the receiver has stored can have been lost since: the list of the store decides.
    """
    if stream.complete_until is None or stream.position is None or stream.slot is None:
        return window  # archive_command stores what is complete, whatever was written since
    position, end = Lsn.parse(stream.position), Lsn.parse(window.end)
    stored = position <= end or (window.partial and position <= end + size)
    if not stored or stream.timeline not in (None, window.timeline):
        return window
    return msgspec.structs.replace(window, until=stream.complete_until, complete=True)


def receiver_state(config: Config, system_identifier: str) -> StreamState | None:
    """Return the state of a cluster's receiver; None if it does not run on this host.

    Raises:
        StoreError, VerificationFailed: it cannot be read.

    """
    try:
        spool = spool_of(config, system_identifier)
    except e.UsageError:
        return None
    found = stream_state.read(stream_state.path_in(spool))
    return found if found is not None and found.system_identifier == system_identifier else None


def _newest_wal(archived: _Wal, path: Path, run: Extent) -> datetime | None:
    times = [
        archived.stored_at(run.last),
        archived.archive.stored_at(archived.partial_after(run.last, path)),
    ]
    return max((time for time in times if time is not None), default=None)


def _others(bases: Mapping[str, BaseManifest], archived: _Wal, newest: Path) -> list[Window]:
    """Return the windows of the timelines that the newest one has left."""
    size = archived.archive.origin.segment_size
    timelines = {segment.timeline for segment in archived.segments} - {newest.timeline}
    paths = wal.paths(archived.histories, sorted(timelines))
    return windows.other_windows(
        bases, paths.values(), newest, archived.segments, size, archived.stored_at
    )


def _base(base: BaseManifest, known: Mapping[str, BaseManifest]) -> BaseState:
    chain = chains.find(base, known)
    return BaseState(
        name=base.name, kind=base.kind, parent=base.parent, stopped=base.stopped, size=base.size,
        chain=None if chain is None else len(chain),
    )  # fmt: skip


def _outside(
    bases: Mapping[str, BaseManifest], archived: _Wal, runs: list[Extent], found: list[Window]
) -> tuple[list[str], list[str]]:
    """Return the base backups in no window that wait for their WAL, and what is wrong of others."""
    usable = {name for window in found for name in window.bases}
    known = {1, *archived.histories}
    lost = sorted({segment.timeline for segment in archived.segments} - known)
    waiting: list[str] = []
    texts = [f"the history of timeline {timeline} is missing" for timeline in lost]
    for base in bases.values():
        if base.name in usable:
            continue
        run = windows.run_of(base, runs)
        if chains.find(base, bases) is None:
            texts.append(f"base backup {base.name} is based on one that is missing")
        elif base.timeline not in known:
            texts.append(f"base backup {base.name} is of timeline {base.timeline} without history")
        elif not runs or run is runs[-1] or base.start_lsn >= runs[-1].last.end(base.segment_size):
            waiting.append(base.name)
        else:
            texts.append(f"WAL that base backup {base.name} needs is missing")
    return waiting, texts
