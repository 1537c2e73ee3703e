"""A5: damage of any stored byte is noticed."""

import gzip
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pgkeep import errors as e
from pgkeep.crypt import recipients
from pgkeep.crypt.opening import Keys
from pgkeep.crypt.options import Encryption
from pgkeep.model.manifest import FileFacts
from pgkeep.pitr import base, base_manifest, bases, parts, verification
from pgkeep.pitr.archive import parse_stored
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.support import planted_wal, private_keys, servers
from tests.support.pitr_cluster import Cluster


def flip(path: Path, position: int, bit: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ bit]))


def positions(path: Path, count: int, chance: random.Random) -> list[int]:
    size = path.stat().st_size
    inside = [chance.randrange(size) for _ in range(count)]
    return sorted({0, 1, size - 1, size // 2, *inside} & set(range(size)))


@pytest.mark.parametrize("encrypted", [False, True])
def test_every_damage_is_named(encrypted: bool, tmp_path: Path) -> None:  # noqa: C901
    """A5, A11, A13: of each kind of stored file, with and without encryption and private key."""
    programs = servers.bin_folder(17)
    key = private_keys.age_key(tmp_path)
    encryption = Encryption()
    if encrypted:
        encryption = Encryption(recipients=recipients.parse(key.recipient), keys=Keys([key.file]))
    with Server(
        programs, settings={"summarize_wal": "on", "wal_level": "replica", "wal_keep_size": "64MB"},
        initdb=["--wal-segsize=1"], directory=servers.data_folder(),
    ) as server:  # fmt: skip
        cluster = Cluster(server, programs, tmp_path, encryption)
        cluster.take()
        servers.sql(server, "postgres", "create table t as select 1 as t")
        child, _ = cluster.take()
        location = cluster.location()
        cluster.archive_wal(location, child.start)
    archive = location.archive(encryption)
    archive.put("00000002.history", b"1\t0/6000000\tno recovery target specified\n")

    def verified(keys: Keys) -> verification.Verified:
        return verification.verify(location, Encryption(keys=keys), 2, Silent())

    whole = verified(encryption.keys)
    assert (whole.problems, whole.by_hash, whole.bases) == ([], 0, 2)
    paths = [*location.base.directory.iterdir(), *location.wal.directory.iterdir()]  # type: ignore[attr-defined]
    stored = [path for path in paths if not path.name.startswith(".")]
    assert whole.files == len([path for path in stored if path.suffix != ".json"])
    known = location.bases().read()
    chance = random.Random(2)  # noqa: S311

    def read_base_file(path: Path) -> None:
        found = next(
            facts for made in known.values() for facts in made.contents if facts.name == path.name
        )
        with bases.opened(location.base, found, encryption.keys) as blocks:
            parts.inflated(blocks, found.name, 1 << 40)

    def read_wal(path: Path) -> None:
        found = parse_stored(path.name)
        assert found is not None
        location.archive(encryption).get(found.name)

    def read_manifest(path: Path) -> None:
        base_manifest.decode(path.read_bytes(), path.name)

    kinds: list[tuple[str, Callable[[Path], None], int]] = [
        (".base.json", read_manifest, 10_000), (".history", read_wal, 10_000),
        ("backup_manifest.gz", read_base_file, 60), ("part00001", read_base_file, 10),
        ("000000010000", read_wal, 30),
    ]  # fmt: skip
    damaged: set[str] = set()
    for kind, read, count in kinds:
        path = max((path for path in stored if kind in path.name), key=lambda path: path.name)
        read(path)
        for position in positions(path, count, chance):
            if read is read_wal and not encrypted and 3 <= position < 10:
                continue  # the header of gzip: the contents are the same
            flip(path, position)
            with pytest.raises((e.VerificationFailed, e.OtherKey)):
                read(path)
            flip(path, position)
        flip(path, path.stat().st_size - 5)
        damaged.add(path.name)
    named = verified(encryption.keys)
    for name in damaged:
        if ".base.json" not in name and child.name in name:
            continue  # the manifest is damaged, so nothing is known of this base backup
        assert any(name in problem.file + problem.error for problem in named.problems), name
    assert {problem.exit_code for problem in named.problems} == {5}
    if encrypted:
        for name in damaged:
            (path,) = (path for path in stored if path.name == name)
            flip(path, path.stat().st_size - 5)
        blind = verified(Keys())
        assert (blind.problems, blind.by_hash) == ([], whole.files)
        part = next(path for path in stored if "_full.part" in path.name)
        flip(part, 300)
        (problem,) = verified(Keys()).problems
        assert part.name in problem.file
        (tmp_path / "other").mkdir()
        wrong = private_keys.age_key(tmp_path / "other")
        assert verified(Keys([wrong.file])).by_hash == whole.files - 1


def test_postgresqls_own_checksums() -> None:
    """A part that was packed from a damaged file has the right SHA-256."""
    listed = verification._listed(
        json.dumps(
            {"Files": [{"Encoded-Path": b"\xff".hex(), "Size": 1, "Checksum-Algorithm": "SHA256",
                        "Checksum": "00"},
                       {"Path": "b", "Size": 1}]}
        ).encode(), "x",
    )  # fmt: skip
    assert listed["\udcff"].sha256 == "00"
    assert listed["b"].sha256 is None
    for path, contents, said in (
        ("\udcff", b"x", "the SHA-256 of"), ("b", b"", "has 0 bytes"), ("c", b"", "is not in"),
    ):  # fmt: skip
        blocks = iter([contents])
        with pytest.raises(e.VerificationFailed, match=said):
            verification._file(path, lambda _, blocks=blocks: next(blocks, b""), listed, "part")  # type: ignore[misc]
    for crafted in (b"{}", b'{"Files": [1], "WAL-Ranges": [1]}', b"[" * 100_000):
        for read in (lambda data: verification._listed(data, "x"), base.wal_ranges):
            with pytest.raises(e.VerificationFailed, match="unreadable"):
                read(crafted)
    assert msgspec.convert({"name": "", "size": 0, "sha256": ""}, FileFacts).size == 0


def test_a_part_without_a_file(tmp_path: Path) -> None:
    """A5: it has the right SHA-256, and each file in it is as PostgreSQL's manifest says."""
    data, store = tmp_path / "data", LocalStore(tmp_path / "stored")
    (data / "base").mkdir(parents=True)
    store.directory.mkdir()
    for name in ("PG_VERSION", "base/1"):
        (data / name).write_bytes(b"17\n")
    listed = json.dumps(
        {"Files": [{"Path": "PG_VERSION", "Size": 3}, {"Path": "base/1", "Size": 3}]}
    )

    def stored(name: str, contents: bytes) -> FileFacts:
        (store.directory / name).write_bytes(contents)
        return FileFacts(name, len(contents), hashlib.sha256(contents).hexdigest())

    def errors(*, packed: bool = True) -> list[str]:
        blocks: list[bytes] = []
        parts.pack(data, parts.entries(data), blocks.append, lambda _: None)
        made = msgspec.structs.replace(
            planted_wal.base(1), parts=[stored("part", b"".join(blocks))] if packed else [],
            backup_manifest=stored("manifest", gzip.compress(listed.encode())),
        )  # fmt: skip
        done = verification.Verified(system_identifier="", store="", bases=1)
        verification._base(store, made, Keys(), 1, verification._Results(done, Silent()))
        return [problem.error for problem in done.problems]

    assert errors() == []
    (data / "base/1").unlink()
    assert errors() == [f"base backup {planted_wal.base(1).name}: 1 files are missing: 'base/1'"]
    assert errors(packed=False) == [
        f"base backup {planted_wal.base(1).name}: 2 files are missing: 'PG_VERSION'"
    ]
