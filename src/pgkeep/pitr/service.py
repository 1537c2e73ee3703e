"""What the commands do: each function is one of them."""

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .. import errors as e
from ..config import Config
from ..crypt.options import Encryption
from ..postgres.connection import Connection, Endpoint
from ..progress import Progress
from . import base, bases, checks, choice, installation, slot, stream_state
from . import expire as expire_module
from .base import BaseOptions, Parent, ServerState
from .base_manifest import BaseManifest
from .expire import Expired
from .location import ClusterFacts, Location, locations, register, spool_of
from .shipper import Shipper
from .stream import WATCH, Stream, StreamOptions


def facts_of(connection: Connection, config: Config) -> ClusterFacts:
    """Return what is recorded of the cluster of a connection."""
    state = ServerState(connection)
    return ClusterFacts(
        system_identifier=state.system_identifier,
        segment_size=state.segment_size,
        version_num=state.version_num,
        name=config.settings.cluster,
    )


def expire(config: Config, facts: ClusterFacts, encryption: Encryption) -> list[Expired]:
    """Remove from every location what is before the window.

    Raises:
        RetentionFailed: a location has base backups that cannot be read.

    """
    window, now = timedelta(seconds=config.settings.window), datetime.now(UTC)
    found = []
    for location in locations(config, facts):
        decided = expire_module.plan(location, encryption, window, now)
        found.append(expire_module.execute(location, encryption, decided))
    return found


def shipper_of(
    locations: Sequence[Location], encryption: Encryption, spool: Path, config: Config,
    stored: Callable[[str], None] = lambda _: None,
) -> Shipper:  # fmt: skip
    """Return what stores received WAL in all locations."""
    archives = [location.archive(encryption) for location in locations]
    return Shipper(spool, archives, max_lag=config.settings.wal_max_lag, stored=stored)


def stream_of(
    config: Config, endpoint: Endpoint, facts: ClusterFacts, encryption: Encryption,
    tell: Callable[[str], None],
) -> Stream:  # fmt: skip
    """Return the receiver of a cluster's WAL."""
    spool = spool_of(config, facts.system_identifier) / "wal"
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    shipper = shipper_of(register(config, facts), encryption, spool, config)
    options = StreamOptions(
        programs=installation.folder_of(facts.version_num // 10000, installation.FOR_STREAM),
        spool=spool,
        state=stream_state.path_in(spool.parent),
        slot=slot.slot_name(facts.system_identifier),
        system_identifier=facts.system_identifier,
        watch=min(WATCH, max(1.0, (config.settings.wal_max_lag or WATCH) / 4)),
    )
    return Stream(endpoint, shipper, options, tell)


def _parent(
    location: Location, manifest: BaseManifest, staging: Path, encryption: Encryption
) -> Parent | None:
    """Return a base backup as parent: its manifest from this host, or from the store with a key."""
    kept = staging / base.kept_name(manifest.name)
    if kept.is_file():
        return Parent(manifest=manifest, backup_manifest=kept.read_bytes())
    try:
        own = bases.backup_manifest(location.base, manifest, encryption.keys)
    except (e.NoKey, e.OtherKey):
        return None
    return Parent(manifest=manifest, backup_manifest=own)


def take_base(
    config: Config, endpoint: Endpoint, connection: Connection, encryption: Encryption,
    progress: Progress, *, kind: str | None = None,
) -> tuple[BaseManifest, str]:  # fmt: skip
    """Take a base backup into the first location, and copy it; return it and why it is of its kind.

    Raises:
        Refused: an incremental one was asked for, and is not possible.

    """
    facts = facts_of(connection, config)
    first, *others = register(config, facts)
    known = first.bases().read()
    chosen = choice.choose(
        known, version_num=facts.version_num, timeline=checks.timeline(connection),
        summarizes=checks.summarizes_wal(connection), checksums=checks.checksums(connection),
    )  # fmt: skip
    if kind == "full":
        chosen = choice.Choice(None, "it was asked for")
    options = BaseOptions(
        programs=installation.folder_of(facts.version_num // 10000, installation.FOR_BASE),
        staging=spool_of(config, facts.system_identifier) / "base",
        jobs=config.settings.jobs,
        encryption=encryption,
    )
    if chosen.parent is not None:
        parent = _parent(first, chosen.parent, options.staging, encryption)
        if parent is None:
            chosen = choice.Choice(
                None, f"no private key decrypts the manifest of {chosen.parent.name}"
            )
        options = dataclasses.replace(options, parent=parent)
    if kind == "incremental" and options.parent is None:
        raise e.Refused(f"an incremental base backup is not possible: {chosen.reason}")
    made = base.take(endpoint, connection, first.base, options, progress)
    for other in others:
        progress.step(f"copying to {other.url}")
        bases.copy(first.base, other.base, made)
    return made, chosen.reason
