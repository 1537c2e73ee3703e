"""The side files of a backup file: SHA-256, manifest and roles."""

import hashlib
import os
import re
from collections.abc import Callable

import msgspec

from .. import errors as e
from ..artifact.plain_reader import plain_blocks
from ..artifact.verify import SideFiles, VerificationReport, verify_source
from ..model import naming
from ..progress import Advance
from ..stores.store import Store, read_all
from . import manifests


def verify(
    store: Store, name: str, *, jobs: int, progress: Advance,
    total: Callable[[int], None] = lambda _: None,
) -> VerificationReport:  # fmt: skip
    """Verify a file of a store, and its side files; `total` receives the length of the file.

    Raises:
        VerificationFailed: the first problem that was found.
        StoreError: the file cannot be read.

    """
    side = read(store, name)
    source = store.open(name)
    try:
        total(source.size)
        report = verify_source(source, jobs=jobs, progress=progress, side=side)
    finally:
        source.close()
    if read_globals(store, name, side) is None:
        return report
    return msgspec.structs.replace(report, checked=[*report.checked, "roles"])


def read(store: Store, name: str) -> SideFiles:
    """Read the side files of a backup file."""
    if not name.endswith(naming.ARTIFACT):
        return SideFiles()
    stem = name.removesuffix(naming.ARTIFACT)
    digest = manifest = None
    if store.exists(stem + naming.CHECKSUM):
        digest = _digest_of(_head(store, stem + naming.CHECKSUM), name, stem + naming.CHECKSUM)
    if store.exists(stem + naming.MANIFEST):
        manifest = manifests.read(store, stem + naming.MANIFEST)
    return SideFiles(digest, manifest, manifest.index_sha256 if manifest else None)


def _digest_of(line: bytes, name: str, file: str) -> str:
    """Return the hash in a checksum file: one line for this file, as `sha256sum -c` reads it."""
    match = _CHECKSUM.fullmatch(line)
    if match is None or os.fsdecode(match["name"]) != name:
        raise e.VerificationFailed(
            f"{name}: its .sha256 file has {line[:200].decode('utf-8', 'replace')!r}, expected a"
            " SHA-256, two spaces and the name of the file",
            hint=f"{file} is damaged, or belongs to another file: compare it with another copy.",
        )
    return match["digest"].decode().lower()


_CHECKSUM = re.compile(rb"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>[^\\\r\n]+)\n?")


def read_globals(store: Store, name: str, side: SideFiles) -> bytes | None:
    """Return the roles of a backup as SQL, or None if their file does not exist.

    Raises:
        VerificationFailed: the file is damaged, or differs from the manifest.

    """
    facts = None if side.manifest is None else side.manifest.globals
    file = name.removesuffix(naming.ARTIFACT) + naming.GLOBALS
    if not name.endswith(naming.ARTIFACT) or not store.exists(file):
        return None  # for example, only the artifact was copied here
    source = store.open(file)
    try:
        data = read_all(source) if facts is None or source.size == facts.size else b""
        if facts is not None and hashlib.sha256(data).hexdigest() != facts.sha256:
            raise e.VerificationFailed(
                f"{file} is damaged: it differs from the manifest",
                hint="Use the file of another copy of the backup. To restore the database without"
                " it, move it away and create missing roles by hand.",
            )
        return b"".join(plain_blocks(source))
    finally:
        source.close()


def _head(store: Store, name: str) -> bytes:
    """Return a file of one line, or the beginning of a longer file."""
    source = store.open(name)
    try:
        return source.read(0, min(source.size, 4096))
    finally:
        source.close()
