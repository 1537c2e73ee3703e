"""One run of the nightly work: every database backed up, then retention where that went well.

Here, and only here, is decided what a failure means (fail-open): whatever makes a backup doubtful
fails its database and leaves the others alone; whatever comes after a published backup leaves it
published, and is told by the exit code.
"""

import contextlib
import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .. import errors as e
from .. import interrupts
from ..catalog import copies, prune
from ..catalog.catalog import Catalog
from ..model import retention
from ..model.manifest import Manifest
from ..postgres import advisory_locks
from ..postgres.connection import Connection, Endpoint
from ..postgres.facts import server_facts, shared_rows
from ..postgres.messages import translated
from ..postgres.roles import Roles
from ..progress import Progress
from ..stores.store import Store
from . import backup as backup_module
from .backup import BackupOptions, Made

EVERY = "*"
# Databases that pgkeep has made itself, and why they are left out.
_OURS = {
    re.compile(r"__restore_[0-9a-f]{8}$"): "it is what an interrupted restore left",
    re.compile(r"__old_[0-9]{8}T[0-9]{6}Z$"): "a restore has put another one in its place",
    re.compile(r"^pgkeep_drill_[0-9a-f]{12}$"): "a drill works in it, or was interrupted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a run does."""

    backup: BackupOptions
    databases: Sequence[str] = ()  # none: the connected one; EVERY: those that can be connected to
    policy: retention.Policy | None = None  # none: nothing is removed
    require_copy: bool = False  # whether a copy that fails is the run's failure


class Failure(msgspec.Struct, frozen=True):
    """A database that could not be backed up."""

    database: str
    error: str
    hint: str | None
    exit_code: int


class Skipped(msgspec.Struct, frozen=True):
    """A database that was left out, and why."""

    database: str
    reason: str


class Report(msgspec.Struct, kw_only=True):
    """What a run has done."""

    backups: list[Manifest] = []
    failed: list[Failure] = []
    skipped: list[Skipped] = []
    dropped: list[str] = []  # databases that have backups here and are gone from the server
    removed: list[str] = []  # backups that retention let go
    retention: list[Failure] = []  # where retention refused or failed
    unreadable: list[str] = []  # manifests here that cannot be read, and why
    copied: list[str] = []  # backups whose pending copy was uploaded
    copies: list[Failure] = []  # what went wrong with the copies
    copies_missed: list[Failure] = []  # of these what its target had required
    copies_removed: list[str] = []
    retained: list[str] = []  # backups that a store keeps longer than retention asks for

    def add(self, other: "Report") -> None:
        """Add what another run has done."""
        for field in self.__struct_fields__:
            getattr(self, field).extend(getattr(other, field))

    def raise_if_failed(self) -> None:
        """Raise the error that tells the outcome, if it is not a success."""
        if len(self.failed) == 1 and not self.backups:
            raise _again(self.failed[0])
        if self.failed:
            names = ", ".join(one.database for one in self.failed)
            raise e.SomeFailed(
                f"{len(self.failed)} of {len(self.failed) + len(self.backups)} databases failed:"
                f" {names}",
                hint=self.failed[0].hint,
            )
        if self.copies_missed:
            raise _again(self.copies_missed[0])
        if self.retention:
            raise _again(self.retention[0])


def _again(failure: Failure) -> e.PgkeepError:
    """Return an error with the message and the exit code of a failure that was noted."""
    error = e.PgkeepError(failure.error, hint=failure.hint)
    error.exit_code = failure.exit_code
    return error


def run(
    endpoint: Endpoint,
    store: Store,
    options: RunOptions,
    progress: Progress,
    copy: Store | None = None,
) -> Report:
    """Back up every database that is asked for; one that fails does not stop the others.

    Raises:
        AlreadyRunning, ConnectionFailed, UsageError: before anything was begun.

    """
    work = _Run(endpoint, store, copy, options, progress)
    if not options.databases:
        work.backup([None])
        return work.report
    with translated(e.ConnectionFailed), _alone(endpoint, options.databases) as connection:
        chosen, work.report.skipped = choose(connection, options.databases)
        if EVERY in options.databases:
            work.report.dropped = _dropped(connection, store)
        work.backup(chosen)
    return work.report


@contextlib.contextmanager
def _alone(endpoint: Endpoint, wanted: Sequence[str]) -> Iterator[Connection]:
    """Connect and hold the lock of a run over these databases; it dies with the connection.

    A backup locks its database only: of two runs over the same ones each would get a part.
    """
    key = advisory_locks.key_of("pgkeep", *wanted)
    with endpoint.connect() as connection:
        if not advisory_locks.try_acquire(connection, key):
            raise e.AlreadyRunning(
                "a backup of several databases of this server is already running",
                hint="Wait for it to end; a run that was killed holds no lock.",
            )
        yield connection


class _Run:
    """What all databases of a run have in common."""

    def __init__(
        self,
        endpoint: Endpoint,
        store: Store,
        copy: Store | None,
        options: RunOptions,
        progress: Progress,
    ) -> None:
        self.report = Report()
        self._endpoint = endpoint
        self._store = store
        self._copy = copy
        self._options = options
        self._progress = progress
        self._roles = Roles()

    def backup(self, databases: Sequence[str | None]) -> None:
        """Back up one after the other, each with all that follows."""
        for database in databases:
            interrupts.check()
            way = self._endpoint
            options = self._options.backup
            if database is not None:
                way = way.to(database)
                options = replace(options, chosen=True)
                self._progress.step(f"backing up {database}")
            try:
                made = backup_module.backup(
                    way,
                    self._store,
                    options,
                    self._progress,
                    roles=self._roles,
                    follows=self._options.policy,
                    copy=self._copy,
                )
            except Exception as error:  # noqa: BLE001 - of whatever kind, the others go on
                name = database or way.params.get("dbname", "(the default)")
                self.report.failed.append(_failure(name, _known(error)))
                continue
            self.report.backups.append(made.manifest)
            self._follow_up(made)

    def _follow_up(self, made: Made) -> None:
        """Do what follows a backup; nothing of it takes the backup back."""
        interrupts.check()
        manifest = made.manifest
        name = manifest.database.name
        if made.uncopied is not None:
            self._not_copied(name, made.uncopied)
        elif self._copy is not None:
            try:
                self._pay(self._copy, manifest)
            except Exception as error:  # noqa: BLE001
                self._not_copied(name, _known(error))
        if self._options.policy is None:
            return
        try:
            self.report.removed += self._retain(self._store, manifest, self._options.policy)
        except Exception as error:  # noqa: BLE001
            self.report.retention.append(_failure(name, _known(error)))
        if self._copy is not None and made.uncopied is None:
            try:
                self.report.copies_removed += self._retain(
                    self._copy, manifest, self._options.policy
                )
            except Exception as error:  # noqa: BLE001
                self._not_copied(name, _known(error))

    def _not_copied(self, name: str, error: e.PgkeepError) -> None:
        failure = _failure(name, error)
        self.report.copies.append(failure)
        if self._options.require_copy:
            self.report.copies_missed.append(failure)

    def _pay(self, copy: Store, manifest: Manifest) -> None:
        """Upload pending copies of this database's earlier backups, oldest last."""
        name, identifier = manifest.database.name, manifest.server.system_identifier
        pending = copies.pending(Catalog(self._store).of(identifier, name), copy)
        if pending:
            self._progress.step(f"copying {len(pending)} earlier backups to {copy.url}")
            self._progress.total(sum(manifest.artifact.size for manifest in pending))
        for one, error in copies.upload_pending(self._store, copy, pending, self._progress.advance):
            if error is None:
                self.report.copied.append(one.name.stem)
            else:
                self._not_copied(name, error)

    def _retain(self, store: Store, manifest: Manifest, policy: retention.Policy) -> list[str]:
        """Apply retention to the database that was just backed up, and to no other."""
        catalog = Catalog(store)
        try:
            backups = catalog.of(manifest.server.system_identifier, manifest.database.name)
            decisions = retention.decide(backups, policy, datetime.now(UTC))
            pruned = prune.prune(catalog, decisions)
        except e.AccessDenied:
            # As it should be, where the server must not be able to destroy its backups.
            self.report.retained.append(f"{store.url} is not pruned: this identity may not do it")
            return []
        finally:
            self.report.unreadable += catalog.unreadable
        self.report.retained += pruned.retained
        return [one.manifest.name.stem for one in pruned.removed]


def _known(error: Exception) -> e.PgkeepError:
    """Return an error that nobody has foreseen as one that can be told, with its place."""
    if isinstance(error, e.PgkeepError):
        return error
    place = traceback.extract_tb(error.__traceback__)[-1]
    return e.PgkeepError(
        f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})",
        hint="This is a mistake of pgkeep's own: please report it.",
    )


