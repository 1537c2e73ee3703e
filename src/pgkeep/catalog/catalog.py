"""The backups of a store, read from their manifests; without a manifest, a file is no backup."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, date, datetime, timedelta
from itertools import chain, groupby, takewhile
from typing import NamedTuple, Self, TypeVar

from .. import errors as e
from ..crypt.opening import CIPHERTEXT
from ..model import naming, record
from ..model.cluster import described
from ..model.manifest import Manifest
from ..model.record import Record, RecordName
from ..model.retention import FUTURE_TOLERANCE
from ..stores.store import Item, Store
from . import manifests, records
from .small_files import SmallFiles

AT_ONCE = 16  # manifests that are downloaded in parallel from a remote store
PATIENCE = 2 * AT_ONCE  # failed downloads of manifests after which the remaining ones are skipped
BY_HASH = "by hash"  # how a backup is verified without a private key
RUNS = frozenset(
    {"backup", "drill", "key-check", "prune", "restore"}
)  # whose records show the state
NEWEST_RUNS = 200  # whose records are read
RUNS_A_DAY = 4  # whose records are read of earlier days
REMEMBERED = timedelta(days=183)  # for which they are read; half a year is shown
TURNS = timedelta(days=31)  # period in which clusters that share a store are distinguished

R = TypeVar("R")


class Backup(NamedTuple):
    """A backup in a store, or a manifest whose artifact is missing."""

    manifest: Manifest
    missing: bool  # the artifact is missing, or its size differs from the manifest


class Unreadable(NamedTuple):
    """A manifest that cannot be read, with the backup's name and the error."""

    name: naming.BackupName
    error: e.PgkeepError


