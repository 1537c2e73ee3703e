"""Copies of backups in a second store, uploaded during a backup or later.

A copy that fails never affects the backup; the manifest of the backup lists the copy as pending.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence

import msgspec

from .. import errors as e
from ..model.manifest import FileFacts, Hold, Manifest, encode
from ..stores.store import Store, Upload, all_or_none, chunks, read_all, sha256_of, write_file
from . import manifests
from .catalog import Catalog
from .locks import backup_lock, copies_lock
from .publication import checksum


def transfer(
    source: Store,
    target: Store,
    manifest: Manifest,
    *,
    artifact: Upload | None = None,
    read_back: bool = False,
    replaces: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Copy a backup, its manifest last; `artifact` is an upload that only lacks its name.

    If it `replaces` a copy with other files, the manifest of that copy remains after an error.

    Raises:
        StoreError, VerificationFailed: the target does not contain the backup.

    """
    name = manifest.name
    owner = manifest.server.system_identifier
    published: list[str] = []  # only these are removed after an error
    with all_or_none(target, published), contextlib.ExitStack() as stack:
        if artifact is None:
            artifact = _upload_artifact(stack, source, target, manifest, progress)
        published.append(name.artifact)
        artifact.publish()
        if read_back:
            _check(target, manifest.artifact)
        published.append(name.checksum)
        write_file(target, name.checksum, checksum(manifest.artifact), owner=owner)
        roles = _roles(source, manifest)
        if roles is not None:
            published.append(name.globals)
            write_file(target, name.globals, roles, owner=owner)
        if replaces:
            published.clear()  # the answer can be lost: from here on the manifest can name them
        else:
            published.append(name.manifest)
        copied = msgspec.structs.replace(manifest, pending=[], hold=_hold(source, manifest))
        write_file(target, name.manifest, encode(copied), owner=owner)


def _hold(source: Store, manifest: Manifest) -> Hold | None:
    """Return the hold that the backup has now: an upload takes long."""
    try:
        return manifests.read(source, manifest.name.manifest).hold
    except (e.StoreError, e.VerificationFailed):
        return manifest.hold


def _upload_artifact(
    stack: contextlib.ExitStack,
    source: Store,
    target: Store,
    manifest: Manifest,
    progress: Callable[[int], None],
) -> Upload:
    """Upload an artifact and compare its SHA-256 with its manifest."""
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
            f"{source.url_of(facts.name)} was not copied: SHA-256 is {digest.hexdigest()}, expected"
            f" {facts.sha256} according to its manifest"
        )
    upload.seal()
    return upload


def _roles(source: Store, manifest: Manifest) -> bytes | None:
    """Return the file of roles, or None if the backup has none according to its manifest."""
    name, facts = manifest.name.globals, manifest.globals
    if not source.exists(name):
        if facts is not None:
            raise e.VerificationFailed(
                f"{manifest.name.stem} was not copied: {source.url_of(name)} is missing",
                hint="A restore on another server would have no roles. Make a new backup.",
            )
        return None
    with contextlib.closing(source.open(name)) as opened:
        data = read_all(opened)
    if facts is not None and hashlib.sha256(data).hexdigest() != facts.sha256:
        raise e.VerificationFailed(
            f"{name} was not copied: damaged, its SHA-256 differs from its manifest"
        )
    return data


def _check(store: Store, facts: FileFacts) -> None:
    """Read a file again and check it; an identity without read permission skips this."""
    try:
        with contextlib.closing(store.open(facts.name)) as source:
            digest = sha256_of(source)
    except e.AccessDenied:
        return
    if digest != facts.sha256:
        raise e.VerificationFailed(
            f"{store.url_of(facts.name)}: SHA-256 after the upload is {digest}, expected"
            f" {facts.sha256}"
        )


def mark_copied(store: Store, manifest: Manifest, target: Store) -> Manifest:
    """Record in a manifest that its copy is no longer pending; return the manifest."""

    def copied(manifest: Manifest) -> Manifest:
        pending = [url for url in manifest.pending if url != target.url]
        return msgspec.structs.replace(manifest, pending=pending)

    return manifests.change(store, manifest, copied) or copied(manifest)


def pending(backups: Sequence[Manifest], target: Store) -> list[Manifest]:
    """Return the backups whose copy to a store is pending, newest first."""
    return [manifest for manifest in reversed(backups) if target.url in manifest.pending]


def missing(catalog: Catalog, other: Catalog, pending: list[Manifest]) -> list[Manifest]:
    """Return the complete backups whose copy is missing, incomplete or pending, newest first."""
    copied = {manifest.name: manifest.name.generation for manifest in other.whole()}
    for manifest in pending:
        copied.pop(manifest.name, None)
    return [
        manifest
        for manifest in reversed(catalog.whole())
        if copied.get(manifest.name, 0) < manifest.name.generation
    ]


def upload_pending(
    source: Store,
    target: Store,
    backups: list[Manifest],
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[Manifest, e.PgkeepError | None]]:
    """Upload pending copies one after the other; yield each with its error, if any.

    After a store error, the remaining copies are not tried: each would take as long to fail.
    Databases whose copies another process may be uploading are left to that process.
    """
    with contextlib.ExitStack() as stack:
        databases = {manifest.database.name for manifest in backups}
        ours = {name for name in databases if _claim(stack, source, name)}
        for manifest in backups:
            if manifest.database.name not in ours:
                yield manifest, _is_busy(manifest.database.name)
                continue
            if not source.exists(manifest.name.manifest):
                continue  # removed meanwhile
            try:
                _upload(source, target, manifest, progress)
            except e.VerificationFailed as error:
                yield manifest, error
            except Exception as error:  # noqa: BLE001 - only the copy failed, whatever the cause
                yield manifest, as_failure(error)
                return
            else:
                yield manifest, None


def _upload(
    source: Store, target: Store, manifest: Manifest, progress: Callable[[int], None]
) -> None:
    # A run that was killed before it recorded its copy must not put that copy at risk.
    listed = target.exists(manifest.name.manifest)
    if not (listed and _has(target, manifest)):
        checked = manifest.verified is not None
        replaces = listed and not target.exists(manifest.artifact.name)
        transfer(source, target, manifest, read_back=checked, replaces=replaces, progress=progress)
    mark_copied(source, manifest, target)


def _has(store: Store, manifest: Manifest) -> bool:
    """Return whether a store has the complete file of a backup; False without read permission.

    Raises:
        StoreError: the store does not respond. A failed upload would remove an existing copy.

    """
    name = manifest.name.artifact
    if not store.exists(name):
        return False
    try:
        with contextlib.closing(store.open(name)) as artifact:
            return artifact.size == manifest.artifact.size
    except e.AccessDenied:
        return False


def _claim(stack: contextlib.ExitStack, store: Store, database: str) -> bool:
    """Lock the copies of a database's backups, unless a backup is running.

    Copies of a backup that starts afterwards are not in the list of pending copies.
    """
    with store.lock(backup_lock(database)) as idle:
        if not idle:
            return False
    return stack.enter_context(store.lock(copies_lock(database)))


def _is_busy(database: str) -> e.StoreError:
    return e.StoreError(
        f"a backup of database {database} is running, or its copies are already being uploaded",
        hint="Wait until it ends. A killed run holds no lock.",
    )


def as_failure(error: Exception) -> e.PgkeepError:
    """Return any error that ended a copy as one that can be reported."""
    if isinstance(error, e.PgkeepError):
        return error
    return e.StoreError(f"could not copy: {type(error).__name__}: {error}")
