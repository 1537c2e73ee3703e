"""The side files of a backup file: SHA-256, manifest and roles."""

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import ExitStack, closing

import msgspec

from .. import errors as e
from ..artifact.plain_reader import plain_blocks
from ..artifact.verify import SideFiles, VerificationReport, verify_source, verify_stored
from ..crypt import opening
from ..crypt.opening import Keys
from ..model import naming
from ..model.naming import Cipher
from ..progress import Advance
from ..stores.store import Source, Store, read_all
from . import manifests


def open_contents(store: Store, name: str, keys: Keys) -> Source:
    """Open a file for reading its plain text; it can be encrypted.

    Raises:
        NoKey, OtherKey: these keys do not decrypt it.
        VerificationFailed: it is damaged, or not encrypted although its name promises it.
        StoreError: it cannot be read.

    """
    source = store.open(name)
    try:
        cipher = cipher_of(source, name)
        return source if cipher is None else opening.decrypted(source, cipher, keys)
    except BaseException:
        source.close()
        raise


def cipher_of(source: Source, name: str) -> Cipher | None:
    """Return the cipher of an open file.

    Of a file in a bucket, the name decides: to look at it would cost a request.

    Raises:
        VerificationFailed: its name promises another form.

    """
    parsed = naming.parse(name)
    if parsed is not None and source.remote:
        return parsed.cipher
    found = opening.cipher_of(source)
    if parsed is not None and parsed.cipher != found:
        has = "is not encrypted" if found is None else f"is encrypted with {found}"
        raise e.VerificationFailed(f"{source.name} {has}, its name promises another form")
    return found


def verify(
    store: Store, name: str, *, keys: Keys, jobs: int, progress: Advance,
    total: Callable[[int], None] = lambda _: None,
) -> VerificationReport:  # fmt: skip
    """Verify a file of a store, and its side files; `total` receives the length of the file.

    Without a private key for an encrypted file, its stored bytes are compared with its side files.

    Raises:
        VerificationFailed: the first problem that was found.
        StoreError: the file cannot be read.

    """
    side = read(store, name)
    roles = None if side.manifest is None else side.manifest.globals
    if roles is not None and not store.exists(roles.name):
        raise e.VerificationFailed(
            f"{store.url_of(roles.name)} is missing",
            hint="Copy it from another store. The backup file can be restored without it.",
        )
    with ExitStack() as stack:
        source = stack.enter_context(closing(store.open(name)))
        total(source.size)
        cipher = cipher_of(source, name)
        if cipher is not None:
            try:
                source = stack.enter_context(closing(opening.decrypted(source, cipher, keys)))
            except e.NoKey:
                report = verify_stored(source, side, progress)
                return _with_globals(report, stored_globals(store, name, side))
        report = verify_source(source, jobs=jobs, progress=progress, side=side)
    return _with_globals(report, read_globals(store, name, side, keys))


def _with_globals(report: VerificationReport, found: bytes | None) -> VerificationReport:
    if found is None:
        return report
    return msgspec.structs.replace(report, checked=[*report.checked, "roles"])


def read(store: Store, name: str) -> SideFiles:
    """Read the side files of a backup file."""
    names = naming.side_names(name)
    if names is None:
        return SideFiles()
    digest = manifest = None
    if store.exists(names.checksum):
        digest = _digest_of(_head(store, names.checksum), name, names.checksum)
    if store.exists(names.manifest):
        manifest = manifests.read(store, names.manifest)
        if _is_other(naming.parse(name), manifest.name):
            manifest = None
    return SideFiles(digest, manifest, manifest.index_sha256 if manifest else None)


def _is_other(name: naming.BackupName | None, recorded: naming.BackupName) -> bool:
    """Whether the manifest is about another file of the backup, encrypted again."""
    return name == recorded and (
        (name.form, name.generation) != (recorded.form, recorded.generation)
    )


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


def read_globals(store: Store, name: str, side: SideFiles, keys: Keys) -> bytes | None:
    """Return the roles of a backup as SQL, or None if their file does not exist.

    Raises:
        NoKey, OtherKey: these keys do not decrypt it.
        VerificationFailed: the file is damaged, or differs from the manifest.

    """
    if stored_globals(store, name, side) is None:
        return None
    names = naming.side_names(name)
    assert names is not None  # noqa: S101 - the file exists
    with closing(open_contents(store, names.globals, keys)) as source:
        return b"".join(plain_blocks(source))


def stored_globals(store: Store, name: str, side: SideFiles) -> bytes | None:
    """Return the file of roles as it is stored, or None if it does not exist.

    Raises:
        VerificationFailed: it differs from the manifest.

    """
    names = naming.side_names(name)
    if names is None or not store.exists(names.globals):
        return None  # for example, only the artifact was copied here
    facts = None if side.manifest is None else side.manifest.globals
    with closing(store.open(names.globals)) as source:
        data = read_all(source) if facts is None or source.size == facts.size else b""
    if facts is not None and hashlib.sha256(data).hexdigest() != facts.sha256:
        raise e.VerificationFailed(
            f"{names.globals} is damaged: it differs from the manifest",
            hint="Use the file of another copy of the backup. To restore the database without"
            " it, move it away and create missing roles by hand.",
        )
    return data


def _head(store: Store, name: str) -> bytes:
    """Return a file of one line, or the beginning of a longer file."""
    source = store.open(name)
    try:
        return source.read(0, min(source.size, 4096))
    finally:
        source.close()
