"""Readers of base backups and WAL: manifests, tar archives, histories, output of PostgreSQL."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pgkeep import errors as e
from pgkeep.artifact.compression import gzip
from pgkeep.model import wal
from pgkeep.model.manifest import HASH, digest_of
from pgkeep.model.wal import Segment
from pgkeep.pitr import (
    archive,
    base,
    base_manifest,
    configuration,
    control,
    location,
    parts,
    stream_state,
    verification,
    wal_file,
    waldump,
)
from pgkeep.stores.memory import MemoryStore

from .checks import Broken, text_of

_LIMIT = 4 << 20  # bytes of a tar archive
_SIZE = 16 << 20  # bytes of a segment
_CANARY = b"not touched"
_NOW = datetime(2026, 11, 27, tzinfo=UTC)


def with_digest(data: bytes) -> bytes:
    """Return the JSON of a manifest with its correct hash, if it is JSON."""
    try:
        fields = msgspec.json.decode(data)
        if isinstance(fields, dict):
            fields[HASH] = digest_of(fields)
            return msgspec.json.encode(fields)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    return data


def read_base_manifest(data: bytes) -> None:
    """The manifest of a base backup, and the names of files in it, which are opened and removed."""
    text = with_digest(data)
    try:
        started = msgspec.json.decode(text).get("started", "")
        kind = msgspec.json.decode(text).get("kind", "")
        moment = "".join(letter for letter in str(started)[:19] if letter not in "-:")
        file = f"{moment}Z_{kind}{base_manifest.SUFFIX}"
    except (msgspec.MsgspecError, ValueError, RecursionError, AttributeError):
        file = "20261127T000000Z_full.base.json"
    found = base_manifest.decode(text, file)
    for name in found.files:
        if "/" in name or "\0" in name or name in (".", ".."):
            raise Broken(f"a base backup has a file {name!r}")
    assert found.start_lsn >= 0
    assert found.stop_lsn >= 0
    if base_manifest.decode(base_manifest.encode(found), file) != found:
        raise Broken("the manifest is not read as it was written")


def read_tar(data: bytes) -> None:
    """The members of a part, of which the contents are read."""
    for path, _, read in parts.members([gzip(data)], "part", _LIMIT, lambda _: None):
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise Broken(f"a member {path!r}")
        while read(parts.BLOCK):
            pass


@contextmanager
def _target() -> Iterator[Path]:
    """Return a directory, outside of which nothing may change."""
    with _folder() as folder:
        target = folder / "data"
        target.mkdir()
        (folder / "canary").write_bytes(_CANARY)
        try:
            yield target
        finally:
            _check_outside(folder)


def unpack_tar(data: bytes) -> None:
    """A part written below a directory, and nothing outside of it."""
    with _target() as target:
        parts.unpack([gzip(data)], "part", target, _LIMIT, lambda _: None)


def unpack_configuration(data: bytes) -> None:
    """The archive of configuration files."""
    with _target() as target:
        try:
            configuration.unpack([gzip(data)], "configuration", target)
        finally:
            if [path.name for path in target.iterdir()] not in ([], [configuration.FOLDER]):
                raise Broken("a file outside of the folder of configuration files")


class _folder:  # noqa: N801 - a context manager
    """A temporary directory, also if what was unpacked cannot be entered."""

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(prefix="fuzz-"))
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _check_outside(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    if names != {"data", "canary"} or (folder / "canary").read_bytes() != _CANARY:
        raise Broken(f"files outside of the directory: {names}")
    for path in (folder / "data").rglob("*"):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise Broken(f"{path} is neither a file nor a directory")


def inflate(data: bytes) -> None:
    """A compressed small file of a base backup."""
    if len(parts.inflated([data], "file", _LIMIT)) > _LIMIT:
        raise Broken("more than the limit")


def read_backup_manifest(data: bytes) -> None:
    """PostgreSQL's own manifest: WAL ranges and files."""
    for read in (base.wal_ranges, lambda data: verification._listed(data, "base")):
        with suppress(e.VerificationFailed):
            read(data)


def read_wal_names(data: bytes) -> None:
    """Names of files in a WAL archive, and histories."""
    name, _, rest = text_of(data).partition("\n")
    name = name[:255]  # bytes that a name can have
    segment = wal.parse_segment(name, _SIZE)
    if segment is not None and segment.name(_SIZE) != name:
        raise Broken(f"segment {name!r} is written {segment.name(_SIZE)!r}")
    wal.is_backup_label(name)
    wal.parse_history(name)
    stored = archive.parse_stored(name)
    if stored is not None and ("/" in stored.stored or not stored.name):
        raise Broken(f"a stored file {stored!r}")
    if base_manifest.is_base_file(name):
        base_manifest.started_of(base_manifest.name_of(name) or "")
    with suppress(ValueError):
        wal.Lsn.parse(name)
    switches = wal.decode_history(rest, name)
    way = wal.Path(wal.parse_history(name) or 9, switches)
    way.segment(5, _SIZE)
    wal.extents(way, [Segment(1, 2), Segment(2, 3)], _SIZE)


def read_wal_header(data: bytes) -> None:
    """The first bytes of a segment, and the check before one is archived."""
    origin = wal_file.Origin("7712692484203507928", _SIZE)
    name = "000000010000000000000002"
    with suppress(e.VerificationFailed):
        wal_file.check_header(data, name, Segment(1, 2), origin)
    head, _, body = data.partition(b"\n")
    archive.check(text_of(head), body, origin)


def read_program_output(data: bytes) -> None:
    """What pg_waldump and pg_controldata print."""
    text = data.decode("utf-8", "replace")
    waldump._TOTAL.search(text)
    for wanted in (None, 5):
        found = waldump.contents_of(
            waldump._RECORD.finditer(text), "000000010000000000000002", wanted
        )
        waldump.WalContents().add(found)
    control.parse(text, Path("data"))


def read_states(data: bytes) -> None:
    """The description of a cluster in a store, and the state of a receiver."""
    store = MemoryStore()
    name = "7712692484203507928.cluster.json"
    store.files[name] = data
    with suppress(e.VerificationFailed):
        location._read(store, name)
    state = stream_state.parse(data, Path("stream.json"))
    for limit in (0.0, 60.0):
        state.reasons(_NOW, limit)


READERS = (
    read_base_manifest, read_tar, unpack_tar, unpack_configuration, inflate, read_backup_manifest,
    read_wal_names, read_wal_header, read_program_output, read_states,
)  # fmt: skip
