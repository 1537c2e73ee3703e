"""The second copy of a backup: uploaded while the backup is made, or later, when it is pending.

A copy never holds up the dump, and nothing here can spoil the backup that it is of: it reads what
is on the disk. The manifest lists copies that failed as pending.
"""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

import msgspec

from .. import errors as e
from .. import interrupts
from ..model import naming
from ..model.manifest import FileFacts, Manifest, encode
from ..stores.local import LocalSource, LocalUpload
from ..stores.store import Store, Upload, all_or_none, chunks, locked
from .catalog import Catalog, read_manifest

BLOCK = 1 << 20
PATIENCE = 2.0  # seconds for a copy to notice that it is not wanted any more
LOCK_SECONDS = 30.0  # until whoever changes manifests must have done so
_MANIFESTS = ".~manifests.lock"  # no encoded name of a database has a tilde


def backup_lock(database: str) -> str:
    """Return the lock of whoever makes a backup of a database, until its copy is made too."""
    return f".{naming.encode_database(database)}.lock"


def copies_lock(database: str) -> str:
    """Return the lock of whoever uploads pending copies: unfinished uploads are not swept then."""
    return f".{naming.encode_database(database)}~copies.lock"


class Follower:
    """Pass on what is written into a local file; a thread sends the same bytes elsewhere."""

    def __init__(
        self,
        original: LocalUpload,
        store: Store,
        name: str,
        owner: str,
        prepare: Callable[[], None],
    ) -> None:
        self._original = original
        self._store = store
        self._name = name
        self._owner = owner
        self._prepare = prepare
        self._changed = threading.Condition()
        self._written = 0
        self._sent = 0
        self._sealed = False
        self._stopped = False
        self._error: BaseException | None = None
        self._upload: Upload | None = None
        self._hash = hashlib.sha256()
        # A daemon, for a server that does not answer must not hold up the end of a run.
        self._thread = threading.Thread(target=self._run, name="copy", daemon=True)

    def write(self, data: bytes) -> None:
        """Append bytes to the original; the copy takes them when it can."""
        self._original.write(data)
        with interrupts.held(), self._changed:
            self._written += len(data)
            self._changed.notify()

    def seal(self) -> None:
        """Make the original durable."""
        self._original.seal()
        with interrupts.held(), self._changed:
            self._sealed = True
            self._changed.notify()

    def stop(self) -> None:
        """Nothing waits here: the copy is on its own."""

    def source(self) -> LocalSource:
        """Open the original."""
        return self._original.source()

    def publish(self) -> None:
        """Give the original its name."""
        self._original.publish()

    def copy(self, sha256: str, progress: Callable[[int], None] = lambda _: None) -> Upload:
        """Wait until everything is sent; return the upload, which is sealed.

        Raises:
            StoreError: it could not be sent.

        """
        told = 0
        while self._thread.is_alive():
            with interrupts.held():
                self._thread.join(0.5)
            progress(self._sent - told)
            told = self._sent
        if self._error is not None:
            raise self._error
        if self._upload is None or self._hash.hexdigest() != sha256:
            raise e.StoreError(f"{self._name} was not the same when it was read for its copy")
        return self._upload

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with interrupts.held():
            with self._changed:
                self._stopped = True
                self._changed.notify()
            self._thread.join(PATIENCE)
            if self._upload is not None:
                self._upload.__exit__(kind, error, trace)

    def _run(self) -> None:
        try:
            self._prepare()
            self._upload = self._store.create(self._name, owner=self._owner)
            with contextlib.closing(self._original.source()) as source:
                while length := self._wait():
                    data = source.read(self._sent, length)
                    self._upload.write(data)
                    self._hash.update(data)
                    self._sent += length
            if not self._stopped:
                self._upload.seal()
        except BaseException as error:  # noqa: BLE001 - handed to who asks for the copy
            self._error = error

    def _wait(self) -> int:
        """Wait for more bytes; return how many to take, 0 at the end."""
        with self._changed:
            while not self._stopped:
                if self._written > self._sent:
                    return min(BLOCK, self._written - self._sent)
                if self._sealed:
                    break
                self._changed.wait()
        return 0


