"""Encrypt the files of a backup again, from stream to stream, and replace the former ones.

At each moment the manifest names a complete file: the new files are written under other names and
verified, then the manifest is replaced, then the former files are removed.
"""

import hashlib
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, replace

import msgspec

from .. import errors as e
from .. import interrupts, progress
from ..artifact.verify import SideFiles
from ..crypt import opening
from ..crypt.opening import CONTENTS, Level
from ..crypt.options import Encryption
from ..crypt.recipients import Recipients
from ..model.manifest import FileFacts, Manifest
from ..model.naming import BackupName, Cipher
from ..progress import Progress
from ..stores.hashed_source import HashedSource
from ..stores.hashed_upload import HashedUpload
from ..stores.local import LocalStore
from ..stores.store import Store, read_all
from . import manifests, side_files
from .encryption import encryption_facts
from .publication import Publication, checksum, public_facts, publication

GROWTH = 1.01  # of a file by its encryption, at most
SMALL = 1 << 20  # bytes for the other files


@dataclass(frozen=True, slots=True, kw_only=True)
class RekeyOptions:
    """To whom backups are encrypted, with which keys they are read, and how."""

    encryption: Encryption  # with recipients
    jobs: int
    progress: Progress

    @property
    def recipients(self) -> Recipients:
        """The recipients of the new files."""
        assert self.encryption.recipients is not None  # noqa: S101 - checked by the caller
        return self.encryption.recipients


def is_current(manifest: Manifest, recipients: Recipients) -> bool:
    """Whether a backup is encrypted exactly to these recipients."""
    found = manifest.encryption
    return (
        found is not None
        and found.cipher == recipients.cipher
        and set(found.recipients) == set(recipients.names)
    )


def rekey(
    store: Store, old: Manifest, generation: int, options: RekeyOptions, *, pending: str | None
) -> Manifest:
    """Write the files of a backup again, and its manifest; return the new manifest.

    The former files remain. `pending` is the store whose copy has to be replaced too.

    Raises:
        NoKey, OtherKey, VerificationFailed: it cannot be decrypted, or is damaged; as before.
        StoreError: the store cannot be read or written; the manifest is as before.
        UsageError: a private key cannot be read.

    """
    _check_space(store, old)
    name = replace(old.name, cipher=options.recipients.cipher, generation=generation)
    keyring = old.name.cipher is Cipher.GPG
    owner, roles = old.server.system_identifier, _has_roles(store, old)
    with publication(store, name, owner=owner, roles=roles, encryption=options.encryption) as files:
        facts = _encrypt(files, old, options)
        side = SideFiles(sha256=facts.sha256, index_sha256=old.index_sha256)
        verified = files.read_back(side, options.jobs, options.progress, keyring=keyring)
        written = _encrypt_roles(files, old, verified.level) if roles else None
        files.write(name.checksum, checksum(facts))

        def changed(current: Manifest) -> Manifest:
            if current.artifact != old.artifact:
                raise e.StoreError(f"{name.stem} was replaced by another run meanwhile")
            known = verified.level == CONTENTS or current.verified is not None
            more = [] if pending is None or pending in current.pending else [pending]
            return msgspec.structs.replace(
                current,
                database=public_facts(current.database),
                encryption=encryption_facts(options.encryption),
                artifact=facts,
                globals=written,
                pending=[*current.pending, *more],
                verified=verified.when if known else None,
                verified_level=verified.level,
            )

        return _publish(files, old, changed)


def _check_space(store: Store, old: Manifest) -> None:
    if not isinstance(store, LocalStore):
        return
    free, needed = store.free(), int(old.artifact.size * GROWTH) + SMALL
    if free < needed:
        raise e.StoreError(
            f"{store.url} has {progress.size(free)} free, {old.name.stem} needs"
            f" {progress.size(needed)}",
            hint="Free disk space: the former file is removed only after the new one is complete.",
        )


def _has_roles(store: Store, old: Manifest) -> bool:
    if store.exists(old.name.globals):
        return True
    if old.globals is not None:
        raise e.VerificationFailed(f"{store.url_of(old.name.globals)} is missing")
    return False


def _encrypt(files: Publication, old: Manifest, options: RekeyOptions) -> FileFacts:
    """Encrypt the backup file, whose bytes are compared with the manifest on the way."""
    file, keys = old.artifact.name, options.encryption.keys
    stored = HashedUpload(files.artifact)
    with ExitStack() as stack:
        source = stack.enter_context(closing(HashedSource(files.store.open(file))))
        options.progress.total(source.size)
        upload = stack.enter_context(options.encryption.upload(stored))
        cipher = side_files.cipher_of(source, file)
        for block in opening.plain_blocks(source, cipher, keys):
            upload.write(block)
            options.progress.advance(len(block))
        if (found := source.sha256()) != old.artifact.sha256:
            raise e.VerificationFailed(
                f"{source.name}: SHA-256 is {found}, its manifest has {old.artifact.sha256}"
            )
        upload.seal()
    return FileFacts(files.name.artifact, stored.size, stored.sha256)


def _encrypt_roles(files: Publication, old: Manifest, level: Level) -> FileFacts:
    """Encrypt the file of roles, and read it again: with the key if that opens the backup file."""
    keys = files.encryption.keys
    side = SideFiles(manifest=old)
    side_files.stored_globals(files.store, old.artifact.name, side)  # compares the SHA-256
    with closing(side_files.open_contents(files.store, old.name.globals, keys)) as source:
        plain = read_all(source)
    facts = files.write(files.name.globals, files.encryption.encrypted(plain))
    assert files.name.cipher is not None  # noqa: S101 - it was chosen by the recipients
    with closing(files.uploads[files.name.globals].source()) as stored:
        data = read_all(stored)
        if hashlib.sha256(data).hexdigest() != facts.sha256:
            raise e.VerificationFailed(f"{stored.name} differs from what was written")
        if level == CONTENTS:
            with closing(opening.decrypted(stored, files.name.cipher, keys)) as opened:
                if read_all(opened) != plain:
                    raise e.VerificationFailed(f"{stored.name} does not decrypt to the globals")
    return facts


def _publish(files: Publication, old: Manifest, changed: manifests.Change) -> Manifest:
    """Give the files their names, then replace the manifest."""
    store, name = files.store, files.name
    new = [file for file in files.uploads if file != name.manifest]
    # A bucket may not respond, so signals are not held.
    with nullcontext() if store.remote else interrupts.held():
        try:
            for file in new:
                files.uploads[file].publish()
            manifest = manifests.change(store, old, changed)
            if manifest is None:
                raise e.Missing(f"{store.url_of(name.manifest)} was removed meanwhile")
        except BaseException:
            if not _may_name(store, name):
                with suppress(e.StoreError):
                    for file in new:
                        store.delete(file)
            raise
        interrupts.completed(f"{name.stem} is encrypted again")
    return manifest


def _may_name(store: Store, name: BackupName) -> bool:
    """Whether the manifest can name the new files: the answer of a bucket can be lost."""
    try:
        return manifests.read(store, name.manifest).artifact.name == name.artifact
    except e.Missing:
        return False
    except (e.StoreError, e.VerificationFailed):
        return True
