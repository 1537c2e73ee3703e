"""The backups of a store, read from their manifests: no manifest, no backup."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple, Self

from .. import errors as e
from ..model import naming
from ..model.manifest import Manifest
from ..model.retention import FUTURE_TOLERANCE
from ..stores.store import Item, Store
from . import manifests

AT_ONCE = 16  # manifests that are fetched from a remote store
PATIENCE = 2 * AT_ONCE  # manifests that a remote store fails to deliver before the rest is given up
TURNS = timedelta(days=31)  # in which clusters that share a store are told apart


class Backup(NamedTuple):
    """A backup that a store holds, or a manifest whose artifact is gone."""

    manifest: Manifest
    missing: bool  # the artifact is not there, or not as long as the manifest says


class Unreadable(NamedTuple):
    """A manifest that cannot be read: of which backup, and why."""

    name: naming.BackupName
    error: e.PgkeepError


class Catalog:
    """What backups a store holds."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.doubtful: list[Unreadable] = []  # manifests that could not be read, the last time
        self.lost: list[str] = []  # artifacts without a manifest, then
        self._read: list[Backup] | None = None

    def read(self) -> Self:
        """Read everything now; it is not read again."""
        self._read = self.backups()
        return self

    @property
    def unreadable(self) -> list[str]:
        """What was wrong with manifests when they were last read."""
        return [one.error.message for one in self.doubtful]

    def backups(self) -> list[Backup]:
        """Return all backups, oldest first; files that are not ours are not looked at.

        A manifest that cannot be read is none: it must not stop tonight's backup, of another
        database perhaps.
        """
        return self._read if self._read is not None else self._backups(None)

    def _backups(self, database: str | None) -> list[Backup]:
        """Read the manifests of one database, or of all."""
        self.doubtful = []
        items = {item.name: item for item in self.store.items()}
        parsed = {name: naming.parse(name) for name in items if name.endswith(naming.ARTIFACT)}
        self.lost = [
            name
            for name, one in parsed.items()
            if one is not None and one.artifact == name and one.manifest not in items
        ]
        found = [
            Backup(manifest, _is_missing(manifest, items))
            for manifest in self._manifests(items, database)
        ]
        return sorted(found, key=lambda one: (one.manifest.taken, one.manifest.artifact.name))

    def whole(self) -> list[Manifest]:
        """Return all whole backups, oldest first."""
        return [backup.manifest for backup in self.backups() if not backup.missing]

    def of(self, system_identifier: str, database: str) -> list[Manifest]:
        """Return the whole backups of one cluster's database, oldest first."""
        return [
            one for one in self.named(database) if one.server.system_identifier == system_identifier
        ]

    def named(self, database: str) -> list[Manifest]:
        """Return the whole backups of every cluster's database of that name, oldest first.

        The manifests of others are not opened: where there are many, each database reads its own.
        """
        found = self._read if self._read is not None else self._backups(database)
        return [
            one.manifest
            for one in found
            if not one.missing and one.manifest.database.name == database
        ]

    def _manifests(self, items: dict[str, Item], database: str | None) -> Iterator[Manifest]:
        parsed = {name: naming.parse(name) for name in items if name.endswith(naming.MANIFEST)}
        names = [name for name, one in parsed.items() if one and database in (None, one.database)]
        read = _in_threads(self._try, names) if self.store.remote else map(self._try, names)
        found = 0
        for one in read:
            if isinstance(one, Manifest):
                found += 1
                yield one
            elif one is not None:
                self.doubtful.append(one)
        errors = [one.error for one in self.doubtful]
        if not found and errors and all(isinstance(error, e.AccessDenied) for error in errors):
            raise errors[0]  # an identity that may read nothing here

    def _try(self, name: str) -> Manifest | Unreadable | None:
        parsed = naming.parse(name)
        assert parsed is not None  # noqa: S101 - only such names were chosen
        if self.store.remote and self._failures() >= PATIENCE:
            given_up = f"{name} was not read: the store failed for {PATIENCE} others"
            return Unreadable(parsed, e.StoreError(given_up))
        try:
            return self._manifest(name, parsed)
        except e.Missing as error:
            # A run of another database may have removed it since we looked (trap B10); a link that
            # leads nowhere is still there.
            return Unreadable(parsed, error) if self.store.exists(name) else None
        except (e.StoreError, e.VerificationFailed) as error:
            return Unreadable(parsed, error)

    def _failures(self) -> int:
        """Return how often the store has failed, for whatever is not the manifest's fault."""
        errors = [one.error for one in self.doubtful]
        known = (e.AccessDenied, e.Missing)
        return sum(
            isinstance(error, e.StoreError) and not isinstance(error, known) for error in errors
        )

    def _manifest(self, file: str, name: naming.BackupName) -> Manifest:
        manifest = manifests.read(self.store, file)
        # By what it says of itself its files are found and, one day, removed.
        if manifest.name != name:
            raise e.VerificationFailed(f"{file} is the manifest of {manifest.name.stem}")
        expected = {name.artifact, name.globals}
        for facts in (manifest.artifact, manifest.globals):
            if facts is not None and facts.name not in expected:
                raise e.VerificationFailed(f"{file} names a file of another backup: {facts.name}")
        return manifest


