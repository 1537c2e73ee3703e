"""The backups of all stores, for commands that report on them."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from ..catalog import catalog, spot_check
from ..config import Config
from ..model.record import Record
from ..monitor import attempts, overview
from ..stores.store import Store
from .background import BackgroundTask

READING = 30.0  # seconds for the stores


def target_of(config: Config) -> overview.Target:
    """Return the stores of a configuration, and the backups that should exist there."""
    policy = config.policy
    kept = {"daily": policy.daily, "weekly": policy.weekly, "monthly": policy.monthly}
    selection = config.settings.databases
    return overview.Target(
        store=config.store(),
        copy=config.copy(),
        name=config.target,
        named=() if selection.patterns else selection.names,
        selection=selection,
        connected=None if selection else config.connected(),
        cluster=config.settings.cluster,
        encrypt_to=config.settings.encrypt_to if config.encrypts else None,
        tiers=[tier for tier, length in kept.items() if length],
    )


class StoreContents(NamedTuple):
    """The backups of all stores, and what could not be read."""

    contents: overview.Contents
    problems: list[str]  # stores
    unreadable: list[str]  # manifests
    attempts: attempts.Attempts
    lost: Mapping[str, Sequence[str]]  # backup files without a manifest, by the store's URL
    clusters: frozenset[str] = frozenset()  # the URLs of stores with archived WAL of clusters


def contents_of(targets: Iterable[overview.Target]) -> StoreContents:
    """Read all stores in parallel."""
    found: dict[str, Sequence[catalog.Backup]] = {}
    unreadable: list[str] = []
    runs: dict[str, Sequence[Record]] = {}
    lost: dict[str, Sequence[str]] = {}
    clusters: set[str] = set()
    stores = {store.url: store for target in targets for store in target.stores}
    tasks = [
        BackgroundTask(url, partial(_read, store, found, unreadable, runs, lost, clusters))
        for url, store in stores.items()
    ]
    deadline = time.monotonic() + READING
    problems = [task.problem(deadline) for task in tasks]
    return StoreContents(
        dict(found),
        [problem for problem in problems if problem is not None],
        list(unreadable),
        dict(runs),
        dict(lost),
        frozenset(clusters),
    )


def _read(
    store: Store,
    found: dict[str, Sequence[catalog.Backup]],
    unreadable: list[str],
    runs: dict[str, Sequence[Record]],
    lost: dict[str, Sequence[str]],
    clusters: set[str],
) -> None:
    read = catalog.Catalog(store)
    backups = spot_check.checked(store, read.backups())
    unreadable += [f"{store.url}: {problem}" for problem in read.unreadable]
    runs[store.url] = read.runs(datetime.now(UTC))
    lost[store.url] = list(read.lost)
    if read.clusters:
        clusters.add(store.url)
    found[store.url] = backups
