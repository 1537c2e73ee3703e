"""Read every stored base backup and WAL file of a cluster, and name what is damaged or missing.

Of an encrypted base backup without a private key, the stored bytes are compared. Of encrypted WAL
without a key, only the form of the file is checked: its SHA-256 is that of the plain bytes.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import msgspec

from .. import errors as e
from ..crypt import opening
from ..crypt.opening import CIPHERTEXT, CONTENTS, Keys, Level
from ..crypt.options import Encryption
from ..model.manifest import Count, FileFacts
from ..model.unreadable import UNREADABLE
from ..progress import Progress
from ..stores.hashed_source import HashedSource
from ..stores.store import Store
from . import bases, overview, parts
from .archive import StoredFile, WalArchive
from .base_manifest import SUFFIX, BaseManifest
from .location import Location
from .windows import Gap

_OWN = ("backup_manifest", "pg_wal/")  # what PostgreSQL's manifest does not list


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is damaged, missing or could not be read."""

    file: str
    error: str
    exit_code: int


class Verified(msgspec.Struct, kw_only=True):
    """The result for one cluster in one store."""

    system_identifier: str
    store: str
    bases: int  # complete base backups
    files: int = 0  # that were read
    bytes: int = 0  # of these files
    by_hash: int = 0  # files of which no private key decrypts the contents
    problems: list[Problem] = []
    gaps: list[Gap] = []  # WAL that is missing in the windows


def verify(location: Location, encryption: Encryption, jobs: int, progress: Progress) -> Verified:
    """Read everything that a store has of a cluster.

    Raises:
        StoreError: the store cannot be listed.
        UsageError: a private key cannot be read.

    """
    catalog = location.bases()
    known = catalog.read()
    archive = location.archive(encryption)
    done = Verified(
        system_identifier=location.facts.system_identifier, store=location.url, bases=len(known)
    )
    for text in catalog.unreadable:
        done.problems.append(Problem(file=location.base.url, error=text, exit_code=5))
    results = _Results(done, progress)
    for number, base in enumerate(known.values(), 1):
        progress.step(f"verifying base backup {number} of {len(known)}")
        progress.total(sum(facts.size for facts in base.contents))
        _base(location.base, base, encryption.keys, jobs, results)
    progress.step("verifying WAL")
    files = sorted(archive.files().items())
    progress.total(len(files) * location.facts.segment_size)

    def wal(pair: tuple[str, list[StoredFile]]) -> None:
        results.run(location.wal.url_of(pair[1][0].stored), lambda: _wal(archive, *pair))
        progress.advance(location.facts.segment_size)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(wal, files))
    done.gaps = overview.examine(location, archive, known, catalog.unreadable).gaps
    return done


class _Read(NamedTuple):
    bytes: int
    level: Level


class _Results:
    """Collects the results of several threads."""

    def __init__(self, done: Verified, progress: Progress) -> None:
        self._done = done
        self._lock = threading.Lock()
        self.progress = progress

    @property
    def failed(self) -> int:
        """The number of problems until now."""
        return len(self._done.problems)

    def run(self, file: str, work: Callable[[], _Read]) -> None:
        """Count a file that was read, or keep why it could not be."""
        try:
            found = work()
        except (e.VerificationFailed, e.StoreError) as error:
            with self._lock:
                self._done.problems.append(
                    Problem(file=file, error=error.message, exit_code=error.exit_code)
                )
        else:
            with self._lock:
                self._done.files += 1
                self._done.bytes += found.bytes
                self._done.by_hash += found.level == CIPHERTEXT


class _Expected(NamedTuple):
    size: int
    sha256: str | None  # None: PostgreSQL's manifest has another checksum


