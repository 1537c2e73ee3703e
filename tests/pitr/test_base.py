"""Base backups, full and incremental, of real servers."""

import dataclasses
import hashlib
from pathlib import Path

import msgspec
import pytest

from pgkeep import errors as e
from pgkeep.crypt import recipients
from pgkeep.crypt.opening import Keys
from pgkeep.crypt.options import Encryption
from pgkeep.model.manifest import FileFacts
from pgkeep.pitr import base, bases, parts
from pgkeep.pitr.base import BaseOptions, Parent
from pgkeep.pitr.base_manifest import BaseManifest, Kind
from pgkeep.pitr.bases import BaseCatalog
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore, LocalUpload
from tests.support import private_keys, servers


class Listing(LocalStore):
    """A directory that remembers in which order its files were created."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.created: list[str] = []

    def create(
        self, name: str, *, owner: str = "0", sha256: str | None = None, new: bool = False
    ) -> LocalUpload:
        self.created.append(name)
        return super().create(name, owner=owner, sha256=sha256, new=new)


def _packed_damaged(store: LocalStore, full: BaseManifest, keys: Keys, work: Path) -> BaseManifest:
    """Pack a base backup again, after one of its files was damaged."""
    with bases.opened(store, full.parts[0], keys) as packed:
        parts.unpack(packed, "part", work, 1 << 30, lambda _: None)
    path = max((work / "base" / "1").iterdir(), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    name = f"{full.name}.damaged"
    blocks: list[bytes] = []
    parts.pack(work, parts.entries(work), blocks.append, lambda _: None)
    data = b"".join(blocks)
    (store.directory / name).write_bytes(data)
    facts = FileFacts(name, len(data), hashlib.sha256(data).hexdigest())
    return msgspec.structs.replace(full, parts=[facts])


@pytest.mark.parametrize("major", [15, 17])
def test_a_chain_comes_back(major: int, tmp_path: Path) -> None:
    """A2, A5: each member is verified before they are combined; damage of any file is noticed."""
    programs = servers.bin_folder(major)
    settings = {"wal_level": "replica", "max_wal_senders": "4"}
    if major >= 17:
        settings["summarize_wal"] = "on"
    key = private_keys.age_key(tmp_path)
    encryption = Encryption(recipients=recipients.parse(key.recipient), keys=Keys([key.file]))
    store = Listing(tmp_path / "base")
    with Server(programs, settings=settings, initdb=["-k"]) as server:
        endpoint = Endpoint({**server.params, "dbname": "postgres"})
        servers.sql(
            server, "postgres", "create table t as select i from generate_series(1, 9999) i"
        )
        with endpoint.connect() as connection:
            options = BaseOptions(
                programs=programs, staging=tmp_path / "staging", jobs=2, encryption=encryption
            )
            full = base.take(endpoint, connection, store, options, Silent())
            assert (full.kind, full.major, full.checksums) == (Kind.FULL, major, True)
            assert full.settings["max_connections"] == "100"
            chain = [full]
            if major >= 17:
                servers.sql(server, "postgres", "insert into t values (0)")
                manifest = bases.backup_manifest(store, full, encryption.keys)
                parent = Parent(manifest=full, backup_manifest=manifest)
                options = dataclasses.replace(options, parent=parent)
                chain.append(base.take(endpoint, connection, store, options, Silent()))
    for member in chain:
        # Other hosts see from then on that it is being written.
        assert store.created[0] == member.backup_manifest.name, store.created
        assert store.created[len(member.files) - 1] == f"{member.name}.base.json"
        del store.created[: len(member.files)]
    copied = Listing(tmp_path / "copy")
    bases.copy(store, copied, full)
    assert copied.created == [*full.files[1:], full.files[0]]
    known = BaseCatalog(store).read()
    assert list(known) == [one.name for one in chain]
    assert bases.chain_of(chain[-1], known) == chain
    kept = sorted(path.name for path in (tmp_path / "staging").iterdir())
    assert kept == sorted(base.kept_name(one.name) for one in chain)

    def assemble(folder: str) -> Path:
        target = tmp_path / folder
        work = tmp_path / f"{folder}-work"
        bases.assemble(store, chain, programs, target, work, encryption.keys, 2, Silent())
        return target

    assert (assemble("target") / "PG_VERSION").read_text().strip() == str(major)
    if major >= 17:
        chain[0] = _packed_damaged(store, full, encryption.keys, tmp_path / "work")
        with pytest.raises(e.VerificationFailed, match="checksum mismatch"):
            assemble("packed-damaged")
        chain[0] = full
    for file, use in (
        (full.parts[0].name, lambda: assemble("damaged")),
        (full.backup_manifest.name, lambda: bases.backup_manifest(store, full, encryption.keys)),
    ):
        path = store.directory / file
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(e.VerificationFailed):
            use()
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    (store.directory / full.parts[0].name).unlink()
    catalog = BaseCatalog(store)
    if major >= 17:
        with pytest.raises(e.VerificationFailed, match="is missing"):
            bases.chain_of(chain[-1], catalog.read())
    else:
        assert catalog.read() == {}
    assert "is missing or incomplete" in catalog.unreadable[0]
