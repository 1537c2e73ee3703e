"""One run of the nightly work: every database backed up, then retention where that went well.

Here, and only here, is decided what a failure means (fail-open): whatever makes a backup doubtful
fails its database and leaves the others alone; whatever comes after a published backup leaves it
published, and is told by the exit code.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from . import backup as b
from . import errors as e
from . import manifest as m
from . import prune, retention
from .catalog import Catalog
from .database import Endpoint, server_facts
from .snapshot import Connection
from .stores.local import LocalStore

EVERY = "*"
_UNFINISHED = re.compile(r"__restore_[0-9a-f]{8}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a run does."""

    backup: b.BackupOptions
    databases: Sequence[str] = ()  # none: the connected one; EVERY: those that can be connected to
    policy: retention.Policy | None = None  # none: nothing is removed


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

    backups: list[m.Manifest] = []
    failed: list[Failure] = []
    skipped: list[Skipped] = []
    dropped: list[str] = []  # databases that have backups here and are gone from the server
    removed: list[str] = []  # backups that retention let go
    retention: list[Failure] = []  # where retention refused or failed
    unreadable: list[str] = []  # manifests here that cannot be read, and why

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
        if self.retention:
            raise _again(self.retention[0])


def _again(failure: Failure) -> e.PgkeepError:
    """Return an error with the message and the exit code of a failure that was noted."""
    error = e.PgkeepError(failure.error, hint=failure.hint)
    error.exit_code = failure.exit_code
    return error


def run(endpoint: Endpoint, store: LocalStore, options: RunOptions, progress: b.Progress) -> Report:
    """Back up every database that is asked for; one that fails does not stop the others.

    Raises:
        AlreadyRunning, ConnectionFailed, UsageError: before anything was begun.

    """
    report = Report()
    if not options.databases:
        _backup(endpoint, store, [None], options, progress, report)
        return report
    with _alone(endpoint, options.databases) as connection:
        databases = _chosen(connection, store, options.databases, report)
        _backup(endpoint, store, databases, options, progress, report)
    return report


@contextlib.contextmanager
def _alone(endpoint: Endpoint, wanted: Sequence[str]) -> Iterator[Connection]:
    """Connect and hold the lock of a run over these databases; it dies with the connection.

    A backup locks its database only: of two runs over the same ones each would get a part.
    """
    digest = hashlib.sha256(",".join(["pgkeep", *wanted]).encode()).digest()
    key = int.from_bytes(digest[:8], signed=True)
    with endpoint.connect() as connection:
        row = connection.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", [key]).fetchone()
        if row is None or not row[0]:
            raise e.AlreadyRunning(
                "a backup of several databases of this server is already running",
                hint="Wait for it to end; a run that was killed holds no lock.",
            )
        yield connection


def _backup(
    endpoint: Endpoint,
    store: LocalStore,
    databases: Sequence[str | None],
    options: RunOptions,
    progress: b.Progress,
    report: Report,
) -> None:
    roles = b.Roles()
    for database in databases:
        way = endpoint if database is None else endpoint.to(database)
        try:
            manifest = b.backup(
                way, store, options.backup, progress, roles=roles, follows=options.policy
            )
        except e.PgkeepError as error:
            name = database or way.params.get("dbname", "(the default)")
            report.failed.append(Failure(name, error.message, error.hint, error.exit_code))
            continue
        report.backups.append(manifest)
        if options.policy is not None:
            _retain(store, manifest, options.policy, report)


def _retain(
    store: LocalStore, manifest: m.Manifest, policy: retention.Policy, report: Report
) -> None:
    """Apply retention to the database that was just backed up, and to no other."""
    catalog = Catalog(store)
    name = manifest.database.name
    try:
        backups = catalog.of(manifest.server.system_identifier, name)
        decisions = retention.decide(backups, policy, datetime.now(UTC))
        removed = prune.prune(catalog, decisions)
    except e.PgkeepError as error:
        report.retention.append(Failure(name, error.message, error.hint, error.exit_code))
        return
    finally:
        report.unreadable = catalog.unreadable
    report.removed += [one.manifest.name.stem for one in removed]


def _chosen(
    connection: Connection, store: LocalStore, wanted: Sequence[str], report: Report
) -> Sequence[str]:
    """Return the databases to back up; note those that cannot be, and those that are gone."""
    there = _databases(connection)
    identifier = server_facts(connection).system_identifier
    if EVERY in wanted:
        report.skipped += [Skipped(name, reason) for name, reason in there.items() if reason]
        chosen = [name for name, reason in there.items() if reason is None]
        known = {
            one.manifest.database.name
            for one in Catalog(store).backups()
            if one.manifest.server.system_identifier == identifier
        }
        report.dropped = sorted(known - there.keys())
    else:
        chosen = list(dict.fromkeys(wanted))  # in their order, each once
    if not chosen:
        raise e.UsageError("no database to back up: none can be connected to")
    return chosen


def _databases(connection: Connection) -> dict[str, str | None]:
    """Return every database that is no template, each with the reason why it cannot be backed up.

    New ones are found because the server is asked at each run (trap A3.15).
    """
    rows = connection.execute(
        """
        SELECT d.datname, d.datallowconn, d.datconnlimit, r.rolsuper,
               pg_catalog.has_database_privilege(d.oid, 'CONNECT')
        FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
        WHERE NOT d.datistemplate AND r.rolname = current_user ORDER BY 1
        """
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
    if _UNFINISHED.search(name):
        return "it is what an interrupted restore left"
    return None
