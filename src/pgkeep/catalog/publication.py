"""Write the files of a backup to a store and publish them: all of them, or none.

No file gets its name before all files are complete. The manifest gets its name last: without it,
the other files are no backup.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

from .. import interrupts
from ..artifact import verify
from ..artifact.file import Index
from ..model.manifest import FileFacts, Manifest, encode
from ..model.naming import BackupName
from ..progress import Progress
from ..stores.store import Store, Upload, all_or_none


@dataclass(frozen=True, slots=True)
class Publication:
    """The files of one backup before it is published."""

    store: Store
    name: BackupName
    uploads: Mapping[str, Upload]  # by file name, the manifest last

    @property
    def artifact(self) -> Upload:
        """The artifact, which the caller writes and seals."""
        return self.uploads[self.name.artifact]

    def write(self, file: str, data: bytes) -> FileFacts:
        """Write one of the small files; return its facts for the manifest."""
        upload = self.uploads[file]
        upload.write(data)
        upload.seal()
        return FileFacts(file, len(data), hashlib.sha256(data).hexdigest())

    def read_back(self, expected: verify.SideFiles, jobs: int, progress: Progress) -> datetime:
        """Verify the sealed artifact; return the time of verification.

        Raises:
            VerificationFailed: it differs from what was written.

        """
        progress.step("verifying")
        with closing(self.artifact.source()) as source:
            progress.total(source.size)
            verify.verify_source(source, jobs=jobs, progress=progress.advance, side=expected)
        return datetime.now(UTC)

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
    store: Store, name: BackupName, *, owner: str = "0", roles: bool = True
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
        yield Publication(store, name, uploads)


def checksum(facts: FileFacts) -> bytes:
    """Return the line that `sha256sum -c` reads."""
    return f"{facts.sha256}  {facts.name}\n".encode()


def manifest_of(name: BackupName, artifact: FileFacts, index: Index, index_sha256: str) -> Manifest:
    """Return the manifest of a backup with the facts from its index, finished now."""
    meta = index.meta
    return Manifest(
        pgkeep=meta.pgkeep,
        database=meta.database,
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
