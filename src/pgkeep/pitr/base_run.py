"""One base backup from its choice to its copies: alone on its cluster, and with a fallback."""

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import errors as e
from ..crypt.options import Encryption
from ..postgres import advisory_locks
from ..postgres.connection import Connection, Endpoint
from ..progress import Progress
from ..stores.local import LocalStore
from ..stores.store import Store
from . import base, bases, checks, choice
from .base import BaseOptions, Parent
from .base_manifest import BaseManifest, name_of
from .location import Location

_LOCK = ".~bases.lock"  # no name of a file of a base backup begins so
_ADVISORY_LOCK = advisory_locks.key_of("pgkeep pitr base")
# The server refuses an incremental base backup that it could take as a full one.
_REFUSED = re.compile(r"WAL summar|incremental backup|backup manifest|manifest ", re.IGNORECASE)


@contextlib.contextmanager
def alone(stores: Sequence[Store], staging: Path | None) -> Iterator[None]:
    """Hold the locks that exclude another base backup, and retention, of a cluster.

    Locks in a directory exclude other processes of this host, and of other hosts if the file system
    has locks. A bucket has none: there, the advisory lock of the server excludes base backups, and
    retention never removes what a base backup of another host may be based on.

    Raises:
        AlreadyRunning: another run holds one.

    """
    places = [*stores] if staging is None else [LocalStore(staging), *stores]
    with contextlib.ExitStack() as stack:
        for store in places:
            if not stack.enter_context(store.lock(_LOCK)):
                raise _already_running(store.url)
        yield


def _already_running(where: str) -> e.AlreadyRunning:
    return e.AlreadyRunning(
        f"a base backup of this cluster is being taken, or removed (lock held in {where})",
        hint="Wait until it ends. A killed run holds no lock.",
    )


def clean(staging: Path) -> set[str]:
    """Remove what killed runs left in the staging directory; return the names of their backups.

    The caller holds the lock.
    """
    dead: set[str] = set()
    for path in staging.iterdir() if staging.is_dir() else ():
        name = name_of(path.name)
        if name is not None and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
            dead.add(name)
    return dead


def forget(staging: Path, names: Sequence[str]) -> None:
    """Remove PostgreSQL's manifests of base backups that no longer exist."""
    for name in names:
        (staging / base.kept_name(name)).unlink(missing_ok=True)


def kept(staging: Path) -> list[str]:
    """Return the base backups whose manifest of PostgreSQL is on this host."""
    suffix = base.kept_name("")
    return [path.name.removesuffix(suffix) for path in staging.glob(f"*{suffix}")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRun:
    """What one base backup of a cluster needs."""

    endpoint: Endpoint
    connection: Connection
    locations: Sequence[Location]  # the first one gets it, the others get copies
    options: BaseOptions
    kind: str | None  # "full", "incremental", or None to choose

    def take(self, progress: Progress) -> tuple[BaseManifest, str]:
        """Take it and copy it; return it and why it is of its kind. The caller holds the lock.

        Raises:
            AlreadyRunning: another host takes one of this server.
            Refused: an incremental one was asked for, and is not possible.

        """
        if not advisory_locks.try_acquire(self.connection, _ADVISORY_LOCK):
            raise _already_running("the server, by another host or directory")
        first, *others = self.locations
        chosen = self._choose(first)
        options, reason = self._with_parent(first, chosen)
        if self.kind == "incremental" and options.parent is None:
            raise _not_possible(reason)
        try:
            made = base.take(self.endpoint, self.connection, first.base, options, progress)
        except e.DumpFailed as error:
            if options.parent is None or not _REFUSED.search(error.message):
                raise
            reason = f"PostgreSQL refused an incremental one: {_detail(error)}"
            if self.kind == "incremental":
                raise _not_possible(reason) from error
            full = replace(options, parent=None)
            made = base.take(self.endpoint, self.connection, first.base, full, progress)
        for other in others:
            progress.step(f"copying to {other.url}")
            copy_chain(first, other, made)
        return made, reason

    def _choose(self, first: Location) -> choice.Choice:
        if self.kind == "full":
            return choice.Choice(None, "it was asked for")
        return choice.choose(
            first.bases().read(),
            version_num=first.facts.version_num,
            timeline=checks.timeline(self.connection),
            summarizes=checks.summarizes_wal(self.connection),
            checksums=checks.checksums(self.connection),
        )

    def _with_parent(self, first: Location, chosen: choice.Choice) -> tuple[BaseOptions, str]:
        if chosen.parent is None:
            return self.options, chosen.reason
        try:
            parent = parent_of(first, chosen.parent, self.options.staging, self.options.encryption)
        except (e.NoKey, e.OtherKey):
            return self.options, f"no private key decrypts the manifest of {chosen.parent.name}"
        except e.VerificationFailed as error:
            return self.options, f"the manifest of {chosen.parent.name} is damaged: {error.message}"
        return replace(self.options, parent=parent), chosen.reason


def copy_chain(first: Location, other: Location, made: BaseManifest) -> None:
    """Copy a base backup, and before it each parent of which an earlier copy has failed.

    Raises:
        VerificationFailed: a file is damaged.
        StoreError: a file could not be read or written.

    """
    existing = other.bases().read()
    for member in bases.chain_of(made, first.bases().read()):
        if member.name not in existing:
            bases.copy(first.base, other.base, member)


def parent_of(
    location: Location, manifest: BaseManifest, staging: Path, encryption: Encryption
) -> Parent:
    """Return a base backup as parent: its manifest from this host, or from the store with a key.

    Raises:
        NoKey, OtherKey: the host has no manifest, and that in the store cannot be decrypted.
        VerificationFailed: it is damaged.

    """
    own = staging / base.kept_name(manifest.name)
    if own.is_file():
        return Parent(manifest=manifest, backup_manifest=own.read_bytes())
    data = bases.backup_manifest(location.base, manifest, encryption.keys)
    return Parent(manifest=manifest, backup_manifest=data)


def _not_possible(reason: str) -> e.Refused:
    return e.Refused(f"an incremental base backup is not possible: {reason}")


def _detail(error: e.PgkeepError) -> str:
    """Return the most exact part of what pg_basebackup said, in one line."""
    lines = [line.strip() for line in error.message.splitlines() if line.strip()]
    detail = [line for line in lines if line.startswith("DETAIL")]
    text = (detail or [line for line in lines if _REFUSED.search(line)] or lines)[-1]
    return text.rpartition("ERROR:  ")[2].removeprefix("DETAIL:").strip()
