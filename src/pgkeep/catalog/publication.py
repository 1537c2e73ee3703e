"""Write the files of a backup to a store and publish them: all of them, or none.

No file gets its name before all files are complete. The manifest gets its name last: without it,
the other files are no backup.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from .. import errors as e
from .. import interrupts
from ..artifact import verify
from ..artifact.compression import gzip
from ..artifact.file import Index
from ..crypt import opening
from ..crypt.opening import CONTENTS, Level
from ..crypt.options import UNENCRYPTED, Encryption
from ..model.manifest import DatabaseFacts, FileFacts, Manifest, encode
from ..model.manifest import Encryption as EncryptionFacts
from ..model.naming import BackupName
from ..progress import Progress
from ..stores.store import Store, Upload, all_or_none, sha256_of


class Verified(NamedTuple):
    """When a file was verified, and what was compared: its contents, or only the stored bytes."""

    when: datetime
    level: Level


@dataclass(frozen=True, slots=True)
class Publication:
    """The files of one backup before it is published."""

    store: Store
    name: BackupName
    uploads: Mapping[str, Upload]  # by file name, the manifest last
    encryption: Encryption

    @property
    def artifact(self) -> Upload:
        """The artifact as it is stored, which the caller writes and seals."""
        return self.uploads[self.name.artifact]

    def write_roles(self, roles: bytes) -> FileFacts:
        """Write the file of roles; return its facts for the manifest."""
        return self.write(self.name.globals, self.encryption.encrypted(gzip(roles)))

    def write(self, file: str, data: bytes) -> FileFacts:
        """Write one of the small files; return its facts for the manifest."""
        upload = self.uploads[file]
        upload.write(data)
        upload.seal()
        return FileFacts(file, len(data), hashlib.sha256(data).hexdigest())

    def read_back(
        self, expected: verify.SideFiles, jobs: int, progress: Progress, *, keyring: bool = False
    ) -> Verified:
        """Verify the sealed artifact; return when, and what was compared.

        Without a private key, the stored bytes are compared with those that left the encryption.
        With `keyring`, GPG's keyring is asked for one.

        Raises:
            VerificationFailed: it differs from what was written.

        """
        progress.step("verifying")
        with ExitStack() as stack:
            source = stored = stack.enter_context(closing(self.artifact.source()))
            progress.total(stored.size)
            level: Level = CONTENTS
            if self.encryption.recipients is not None:
                source, level = opening.opened_if_possible(
                    stored, self.encryption.keys, keyring=keyring
                )
            if level == CONTENTS:
                verify.verify_source(source, jobs=jobs, progress=progress.advance, side=expected)
            elif (found := sha256_of(stored, progress.advance)) != expected.sha256:
                raise e.VerificationFailed(
                    f"{stored.name}: SHA-256 is {found}, expected {expected.sha256}, as the"
                    " encryption wrote it"
                )
        return Verified(datetime.now(UTC), level)

    def publish(self, manifest: Manifest) -> None:
        """Write checksum and manifest, then give all files their names.

        All bytes are on disk before the first rename. A signal waits for renames, but not for a
        bucket, which may not respond.
        """
        self.write(self.name.checksum, checksum(manifest.artifact))
        self.write(self.name.manifest, encode(manifest))
        with nullcontext() if self.store.remote else interrupts.held():
            with all_or_none(self.store, list(self.uploads)):
                for upload in self.uploads.values():
                    upload.publish()
            interrupts.completed(f"backup {self.name.stem} is published")


@contextmanager
def publication(
    store: Store,
    name: BackupName,
    *,
    owner: str = "0",
    roles: bool = True,
    encryption: Encryption = UNENCRYPTED,
) -> Iterator[Publication]:
    """Start writing a backup of a cluster; files that are not published at the end are removed.

    `owner` is the cluster's system identifier. Without `roles`, the backup has no file of roles.
    """
    with ExitStack() as stack:
        uploads = {
            file: stack.enter_context(store.create(file, owner=owner))
            for file in name.files
            if roles or file != name.globals
        }
        yield Publication(store, name, uploads, encryption)


def checksum(facts: FileFacts) -> bytes:
    """Return the line that `sha256sum -c` reads."""
    return f"{facts.sha256}  {facts.name}\n".encode()


def manifest_of(
    name: BackupName,
    artifact: FileFacts,
    index: Index,
    index_sha256: str,
    encryption: EncryptionFacts | None = None,
) -> Manifest:
    """Return the manifest of a backup with the facts from its index, finished now."""
    meta = index.meta
    return Manifest(
        pgkeep=meta.pgkeep,
        database=meta.database if encryption is None else public_facts(meta.database),
        encryption=encryption,
        server=meta.server,
        client_version=meta.client_version,
        type=name.type,
        schema_only=meta.schema_only,
        taken=name.taken,
        snapshot=datetime.fromisoformat(meta.snapshot),
        finished=datetime.now(UTC),
        artifact=artifact,
        raw_bytes=index.raw_bytes,
        index_sha256=index_sha256,
        tables=index.table_rows(),
        extensions=meta.extensions,
        roles=meta.roles,
    )


def public_facts(database: DatabaseFacts) -> DatabaseFacts:
    """Return the facts of a database without texts of its users, which can be secrets."""
    return msgspec.structs.replace(database, settings=[], comment=None)
