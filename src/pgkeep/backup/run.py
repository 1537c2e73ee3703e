"""One run: back up every database, then apply retention to those that have a new backup.

Only this module decides what a failure means. An error before a backup is published fails its
database and does not affect the others. An error afterwards leaves the backup published, and the
exit code reports it.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from .. import errors as e
from .. import interrupts
from ..catalog import copies, prune
from ..catalog.catalog import Catalog
from ..model import retention
from ..model.database_patterns import CONNECTED, DatabaseSelection
from ..model.manifest import Manifest
from ..postgres import advisory_locks
from ..postgres.connection import Connection, Endpoint
from ..postgres.facts import server_facts
from ..postgres.messages import translated
from ..postgres.roles import Roles
from ..progress import Named, Progress
from ..stores.store import Store
from . import backup as backup_module
from . import retry
from .backup import BackupOptions, PublishedBackup
from .choice import choose
from .run_report import DatabaseOutcome, Failure, RunReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of a run."""

    backup: BackupOptions
    databases: DatabaseSelection = CONNECTED
    policy: retention.Policy | None = None  # None: nothing is removed
    require_copy: bool = False  # a copy that fails makes the run fail
    retries: int = 0  # of a database, after a failure that can pass


def run(
    endpoint: Endpoint,
    store: Store,
    options: RunOptions,
    progress: Progress,
    copy: Store | None = None,
    finished: Callable[[DatabaseOutcome], None] = lambda _: None,
    started: Callable[[str], None] = lambda _: None,
) -> RunReport:
    """Back up every selected database; one that fails does not stop the others.

    Each outcome is passed to `finished` as soon as it is known. With several databases, the name of
    each is passed to `started`.

    Raises:
        AlreadyRunning, ConnectionFailed, UsageError: before the first backup started.

    """
    work = _Run(endpoint, store, copy, options, progress)
    if not options.databases:
        outcomes = [work.back_up(None)]
        finished(outcomes[0])
        return RunReport(outcomes=outcomes)
    selection = options.databases
    with translated(e.ConnectionFailed), _alone(endpoint, selection) as connection:
        backed_up = _backed_up(connection, store) if selection.patterns else set()
        found = choose(endpoint, connection, selection, backed_up)
        outcomes = []
        for database in found.choice.chosen:
            started(database)
            error = found.unavailable.get(database)
            if error is not None:
                failure = Failure.of(database, error)
                outcome = DatabaseOutcome(database=database, failed=failure)
            else:
                outcome = work.back_up(database)
            outcomes.append(outcome)
            finished(outcome)
    return RunReport(
        outcomes=outcomes,
        excluded=found.choice.excluded,
        unmatched=found.choice.unmatched,
        dropped=found.dropped,
    )


@contextlib.contextmanager
def _alone(endpoint: Endpoint, wanted: DatabaseSelection) -> Iterator[Connection]:
    """Connect and hold the lock of a run for these databases; it ends with the connection.

    A backup only locks its own database: two runs for the same databases would each back up some.
    """
    key = advisory_locks.key_of("pgkeep", *wanted.names, *wanted.patterns, *wanted.exclusions)
    with endpoint.connect() as connection:
        if not advisory_locks.try_acquire(connection, key):
            raise e.AlreadyRunning(
                "a backup of several databases of this server is already running",
                hint="Wait until it ends. A killed run holds no lock.",
            )
        yield connection