def transfer(
    source: Store,
    target: Store,
    manifest: Manifest,
    *,
    artifact: Upload | None = None,
    read_back: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Copy a backup, its manifest last; of the artifact only the end where it is sent already.

    Raises:
        StoreError, VerificationFailed: and then the target has no such backup.

    """
    name = manifest.name
    owner = manifest.server.system_identifier
    published: list[str] = []  # and nothing else is taken back
    with all_or_none(target, published), contextlib.ExitStack() as stack:
        if artifact is None:
            artifact = _send(stack, source, target, manifest, progress)
        published.append(name.artifact)
        artifact.publish()
        if read_back:
            _check(target, manifest.artifact)
        published.append(name.checksum)
        put(target, name.checksum, checksum(manifest.artifact), owner)
        roles = _globals(source, manifest)
        if roles is not None:
            published.append(name.globals)
            put(target, name.globals, roles, owner)
        published.append(name.manifest)
        put(target, name.manifest, encode(msgspec.structs.replace(manifest, pending=[])), owner)


def checksum(facts: FileFacts) -> bytes:
    """Return what `sha256sum -c` reads."""
    return f"{facts.sha256}  {facts.name}\n".encode()


def put(store: Store, name: str, data: bytes, owner: str) -> None:
    """Store a small file."""
    digest = hashlib.sha256(data).hexdigest()
    with store.create(name, owner=owner, sha256=digest) as upload:
        upload.write(data)
        upload.seal()
        upload.publish()


def _send(
    stack: contextlib.ExitStack,
    source: Store,
    target: Store,
    manifest: Manifest,
    progress: Callable[[int], None],
) -> Upload:
    """Send an artifact that lies in a store, and see that it is still what its manifest says."""
    facts = manifest.artifact
    upload = stack.enter_context(
        target.create(facts.name, owner=manifest.server.system_identifier, sha256=facts.sha256)
    )
    digest = hashlib.sha256()
    with contextlib.closing(source.open(facts.name)) as opened:
        for chunk in chunks(opened):
            upload.write(chunk)
            digest.update(chunk)
            progress(len(chunk))
    if digest.hexdigest() != facts.sha256:
        raise e.VerificationFailed(
            f"{source.url_of(facts.name)} is not copied: its SHA-256 is {digest.hexdigest()}, its"
            f" manifest says {facts.sha256}"
        )
    upload.seal()
    return upload


def _globals(source: Store, manifest: Manifest) -> bytes | None:
    """Return the file of roles that a backup has; none where its manifest says that it has none."""
    name, facts = manifest.name.globals, manifest.globals
    if not source.exists(name):
        if facts is not None:
            raise e.VerificationFailed(
                f"{manifest.name.stem} is not copied: {source.url_of(name)} is missing",
                hint="Without it a restore elsewhere lacks the roles. Make another backup.",
            )
        return None
    with contextlib.closing(source.open(name)) as opened:
        data = b"".join(chunks(opened))
    if facts is not None and hashlib.sha256(data).hexdigest() != facts.sha256:
        raise e.VerificationFailed(f"{name} is not copied: it is not what its manifest says")
    return data


def _check(store: Store, facts: FileFacts) -> None:
    """Read a file back; an identity that may only write cannot."""
    digest = hashlib.sha256()
    try:
        with contextlib.closing(store.open(facts.name)) as source:
            for chunk in chunks(source):
                digest.update(chunk)
    except e.AccessDenied:
        return
    if digest.hexdigest() != facts.sha256:
        raise e.VerificationFailed(
            f"{store.url_of(facts.name)} was read back with SHA-256 {digest.hexdigest()}, expected"
            f" {facts.sha256}"
        )


@contextlib.contextmanager
def manifests_locked(store: Store) -> Iterator[None]:
    """Hold what keeps a manifest from being changed in two ways, or coming back from the dead."""
    with locked(store, _MANIFESTS, LOCK_SECONDS) as alone:
        if not alone:
            raise e.StoreError(f"{store.url_of(_MANIFESTS)} is locked for over {LOCK_SECONDS:g} s")
        yield


def amend(
    store: Store, manifest: Manifest, change: Callable[[Manifest], Manifest]
) -> Manifest | None:
    """Change a manifest as it is now; return it, or None if it has gone meanwhile.

    Raises:
        StoreError, VerificationFailed: it is as it was.

    """
    file = manifest.name.manifest
    with manifests_locked(store):
        if not store.exists(file):
            return None
        amended = change(read_manifest(store, file))
        put(store, file, encode(amended), amended.server.system_identifier)
        return amended


def mark_copied(store: Store, manifest: Manifest, target: Store) -> Manifest:
    """Note in a manifest that its copy is no longer pending; return it."""

    def copied(manifest: Manifest) -> Manifest:
        pending = [url for url in manifest.pending if url != target.url]
        return msgspec.structs.replace(manifest, pending=pending)

    return amend(store, manifest, copied) or copied(manifest)


def pending(manifests: Sequence[Manifest], target: Store) -> list[Manifest]:
    """Return the backups whose copy to a store is pending, newest first."""
    return [manifest for manifest in reversed(manifests) if target.url in manifest.pending]


def _is_there(store: Store, manifest: Manifest) -> bool:
    """Whether a store has a whole backup; no, where that may not be asked.

    Raises:
        StoreError: that cannot be told. A copy may exist, which a failed attempt would remove.

    """
    name = manifest.name
    if not all(store.exists(file) for file in (name.manifest, name.artifact)):
        return False
    try:
        with contextlib.closing(store.open(name.artifact)) as artifact:
            return artifact.size == manifest.artifact.size
    except e.AccessDenied:
        return False


def missing(catalog: Catalog, other: Catalog, backups: list[Manifest]) -> list[Manifest]:
    """Return the complete backups whose copy is missing, incomplete or pending, newest first."""
    there = {one.artifact.name for one in other.whole()}
    there -= {manifest.artifact.name for manifest in backups}
    return [one for one in reversed(catalog.whole()) if one.artifact.name not in there]


def upload_pending(
    source: Store,
    target: Store,
    backups: list[Manifest],
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[Manifest, e.PgkeepError | None]]:
    """Upload pending copies, one after the other; yield each with its error, if any.

    A store that fails for one backup is not asked for the others: it would take as long each time.
    What somebody else may be sending is left to them.
    """
    with contextlib.ExitStack() as stack:
        databases = {manifest.database.name for manifest in backups}
        ours = {name for name in databases if _claim(stack, source, name)}
        for manifest in backups:
            if manifest.database.name not in ours:
                yield manifest, _is_busy(manifest.database.name)
                continue
            if not source.exists(manifest.name.manifest):
                continue  # removed since we looked
            try:
                _upload(source, target, manifest, progress)
            except e.VerificationFailed as error:
                yield manifest, error
            except Exception as error:  # noqa: BLE001 - of whatever kind, a copy is all that failed
                yield manifest, as_failure(error)
                return
            else:
                yield manifest, None


def _upload(
    source: Store, target: Store, manifest: Manifest, progress: Callable[[int], None]
) -> None:
    # A run that was killed just before it noted the copy must not put it at risk again.
    if not _is_there(target, manifest):
        checked = manifest.verified is not None
        transfer(source, target, manifest, read_back=checked, progress=progress)
    mark_copied(source, manifest, target)


def _claim(stack: contextlib.ExitStack, store: Store, database: str) -> bool:
    """Hold the lock of those who copy a database's backups, unless one is being made and copied.

    A backup that begins afterwards is not among those that are known to be pending.
    """
    with store.lock(backup_lock(database)) as idle:
        if not idle:
            return False
    return stack.enter_context(store.lock(copies_lock(database)))


def _is_busy(database: str) -> e.StoreError:
    return e.StoreError(
        f"a backup of database {database} is running, or its copies are being made already",
        hint="Wait for it to end; a run that was killed holds no lock.",
    )


def as_failure(error: Exception) -> e.PgkeepError:
    """Return what has stopped a copy as an error that can be told, foreseen or not."""
    if isinstance(error, e.PgkeepError):
        return error
    return e.StoreError(f"could not copy: {type(error).__name__}: {error}")
