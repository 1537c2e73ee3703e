"""The backups of a store, read from their manifests: no manifest, no backup."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple, Self

from . import errors as e
from . import manifest as m
from . import naming
from .retention import FUTURE_TOLERANCE
from .stores import Item, Store, read_all

AT_ONCE = 16  # manifests that are fetched from a remote store
TURNS = timedelta(days=31)  # in which clusters that share a store are told apart


class Backup(NamedTuple):
    """A backup that a store holds, or a manifest whose artifact is gone."""

    manifest: m.Manifest
    missing: bool  # the artifact is not there, or not as long as the manifest says


class Catalog:
    """What backups a store holds."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.unreadable: list[str] = []  # what was wrong with manifests when they were last read
        self.lost: list[str] = []  # artifacts without a manifest, then
        self._read: list[Backup] | None = None

    def read(self) -> Self:
        """Read everything now; it is not read again."""
        self._read = self.backups()
        return self

    def backups(self) -> list[Backup]:
        """Return all backups, oldest first; files that are not ours are not looked at.

        A manifest that cannot be read is none: it must not stop tonight's backup, of another
        database perhaps.
        """
        return self._read if self._read is not None else self._backups(None)

    def _backups(self, database: str | None) -> list[Backup]:
        """Read the manifests of one database, or of all."""
        self.unreadable = []
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

    def whole(self) -> list[m.Manifest]:
        """Return all whole backups, oldest first."""
        return [one.manifest for one in self.backups() if not one.missing]

    def of(self, system_identifier: str, database: str) -> list[m.Manifest]:
        """Return the whole backups of one cluster's database, oldest first."""
        return [
            one for one in self.named(database) if one.server.system_identifier == system_identifier
        ]

    def named(self, database: str) -> list[m.Manifest]:
        """Return the whole backups of every cluster's database of that name, oldest first.

        The manifests of others are not opened: where there are many, each database reads its own.
        """
        found = self._read if self._read is not None else self._backups(database)
        return [
            one.manifest
            for one in found
            if not one.missing and one.manifest.database.name == database
        ]

    def _manifests(self, items: dict[str, Item], database: str | None) -> Iterator[m.Manifest]:
        parsed = {name: naming.parse(name) for name in items if name.endswith(naming.MANIFEST)}
        names = [name for name, one in parsed.items() if one and database in (None, one.database)]
        if self.store.remote:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                yield from filter(None, pool.map(self._try, names))
        else:
            yield from filter(None, map(self._try, names))

    def _try(self, name: str) -> m.Manifest | None:
        parsed = naming.parse(name)
        assert parsed is not None  # noqa: S101 - only such names were chosen
        try:
            return self._manifest(name, parsed)
        except e.AccessDenied:
            raise
        except (e.StoreError, e.VerificationFailed) as error:
            # A run of another database may have removed it since we looked (trap B10).
            if self.store.exists(name):
                self.unreadable.append(error.message)
            return None

    def _manifest(self, file: str, name: naming.BackupName) -> m.Manifest:
        source = self.store.open(file)
        try:
            manifest = m.decode(read_all(source), file)
        finally:
            source.close()
        # By what it says of itself its files are found and, one day, removed.
        if manifest.name != name or manifest.artifact.name != name.artifact:
            raise e.VerificationFailed(f"{file} is the manifest of {manifest.name.stem}")
        return manifest


def mixed(manifests: Iterable[m.Manifest]) -> int:
    """Return how many clusters take turns at backing up a database of one name; 0 if none do.

    A cluster that another one has replaced, as after an upgrade, does not come back.
    """
    own = sorted((one for one in manifests if not one.indexed), key=lambda one: one.taken)
    lately = [one for one in own if one.taken > own[-1].taken - TURNS]
    turns = [cluster for cluster, _ in groupby(one.server.system_identifier for one in lately)]
    clusters = len(set(turns))
    return clusters if len(turns) > clusters else 0


def latest(
    catalogs: Sequence[Catalog], database: str | None, now: datetime, *, verified: bool = False
) -> tuple[Store, m.Manifest]:
    """Return the newest whole backup, of a database or of the only one there is, and its store.

    Where several stores have it, it is the first of them. On demand only verified ones count. A
    dump of others, which may hold one table only, counts where there is nothing else.

    Raises:
        Refused: there is none, or several databases and none is named, or which one is meant
            cannot be told.

    """
    whole = [
        (found.store, one.manifest)
        for found in catalogs
        for one in found.backups()
        if not one.missing and one.manifest.full
        if one.manifest.verified is not None or not verified
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
        raise e.Refused(f"no {what}{of} in {where}", hint=hint)
    own = [pair for pair in of_it if not pair[1].indexed]
    newest = max(own or of_it, key=lambda pair: pair[1].taken)  # the first of equals
    _check_meant(newest[1], [manifest for _, manifest in of_it], where, now)
    return newest


def _check_meant(
    newest: m.Manifest, manifests: Sequence[m.Manifest], where: str, now: datetime
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

    manifest: m.Manifest
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
    return merge((one.store.url, one.backups()) for one in catalogs)


def merge(contents: Iterable[tuple[str, Sequence[Backup]]]) -> list[Entry]:
    """Return what stores hold, given by their URLs: oldest first, each backup once."""
    found: dict[tuple[str, str], Entry] = {}
    for url, backups in contents:
        for one in backups:
            key = (one.manifest.server.system_identifier, one.manifest.artifact.name)
            entry = found.setdefault(key, Entry(one.manifest, {}))
            entry.stores[url] = one.missing
    return sorted(found.values(), key=lambda one: (one.manifest.taken, one.manifest.artifact.name))


def _is_missing(manifest: m.Manifest, items: dict[str, Item]) -> bool:
    item = items.get(manifest.artifact.name)
    return item is None or item.size != manifest.artifact.size