def _in_threads(
    read: Callable[[str], Manifest | Unreadable | None], names: Sequence[str]
) -> Iterator[Manifest | Unreadable | None]:
    """Read several at once, in daemon threads: one that waits for a store holds up no end of a run.

    Whatever is raised in a thread is raised here.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    results: queue.SimpleQueue[Manifest | Unreadable | BaseException | None] = queue.SimpleQueue()
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


def mixed(manifests: Iterable[Manifest]) -> int:
    """Return how many clusters take turns at backing up a database of one name; 0 if none do.

    A cluster that another one has replaced, as after an upgrade, does not come back.
    """
    own = sorted(
        (manifest for manifest in manifests if not manifest.indexed), key=lambda one: one.taken
    )
    lately = [one for one in own if one.taken > own[-1].taken - TURNS]
    turns = [cluster for cluster, _ in groupby(one.server.system_identifier for one in lately)]
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
    """Return the newest whole backup, of a database or of the only one there is, and its store.

    Where several stores have it, it is the first of them. On demand only verified ones count. A
    dump of others, which may hold one table only, counts where there is nothing else. The stores
    that could not be read are given with the reason.

    Raises:
        Refused: there is none, or several databases and none is named, or which one is meant
            cannot be told, or what cannot be read may be newer.

    """
    whole = [
        (found.store, backup.manifest)
        for found in catalogs
        for backup in found.backups()
        if not backup.missing and backup.manifest.full
        if backup.manifest.verified is not None or not verified
    ]
    where = " and ".join(found.store.url for found in catalogs)
    databases = sorted({manifest.database.name for _, manifest in whole})
    if database is None and len(databases) > 1:
        raise e.Refused(
            f"{where} has backups of {len(databases)} databases: {', '.join(databases)}",
            hint="Say which one: --database=NAME or --backup=FILE.",
        )
    of_it = [pair for pair in whole if database in (None, pair[1].database.name)]
    if not of_it:
        of = f" of database {database}" if database else ""
        what = "verified backup" if verified else "backup"
        lost = [name for found in catalogs for name in found.lost]
        hint = "pgkeep list shows what is there."
        if lost:
            hint = f"{lost[0]} has lost its manifest: pgkeep adopt FILE writes it anew."
        _check_readable(catalogs, database, None, unread)
        raise e.Refused(f"no {what}{of} in {where}", hint=hint)
    own = [pair for pair in of_it if not pair[1].indexed]
    newest = max(own or of_it, key=lambda pair: pair[1].taken)  # the first of equals
    _check_meant(newest[1], [manifest for _, manifest in of_it], where, now)
    _check_readable(catalogs, database, newest[1], unread)
    return newest


def passed_over(catalogs: Sequence[Catalog], chosen: Manifest) -> Iterator[str]:
    """Yield what is newer than the chosen backup of the same database, but incomplete."""
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
                    f"{name} in {found.store.url} is newer than {chosen.name.stem}, but has no"
                    " manifest: pgkeep adopt FILE writes it anew"
                )


def _check_readable(
    catalogs: Sequence[Catalog], database: str | None, newest: Manifest | None,
    unread: Sequence[str],
) -> None:  # fmt: skip
    """Refuse where a backup may be newer than the newest one that can be read."""
    reasons = list(unread)
    for one in (one for found in catalogs for one in found.doubtful):
        of_it = database in (None, one.name.database) and not one.name.schema_only
        if of_it and (newest is None or one.name.taken > newest.taken):
            reasons.append(one.error.message)
    if not reasons:
        return
    chosen = "no backup can be chosen" if newest is None else f"{newest.name.stem} may be too old"
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    raise e.Refused(
        f"{chosen}: what could not be read may be newer: {'; '.join(reasons[:3])}{more}",
        hint="Name the backup to use: --backup=NAME (pgkeep list shows what can be read).",
    )


def _check_meant(
    newest: Manifest, manifests: Sequence[Manifest], where: str, now: datetime
) -> None:
    """Refuse to guess: the newest of a wrong clock is an old one, that of another cluster wrong."""
    name = newest.name
    if newest.taken > now + FUTURE_TOLERANCE:
        raise e.Refused(
            f"backup {name.stem} is from the future (now {now:%Y-%m-%d %H:%M:%S} UTC): the newest"
            " one cannot be told",
            hint="Look at pgkeep list, and name one: --backup=FILE.",
        )
    if clusters := mixed(manifests):
        raise e.Refused(
            f"{where} has backups of {clusters} clusters that have a database {name.database}",
            hint="Name one: --backup=FILE (pgkeep list --json has system_identifier)."
            " Let each cluster have a directory of its own.",
        )


class Entry(NamedTuple):
    """A backup and the stores that have it, each with whether its artifact is missing there."""

    manifest: Manifest
    stores: dict[str, bool]

    @property
    def missing(self) -> bool:
        """Tell whether no store has the whole artifact."""
        return all(self.stores.values())

    @property
    def state(self) -> str:
        """Say in a few words what it is worth."""
        state = "verified" if self.manifest.verified else "not verified"
        if self.missing:
            state = "missing"
        elif any(self.stores.values()):
            state = "missing in one"
        elif self.manifest.data_only:
            state = "rows only"
        elif self.manifest.indexed:
            state = "indexed"
        return f"schema, {state}" if self.manifest.schema_only else state


def together(catalogs: Sequence[Catalog]) -> list[Entry]:
    """Return the backups of several stores, oldest first, each once."""
    return merge((catalog.store.url, catalog.backups()) for catalog in catalogs)


def merge(contents: Iterable[tuple[str, Sequence[Backup]]]) -> list[Entry]:
    """Return what stores hold, given by their URLs: oldest first, each backup once."""
    found: dict[tuple[str, str], Entry] = {}
    for url, backups in contents:
        for one in backups:
            key = (one.manifest.server.system_identifier, one.manifest.artifact.name)
            entry = found.setdefault(key, Entry(one.manifest, {}))
            entry.stores[url] = one.missing
    return sorted(found.values(), key=lambda one: (one.manifest.taken, one.manifest.artifact.name))


def _is_missing(manifest: Manifest, items: dict[str, Item]) -> bool:
    item = items.get(manifest.artifact.name)
    return item is None or item.size != manifest.artifact.size
