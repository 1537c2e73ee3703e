"""Register existing files as backups: one whose manifest is lost, a folder of plain dumps."""

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .. import errors as e
from ..artifact import plain_reader
from ..artifact.file import Artifact, Meta, is_artifact
from ..artifact.verify import verify_source
from ..catalog import side_files
from ..catalog.files import is_dump_name
from ..catalog.locks import manifests_locked
from ..catalog.publication import manifest_of
from ..crypt.known_recipients import known_recipients
from ..crypt.opening import Keys
from ..model import naming
from ..model.manifest import Encryption, FileFacts, Manifest, encode
from ..progress import Advance, Progress
from ..stores.local import LocalStore
from ..stores.store import Source, Store, read_all, sha256_of, write_file
from . import index, plain
from .names import guess


def adopt(
    store: Store,
    name: str,
    *,
    keys: Keys,
    jobs: int,
    progress: Advance,
    copy: Store | None = None,
) -> Manifest:
    """Verify a backup file to its end and write its missing manifest.

    Where copies are made, its copy is pending: whether there is one already, `sync` finds out.

    Raises:
        Refused: it has a manifest, or a name that tells neither type nor time.
        VerificationFailed: it is not whole.

    """
    parsed = naming.parse(name)
    if parsed is None or name != parsed.artifact:
        with suppress(e.StoreError), closing(store.open(name)) as source:
            if not is_artifact(source):
                plain_reader.check_head(source)
        raise e.Refused(
            f"{name} does not have the name of a backup file",
            hint="Names are DATABASE_TYPE_TIMESTAMP.sql.gz, such as"
            " app_daily_20261122T020000Z.sql.gz. pgkeep index FILE makes a backup of a plain dump.",
        )
    there = {item.name for item in store.items()}
    if parsed.manifest in there:
        raise e.Refused(f"{name} has a manifest already")
    with closing(store.open(name)) as stored:
        found = FileFacts(name, stored.size, sha256_of(stored))
    with closing(side_files.open_contents(store, name, keys)) as source:
        encryption = _encryption(store, parsed, keys)
        verify_source(source, jobs=jobs, progress=progress, side=side_files.read(store, name))
        artifact = Artifact(source)
    meta = artifact.index.meta
    _check_name(name, parsed, meta)
    facts, passwords = _roles(store, parsed, keys)
    manifest = msgspec.structs.replace(
        manifest_of(parsed, found, artifact.index, artifact.index_sha256, encryption),
        globals=facts,
        role_passwords=passwords,
        warnings=["the manifest was lost and has been recreated"],
        verified=datetime.now(UTC),
        pending=[copy.url] if copy is not None else [],
    )
    with manifests_locked(store):
        if store.exists(parsed.manifest):
            raise e.Refused(f"{name} has a manifest already")
        owner = meta.server.system_identifier
        write_file(store, parsed.manifest, encode(manifest), owner=owner)
    return manifest


def _encryption(store: Store, name: naming.BackupName, keys: Keys) -> Encryption | None:
    """Return what is known of the encryption of a file: who else can decrypt it is not in it."""
    if name.cipher is None:
        return None
    with closing(store.open(name.artifact)) as stored:
        return Encryption(name.cipher, known_recipients(stored, name.cipher, keys))


def _check_name(file: str, name: naming.BackupName, meta: Meta) -> None:
    """Refuse a file whose name promises another database, or other contents."""
    if meta.database.name != name.database:
        raise e.Refused(f"{file} holds database {meta.database.name}, not {name.database}")
    if meta.schema_only != name.schema_only:
        holds = "definitions only" if meta.schema_only else "rows too"
        raise e.Refused(f"{file} holds {holds}, its name does not match")


def _roles(store: Store, name: naming.BackupName, keys: Keys) -> tuple[FileFacts | None, bool]:
    """Return the facts of the file of roles, and whether it holds password hashes."""
    if not store.exists(name.globals):
        return None, False
    with closing(store.open(name.globals)) as source:
        data = read_all(source)
    with closing(side_files.open_contents(store, name.globals, keys)) as source:
        passwords = b" PASSWORD '" in b"".join(plain_reader.plain_blocks(source))
    return FileFacts(name.globals, len(data), hashlib.sha256(data).hexdigest()), passwords


class AdoptedFile(msgspec.Struct, frozen=True):
    """What was done with one file of a folder."""

    file: str
    state: str  # indexed, there, link, ours, other, refused, damaged
    backup: str | None = None  # the name of the artifact
    database: str | None = None
    rows: int | None = None
    message: str | None = None


def adopt_folder(
    folder: Path,
    store: Store,
    options: index.IndexOptions,
    progress: Progress,
    *,
    keys: Keys,
    copy: Store | None = None,
) -> Iterator[AdoptedFile]:
    """Index every plain dump of a folder, not below it; yield what was done with each file.

    Raises:
        StoreError: the folder cannot be read, or the store not be written.

    """
    source_store = LocalStore(folder)
    for name in sorted(item.name for item in source_store.items()):
        if name.startswith(".") or naming.parse(name) is not None:
            ours = naming.parse(name)
            if ours is not None and name == ours.artifact:
                yield AdoptedFile(name, "ours", database=ours.database)
            continue
        path = folder / name
        try:
            if path.is_symlink() and path.resolve(strict=True).parent == folder.resolve():
                yield AdoptedFile(name, "link", message=f"to {path.resolve().name}")
                continue
            known = dataclasses.replace(
                options,
                guess=guess(name, folder.resolve().name, options.zone),
                modified=datetime.fromtimestamp(path.stat().st_mtime, UTC),
            )
            source = side_files.open_contents(source_store, name, keys)
        except (OSError, RuntimeError, e.StoreError) as error:  # such as a link to itself
            yield AdoptedFile(name, "refused", message=f"could not open {name}: {_reason(error)}")
            continue
        except e.PgkeepError as error:  # it is encrypted
            state = _state(error) if is_dump_name(name) else "other"
            yield AdoptedFile(name, state, message=error.message)
            continue
        with closing(source):
            yield _index(source, name, store, known, progress, copy)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _state(error: e.PgkeepError) -> str:
    """Return whether a file is damaged; another format or another key is no damage."""
    other = isinstance(error, e.NotPlainDump | e.OtherKey)
    return "damaged" if isinstance(error, e.VerificationFailed) and not other else "refused"


def _index(
    source: Source,
    name: str,
    store: Store,
    options: index.IndexOptions,
    progress: Progress,
    copy: Store | None,
) -> AdoptedFile:
    if is_artifact(source):
        return AdoptedFile(name, "ours")
    if not is_dump_name(name) and not plain.is_dump(source):
        return AdoptedFile(name, "other")
    try:
        made = index.index(source, store, options, progress, copy=copy)
    except index.IsThere as error:
        return AdoptedFile(name, "there", error.name)
    except (e.Refused, e.UsageError, e.VerificationFailed) as error:
        return AdoptedFile(name, _state(error), message=error.message)
    return AdoptedFile(name, "indexed", made.artifact.name, made.database.name, made.rows)
