"""The base backups in a store, and how one is put together in a directory."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from .. import errors as e
from .. import processes
from ..catalog.side_files import cipher_of
from ..catalog.small_files import SmallFiles
from ..crypt import opening
from ..crypt.opening import Keys
from ..model.manifest import LARGEST, FileFacts
from ..progress import Progress
from ..stores.hashed_source import HashedSource
from ..stores.hashed_upload import HashedUpload
from ..stores.store import (
    Item,
    Store,
    all_or_none,
    chunks,
    write_file,
)
from . import chains, configuration, parts
from .base import verify
from .base_manifest import SUFFIX, BaseManifest, decode, encode, is_base_file, name_of

_LARGEST_MANIFEST = 1 << 30  # bytes; about 200 for each file


class BaseCatalog:
    """The complete base backups of a cluster, by name."""

    def __init__(self, store: Store, system_identifier: str | None = None) -> None:
        self.store = store
        self.unreadable: list[str] = []  # the errors of manifests that could not be read
        # Whether one of them can be read at another time, or by another version of pgkeep.
        self.incomplete = False
        self.leftovers: dict[str, list[Item]] = {}  # files without a manifest, by name
        self._system_identifier = system_identifier

    def read(self) -> dict[str, BaseManifest]:
        """Return all base backups whose files exist with their lengths, oldest first."""
        self.unreadable, self.leftovers, self.incomplete = [], {}, False
        items = {item.name: item for item in self.store.items() if is_base_file(item.name)}
        sizes = {name: item.size for name, item in items.items()}
        copies = SmallFiles(self.store, items) if self.store.remote else None
        found: list[BaseManifest] = []
        for name in sorted(name for name in items if name.endswith(SUFFIX)):
            try:
                manifest = self._read(items[name], copies)
            except e.Missing:  # retention has removed it meanwhile
                continue
            except (e.StoreError, e.VerificationFailed) as error:
                self.unreadable.append(error.message)
                self.incomplete |= isinstance(error, e.StoreError | e.NewerFormat)
                continue
            lost = [file.name for file in manifest.contents if sizes.get(file.name) != file.size]
            if lost:
                self.unreadable.append(f"{lost[0]} is missing or incomplete in {self.store.url}")
            else:
                found.append(manifest)
        if copies is not None:
            copies.keep()
        for name, item in items.items():
            base = name_of(name)
            if base is not None and base + SUFFIX not in items:
                self.leftovers.setdefault(base, []).append(item)
        return {manifest.name: manifest for manifest in sorted(found, key=lambda m: m.started)}

    def _read(self, item: Item, copies: SmallFiles | None) -> BaseManifest:
        """Read a manifest; of a bucket, a copy on this machine if that is current."""
        data = self.store.load(item, LARGEST).data if copies is None else copies.read(item.name)[0]
        manifest = decode(data, item.name)
        if self._system_identifier not in (None, manifest.system_identifier):
            raise e.VerificationFailed(
                f"{item.name} is of the cluster with system identifier"
                f" {manifest.system_identifier}, expected {self._system_identifier}"
            )
        return manifest


def chain_of(base: BaseManifest, known: Mapping[str, BaseManifest]) -> list[BaseManifest]:
    """Return a base backup with all on which it is based, the full one first.

    Raises:
        VerificationFailed: one is missing.

    """
    chain = chains.find(base, known)
    if chain is None:
        oldest = [base, *chains.ancestors(base, known)][-1]
        raise e.VerificationFailed(
            f"base backup {oldest.name} is based on {oldest.parent}, which is missing"
        )
    return chain


@contextmanager
def opened(store: Store, facts: FileFacts, keys: Keys) -> Iterator[Iterator[bytes]]:
    """Yield the plain text of a file of a base backup; at the end it is compared with its SHA-256.

    Raises:
        NoKey, OtherKey: these keys do not decrypt it.
        VerificationFailed: it is damaged.

    """
    with closing(store.open(facts.name)) as stored:
        source = HashedSource(stored)
        yield opening.plain_blocks(source, cipher_of(source, facts.name), keys)
        check(source, facts)


def check(source: HashedSource, facts: FileFacts) -> None:
    """Compare a stored file with its manifest.

    Raises:
        VerificationFailed: it is damaged.

    """
    if (found := source.sha256()) != facts.sha256:
        raise e.VerificationFailed(
            f"{source.name}: SHA-256 is {found}, the manifest has {facts.sha256}"
        )


def backup_manifest(store: Store, base: BaseManifest, keys: Keys) -> bytes:
    """Return PostgreSQL's own manifest of a base backup.

    Raises:
        NoKey, OtherKey: these keys do not decrypt it.
        VerificationFailed: it is damaged.

    """
    with opened(store, base.backup_manifest, keys) as blocks:
        name = store.url_of(base.backup_manifest.name)
        limit = min(_LARGEST_MANIFEST, parts.limit_of(0, base.file_count))
        return parts.inflated(blocks, name, limit)


def assemble(
    store: Store, chain: Sequence[BaseManifest], programs: Path, target: Path, staging: Path,
    keys: Keys, jobs: int, progress: Progress,
) -> None:  # fmt: skip
    """Write the data directory of a base backup; an incremental one is combined with its parents.

    Each member of the chain is verified before: pg_combinebackup computes new checksums, and would
    hide damage.

    Raises:
        VerificationFailed: a file is damaged.
        StoreError: a file could not be read.

    """
    folders = [target] if len(chain) == 1 else [staging / base.name for base in chain]
    for base, folder in zip(chain, folders, strict=True):
        progress.step(f"unpacking base backup {base.name}")
        progress.total(sum(part.size for part in base.parts))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ThreadPoolExecutor(jobs) as pool:
            # A list, so that the first failure is raised here.
            list(pool.map(partial(_unpack, store, folder, base, keys, progress), base.parts))
        verify(programs, folder)
    if len(chain) > 1:
        progress.step("combining")
        command = [str(programs / "pg_combinebackup"), "--output", str(target)]
        processes.run([*command, *map(str, folders)], {}, e.VerificationFailed)
    files = chain[-1].configuration
    if files is not None:
        with opened(store, files, keys) as blocks:
            configuration.unpack(blocks, store.url_of(files.name), target)


def _unpack(
    store: Store, folder: Path, base: BaseManifest, keys: Keys, progress: Progress, part: FileFacts
) -> None:
    limit = parts.limit_of(base.size, base.file_count)
    with opened(store, part, keys) as blocks:
        parts.unpack(blocks, store.url_of(part.name), folder, limit, progress.advance)


def copy(source: Store, target: Store, base: BaseManifest) -> None:
    """Copy a base backup to another store, its manifest last.

    Raises:
        VerificationFailed: a file is damaged; nothing is published.
        StoreError: a file could not be read or written.

    """
    published: list[str] = []
    with all_or_none(target, published):
        for facts in base.contents:  # a small file first, as in `base.take`
            with (
                closing(source.open(facts.name)) as opened,
                target.create(facts.name, owner=base.system_identifier) as upload,
            ):
                stored = HashedUpload(upload)
                for chunk in chunks(opened):
                    stored.write(chunk)
                if stored.sha256 != facts.sha256:
                    raise e.VerificationFailed(
                        f"{opened.name} was not copied: its SHA-256 differs from the manifest"
                    )
                stored.seal()
                published.append(facts.name)
                stored.publish()
        published.append(base.name + SUFFIX)
        write_file(target, base.name + SUFFIX, encode(base), owner=base.system_identifier)