def _base(store: Store, base: BaseManifest, keys: Keys, jobs: int, results: _Results) -> None:
    expected: dict[str, _Expected] = {}
    seen: set[str] = set()

    def own() -> _Read:
        try:
            expected.update(_listed(bases.backup_manifest(store, base, keys), base.name))
        except (e.NoKey, e.OtherKey):
            return _by_hash(store, base.backup_manifest)
        return _Read(base.backup_manifest.size, CONTENTS)

    def contents(facts: FileFacts, listed: Mapping[str, _Expected]) -> _Read:
        limit = parts.limit_of(base.size, base.file_count)
        name = store.url_of(facts.name)
        try:
            with bases.opened(store, facts, keys) as blocks:
                for path, info, read in parts.members(
                    blocks, name, limit, results.progress.advance
                ):
                    seen.add(path)
                    _file(path, read, listed if info.isfile() else {}, name)
        except (e.NoKey, e.OtherKey):
            return _by_hash(store, facts)
        return _Read(facts.size, CONTENTS)

    results.run(store.url_of(base.backup_manifest.name), own)
    failed = results.failed
    with ThreadPoolExecutor(jobs) as pool:
        list(
            pool.map(
                lambda facts: results.run(
                    store.url_of(facts.name), lambda: contents(facts, expected)
                ),
                base.parts,
            )
        )
    if base.configuration is not None:
        files = base.configuration
        results.run(store.url_of(files.name), lambda: contents(files, {}))
    lost = sorted(set(expected) - seen)
    read = seen or not base.parts  # without a private key nothing was read
    if lost and read and failed == results.failed:
        results.run(store.url_of(base.name + SUFFIX), lambda: _missing(lost, base.name))


def _missing(lost: list[str], name: str) -> _Read:
    raise e.VerificationFailed(f"base backup {name}: {len(lost)} files are missing: {lost[0]!r}")


def _file(
    path: str, read: Callable[[int], bytes], listed: Mapping[str, _Expected], name: str
) -> None:
    digest = hashlib.sha256()
    size = 0
    while block := read(parts.BLOCK):
        size += len(block)
        digest.update(block)
    expected = listed.get(path)
    if expected is not None:
        if size != expected.size:
            raise e.VerificationFailed(
                f"{name}: {path} has {size} bytes, {_OWN[0]} has {expected.size}"
            )
        if expected.sha256 not in (None, digest.hexdigest()):
            raise e.VerificationFailed(f"{name}: the SHA-256 of {path} differs from {_OWN[0]}")
    elif listed and not path.startswith(_OWN):
        raise e.VerificationFailed(f"{name}: {path} is not in {_OWN[0]}")


class _File(msgspec.Struct, frozen=True):
    """A file in PostgreSQL's manifest (manual, "Backup Manifest Format")."""

    size: Count = msgspec.field(name="Size")
    path: str | None = msgspec.field(name="Path", default=None)
    encoded_path: str = msgspec.field(name="Encoded-Path", default="")
    algorithm: str | None = msgspec.field(name="Checksum-Algorithm", default=None)
    checksum: str | None = msgspec.field(name="Checksum", default=None)


class _Files(msgspec.Struct, frozen=True):
    files: list[_File] = msgspec.field(name="Files")


def _listed(data: bytes, name: str) -> dict[str, _Expected]:
    """Return the files in PostgreSQL's manifest."""
    found: dict[str, _Expected] = {}
    try:
        for file in msgspec.json.decode(data, type=_Files).files:
            path = file.path
            if path is None:
                path = bytes.fromhex(file.encoded_path).decode("utf-8", "surrogateescape")
            found[path] = _Expected(
                file.size, file.checksum if file.algorithm == "SHA256" else None
            )
    except UNREADABLE as error:
        raise e.VerificationFailed(f"unreadable backup_manifest of {name}: {error}") from error
    return found


def _by_hash(store: Store, facts: FileFacts) -> _Read:
    """Compare a file as it is stored."""
    with closing(store.open(facts.name)) as stored:
        bases.check(HashedSource(stored), facts)
    return _Read(facts.size, CIPHERTEXT)


def _wal(archive: WalArchive, name: str, found: list[StoredFile]) -> _Read:
    try:
        data = archive.get(name)
    except (e.NoKey, e.OtherKey):
        for file in found:
            with closing(archive.store.open(file.stored)) as stored:
                opening.check_framing(stored)
        return _Read(0, CIPHERTEXT)
    return _Read(len(data or b""), CONTENTS)
