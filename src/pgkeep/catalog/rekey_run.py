"""Encrypt existing backups to other recipients: all of a directory and a bucket, one by one.

It can be killed at any moment and run again: what is done is skipped, and what was left is removed.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from .. import errors as e
from ..model import naming
from ..model.manifest import Manifest
from ..model.naming import BackupName
from ..stores.store import Store, locked
from . import copies, leftovers, manifests
from .catalog import Catalog
from .locks import GLANCE, backup_lock, copies_lock
from .rekey import RekeyOptions, is_current, rekey
from .rekey_plan import Action, Planned, Step


@dataclass(slots=True)
class Outcome:
    """What was done with one backup."""

    name: BackupName
    manifest: Manifest | None = None  # None: it cannot be read, or was removed meanwhile
    written: list[str] = field(default_factory=list)  # URLs of stores with new files
    removed: list[str] = field(default_factory=list)  # URLs of files
    retained: list[str] = field(default_factory=list)  # messages
    error: e.PgkeepError | None = None


def run(primary: Store, planned: Sequence[Planned], options: RekeyOptions) -> Iterator[Outcome]:
    """Work on each backup; yield each with its error, if any. Damaged backups stay as they are.

    `primary` is the directory, or the bucket instead of it.

    Raises:
        UsageError: a private key cannot be read, or a package or program is missing.

    """
    for database, group in itertools.groupby(planned, key=lambda each: each.name.database):
        backups = list(group)
        with _alone(primary, database) as alone:
            if alone:
                _sweep(backups, database)
            for number, backup in enumerate(backups, 1):
                if not alone:
                    yield Outcome(backup.name, backup.manifest, error=_is_busy(database))
                    continue
                of = f" ({number} of {len(backups)} of database {database})"
                options.progress.step(f"encrypting {backup.name.stem}{of}")
                outcome = Outcome(backup.name)
                _work(backup, outcome, options)
                yield outcome


def expected(planned: Planned) -> Outcome:
    """Return what is known before a run: a file that is missing is an error of its backup."""
    missing = (_missing(step) for step in planned.steps if step.action == Action.MISSING)
    return Outcome(planned.name, planned.manifest, error=next(missing, None))


def unlisted(catalogs: Sequence[Catalog], database: str | None) -> Iterator[Outcome]:
    """Yield backups whose manifests are missing or cannot be read: they are not encrypted again."""
    for catalog in catalogs:
        for entry in catalog.doubtful:
            if database in (None, entry.name.database):
                yield Outcome(entry.name, error=entry.error)
        for file in catalog.lost:
            name = naming.parse(file)
            if name is not None and database in (None, name.database):
                error = e.VerificationFailed(
                    f"{catalog.store.url_of(file)} has no manifest",
                    hint="Recreate it with: pgkeep adopt FILE. Then run pgkeep rekey again.",
                )
                yield Outcome(name, error=error)


def _work(planned: Planned, outcome: Outcome, options: RekeyOptions) -> None:
    """Do what is planned in each store; a store that fails does not prevent the other."""
    source: tuple[Store, Manifest] | None = None
    for step in planned.steps:
        store, file = step.store, step.manifest.name.manifest
        try:
            if step.action == Action.MISSING:
                raise _missing(step)
            manifest = manifests.read(store, file)
            if step.action == Action.COPY and source is not None:
                _copy(*source, store, options)
                manifest = source[1]
                outcome.written.append(store.url)
            elif not is_current(manifest, options.recipients):
                copy = _copied_later(planned, store)
                manifest = rekey(store, manifest, planned.generation, options, pending=copy)
                outcome.written.append(store.url)
            outcome.manifest = outcome.manifest or manifest
            source = source or (store, manifest)
            done = leftovers.remove(store, manifest, leftovers.unnamed(manifest, step.files))
            outcome.removed += map(store.url_of, done.files)
            outcome.retained += done.retained
        except (e.VerificationFailed, e.StoreError, e.NoKey) as error:
            if isinstance(error, e.Missing) and not store.exists(file):
                continue  # retention has removed it meanwhile (trap B10)
            outcome.error = outcome.error or error
            if isinstance(error, (e.NoKey, e.OtherKey)):
                return  # of the copy they would be the same


def _missing(step: Step) -> e.VerificationFailed:
    url = step.store.url_of(step.manifest.artifact.name)
    return e.VerificationFailed(f"{url} is missing or incomplete")


def _copied_later(planned: Planned, store: Store) -> str | None:
    """Return the store of the copy that has to be replaced after this one."""
    return next(
        (
            step.store.url
            for step in planned.steps
            if step.store is not store and step.action == Action.COPY
        ),
        None,
    )


def _copy(source: Store, manifest: Manifest, target: Store, options: RekeyOptions) -> None:
    """Replace a copy in a bucket with the files of the directory."""
    options.progress.step(f"copying {manifest.name.stem} to {target.url}")
    options.progress.total(manifest.artifact.size)
    copies.transfer(
        source, target, manifest, read_back=manifest.verified is not None, replaces=True,
        progress=options.progress.advance,
    )  # fmt: skip
    copies.mark_copied(source, manifest, target)


@contextmanager
def _alone(primary: Store, database: str) -> Iterator[bool]:
    """Hold the locks of a database's backups and copies, unless another process works on them."""
    with locked(primary, backup_lock(database), GLANCE) as idle:
        if not idle:
            yield False
            return
        with primary.lock(copies_lock(database)) as idle_copies:
            yield idle_copies


def _is_busy(database: str) -> e.AlreadyRunning:
    return e.AlreadyRunning(
        f"a backup of database {database} is running, or its copies are being uploaded",
        hint="Wait until it ends. A killed run holds no lock.",
    )


def _sweep(backups: Sequence[Planned], database: str) -> None:
    """Remove unfinished files that a killed run left; the caller holds the lock."""

    def ours(file: str) -> bool:
        name = naming.parse(file)
        return name is not None and name.database == database

    pairs = {
        (step.store, step.manifest.server.system_identifier)
        for backup in backups
        for step in backup.steps
    }
    for store, owner in pairs:
        store.sweep(ours, owner)
