"""Metrics of clusters with point in time, from what status has read of them.

They change all the time, so they are only in what is read at once (`pgkeep metrics`, `pgkeep
serve`), never in the file of a run.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from ..model.cluster import short_form
from ..model.wal import Lsn
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
                yield _sample(metric, value, cluster=name, store=state.place)
        yield from cluster_drills.samples("pgkeep_pitr", cluster.drill, cluster=name)
        for metric, value in _of_receiver(cluster, now):
            yield _sample(metric, value, cluster=name)
        for state_name, value in _slot_states(cluster):
            yield _sample("slot_state", value, cluster=name, state=state_name)


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


def _of_receiver(cluster: Cluster, now: datetime) -> Iterator[tuple[str, float]]:
    stream = cluster.receiver
    if stream is None:
        return
    yield "receiver_running", bool(cluster.running)
    if stream.slot is not None:
        lag = known_lag(stream, now)
        yield "rpo_seconds", now.timestamp() if lag is None else lag
    yield "receiver_restarts", stream.restarts
    yield "waiting_segments", stream.waiting
    yield "broken_windows", len(stream.broken)
    limit = slot_limit(stream)
    if limit is not None and stream.slot is not None and stream.slot.safe_size is not None:
        yield "slot_safe_bytes", stream.slot.safe_size
        yield "slot_limit_bytes", limit


def _slot_states(cluster: Cluster) -> Iterator[tuple[str, float]]:
    """Yield 1 for the state of the slot and 0 for the others, so that each has a series."""
    if (
        cluster.receiver is None
        or cluster.receiver.slot is None
        or cluster.receiver.seen_at is None
    ):
        return
    found = cluster.receiver.slot.status or "missing"
    for name in SLOT_STATES:
        yield name, name == found
