"""Backups that should be encrypted and are not, and keys that will be missing, are reported."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from pgkeep.crypt.opening import CIPHERTEXT, CONTENTS
from pgkeep.model.manifest import Encryption
from pgkeep.model.naming import Cipher
from pgkeep.model.retention import Policy, decide
from pgkeep.postgres.server import Server
from tests.support import exposition, invoke, planted, private_keys
from tests.support.private_keys import AgeKey, GpgKey


def values(text: str) -> dict[str, list[float]]:
    """Return the values of each metric, whatever their labels."""
    found: dict[str, list[float]] = {}
    for key, value in exposition.values(text).items():
        found.setdefault(f"pgkeep_{key[0]}", []).append(value)
    return found


NOW = datetime.now(UTC).replace(microsecond=0)


def test_a_plain_backup_among_encrypted(
    pg17: Server, app: str, age_key: AgeKey, other_age_key: AgeKey, tmp_path: Path
) -> None:
    """WAL-G PR 1832: nobody noticed for months that backups were not encrypted."""
    folder = tmp_path / "b"
    to = {"BACKUP_ENCRYPT_TO": age_key.recipient}
    env = invoke.environment(pg17, app, BACKUP_DIR=str(folder), **to)
    plain = env | {"BACKUP_ENCRYPT_TO": "none"}
    invoke.run("backup", env=plain)
    invoke.run("backup", "--verify", env=env)
    out, err = invoke.outputs("verify", "--all", env=env, code=5)
    assert "is undamaged, but it is not encrypted, and BACKUP_ENCRYPT_TO is set" in out + err
    assert "pgkeep rekey encrypts it" in out
    assert "checked form of the encrypted file, SHA-256, manifest" in out
    assert [verdict["ok"] for verdict in json.loads(
        invoke.outputs("verify", "--all", "--json", env=env, code=5)[0]
    )] == [False, True]  # fmt: skip
    invoke.run("verify", "--all", env=plain)
    out, _ = invoke.outputs("status", env=env, code=5)
    shown = " ".join(out.split())
    assert "1 of its 2 backups are not encrypted, the newest: " in shown
    assert "age, verified without key" in shown
    invoke.run("status", env=plain)
    (state,) = json.loads(invoke.outputs("status", "--json", env=env, code=5)[0])["databases"]
    assert (state["cipher"], state["verified_level"], state["unencrypted"]) == (
        "age", "ciphertext", 1,
    )  # fmt: skip
    lines = invoke.run("list", env=env).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("ENC STATE")
    assert lines[2].endswith("-   not verified")
    assert lines[3].endswith("age by hash")
    assert lines[4].startswith("by hash: verified without a private key")
    metrics = values(invoke.run("metrics", env=env))
    assert metrics["pgkeep_backup_encrypted_ratio"] == [0.5]
    assert metrics["pgkeep_backup_recipients"] == [1]
    assert 1 in metrics["pgkeep_backup_unencrypted_backups"]
    assert metrics["pgkeep_key_check_last_success_timestamp_seconds"] == [0]
    assert set(metrics["pgkeep_drill_last_encrypted_success_timestamp_seconds"]) == {0}
    invoke.run("key", "check", f"--identity={age_key.file}", env=env)
    metrics = values(invoke.run("metrics", env=env))
    assert metrics["pgkeep_key_check_last_success_timestamp_seconds"][0] >= NOW.timestamp()
    private = env | {"BACKUP_IDENTITY_FILE": str(age_key.file)}
    assert "encrypted with age" in invoke.run("show", lines[3].split()[0], env=private)
    found = invoke.run("doctor", env=private)
    for text in (
        "encryption age, pyrage ", ", cryptography ", ", 1 recipient\n",
        "warning: backups are encrypted to one recipient",
        "warning: 1 of 2 backups is not encrypted\n    pgkeep rekey",
        f"note: the private keys in {age_key.file} can decrypt backups on this host",
    ):  # fmt: skip
        assert text in found
    two = env | {"BACKUP_ENCRYPT_TO": f"{age_key.recipient},{other_age_key.recipient}"}
    found = invoke.run("doctor", env=two)
    assert "1 of 2 backups is encrypted to other recipients than BACKUP_ENCRYPT_TO has" in found
    assert "one recipient" not in found
    assert "note: " not in found
    invalid = env | {"BACKUP_ENCRYPT_TO": "age1qqq"}
    out, _ = invoke.outputs("doctor", env=invalid, code=4)
    assert "error: BACKUP_ENCRYPT_TO: found 'age1qqq'" in out
    del env["BACKUP_ENCRYPT_TO"]
    out, _ = invoke.outputs("doctor", env=env, code=4)
    assert "is encrypted, and BACKUP_ENCRYPT_TO is not set: a backup would be refused" in out


def test_a_gpg_key_that_expires(pg17: Server, app: str, gpg_key: GpgKey, tmp_path: Path) -> None:
    """Backups that fail because a key has expired are announced a month before."""
    key = private_keys.gpg_key(tmp_path, "short@example.com", expires="20d")
    try:
        recipients = f"{gpg_key.public},{key.public}"
        env = invoke.environment(
            pg17, app, BACKUP_DIR=str(tmp_path / "b"), BACKUP_ENCRYPT_TO=recipients
        )
        (tmp_path / "b").mkdir()
        found = invoke.run("doctor", env=env)
        (ends,) = values(invoke.run("metrics", env=env))[
            "pgkeep_encryption_key_expiry_timestamp_seconds"
        ]
    finally:
        private_keys.close(key)
    assert "encryption GPG, gpg 2." in found
    assert ", 2 recipients\n" in found
    assert f"warning: GPG key {key.fingerprint} expires on " in found
    assert found.count("expires on") == 1
    assert 19 < (ends - NOW.timestamp()) / 86400 < 21


def test_retention_counts_what_was_verified_without_a_key() -> None:
    """Else retention would never remove anything on a host that cannot decrypt."""
    made = [
        msgspec.structs.replace(
            planted.manifest(NOW - timedelta(days=number), "daily"),
            verified_level=CIPHERTEXT,
            encryption=Encryption(Cipher.AGE, ["age1x"]),
        )
        for number in range(12)
    ]
    kept = [decision.keep for decision in decide(made, Policy(daily=7), now=NOW)]
    with_key = [msgspec.structs.replace(manifest, verified_level=CONTENTS) for manifest in made]
    assert kept == [decision.keep for decision in decide(with_key, Policy(daily=7), now=NOW)]
    assert {*kept} == {True, False}