def _failure(database: str, error: e.PgkeepError) -> Failure:
    return Failure(database, error.message, error.hint, error.exit_code)


def choose(connection: Connection, wanted: Sequence[str]) -> tuple[list[str], list[Skipped]]:
    """Return the databases that a run backs up, and those that it leaves out.

    Raises:
        UsageError: there is none.

    """
    if EVERY not in wanted:
        return list(dict.fromkeys(wanted)), []  # in their order, each once
    there = _databases(connection)
    chosen = [name for name, reason in there.items() if reason is None]
    if not chosen:
        raise e.UsageError("no database to back up: none can be connected to")
    return chosen, [Skipped(name, reason) for name, reason in there.items() if reason]


def _dropped(connection: Connection, store: Store) -> list[str]:
    """Return the databases that have backups and are gone from the server."""
    identifier = server_facts(connection).system_identifier
    try:
        backups = Catalog(store).backups()
    except e.AccessDenied:
        return []  # an identity that may only write does not know what was there before
    known = {
        backup.manifest.database.name
        for backup in backups
        if backup.manifest.server.system_identifier == identifier
    }
    return sorted(known - _databases(connection).keys())


def _databases(connection: Connection) -> dict[str, str | None]:
    """Return every database that is no template, each with the reason why it cannot be backed up.

    New ones are found because the server is asked at each run (trap A3.15).
    """
    rows = shared_rows(
        connection,
        """
        SELECT d.datname, d.datallowconn, d.datconnlimit, r.rolsuper,
               pg_catalog.has_database_privilege(d.oid, 'CONNECT')
        FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
        WHERE NOT d.datistemplate AND r.rolname = current_user ORDER BY 1
        """,
    )
    return {name: _reason(name, *facts) for name, *facts in rows}


def _reason(name: str, allowed: bool, limit: int, superuser: bool, privilege: bool) -> str | None:
    if not allowed:
        return "it does not allow connections"
    if limit == -2:  # pg_database.datconnlimit of a database whose DROP was interrupted
        return "it is invalid: dropping it was interrupted"
    if not privilege:
        return "the role may not connect to it"
    if limit == 0 and not superuser:
        return "its connection limit is 0"
    return next((reason for ours, reason in _OURS.items() if ours.search(name)), None)
