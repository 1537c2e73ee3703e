"""Files of backups: all of a store, the newest of each database, another copy of a backup."""

import re
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import datetime
from typing import NamedTuple

from .. import errors as e
from ..model import naming
from ..stores.store import Store
from . import manifests, variants
from .catalog import Catalog, ListedBackup, together

_DUMP = re.compile(r"\.(?:sql|dump|psql)(?:\.|\Z)")  # names that promise a dump


class File(NamedTuple):
    """A file in a store; it can be missing although its manifest exists."""

    store: Store
    name: str
    listed: bool = True  # found in a list, not named by the user


def is_dump_name(name: str) -> bool:
    """Whether a file that is none of pgkeep's promises a dump by its name."""
    return naming.parse(name) is None and not name.startswith(".") and bool(_DUMP.search(name))


def all_of(store: Store, database: str | None = None, *, dumps: bool = False) -> list[File]:
    """Return the files of all backups in a store, by database and time; only names are read.

    Every manifest promises a file, which can be missing. `dumps` adds files of other tools.
    """
    names = {item.name for item in store.items()}
    found = {
        backup
        for name in names
        if (backup := naming.parse(name)) is not None
        if naming.is_artifact(name) or name == backup.manifest
        if database in (None, backup.database)
    }
    files = variants.by_backup(names)
    backups = [
        variants.valid(store, name, (variant.artifact for variant in files.get(name, ())))
        for name in found
    ]
    ordered = sorted(backups, key=lambda backup: (backup.database, backup.taken, backup.stem))
    others = sorted(filter(is_dump_name, names)) if dumps else []
    return [File(store, name) for name in [*(backup.artifact for backup in ordered), *others]]


def newest_of(catalogs: Sequence[Catalog], database: str | None = None) -> list[File]:
    """Return the newest backup of each database of each cluster, and all that are said to be newer.

    Those are backups whose file is missing or incomplete, or whose manifest cannot be read.
    """
    groups: dict[tuple[str, str], list[ListedBackup]] = {}
    for listed in together(catalogs):
        name = listed.manifest.database.name
        if listed.manifest.full and database in (None, name):
            groups.setdefault((name, listed.manifest.server.system_identifier), []).append(listed)
    own = {name for (name, _), group in groups.items() if not group[0].manifest.indexed}
    chosen: list[File] = []
    since: dict[str, datetime] = {}  # the newest complete backup, of several clusters the oldest
    for (name, _), group in sorted(groups.items()):
        if group[0].manifest.indexed and name in own:
            continue  # a dump of another tool, which can contain a single table
        complete = [number for number, listed in enumerate(group) if not listed.missing]
        newest = group[max(complete, default=0) :]
        chosen += [_file(catalogs, listed) for listed in newest]
        since[name] = min(newest[0].manifest.taken, since.get(name, newest[0].manifest.taken))
    return chosen + [
        File(found.store, entry.name.artifact)
        for found in catalogs
        for entry in found.doubtful
        if database in (None, entry.name.database) and not entry.name.schema_only
        if entry.name.database not in since or entry.name.taken > since[entry.name.database]
    ]


def _file(catalogs: Sequence[Catalog], listed: ListedBackup) -> File:
    """Return the file in the first store that has it completely, else in the first one."""
    stores = [found.store for found in catalogs if found.store.url in listed.stores]
    complete = [store for store in stores if not listed.stores[store.url]]
    return File((complete or stores)[0], listed.manifest.artifact.name)


def same_backup(
    stores: Sequence[Store], name: naming.BackupName, sha256: str | None
) -> Store | None:
    """Return the first store that has a file of this backup with the length in its manifest.

    If the SHA-256 of the backup is known, the manifest must have the same: two clusters can have
    backups of one name. The file is not read.
    """
    for store in stores:
        with suppress(e.StoreError, e.VerificationFailed):
            facts = manifests.read(store, name.manifest).artifact
            with closing(store.open(facts.name)) as source:
                if source.size == facts.size and sha256 in (None, facts.sha256):
                    return store
    return None
