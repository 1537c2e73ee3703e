"""Where WAL archive and base backups of a cluster are: below `pitr/` of a directory or bucket.

`pitr/IDENTIFIER.cluster.json` describes a cluster, `pitr/IDENTIFIER/wal/` and
`pitr/IDENTIFIER/base/` have its files. A cluster is known by its system identifier: WAL of another
cluster of the same name never gets between.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from .. import errors as e
from ..config import Config
from ..crypt.options import Encryption
from ..model.cluster import FOLDER, is_description
from ..model.manifest import Moment
from ..model.unreadable import UNREADABLE
from ..model.wal import SEGMENT_SIZES
from ..settings import BUCKET
from ..stores.store import Item, Store, write_file
from .archive import WalArchive
from .bases import BaseCatalog
from .wal_file import Origin

SUFFIX = ".cluster.json"
_LIMIT = 1 << 16


class ClusterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a cluster without its server."""

    format: int = 1
    system_identifier: str
    segment_size: int
    version_num: int
    name: str | None = None  # BACKUP_CLUSTER
    ended: Moment | None = None  # UTC; when `pgkeep pitr disable` was run, until it is enabled


@dataclass(frozen=True, slots=True)
class Location:
    """One store of a cluster's files."""

    url: str
    facts: ClusterFacts
    wal: Store
    base: Store

    def archive(self, encryption: Encryption) -> WalArchive:
        """Return the WAL archive."""
        origin = Origin(self.facts.system_identifier, self.facts.segment_size)
        return WalArchive(self.wal, origin, encryption)

    def bases(self) -> BaseCatalog:
        """Return the base backups."""
        return BaseCatalog(self.base, self.facts.system_identifier)


def places(config: Config) -> list[str]:
    """Return the URLs of the directory and of the bucket, those that are configured."""
    settings = config.settings
    found = [settings.directory.rstrip("/")]
    if settings.s3_bucket is not None:
        found.append(f"{BUCKET}{settings.s3_bucket}/{settings.s3_prefix}".rstrip("/"))
    return found


def spool_of(config: Config, system_identifier: str) -> Path:
    """Return the folder of received WAL and of base backups that are being taken.

    Raises:
        UsageError: the backups are in a bucket only, and no folder is given.

    """
    settings = config.settings
    if settings.spool is not None:
        return settings.spool / system_identifier
    if settings.directory.startswith("s3://"):
        raise e.UsageError(
            "BACKUP_SPOOL_DIR is not set, and BACKUP_DIR is a bucket",
            hint="Received WAL is kept in a local directory until it is stored. Name one.",
        )
    return Path(settings.directory) / "pitr" / "spool" / system_identifier


def locations(config: Config, facts: ClusterFacts) -> list[Location]:
    """Return where the files of a cluster are stored, or will be."""
    return [_location(config, place, facts) for place in places(config)]


def _location(config: Config, place: str, facts: ClusterFacts) -> Location:
    folder = f"{place}/pitr/{facts.system_identifier}"
    return Location(
        place,
        facts,
        config.store_at(f"{folder}/wal", tiers=False),
        config.store_at(f"{folder}/base", tiers=False),
    )


def register(config: Config, facts: ClusterFacts) -> list[Location]:
    """Record a cluster in every place, and return its locations.

    Raises:
        StoreError: a place cannot be written.

    """
    found = locations(config, facts)
    for location in found:
        register_at(config, location)
    return found


def register_at(config: Config, location: Location) -> None:
    """Record a cluster in one place, also if it was ended there.

    Raises:
        StoreError: it cannot be written.

    """
    store = config.store_at(f"{location.url}/pitr", tiers=False)
    name = location.facts.system_identifier + SUFFIX
    if not store.exists(name) or _read(store, name).ended is not None:
        _write(store, msgspec.structs.replace(location.facts, ended=None))


def is_registered(config: Config, location: Location) -> bool:
    """Whether a cluster is recorded in a place; a directory that is not mounted has no record."""
    store = config.store_at(f"{location.url}/pitr", tiers=False)
    return store.exists(location.facts.system_identifier + SUFFIX)


def end(config: Config, facts: ClusterFacts, now: datetime) -> None:
    """Record in every place that WAL of a cluster is no longer archived.

    Raises:
        StoreError: a place cannot be written.

    """
    for place in places(config):
        store = config.store_at(f"{place}/pitr", tiers=False)
        if store.exists(facts.system_identifier + SUFFIX):
            _write(store, msgspec.structs.replace(facts, ended=now))


def _write(store: Store, facts: ClusterFacts) -> None:
    data = msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"
    write_file(store, facts.system_identifier + SUFFIX, data, owner=facts.system_identifier)


def _read(store: Store, name: str) -> ClusterFacts:
    data = store.load(Item(name, _LIMIT), _LIMIT).data
    try:
        facts = msgspec.json.decode(data, type=ClusterFacts)
        fits = facts.system_identifier + SUFFIX == name and is_description(FOLDER + name)
        if not fits or facts.segment_size not in SEGMENT_SIZES:
            raise ValueError(
                f"system identifier {facts.system_identifier}, segments of {facts.segment_size}"
                " bytes"
            )
    except UNREADABLE as error:
        raise e.VerificationFailed(
            f"{store.url_of(name)} does not describe a cluster: {error}"
        ) from error
    return facts


def known(config: Config) -> Iterator[Location]:
    """Yield the locations of all clusters that are recorded in a place.

    Raises:
        StoreError: a place cannot be read.
        VerificationFailed: the description of a cluster is damaged.

    """
    for place in places(config):
        yield from clusters_in(config, place)


def clusters_in(config: Config, place: str) -> Iterator[Location]:
    """Yield the locations of the clusters that are recorded in one place.

    Raises:
        StoreError: it cannot be read.
        VerificationFailed: the description of a cluster is damaged.

    """
    store = config.store_at(f"{place}/pitr", tiers=False)
    names = [item.name for item in store.items() if item.name.endswith(SUFFIX)]
    for name in sorted(names):
        yield _location(config, place, _read(store, name))


def drill_store(config: Config, place: str, system_identifier: str) -> Store:
    """Return where the results of a cluster's drills are in a place."""
    return config.store_at(f"{place}/pitr/{system_identifier}/drill", tiers=False)


def drill_stores(config: Config, system_identifier: str) -> list[Store]:
    """Return where the results of a cluster's drills are; a missing directory is not created."""
    return [
        drill_store(config, place, system_identifier)
        for place in places(config)
        if place.startswith(BUCKET) or os.path.isdir(place)  # noqa: PTH112 - never raises
    ]


def only(found: list[Location], system_identifier: str | None) -> list[Location]:
    """Return the locations of one cluster.

    Raises:
        Refused: there is none, or several clusters have files.

    """
    chosen = [
        location
        for location in found
        if system_identifier in (None, location.facts.system_identifier)
    ]
    identifiers = sorted({location.facts.system_identifier for location in chosen})
    if not identifiers:
        raise e.Refused(
            "no cluster has base backups or WAL here",
            hint="pgkeep pitr enable begins. Check --dir, BACKUP_DIR and BACKUP_S3_BUCKET.",
        )
    if len(identifiers) > 1:
        raise e.Refused(
            f"{len(identifiers)} clusters have files here: {', '.join(identifiers)}",
            hint="Select one with --cluster=IDENTIFIER.",
        )
    return chosen
