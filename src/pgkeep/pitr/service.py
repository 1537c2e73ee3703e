"""What the commands do: each function is one of them."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .. import errors as e
from ..config import Config
from ..crypt.options import Encryption
from ..postgres.connection import Connection, Endpoint
from ..progress import Progress, Silent
from . import base_run, installation, slot, stream_state
from . import expire as expire_module
from .base import BaseOptions, ServerState
from .base_manifest import BaseManifest
from .base_run import BaseRun
from .expire import Expired, RemovalPlan
from .location import ClusterFacts, Location, locations, register, register_at, spool_of
from .received import Received
from .shipper import Shipper
from .stream import Stream
from .stream_report import WATCH, StreamOptions


def facts_of(connection: Connection, config: Config) -> ClusterFacts:
    """Return what is recorded of the cluster of a connection."""
    state = ServerState(connection)
    return ClusterFacts(
        system_identifier=state.system_identifier,
        segment_size=state.segment_size,
        version_num=state.version_num,
        name=config.settings.cluster,
    )


def plan_removal(
    config: Config, location: Location, encryption: Encryption, dead: Collection[str] = ()
) -> RemovalPlan:
    """Return what is before the window in a location."""
    window = timedelta(seconds=config.settings.window)
    return expire_module.plan(location, encryption, window, datetime.now(UTC), dead)


def local_staging(config: Config, system_identifier: str) -> Path | None:
    """Return the staging directory of base backups, if this host has one."""
    try:
        staging = staging_of(config, system_identifier)
    except e.UsageError:
        return None
    return staging if staging.is_dir() else None


def staging_of(config: Config, system_identifier: str) -> Path:
    """Return the directory into which pg_basebackup writes.

    Raises:
        UsageError: no folder is given.

    """
    return spool_of(config, system_identifier) / "base"


def expire(config: Config, facts: ClusterFacts, encryption: Encryption) -> list[Expired]:
    """Remove from every location what is before the window.

    Raises:
        AlreadyRunning: a base backup is being taken.
        StoreError: a location cannot be read, or a file could not be removed.

    """
    found = locations(config, facts)
    staging = local_staging(config, facts.system_identifier)
    with base_run.alone([location.base for location in found], staging):
        dead = base_run.clean(staging) if staging is not None else set()
        done = [
            expire_module.execute(plan_removal(config, location, encryption, dead))
            for location in found
        ]
        _forget_manifests(staging, found)
    return done


def _forget_manifests(staging: Path | None, found: Sequence[Location]) -> None:
    """Remove PostgreSQL's manifests of base backups that no location has."""
    if staging is None or not (names := set(base_run.kept(staging))):
        return
    for location in found:
        names -= set(location.bases().read())
    base_run.forget(staging, sorted(names))


def received_of(config: Config, facts: ClusterFacts) -> Received:
    """Return the folders of received WAL on this host, and create that of pg_receivewal."""
    spool = spool_of(config, facts.system_identifier)
    (spool / "wal").mkdir(mode=0o700, parents=True, exist_ok=True)
    return Received(spool / "wal", spool / "earlier", spool / "continue_after", facts.segment_size)


AWAITED_LAG = 4.0  # seconds, instead of BACKUP_WAL_MAX_LAG


def stream_of(
    config: Config, endpoint: Endpoint, facts: ClusterFacts, encryption: Encryption,
    tell: Callable[[str], None], *, awaited: bool = False,
) -> Stream:  # fmt: skip
    """Return the receiver of a cluster's WAL; `awaited` if somebody waits for a position."""
    max_lag = config.settings.wal_max_lag
    if awaited:
        max_lag = min(max_lag, AWAITED_LAG)
    received = received_of(config, facts)
    places = {found.wal.url: found for found in locations(config, facts)}
    shipper = Shipper(
        received,
        [found.archive(encryption) for found in places.values()],
        max_lag=max_lag,
        register=lambda archive: register_at(config, places[archive.store.url]),
    )
    options = StreamOptions(
        programs=installation.folder_of(facts.version_num // 10000, installation.FOR_STREAM),
        state=stream_state.path_in(received.folder.parent),
        slot=slot.slot_name(facts.system_identifier),
        system_identifier=facts.system_identifier,
        watch=min(WATCH, max(1.0, (max_lag or WATCH) / 4)),
    )

    def take() -> None:
        """Take the base backup that begins a new window."""
        with endpoint.connect() as connection:
            take_base(config, endpoint, connection, encryption, Silent(), kind="full")

    return Stream(endpoint, shipper, options, tell, take)


def take_base(
    config: Config, endpoint: Endpoint, connection: Connection, encryption: Encryption,
    progress: Progress, *, kind: str | None = None,
) -> tuple[BaseManifest, str]:  # fmt: skip
    """Take a base backup into the first location, and copy it; return it and why it is of its kind.

    Raises:
        AlreadyRunning: another one is being taken.
        Refused: an incremental one was asked for, and is not possible; or the disk is too small.

    """
    facts = facts_of(connection, config)
    found = register(config, facts)
    staging = staging_of(config, facts.system_identifier)
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = BaseOptions(
        programs=installation.folder_of(facts.version_num // 10000, installation.FOR_BASE),
        staging=staging,
        jobs=config.settings.jobs,
        encryption=encryption,
        rate=config.settings.rate_limit,
    )
    run = BaseRun(
        endpoint=endpoint, connection=connection, locations=found, options=options, kind=kind
    )
    with base_run.alone([location.base for location in found], staging):
        dead = base_run.clean(staging)
        for location in found:
            expire_module.sweep(location, dead)
        return run.take(progress)