class Catalog:
    """The backups of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.doubtful: list[Unreadable] = []  # manifests that could not be read the last time
        self.lost: list[str] = []  # artifacts without a manifest at that time
        self.records: list[RecordName] = []  # of runs, oldest first, at that time
        self.clusters: list[str] = []  # whose WAL is archived beside them, at that time
        self.files: frozenset[str] = frozenset()  # all names of backups' files at that time
        self._read: list[Backup] | None = None
        self._files: SmallFiles | None = None  # of a remote store

    def read(self) -> Self:
        """Read all manifests now, and keep the result."""
        self._read = self.backups()
        return self

    @property
    def encrypted(self) -> str | None:
        """The newest encrypted file at that time, None if there was none."""
        return encrypted_file(self.files)

    @property
    def unreadable(self) -> list[str]:
        """The errors of the manifests that could not be read the last time."""
        return [entry.error.message for entry in self.doubtful]

    def backups(self) -> list[Backup]:
        """Return all backups, oldest first; files that are not pgkeep's are ignored.

        A manifest that cannot be read is skipped: it must not stop tonight's backup, possibly of
        another database.
        """
        return self._read if self._read is not None else self._backups(None)

    def list_records(self) -> list[RecordName]:
        """Return the names of the records of runs, oldest first, without reading manifests."""
        self._list()
        return self.records

    def _list(self) -> dict[str, Item]:
        items = {item.name: item for item in self.store.items()}
        self.records = record.names(items)
        self.clusters = described(items)
        self.files = frozenset(name for name in items if naming.parse(name) is not None)
        self._files = SmallFiles(self.store, items) if self.store.remote else None
        return items

    def _backups(self, database: str | None) -> list[Backup]:
        """Read the manifests of one database, or of all databases."""
        self.doubtful = []
        items = self._list()
        parsed = {name: naming.parse(name) for name in items if naming.is_artifact(name)}
        self.lost = [
            name
            for name, name_parts in parsed.items()
            if name_parts is not None
            and name_parts.artifact == name
            and name_parts.manifest not in items
        ]
        found = [
            Backup(manifest, self._is_missing(manifest, items))
            for manifest in self._manifests(items, database)
        ]
        if self._files is not None:
            self._files.keep()
        return sorted(
            found, key=lambda backup: (backup.manifest.taken, backup.manifest.artifact.name)
        )

    def write_summary(self) -> None:
        """Write the manifests of a remote store into one object, for machines without copies.

        Raises:
            StoreError: the store cannot be read or does not accept it.

        """
        self.backups()
        self.runs(datetime.now(UTC))
        if self._files is not None:
            self._files.write_summary()

    def runs(self, now: datetime) -> list[Record]:
        """Return the records of recent runs, oldest first, as of the last listing.

        A record that cannot be read is skipped: it describes a run and protects no data.
        """
        found = [
            name
            for name in self.records
            if name.command in RUNS and name.finished > now - REMEMBERED
        ]
        days: dict[date, list[RecordName]] = {}
        for name in found[:-NEWEST_RUNS]:
            days.setdefault(name.finished.date(), []).append(name)
        earlier = [name for day in days.values() for name in day[-RUNS_A_DAY:]]
        return self.read_records([*earlier, *found[-NEWEST_RUNS:]])

    def read_records(self, names: Sequence[RecordName]) -> list[Record]:
        """Read records that were listed, oldest first; those that cannot be read are skipped."""
        read = self._each([name.file for name in names], self._try_record)
        known = [result for result in read if result is not None]
        if self._files is not None:
            self._files.keep()
        return sorted(known, key=lambda result: result.finished)

    def _try_record(self, file: str) -> Record | None:
        with suppress(e.StoreError, e.VerificationFailed):
            return records.read(self.store, file, self._files)
        return None

    def _each(self, names: Sequence[str], read: Callable[[str], R]) -> Iterator[R]:
        """Read files, in parallel those that have to be requested from a remote store."""
        if self._files is None:
            return map(read, names)
        missing = self._files.missing(names)
        here = [name for name in names if name not in missing]
        return chain(map(read, here), _in_threads(read, sorted(missing)))

    def whole(self) -> list[Manifest]:
        """Return all complete backups, oldest first."""
        return [backup.manifest for backup in self.backups() if not backup.missing]

    def of(self, system_identifier: str, database: str) -> list[Manifest]:
        """Return the complete backups of one cluster's database, oldest first."""
        return [
            manifest
            for manifest in self.named(database)
            if manifest.server.system_identifier == system_identifier
        ]

    def named(self, database: str) -> list[Manifest]:
        """Return the complete backups of a database in every cluster, oldest first.

        Manifests of other databases are not opened, because a store can contain many.
        """
        found = self._read if self._read is not None else self._backups(database)
        return [
            backup.manifest
            for backup in found
            if not backup.missing and backup.manifest.database.name == database
        ]

    def _manifests(self, items: dict[str, Item], database: str | None) -> Iterator[Manifest]:
        parsed = {name: naming.parse(name) for name in items if name.endswith(naming.MANIFEST)}
        names = [
            name
            for name, name_parts in parsed.items()
            if name_parts and database in (None, name_parts.database)
        ]
        found = 0
        for result in self._each(names, self._try):
            if isinstance(result, Manifest):
                found += 1
                yield result
            elif result is not None:
                self.doubtful.append(result)
        errors = [entry.error for entry in self.doubtful]
        if not found and errors and all(isinstance(error, e.AccessDenied) for error in errors):
            raise errors[0]  # the identity has no read permission here

    def _is_missing(self, manifest: Manifest, items: dict[str, Item]) -> bool:
        """Whether a file is missing or incomplete.

        `pgkeep rekey` can have written it, and then replaced the manifest, since the list was read.
        """
        file, size = manifest.artifact.name, manifest.artifact.size
        item = items.get(file)
        if item is not None:
            return item.size != size
        if manifest.name.generation == 1:
            return True
        with suppress(e.StoreError), closing(self.store.open(file)) as source:
            return source.size != size
        return True

    def _try(self, name: str) -> Manifest | Unreadable | None:
        parsed = naming.parse(name)
        assert parsed is not None  # noqa: S101 - only parsed names were selected
        if self.store.remote and self._failures() >= PATIENCE:
            given_up = f"{name} was not read: the store failed for {PATIENCE} other manifests"
            return Unreadable(parsed, e.StoreError(given_up))
        try:
            return self._manifest(name, parsed)
        except e.Missing as error:
            # A run for another database can have removed it meanwhile (trap B10). A dangling
            # symbolic link still exists.
            return Unreadable(parsed, error) if self.store.exists(name) else None
        except (e.StoreError, e.VerificationFailed) as error:
            return Unreadable(parsed, error)

    def _failures(self) -> int:
        """Return the number of store failures that are not caused by the manifest itself."""
        errors = [entry.error for entry in self.doubtful]
        known = (e.AccessDenied, e.Missing)
        return sum(
            isinstance(error, e.StoreError) and not isinstance(error, known) for error in errors
        )

    def _manifest(self, file: str, name: naming.BackupName) -> Manifest:
        if self._files is None:
            manifest = manifests.read(self.store, file)
        else:
            manifest = manifests.parse(*self._files.read(file), file)
        # The manifest's own names decide which files are read and, later, removed.
        if manifest.name != name:
            raise e.VerificationFailed(f"{file} is the manifest of backup {manifest.name.stem}")
        name = manifest.name
        expected = {name.artifact, name.globals}
        for facts in (manifest.artifact, manifest.globals):
            if facts is not None and facts.name not in expected:
                raise e.VerificationFailed(f"{file} lists a file of another backup: {facts.name}")
        return manifest


