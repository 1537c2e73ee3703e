"""Backups in zstd: `zstdcat FILE | psql` restores them, and every command reads them."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgkeep import errors as e
from pgkeep.artifact import verify
from pgkeep.artifact.compression import (
    BLOCK,
    MultiFrameInflater,
    compressor,
    member_blocks,
    zstd,
)
from pgkeep.model.naming import Compression
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalSource
from tests.support import invoke, servers
from tests.support.buckets import Buckets, keys
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables
from tests.support.private_keys import AgeKey

# The rows of `wide` need two members, and each of these several frames.
SHOP = r"""
create table wide (id int primary key, note text);
insert into wide select n, repeat(md5(n::text), 4) from generate_series(1, 140000) n;
create table orders (id serial primary key, note text);
insert into orders (note) values (E'a\nb'), (null), ('ünï');
create materialized view large as select * from wide where id > 100;
"""
SKIPPABLE = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"


def inflated(data: bytes, step: int) -> bytes:
    inflater = MultiFrameInflater()
    found = b"".join(
        block for at in range(0, len(data), step) for block in inflater.feed(data[at : at + step])
    )
    inflater.close()
    return found


def checked_blocks(data: bytes) -> Iterator[bytes]:
    for block in MultiFrameInflater().feed(data):
        assert len(block) <= BLOCK
        yield block


@pytest.mark.parametrize("extra", [-1, 0, 1, 8, 257])
@pytest.mark.parametrize("step", [1000, BLOCK + 7, 1 << 30])
def test_frames_cut_anywhere(extra: int, step: int) -> None:
    """B27: frames of about the size of a block, an empty one, one that readers skip."""
    parts = [b"abc%d\n" % extra * BLOCK, b"", b"x" * BLOCK * 2]
    parts = [part[: BLOCK + extra] for part in parts]
    stream = compressor(Compression.ZSTD)
    packed = stream.compress(parts[2]) + stream.flush()
    data = zstd.compress(parts[0], 9) + SKIPPABLE + zstd.compress(parts[1]) + packed
    assert inflated(data, step) == b"".join(parts)
    assert b"".join(member_blocks(packed, Compression.ZSTD)) == parts[2]


@given(st.integers(0, 10_000), st.integers(0, 7), st.integers(0, 10_000))
@settings(max_examples=300, deadline=None)
def test_damaged_zstd_is_refused(at: int, bit: int, length: int) -> None:
    """B27, B28: a flipped bit or a cut gives an error or, in a header's idle bits, the same."""
    parts = [hashlib.shake_128(b"noise").digest(300), b"abc" * 100, b"d"]
    frames = []
    for part in parts:
        stream = compressor(Compression.ZSTD)
        frames.append(stream.compress(part) + stream.flush())
    data = b"".join(frames)
    ends = [sum(map(len, frames[:count])) for count in range(len(frames) + 1)]
    flipped = bytearray(data)
    flipped[at % len(data)] ^= 1 << bit
    cut = length % len(data)
    for damaged, whole in ((bytes(flipped), True), (data[:cut], cut in ends)):
        try:
            found = inflated(damaged, 1 << 20)
        except e.VerificationFailed:
            continue
        assert whole
        assert b"".join(parts).startswith(found)


