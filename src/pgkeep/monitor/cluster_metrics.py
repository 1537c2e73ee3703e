"""Metrics of clusters with point in time, from what status has read of them.

They change all the time, so they are only in what is read at once (`pgkeep metrics`, `pgkeep
serve`), never in the file of a run.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from ..model.cluster import short_form
from ..model.wal import Lsn
from ..pitr.stream_state import StreamState
from . import cluster_drills
from .metrics import Sample, labelled
from .point_in_time import Cluster, Goals, counted_gaps, known_lag, slot_limit

if TYPE_CHECKING:
    from ..pitr.overview import ClusterState

SLOT_STATES = ("reserved", "extended", "unreserved", "lost", "missing")


def of_clusters(clusters: Iterable[Cluster], goals: Goals, now: datetime) -> Iterator[Sample]:
    """Yield the metrics of the clusters of a target."""
    for cluster in clusters:
        if not cluster.expected:
            continue
        name = cluster.cluster or short_form(cluster.system_identifier)
        for state in cluster.stores:
            for metric, value in _of_store(state, goals, now):
                yield _sample(metric, value, cluster=name, store=state.store)
        yield from cluster_drills.samples("pgkeep_pitr", cluster.drill, cluster=name)
        if cluster.receiver is not None:
            yield from of_receiver(cluster.receiver, name, now, running=bool(cluster.running))


def _sample(metric: str, value: float, **labels: str) -> Sample:
    return Sample(f"pgkeep_pitr_{metric}", labelled(**labels), value)


def _of_store(state: "ClusterState", goals: Goals, now: datetime) -> Iterator[tuple[str, float]]:
    window, newest = state.current, state.newest_base
    until = None if window is None else window.until
    yield "window_seconds", 0 if window is None else window.seconds
    yield "window_start_timestamp_seconds", 0 if window is None else window.since.timestamp()
    yield "window_end_timestamp_seconds", 0 if until is None else until.timestamp()
    yield "newest_lsn_bytes", 0 if window is None else Lsn.parse(window.end)
    yield "gaps", len(counted_gaps(state, goals, now))
    yield "segments", state.segments
    yield "damaged_files", len(state.unusable) + len(state.unreadable)
    yield "bases", state.bases
    stopped = 0.0 if window is None else window.newest_base.timestamp()
    yield "base_last_success_timestamp_seconds", stopped
    if newest is not None:
        yield "base_size_bytes", newest.size
        yield "base_incremental", newest.parent is not None
        yield "base_chain_length", newest.chain or 0


def of_receiver(
    stream: StreamState, cluster: str, now: datetime, *, running: bool
) -> Iterator[Sample]:
    """Yield the metrics of a receiver; `cluster` is their label."""
    values: dict[str, float] = {
        "receiver_running": running,
        "receiver_restarts": stream.restarts,
        "waiting_segments": stream.waiting,
        "broken_windows": len(stream.broken),
    }
    slot = stream.slot
    if slot is not None:
        lag = known_lag(stream, now)
        values["rpo_seconds"] = now.timestamp() if lag is None else lag
    limit = slot_limit(stream)
    if limit is not None and slot is not None and slot.safe_size is not None:
        values |= {"slot_safe_bytes": slot.safe_size, "slot_limit_bytes": limit}
    for metric, value in values.items():
        yield _sample(metric, value, cluster=cluster)
    if slot is not None and stream.seen_at is not None:
        # 1 for the state of the slot and 0 for the others, so that each has a series.
        for state in SLOT_STATES:
            found = (slot.status or "missing") == state
            yield _sample("slot_state", found, cluster=cluster, state=state)
