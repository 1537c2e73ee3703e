"""Encrypted files that somebody made to hurt: refused with a reason, in little memory and time."""

import hashlib
import json
import os
import re
import resource
import secrets
import subprocess
import time
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from pgkeep.crypt import openpgp_framing
from pgkeep.stores.memory import MemorySource
from tests.crypt.conftest import Encrypted
from tests.support import invoke, private_keys
from tests.support.private_keys import AgeKey, GpgKey

MIB = 1 << 20
VERSION = b"age-encryption.org/v1\n"
OURS = "app_daily_20261122T020000Z.sql.gz"


def x25519(length: int = 32) -> bytes:
    """Return a stanza for nobody."""
    share, body = (b64encode(secrets.token_bytes(32)).rstrip(b"=") for _ in range(2))
    lines = re.findall(b".{1,64}", body * (length // 32))
    return b"-> X25519 " + share + b"\n" + b"\n".join(lines) + b"\n"


def rsa(key: AgeKey, length: int) -> bytes:
    """Return a stanza for an SSH key, whose body is too long for it."""
    wire = subprocess.run(
        ["age", "-R", key.recipient], input=b"", capture_output=True, check=True
    ).stdout.split(b"\n")[1]
    lines = re.findall(b".{1,64}", b"A" * length)
    return b"\n".join([wire, *lines]) + b"\n"


def age_files(folder: Path, ssh: AgeKey) -> dict[str, str]:
    """Write files with hostile headers; return the reason that is expected for each."""
    end = b"--- " + b"A" * 43 + b"\n" + bytes(1000)
    with (folder / "huge_header.age").open("wb") as file:
        file.write(VERSION + b"-> X25519 A\n")
        file.truncate(1 << 30)
    files = {
        "stanzas.age": (VERSION + x25519() * 100_000 + end, "damaged age header"),
        "arguments.age": (VERSION + b"-> X" + b" a" * 10_000_000, "damaged age header"),
        "one_line.age": (VERSION + b"-> X25519 a\n" + b"A" * 9_000_000, "damaged age header"),
        "many_for_others.age": (VERSION + x25519() * 500 + end, "no private key in"),
        "rsa.age": (VERSION + rsa(ssh, 40_010) + end, "for an RSA key does not decrypt"),
        "scrypt.age": (
            VERSION + b"-> scrypt AAAAAAAAAAAAAAAAAAAAAA 40\n" + b"A" * 43 + b"\n" + end,
            "encrypted with a passphrase, expected public keys",
        ),
        "armored.age": (b"-----BEGIN AGE ENCRYPTED FILE-----\nAAAA\n", "in ASCII armor"),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return {name: reason for name, (_, reason) in files.items()} | {
        "huge_header.age": "damaged age header"
    }


def message(key: GpgKey, packets: bytes) -> bytes:
    """Encrypt packets as they are, which gpg does not do: RFC 9580, 5.13.1."""
    sealed = sealed_for(key, b"")
    keys = sealed[: 2 + sealed[1]]  # one packet with a length of one byte
    shown = subprocess.run(
        ["gpg", "--batch", "--show-session-key", "-d"], input=sealed, capture_output=True,
        env={**os.environ, **key.environment}, check=True,
    ).stderr  # fmt: skip
    found = re.search(rb"session key: '9:([0-9A-F]+)'", shown)
    assert found is not None
    prefix = secrets.token_bytes(16)
    plain = prefix + prefix[-2:] + packets + b"\xd3\x14"
    encryptor = Cipher(algorithms.AES(bytes.fromhex(found[1].decode())), CFB(bytes(16))).encryptor()
    body = b"\1" + encryptor.update(plain + hashlib.sha1(plain).digest())  # noqa: S324
    return keys + b"\xd2\xff" + len(body).to_bytes(4) + body


def sealed_for(key: GpgKey, data: bytes, *args: str) -> bytes:
    public = ("--trust-model=always", "--recipient", key.fingerprint, *args, "--encrypt")
    return private_keys.gpg(key.home, *public, data=data)


def compressed(packets: bytes) -> bytes:
    """Return a compressed packet of indeterminate length: RFC 9580, 5.6."""
    packer = zlib.compressobj(wbits=-15)
    return b"\xa3\1" + packer.compress(packets) + packer.flush()


def gpg_files(folder: Path, key: GpgKey) -> dict[str, str]:
    """Write messages that are not what they should be; return the reason that is expected."""
    correct = sealed_for(key, b"hello")
    keys, data = correct[: 2 + correct[1]], correct[2 + correct[1] :]
    # A session key for a password, whose hash takes 65 million bytes: RFC 9580, 5.3.
    password = b"\x8c\x0d\4\x09\3\x0a" + bytes(8) + b"\xff"
    by_password = password + data
    literal = b"\xcb\x0bb\0\0\0\0\0hello"
    nested = literal
    for _ in range(200):
        nested = compressed(nested)
    bomb = sealed_for(key, bytes(60 * MIB))
    files = {
        "password.gpg": (by_password, "encrypted with a password, expected public keys"),
        "both.gpg": (keys + by_password, "encrypted with a password, expected public keys"),
        "bomb.gpg": (bomb, "its plain text has more than"),
        "nested.gpg": (message(key, nested), "could not be decrypted"),
        "inner_message.gpg": (message(key, message(key, literal)), ""),
        "inner_password.gpg": (message(key, by_password), "cannot be verified"),
        "two.gpg": (correct + correct, "found bytes after the end of the OpenPGP message"),
        "armored.gpg": (sealed_for(key, b"", "--armor"), "in ASCII armor"),
        "encrypted_twice.gpg": (sealed_for(key, correct), "not a plain dump: encrypted with gpg"),
        "session_keys.gpg": (
            b"\xc1\x0c\3" + bytes(11) * 1 + (b"\xc1\x0c\3" + bytes(11)) * 100_000,
            "more than 65536 bytes of OpenPGP session keys",
        ),
        "long_key.gpg": (b"\xc1\xff\x3f\xff\xff\xff\3" + bytes(9_000_000), "more than 65536"),
        OURS + ".gpg": (
            private_keys.gpg(key.home, "--sign", data=b"hello"),
            "is not encrypted, its name promises another form",
        ),
        "signed.gpg": (private_keys.gpg(key.home, "--sign", data=b"hello"), "not a plain dump"),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return {name: reason for name, (_, reason) in files.items()}


def test_crafted_files(
    tmp_path: Path, encrypted: Encrypted, age_key: AgeKey, gpg_key: GpgKey
) -> None:
    """One run verifies all, with keys: exit code 5 for each, less than 60 MiB more than usual."""
    ssh = private_keys.ssh_key(tmp_path, "rsa")
    folder = tmp_path / "files"
    folder.mkdir()
    expected = age_files(folder, ssh) | gpg_files(folder, gpg_key)
    env = invoke.environment(
        BACKUP_DIR=str(folder), BACKUP_IDENTITY_FILE=f"{age_key.file},{ssh.file}",
        GNUPGHOME=str(gpg_key.home),
    )  # fmt: skip
    began = time.monotonic()
    paths = [str(folder / name) for name in expected]
    _, usual = verified([str(encrypted.age), str(encrypted.gpg)], env)
    verdicts, peak = verified(paths, env)
    assert time.monotonic() - began < 60
    for name, reason in expected.items():
        verdict = verdicts[str(folder / name)]
        assert (verdict["ok"], verdict["exit_code"]) == (False, 5), (name, verdict)
        assert reason in verdict["error"], (name, verdict)
    assert peak - usual < 60 * MIB
    # What reads only a part of a file.
    for command in ("show", "index"):
        for name in ("huge_header.age", "bomb.gpg"):
            said = invoke.run(command, str(folder / name), env=env, code=5)
            assert expected[name] in said, (command, said)
    assert not list(tmp_path.glob("**/pgkeep-*"))


def verified(paths: list[str], env: dict[str, str]) -> tuple[dict[str, dict[str, Any]], int]:
    """Verify files in a process with limited memory; return the verdicts and its peak."""
    limit = (2048 * MIB, 2048 * MIB)
    with invoke.start(
        "verify", "--json", *paths, env=env,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said = process.stderr.read()
    assert "Traceback" not in said
    assert process.returncode in (0, 5), said
    return {verdict["file"]: verdict for verdict in json.loads(out)}, usage.ru_maxrss * 1024


@pytest.mark.parametrize("tag", [18, 20])
def test_newer_messages(tag: int) -> None:
    """GnuPG 2.4 writes another packet (AEAD) for keys that it made itself."""
    data = b"\x84\x0a" + bytes(10) + bytes([0xC0 | tag, 100]) + bytes(100)
    openpgp_framing.check(MemorySource("FILE", data))


def test_a_private_key_with_a_passphrase(tmp_path: Path) -> None:
    """Without a terminal gpg's agent cannot ask: the reason is not that the key is missing."""
    key = private_keys.gpg_key(tmp_path, passphrase="two words")
    try:
        file = tmp_path / "message.gpg"
        file.write_bytes(sealed_for(key, b"hello"))
        private_keys.forget(key)
        env = invoke.environment(GNUPGHOME=str(key.home))
        said = invoke.run("show", str(file), env=env, code=2)
        assert "the private key could not be used: gpg: public key decryption failed" in said
        assert "hint: If it has a passphrase" in said
    finally:
        private_keys.close(key)