class _Run:
    """The state that all databases of a run share."""

    def __init__(
        self,
        endpoint: Endpoint,
        store: Store,
        copy: Store | None,
        options: RunOptions,
        progress: Progress,
    ) -> None:
        self._endpoint = endpoint
        self._store = store
        self._copy = copy
        self._options = options
        self._progress = progress
        self._roles = Roles()

    def back_up(self, database: str | None) -> DatabaseOutcome:
        """Back up one database and do what follows; None is the connected database."""
        interrupts.check()
        endpoint, progress = self._endpoint, self._progress
        options = replace(self._options.backup, applied=self._options.policy)
        if database is not None:
            endpoint = endpoint.to(database)
            options = replace(options, chosen=True)
            progress = Named(progress, database)
        try:
            made = retry.repeated(
                lambda warnings: backup_module.backup(
                    endpoint,
                    self._store,
                    replace(options, warnings=tuple(warnings)),
                    progress,
                    roles=self._roles,
                    copy=self._copy,
                ),
                self._options.retries,
                endpoint,
            )
        except Exception as error:  # noqa: BLE001 - the other databases must still be backed up
            name = database or endpoint.params.get("dbname", "(the default)")
            return DatabaseOutcome(database=name, failed=Failure.of(name, _known(error)))
        outcome = DatabaseOutcome(
            database=made.manifest.database.name,
            backup=made.manifest,
            copies_required=self._options.require_copy,
        )
        self._follow_up(made, outcome)
        return outcome

    def _follow_up(self, made: PublishedBackup, outcome: DatabaseOutcome) -> None:
        """Upload copies and apply retention; a failure here does not remove the backup."""
        interrupts.check()
        if made.uncopied is not None:
            outcome.copies.append(Failure.of(outcome.database, made.uncopied))
        elif self._copy is not None:
            with self._copy_failures(outcome):
                self._upload_pending(self._copy, made.manifest, outcome)
        if self._options.policy is None:
            return
        try:
            outcome.removed += self._retain(self._store, made.manifest, outcome)
        except Exception as error:  # noqa: BLE001 - the backup is published
            outcome.retention = Failure.of(outcome.database, _known(error))
        if self._copy is not None and made.uncopied is None:
            with self._copy_failures(outcome):
                outcome.copies_removed += self._retain(self._copy, made.manifest, outcome)

    @contextlib.contextmanager
    def _copy_failures(self, outcome: DatabaseOutcome) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the backup is published
            outcome.copies.append(Failure.of(outcome.database, _known(error)))

    def _upload_pending(self, copy: Store, manifest: Manifest, outcome: DatabaseOutcome) -> None:
        """Upload pending copies of this database's earlier backups, newest first."""
        name, identifier = manifest.database.name, manifest.server.system_identifier
        pending = copies.pending(Catalog(self._store).of(identifier, name), copy)
        if pending:
            self._progress.step(f"copying {len(pending)} earlier backups to {copy.url}")
            self._progress.total(sum(backup.artifact.size for backup in pending))
        uploads = copies.upload_pending(self._store, copy, pending, self._progress.advance)
        for backup, error in uploads:
            if error is None:
                outcome.copied.append(backup.name.stem)
            else:
                outcome.copies.append(Failure.of(name, error))

    def _retain(self, store: Store, manifest: Manifest, outcome: DatabaseOutcome) -> list[str]:
        """Apply retention to the database that was just backed up; return what was removed."""
        assert self._options.policy is not None  # noqa: S101 - checked by the caller
        catalog = Catalog(store)
        try:
            backups = catalog.of(manifest.server.system_identifier, manifest.database.name)
            decisions = retention.decide(backups, self._options.policy, datetime.now(UTC))
            pruned = prune.prune(catalog, decisions)
        except e.AccessDenied:
            # Expected where the server must not be able to destroy its backups.
            outcome.retained.append(f"{store.url}: not pruned, this identity is not allowed to")
            return []
        finally:
            outcome.unreadable += catalog.unreadable
        outcome.retained += pruned.retained
        return [decision.manifest.name.stem for decision in pruned.removed]


def _known(error: Exception) -> e.PgkeepError:
    """Return an unexpected error as one that can be reported, with its position."""
    if isinstance(error, e.PgkeepError):
        return error
    place = traceback.extract_tb(error.__traceback__)[-1]
    return e.PgkeepError(
        f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})",
        hint="This is a bug in pgkeep: please report it.",
    )


def _backed_up(connection: Connection, store: Store) -> set[str]:
    """Return the databases of this cluster that have backups."""
    identifier = server_facts(connection).system_identifier
    try:
        backups = Catalog(store).backups()
    except e.AccessDenied:
        return set()  # an identity without read permission cannot know
    return {
        backup.manifest.database.name
        for backup in backups
        if backup.manifest.server.system_identifier == identifier
    }
