"""The clusters with point in time of all stores, for commands that report on them."""

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from .. import errors as e
from ..config import Config
from ..monitor import point_in_time
from ..monitor.point_in_time import Cluster
from .background import BackgroundTask

if TYPE_CHECKING:
    from ..drill.pitr_result import LastDrill
    from ..pitr.overview import ClusterState

READING = 30.0  # seconds for the stores


@dataclass(slots=True)
class _Found:
    """What was read of the stores of a target, by the system identifier of a cluster."""

    states: "dict[str, list[ClusterState]]" = field(default_factory=lambda: defaultdict(list))
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    drills: "dict[str, list[LastDrill]]" = field(default_factory=lambda: defaultdict(list))


def clusters_of(
    config: Config, having: Collection[str], now: datetime, goals: point_in_time.Goals | None = None
) -> tuple[list[Cluster], list[str]]:
    """Return the clusters of a target and why some cannot be read.

    `having` are the URLs of the stores whose list of backups has the description of a cluster:
    nobody else pays for it.
    """
    if not having:
        return [], []
    from ..pitr import location  # noqa: PLC0415 - few have point in time

    found = _Found()
    tasks = [
        BackgroundTask(place, partial(_read, config, place, found))
        for place in location.places(config)
        if config.store_at(place).url in having
    ]
    deadline = time.monotonic() + READING
    unread = [problem for task in tasks if (problem := task.problem(deadline)) is not None]
    order = location.places(config)
    # A copy: a store that did not answer in time can answer now.
    known = {identifier: list(states) for identifier, states in found.states.items() if states}
    clusters = [
        point_in_time.judge(
            sorted(states, key=lambda state: order.index(state.store)),
            found.problems[identifier],
            goals_of(config) if goals is None else goals,
            now,
            config.target,
            superseded=_is_superseded(identifier, known),
            drill=max(found.drills[identifier], key=lambda drill: drill.when, default=None),
        )
        for identifier, states in sorted(known.items())
    ]
    return clusters, unread


def _is_superseded(identifier: str, known: "Mapping[str, list[ClusterState]]") -> bool:
    """Whether another cluster of the same name has newer WAL, as after `pg_upgrade`."""
    name, newest = known[identifier][0].cluster, _newest(known[identifier])
    return name is not None and any(
        states[0].cluster == name and _newest(states) > newest
        for other, states in known.items()
        if other != identifier
    )


def _newest(states: "Sequence[ClusterState]") -> float:
    times = (state.newest_wal for state in states)
    return max((time.timestamp() for time in times if time is not None), default=0.0)


def goals_of(config: Config) -> point_in_time.Goals:
    """Return what is expected of the clusters of a target."""
    settings = config.settings
    return point_in_time.Goals(
        window=settings.window,
        base_max_age=settings.base_max_age,
        wal_max_lag=settings.wal_max_lag,
        drill_max_age=settings.drill_max_age,
        rto=settings.rto,
    )


def _read(config: Config, place: str, found: _Found) -> None:
    from ..crypt.options import Encryption  # noqa: PLC0415
    from ..drill import pitr_result  # noqa: PLC0415
    from ..pitr import location, overview  # noqa: PLC0415

    encryption = Encryption(keys=config.keys())
    for known in location.clusters_in(config, place):
        identifier = known.facts.system_identifier
        stream = None
        try:
            stream = overview.receiver_state(config, identifier)
        except (e.StoreError, e.VerificationFailed) as error:
            if error.message not in found.problems[identifier]:
                found.problems[identifier].append(error.message)
        try:
            last = pitr_result.last(location.drill_store(config, place, identifier))
        except (e.StoreError, e.VerificationFailed) as error:
            found.problems[identifier].append(error.message)
        else:
            found.drills[identifier] += [] if last is None else [last]
        state = overview.read(known, encryption, stream)
        found.states[identifier].append(state)  # only now: its list must not be empty meanwhile