def _in_threads(read: Callable[[str], R], names: Sequence[str]) -> Iterator[R]:
    """Read in parallel, in daemon threads: a store that hangs must not delay the end of a run.

    Exceptions of the threads are raised here.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    results: queue.SimpleQueue[R | BaseException] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)

    def work() -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results.put(read(name))
            except BaseException as error:  # noqa: BLE001 - raised where the results are read
                results.put(error)

    for number in range(min(AT_ONCE, len(names))):
        threading.Thread(target=work, name=f"manifests-{number}", daemon=True).start()
    try:
        for _ in names:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        while not waiting.empty():
            with suppress(queue.Empty):
                waiting.get_nowait()


def encrypted_file(names: Iterable[str]) -> str | None:
    """Return the newest encrypted file among the files of backups, None without any."""
    parsed = ((naming.parse(name), name) for name in names)
    found = [
        (name.taken, file)
        for name, file in parsed
        if name is not None and name.cipher and not file.endswith(naming.CHECKSUM)
    ]
    return max(found)[1] if found else None


def several_clusters(manifests: Iterable[Manifest]) -> int:
    """Return how many clusters alternate in backing up databases of one name; 0 if none do.

    A cluster that was replaced, for example by an upgrade, does not count: it does not return.
    """
    own = sorted(
        (manifest for manifest in manifests if not manifest.indexed),
        key=lambda manifest: manifest.taken,
    )
    lately = [manifest for manifest in own if manifest.taken > own[-1].taken - TURNS]
    turns = [
        cluster for cluster, _ in groupby(manifest.server.system_identifier for manifest in lately)
    ]
    clusters = len(set(turns))
    return clusters if len(turns) > clusters else 0


def latest(
    catalogs: Sequence[Catalog],
    database: str | None,
    now: datetime,
    *,
    verified: bool = False,
    unread: Sequence[str] = (),
) -> tuple[Store, Manifest]:
    """Return the newest complete backup of a database, or of the only database, and its store.

    If several stores contain it, the first of them is returned. With `verified`, only verified
    backups count. A dump from another tool, which can contain a single table, counts only if
    nothing else exists. `unread` gives the reason for each store that could not be read.

    Raises:
        Refused: no backup exists, several databases exist and none is given, the newest backup is
            ambiguous, or a backup that cannot be read can be newer.

    """
    complete = [
        (found.store, backup.manifest)
        for found in catalogs
        for backup in found.backups()
        if not backup.missing and backup.manifest.full
        if backup.manifest.verified is not None or not verified
    ]
    where = " and ".join(found.store.url for found in catalogs)
    databases = sorted({manifest.database.name for _, manifest in complete})
    if database is None and len(databases) > 1:
        raise e.Refused(
            f"{where} has backups of {len(databases)} databases: {', '.join(databases)}",
            hint="Select one with --database=NAME or --backup=FILE.",
        )
    of_it = [pair for pair in complete if database in (None, pair[1].database.name)]
    if not of_it:
        of = f" of database {database}" if database else ""
        what = "verified backup" if verified else "backup"
        lost = [name for found in catalogs for name in found.lost]
        hint = "List existing backups with: pgkeep list."
        if lost:
            hint = f"The manifest of {lost[0]} is missing. Recreate it with: pgkeep adopt FILE."
        _check_readable(catalogs, database, None, unread)
        raise e.Refused(f"no {what}{of} in {where}", hint=hint)
    own = [pair for pair in of_it if not pair[1].indexed]
    newest = max(own or of_it, key=lambda pair: pair[1].taken)  # the first one if equal
    _check_meant(newest[1], [manifest for _, manifest in of_it], where, now)
    _check_readable(catalogs, database, newest[1], unread)
    return newest


def passed_over(catalogs: Sequence[Catalog], chosen: Manifest) -> Iterator[str]:
    """Report incomplete backups of the same database that are newer than the chosen one."""
    for found in catalogs:
        for backup in found.backups():
            newer = backup.missing and backup.manifest.full and backup.manifest.taken > chosen.taken
            if newer and backup.manifest.database.name == chosen.database.name:
                yield (
                    f"{backup.manifest.name.stem} is newer than {chosen.name.stem}, but its file is"
                    f" missing or incomplete in {found.store.url}"
                )
        for name in found.lost:
            parsed = naming.parse(name)
            if parsed is None or parsed.schema_only or parsed.database != chosen.database.name:
                continue
            if parsed.taken > chosen.taken:
                yield (
                    f"{name} in {found.store.url} is newer than {chosen.name.stem}, but its"
                    " manifest is missing: pgkeep adopt FILE recreates it"
                )


def incomplete_before(catalogs: Sequence[Catalog], store: Store, chosen: Manifest) -> Iterator[str]:
    """Report stores before the chosen one that have the chosen backup without its complete file."""
    name = chosen.artifact.name
    for found in takewhile(lambda found: found.store is not store, catalogs):
        if any(backup.missing and backup.manifest.name == chosen.name
               for backup in found.backups()):  # fmt: skip
            yield (
                f"{found.store.url_of(name)} is missing or incomplete: its copy"
                f" {store.url_of(name)} is used"
            )


def _check_readable(
    catalogs: Sequence[Catalog], database: str | None, newest: Manifest | None,
    unread: Sequence[str],
) -> None:  # fmt: skip
    """Refuse if a backup that cannot be read can be newer than the newest readable one."""
    reasons = list(unread)
    for entry in (entry for found in catalogs for entry in found.doubtful):
        of_it = database in (None, entry.name.database) and not entry.name.schema_only
        if of_it and (newest is None or entry.name.taken > newest.taken):
            reasons.append(entry.error.message)
    if not reasons:
        return
    chosen = "cannot choose a backup" if newest is None else f"{newest.name.stem} may be too old"
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    raise e.Refused(
        f"{chosen}: a backup that could not be read may be newer: {'; '.join(reasons[:3])}{more}",
        hint="Select a backup with --backup=NAME. List readable backups with: pgkeep list.",
    )


def _check_meant(
    newest: Manifest, manifests: Sequence[Manifest], where: str, now: datetime
) -> None:
    """Refuse to guess if the clock was wrong or several clusters share the store."""
    name = newest.name
    if newest.taken > now + FUTURE_TOLERANCE:
        raise e.Refused(
            f"backup {name.stem} is from the future (now {now:%Y-%m-%d %H:%M:%S} UTC): cannot"
            " determine the newest backup",
            hint="Choose a backup from pgkeep list and select it with --backup=FILE.",
        )
    if clusters := several_clusters(manifests):
        raise e.Refused(
            f"{where} has backups of {clusters} clusters that have a database {name.database}",
            hint="Select one with --backup=FILE; pgkeep list --json shows system_identifier."
            " Use a separate directory for each cluster.",
        )


class ListedBackup(NamedTuple):
    """A backup and the stores that list it, each with whether its artifact is missing there."""

    manifest: Manifest
    stores: dict[str, bool]

    @property
    def missing(self) -> bool:
        """Whether no store has the complete artifact."""
        return all(self.stores.values())

    @property
    def state(self) -> str:
        """The backup's state in a few words."""
        state = "verified" if self.manifest.verified else "not verified"
        if self.manifest.verified and self.manifest.verified_level == CIPHERTEXT:
            state = BY_HASH
        if self.missing:
            state = "missing"
        elif any(self.stores.values()):
            state = "missing in one"
        elif self.manifest.data_only:
            state = "rows only"
        elif self.manifest.indexed:
            state = "indexed"
        if self.manifest.hold is not None:
            state += ", held"
        return f"schema, {state}" if self.manifest.schema_only else state


def together(catalogs: Sequence[Catalog]) -> list[ListedBackup]:
    """Return the backups of several stores, oldest first, without duplicates."""
    return merge((catalog.store.url, catalog.backups()) for catalog in catalogs)


def merge(contents: Iterable[tuple[str, Sequence[Backup]]]) -> list[ListedBackup]:
    """Return the backups of several stores, given by URL: oldest first, without duplicates."""
    found: dict[tuple[str, naming.BackupName], ListedBackup] = {}
    for url, backups in contents:
        for backup in backups:
            # The files of the copy have other names until `pgkeep rekey` has replaced them too.
            key = (backup.manifest.server.system_identifier, backup.manifest.name)
            entry = found.setdefault(key, ListedBackup(backup.manifest, {}))
            if entry.missing and not backup.missing:  # the manifest names the file to use
                entry = found[key] = entry._replace(manifest=backup.manifest)
            entry.stores[url] = backup.missing
    return sorted(
        found.values(), key=lambda entry: (entry.manifest.taken, entry.manifest.artifact.name)
    )
