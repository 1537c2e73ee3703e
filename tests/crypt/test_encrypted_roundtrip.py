"""An encrypted backup of one of everything comes back the same, with pgkeep and without."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.buckets import Buckets, keys
from tests.support.compare import assert_same_database
from tests.support.private_keys import AgeKey, GpgKey


@dataclass(frozen=True)
class Way:
    """How one cipher is used: settings, and the standard program that decrypts."""

    suffix: str
    recipients: list[str]
    to: Mapping[str, str]
    private: Mapping[str, str]
    decrypt: list[str]


@pytest.fixture(params=["age", "gpg"])
def way(request: pytest.FixtureRequest, age_key: AgeKey, gpg_key: GpgKey) -> Way:
    if request.param == "age":
        return Way(
            ".age", [age_key.recipient], {"BACKUP_ENCRYPT_TO": age_key.recipient},
            {"BACKUP_IDENTITY_FILE": str(age_key.file)},
            ["age", "-d", "-i", str(age_key.file)],
        )  # fmt: skip
    return Way(
        ".gpg", [gpg_key.fingerprint], {"BACKUP_ENCRYPT_TO": str(gpg_key.public)},
        gpg_key.environment, ["gpg", "--batch", "-q", "-d"],
    )  # fmt: skip


def test_everything(
    server: Server, objects: str, way: Way, tmp_path: Path, database: DatabaseFactory
) -> None:
    """Backup, verify, restore by pgkeep; restore by the standard programs into another database."""
    artifact = invoke.backup(server, objects, tmp_path, "--verify", BACKUP_JOBS="3", **way.to)
    assert artifact.name.endswith(f".sql.gz{way.suffix}")
    manifest = json.loads(next(tmp_path.glob("*.manifest.json")).read_text())
    assert manifest["encryption"] == {"cipher": way.suffix[1:], "recipients": way.recipients}
    assert manifest["verified_level"] == "ciphertext"
    env = invoke.environment(server, **way.private)
    report = json.loads(invoke.run("verify", "--json", str(artifact), env=env))
    assert (report["kind"], report["level"]) == ("pgkeep", "contents")
    target = f"decrypted {servers.major_of(server)}"
    try:
        invoke.restore(server, artifact, target, **way.private)
        assert_same_database(server, objects, server, target)
    finally:
        servers.drop(server, target)
    decrypted = tmp_path / "by_hand.sql.gz"
    with artifact.open("rb") as file, decrypted.open("wb") as plain:
        env = {**os.environ, **way.private}
        subprocess.run(way.decrypt, stdin=file, stdout=plain, env=env, check=True)
    by_hand = database(server)
    invoke.restore_by_hand(server, decrypted, by_hand)
    assert_same_database(server, objects, server, by_hand, ignore_database=True)


def test_in_a_bucket(
    pg17: Server, database: DatabaseFactory, way: Way, tmp_path: Path, buckets: Buckets
) -> None:
    """Directory and bucket have the same encrypted files; a restore needs only the bucket."""
    bucket = buckets.bucket()
    settings = buckets.environment(bucket)
    shop = database(pg17)
    servers.psql(pg17, shop, input=servers.SHOP)
    artifact = invoke.backup(pg17, shop, tmp_path, "--type=daily", **settings, **way.to)
    stem = artifact.name.removesuffix(f".sql.gz{way.suffix}")
    assert [key for key in keys(buckets.client(), bucket) if stem in key] == sorted(
        f"backups/daily/{stem}{suffix}"
        for suffix in (
            ".manifest.json",
            f".globals.sql.gz{way.suffix}",
            f".sql.gz{way.suffix}",
            f".sql.gz{way.suffix}.sha256",
        )
    )
    url = f"s3://{bucket}/backups/daily/{artifact.name}"
    env = invoke.environment(pg17, **settings, **way.private)
    target = f"from bucket {way.suffix[1:]}"
    try:
        invoke.run("restore", f"--backup={url}", f"--target-db={target}", env=env)
        assert_same_database(pg17, shop, pg17, target)
    finally:
        servers.drop(pg17, target)
