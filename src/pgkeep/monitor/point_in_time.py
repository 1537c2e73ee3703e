"""Check whether a cluster can be restored to any second: decisions from what its stores show.

A cluster is checked only if a store has its description, which `pgkeep pitr enable` writes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from ..drill.pitr_result import LastDrill
from ..model.wal import Lsn
from ..pitr.stream_state import FRESH, StreamState
from . import cluster_drills
from .spans import span

if TYPE_CHECKING:
    from ..pitr.overview import ClusterState
    from ..pitr.windows import Gap

LATE = 3  # times BACKUP_WAL_MAX_LAG
SHORTEST = 60.0  # seconds; a store can be slow for a moment
NEAR = 0.2  # share of the WAL that a slot keeps, below which it may soon be lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What is expected of a cluster; in seconds."""

    window: float  # any second of which can be restored
    base_max_age: float
    drill_max_age: float | None = None  # None: not checked
    rto: float | None = None
    wal_max_lag: float  # 0: unfinished segments are not stored, so there is no limit

    @property
    def rpo(self) -> float | None:
        """How old the newest change may be that is not stored; None: not checked."""
        return max(SHORTEST, LATE * self.wal_max_lag) if self.wal_max_lag else None


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a cluster with point in time."""

    system_identifier: str
    cluster: str | None
    target: str | None
    stores: "list[ClusterState]"
    receiver: StreamState | None  # on its host only
    expected: bool  # whether it is checked
    running: bool | None  # None: the receiver is not on this host
    rpo_seconds: float | None  # age of the time of which everything is stored; None: unknown
    problems: list[str]
    critical: bool  # whether changes can be lost now, or nothing can be restored
    notes: list[str]
    drill: LastDrill | None = None

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.cluster or self.system_identifier


def judge(
    stores: "Sequence[ClusterState]", unread: Sequence[str], goals: Goals, now: datetime,
    target: str | None = None, *, superseded: bool = False, drill: LastDrill | None = None,
) -> Cluster:  # fmt: skip
    """Check one cluster, from all stores that have it; `unread` is why others cannot be read.

    One that was disabled, or that is superseded by a newer one of its name, is not checked.
    """
    first = stores[0]
    ended = [state.ended for state in stores if state.ended is not None]
    if superseded or len(ended) == len(stores):
        why = "another cluster has its name"
        if ended:
            why = f"pgkeep pitr disable was run {span((now - max(ended)).total_seconds())} ago"
        return Cluster(
            system_identifier=first.system_identifier, cluster=first.cluster, target=target,
            stores=list(stores), receiver=None, expected=False, running=None, rpo_seconds=None,
            problems=[], critical=False, notes=[f"not checked: {why}"], drill=drill,
        )  # fmt: skip
    stream = next((state.stream for state in stores if state.stream is not None), None)
    running = None if stream is None else is_running(stream, now)
    receiver = [] if stream is None else list(_of_receiver(stream, stores, goals, now))
    severe = [*receiver, *(text for state in stores for text in _of_window(state))]
    other = [text for state in stores for text in _of_files(state, goals, now)]
    other += cluster_drills.drill_problems(drill, goals.drill_max_age, goals.rto, now)
    return Cluster(
        system_identifier=first.system_identifier,
        cluster=first.cluster,
        target=target,
        stores=list(stores),
        receiver=stream,
        expected=True,
        running=running,
        rpo_seconds=None if stream is None else known_lag(stream, now),
        problems=[*severe, *other, *unread],
        critical=bool(severe) or (drill is not None and not drill.passed),
        notes=list(_notes(stores, stream)),
        drill=drill,
    )


def known_lag(stream: StreamState, now: datetime) -> float | None:
    """Return the age of the time of which everything is stored; None: unknown.

    Without a slot, archive_command stores the WAL: an idle server archives nothing, so the age of
    the newest file says nothing.
    """
    return None if stream.slot is None else stream.lag(now)


def is_running(stream: StreamState, now: datetime) -> bool:
    """Whether a receiver has written its state lately."""
    return (now - stream.written_at).total_seconds() <= FRESH


def _of_receiver(
    stream: StreamState, stores: "Sequence[ClusterState]", goals: Goals, now: datetime
) -> Iterator[str]:
    lag = known_lag(stream, now)
    if not is_running(stream, now):
        ago = span((now - stream.written_at).total_seconds())
        yield f"its receiver has not run for {ago}: start pgkeep pitr stream"
    elif goals.rpo is not None and lag is None and stream.slot is not None:
        yield "its receiver has stored nothing yet"
    elif goals.rpo is not None and lag is not None and lag > goals.rpo:
        yield (
            f"changes of the last {span(lag)} are possibly not stored, BACKUP_WAL_MAX_LAG is"
            f" {span(goals.wal_max_lag)}"
        )
    yield from _of_slot(stream)
    newest = max((s.newest_base.stopped for s in stores if s.newest_base is not None), default=None)
    for found in stream.broken[-1:]:
        if newest is None or newest < found.since:
            yield (
                f"WAL is missing since {_moment(found.since)}: {found.reason}; a running"
                " receiver begins a new window, otherwise pgkeep pitr enable"
            )


def _of_slot(stream: StreamState) -> Iterator[str]:
    slot = stream.slot
    if slot is None or stream.seen_at is None:  # the server was not asked yet
        return
    if slot.status is None:
        yield f"replication slot {slot.name} does not exist"
    elif slot.status == "lost":
        yield f"replication slot {slot.name} is lost: the server has removed WAL"
    elif slot.status == "unreserved":
        yield f"replication slot {slot.name} is unreserved: the next checkpoint removes its WAL"
    elif (
        slot.safe_size is not None
        and (limit := slot_limit(stream)) is not None
        and slot.safe_size < NEAR * limit
    ):
        yield (
            f"replication slot {slot.name} is near its limit: after {slot.safe_size >> 20} MiB more"
            " of WAL it is lost"
        )


def slot_limit(stream: StreamState) -> int | None:
    """Return how much WAL the server keeps for the slot at most; None without a limit."""
    slot = stream.slot
    if slot is None or slot.safe_size is None or slot.restart is None or stream.server is None:
        return None
    kept = max(0, Lsn.parse(stream.server) - Lsn.parse(slot.restart))
    return max(0, slot.safe_size) + kept


def _of_window(state: "ClusterState") -> Iterator[str]:
    """Report that a store cannot restore the present."""
    if state.current is not None:
        return
    if not state.bases:
        yield f"{state.store} has no base backup of it"
    elif not state.windows:
        yield f"{state.store} has no base backup of it with the WAL after it"
    else:
        last = state.windows[-1]
        yield f"in {state.store}, WAL after {last.end} is missing, and no base backup is newer"


def counted_gaps(state: "ClusterState", goals: Goals, now: datetime) -> "list[Gap]":
    """Return the gaps that are in the time in which any second should be restorable."""
    begin = now - timedelta(seconds=goals.window)
    return [gap for gap in state.gaps if gap.until is None or gap.until > begin]


def _of_files(state: "ClusterState", goals: Goals, now: datetime) -> Iterator[str]:
    gaps = counted_gaps(state, goals, now)
    for gap in gaps[-1:]:
        others = f", and {len(gaps) - 1} earlier gaps" if len(gaps) > 1 else ""
        since = "" if gap.since is None else f" after {_moment(gap.since)}"
        which = gap.first if gap.segments == 1 else f"{gap.first} to {gap.last}"
        yield f"in {state.store}, WAL is missing{since}: {which}{others}"
    if state.current is not None:
        age = (now - state.current.newest_base).total_seconds()
        if age > goals.base_max_age:
            yield (
                f"its newest base backup in {state.store} is {span(age)} old,"
                f" BACKUP_BASE_MAX_AGE is {span(goals.base_max_age)}"
            )
    for text in (*state.unusable, *state.unreadable):
        yield f"in {state.store}: {text}"


def _notes(stores: "Sequence[ClusterState]", stream: StreamState | None) -> Iterator[str]:
    if stream is not None:
        for store in stream.stores:
            if store.error is not None:
                yield f"{store.url}: {store.error}"
        errors = {store.error for store in stream.stores}
        yield from (text for text in stream.problems if text not in errors)
    for state in stores:
        for window in state.other_timelines:
            yield f"{state.store} also has another history: timeline {window.timeline}"


def facts(cluster: Cluster, now: datetime) -> Iterator[str]:
    """Describe what can be restored, and the receiver, in lines for people."""
    for state in cluster.stores:
        window = state.current
        if window is None:
            yield f"{state.store}: the present cannot be restored"
            continue
        begin = datetime.fromtimestamp(math.ceil(window.since.timestamp()), UTC)
        since = f"any second since {_second(begin)}"
        if window.until is None:
            yield f"{state.store}: {since}"
        elif window.complete:
            yield f"{state.store}: {since} until {_second(window.until)}"
        else:
            ago = span(max(0.0, (now - window.until).total_seconds()))
            yield f"{state.store}: {since}; the newest WAL was stored {ago} ago"
        age = span(max(0.0, (now - window.newest_base).total_seconds()))
        chain = "full" if window.chain == 1 else f"a chain of {window.chain}"
        yield f"newest base backup: {window.bases[-1]}, {age} ago, {chain}"
    if cluster.receiver is not None and cluster.running:
        slot = cluster.receiver.slot
        if slot is None:
            yield "archive_command stores its WAL; pg_stat_archiver shows its failures"
        else:
            found = "" if cluster.receiver.seen_at is None else f" is {slot.status or 'missing'}"
            yield f"receiver: {cluster.receiver.restarts} restarts, slot {slot.name}{found}"
    yield from cluster_drills.fact(cluster.drill, now)


def _second(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _moment(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
