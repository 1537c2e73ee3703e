"""Readers of small files next to backups: manifests, records, results, `pgbackrest info`.

Manifests contain their own hash. So the hash of an input is replaced by the correct one.
"""

import hashlib
import zlib
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from pgkeep import errors as e
from pgkeep.catalog import side_files, small_files
from pgkeep.catalog.catalog import Catalog
from pgkeep.drill import pgbackrest_info, pitr_result
from pgkeep.model import manifest, record
from pgkeep.model.database_patterns import DatabaseSelection
from pgkeep.postgres import database_names
from pgkeep.stores.memory import MemoryStore
from pgkeep.stores.store import Item

from .checks import Broken, text_of
from .physical import with_digest

_FILE = "shop_daily_20261126T130700Z.manifest.json"


def read_manifest(data: bytes) -> None:
    """A manifest, and what commands derive from it."""
    for text in (data, with_digest(data)):
        try:
            found = manifest.decode(text, _FILE)
        except e.VerificationFailed:
            continue
        for name in found.name.files:
            if "/" in name or "\0" in name:
                raise Broken(f"a backup has a file {name!r}")
        found.as_of.astimezone(UTC).isoformat()
        assert found.rows >= 0
        str((found.cluster_name, found.cipher, found.full, found.indexed, found.lag_unknown))
        [drill.recovery_seconds for drill in found.drills]
        if manifest.decode(manifest.encode(found), _FILE) != found:
            raise Broken("the manifest is not read as it was written")


def list_manifest(data: bytes) -> None:
    """A manifest in a store: it is listed, or named as unreadable."""
    text = with_digest(data)
    store = MemoryStore()
    with suppress(e.VerificationFailed):
        name = manifest.decode(text, _FILE).name
        store.files = {name.manifest: text, name.artifact: b"", name.checksum: b""}
    store.files.setdefault(_FILE, text)
    catalog = Catalog(store)
    for backup in catalog.backups():
        str(backup)


def read_record(data: bytes) -> None:
    """The record of a run, and its name."""
    name, _, rest = data.partition(b"\n")
    for text in (rest, data):
        with suppress(e.VerificationFailed):
            found = record.decode(text, "records/x.json")
            found.of("app")
            if (again := record.parse(record.name_of(found, 1).file)) is not None:
                record.expired([again], datetime(2026, 11, 27, tzinfo=UTC))
    file = text_of(name)
    parsed = record.parse(file)
    if parsed is not None and parsed.file != file:
        raise Broken(f"record {file!r} is written {parsed.file!r}")


def read_summary(data: bytes) -> None:
    """The summary of a bucket."""
    for packed in (data, zlib.compress(data, 1, wbits=small_files._GZIP)):
        store = MemoryStore()
        store.files[small_files.SUMMARY] = packed
        items = {small_files.SUMMARY: Item(small_files.SUMMARY, len(packed), "v")}
        items |= {name: Item(name, 3, hashlib.md5(b"abc", usedforsecurity=False).hexdigest())
                  for name in ("a", "b", "c")}  # fmt: skip
        files = small_files.SmallFiles(store, items)
        for name in {"a", "b", "c"} - files.missing({"a", "b", "c"}):
            if files.read(name)[0] != b"abc":
                raise Broken("a copy has other bytes than its hash")


def read_checksum(data: bytes) -> None:
    """The file for `sha256sum -c`, and the side files of a backup."""
    artifact = "shop_daily_20261126T130700Z.sql.gz"
    with suppress(e.VerificationFailed):
        digest = side_files._digest_of(data, artifact, f"{artifact}.sha256")
        if len(digest) != 64:
            raise Broken(f"a hash {digest!r}")
    first, _, rest = data.partition(b"\0")
    store = MemoryStore()
    store.files = {artifact: b"", f"{artifact}.sha256": first, _FILE: with_digest(rest)}
    side_files.read(store, artifact)


def read_pgbackrest(data: bytes) -> None:
    """The output of `pgbackrest info`."""
    found = pgbackrest_info.parse(data, "demo")
    for backup in found.backups:
        if set(backup.label) - set("0123456789-FDI_") or len(backup.first_segment) != 24:
            raise Broken(f"a backup {backup!r}")
        backup.stopped.isoformat()
    if "\n" in found.message:
        raise Broken("a message with several lines")


def read_drill_result(data: bytes) -> None:
    """The result of a drill of a cluster, and the newest result in a store."""
    with suppress(e.VerificationFailed):
        found = pitr_result.decode(data, "x.drill.json")
        pitr_result.name_of(found)
        [point.recovery_seconds for point in found.points]
    store = MemoryStore()
    store.files = {f"2026112{day}T000000Z{pitr_result.SUFFIX}": data for day in range(2)}
    last = pitr_result.last(store)
    if last is not None:
        msgspec.json.encode(last)


def read_comment(data: bytes) -> None:
    """Comments on databases, names of databases, selections of them."""
    text = data.decode("utf-8", "replace")
    mark = database_names.parse_mark(text)
    if mark is not None and database_names.parse_mark(mark.text()) != mark:
        raise Broken(f"the comment is not read as it was written: {mark!r}")
    name, _, target = text.partition("\n")
    database_names.state_of(name, text, target)
    database_names.dated(name)
    with suppress(ValueError):
        selection = DatabaseSelection.parse(text)
        selection.choose([name, target, "app"], lambda _: True)


READERS = (
    read_manifest, list_manifest, read_record, read_summary, read_checksum, read_pgbackrest,
    read_drill_result, read_comment,
)  # fmt: skip