def test_few_bytes_that_expand_to_very_many() -> None:
    """G1.7: 1 GiB of zeros in less than 100 kB, and a window of 256 MiB: neither is in memory."""
    frames = zstd.compress(bytes(256 << 20)) * 4
    assert len(frames) < 100_000
    assert sum(map(len, checked_blocks(frames))) == 1 << 30
    # A frame of no content whose header asks for the window (RFC 8878, section 3.1.1.1.2).
    wide = b"\x28\xb5\x2f\xfd\x00" + bytes([(28 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(e.VerificationFailed, match="a window of more than 128 MiB"):
        list(member_blocks(wide, Compression.ZSTD))


@pytest.fixture(scope="module")
def shop(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A database and a backup of it in zstd."""
    with Disposables() as made:
        database = made.database(pg17)
        servers.psql(pg17, database, input=SHOP)
        folder = tmp_path_factory.mktemp("zstd")
        yield database, invoke.backup(pg17, database, folder, "--verify", "--compression=zstd")


@pytest.fixture
def copied(shop: tuple[str, Path], tmp_path: Path) -> Path:
    """The backup in a directory of its own; returns the backup file."""
    folder = tmp_path / "backups"
    shutil.copytree(shop[1].parent, folder)
    return folder / shop[1].name


def test_zstdcat_and_psql_restore_it(
    pg17: Server, shop: tuple[str, Path], disposables: Disposables
) -> None:
    database, artifact = shop
    stem = artifact.name.removesuffix(".sql.zst")
    assert {path.name.removeprefix(stem) for path in artifact.parent.glob(f"{stem}*")} == {
        ".globals.sql.gz", ".manifest.json", ".sql.zst", ".sql.zst.sha256",
    }  # fmt: skip
    subprocess.run(["zstd", "-q", "-t", artifact], check=True)
    subprocess.run(["sha256sum", "-c", f"{artifact.name}.sha256"], cwd=artifact.parent, check=True)
    plain = subprocess.check_output(["zstdcat", artifact])
    assert b"--   zstdcat FILE | psql -X" in plain[:1000]
    target = disposables.database(pg17)
    invoke.restore_by_hand(pg17, artifact, target)
    assert_same_database(pg17, database, pg17, target, ignore_database=True)


def test_every_command_reads_it(
    pg17: Server, shop: tuple[str, Path], copied: Path, disposables: Disposables
) -> None:
    """Found by name without suffix and by id; whole, one table, rows, drill, list, runbook."""
    database, _ = shop
    env = invoke.environment(pg17, BACKUP_DIR=str(copied.parent))
    stem = copied.name.removesuffix(".sql.zst")
    (listed,) = json.loads(invoke.run("list", "--json", env=env))
    assert listed["manifest"]["artifact"]["name"] == copied.name
    target = disposables.name(pg17)
    invoke.run("restore", f"--backup={stem}", f"--target-db={target}", env=env)
    assert_same_database(pg17, database, pg17, target, ignore_database=True)
    servers.sql(pg17, target, "drop table orders")
    one = ["--table=orders", f"--target-db={target}"]
    invoke.run("restore", "--backup", listed["id"], *one, "--yes", env=env)
    assert_same_database(pg17, database, pg17, target, ignore_database=True)
    assert "2 tables, 140,003 rows" in invoke.run("show", stem, env=env)
    assert invoke.run("cat", stem, "--table=orders", env=env).count("\n2\t\\N\n") == 1
    invoke.run("verify", "--all", env=env)
    assert json.loads(invoke.run("drill", f"--backup={stem}", "--json", env=env))["passed"]
    page = invoke.run("runbook", env=env | {"PGDATABASE": database})
    assert f"zstdcat {copied.name}" in page
    assert f"zcat {copied.name}" not in page
    assert f"zcat {stem}.globals.sql.gz" in page


def test_damage_is_found(copied: Path) -> None:
    """Any changed byte of members, index and marker; a cut; another compression in the name."""
    env = invoke.environment(BACKUP_DIR=str(copied.parent))
    data = copied.read_bytes()
    manifest = copied.with_name(copied.name.replace(".sql.zst", ".manifest.json"))
    facts = json.loads(manifest.read_bytes())["artifact"]
    manifest.unlink()
    Path(f"{copied}.sha256").unlink()
    for at in (0, 5, len(data) // 2, len(data) - 300, *range(len(data) - 66, len(data))):
        changed = bytearray(data)
        changed[at] ^= 0x10
        copied.write_bytes(changed)
        with pytest.raises(e.VerificationFailed):
            verified(copied)
    copied.write_bytes(data[:-64])
    assert "the end marker is missing" in invoke.run("verify", str(copied), env=env, code=5)
    copied.write_bytes(zstd.compress(zstd.decompress(data)))
    assert "edited or recompressed" in invoke.run("verify", str(copied), env=env, code=5)
    wrong = copied.with_suffix(".gz")
    wrong.write_bytes(data)
    said = invoke.run("verify", str(wrong), env=env, code=5)
    assert "compressed with zstd, expected gzip according to its name" in said
    assert "according to its name" in invoke.run("adopt", str(wrong), env=env, code=5)
    wrong.unlink()
    copied.write_bytes(data)
    invoke.run("adopt", str(copied), env=env)
    assert json.loads(manifest.read_bytes())["artifact"] == facts
    copied.write_bytes(b"\x1f\x8b\x08" + data[3:])  # of the same size: list looks at few bytes
    found, _ = invoke.outputs("status", "--json", env=env, code=5)
    assert "is missing or is not that of its manifest" in found


def test_dumps_are_indexed_into_zstd(
    pg17: Server, shop: tuple[str, Path], tmp_path: Path, disposables: Disposables
) -> None:
    database, _ = shop
    dump = tmp_path / "old_20260506_070809.sql.zst"
    dump.write_bytes(zstd.compress(servers.dump(pg17, database)))
    env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path / "new"), BACKUP_COMPRESSION="zstd")
    manifest = json.loads(invoke.run("index", str(dump), "--database=old", "--json", env=env))
    artifact = tmp_path / "new" / manifest["artifact"]["name"]
    assert artifact.name == "old_manual_20260506T070809Z.sql.zst"
    target = disposables.database(pg17)
    invoke.restore_by_hand(pg17, artifact, target)
    assert_same_database(pg17, database, pg17, target, ignore_database=True)


def test_bucket_and_keys(
    pg17: Server, shop: tuple[str, Path], copied: Path, buckets: Buckets, age_key: AgeKey,
    disposables: Disposables,
) -> None:  # fmt: skip
    """The copy in a bucket, encryption of an existing backup, and the restore from there."""
    database, _ = shop
    bucket = buckets.bucket()
    env = invoke.environment(pg17, BACKUP_DIR=str(copied.parent), **buckets.environment(bucket))
    env |= {"BACKUP_ENCRYPT_TO": age_key.recipient, "BACKUP_IDENTITY_FILE": str(age_key.file)}
    invoke.run("rekey", env=env)
    stem = copied.name.removesuffix(".sql.zst")
    encrypted = copied.with_name(f"{stem}_key2.sql.zst.age")
    assert not copied.exists()
    decrypted = subprocess.check_output(["age", "-d", "-i", age_key.file, encrypted])
    assert decrypted == shop[1].read_bytes()
    invoke.run("sync", "--all", env=env)
    assert f"backups/manual/{encrypted.name}" in keys(buckets.client(), bucket)
    shutil.rmtree(copied.parent)
    target = disposables.name(pg17)
    url = f"s3://{bucket}/backups/manual/{encrypted.name}"
    invoke.run("restore", f"--backup={url}", f"--target-db={target}", env=env)
    assert_same_database(pg17, database, pg17, target, ignore_database=True)
    kit = invoke.run("key", "kit", env=env)
    assert "| zstdcat | psql" in kit


def verified(path: Path) -> None:
    source = LocalSource(path)
    verify.verify_source(source, jobs=1, progress=lambda _: None)
