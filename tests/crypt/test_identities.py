"""Files of private keys: what is accepted, and how anything else is reported."""

import base64
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.crypt import age_format, age_identities
from pgkeep.crypt.age_source import AgeSource
from pgkeep.crypt.opening import Keys
from pgkeep.stores.memory import MemorySource
from tests.support import private_keys
from tests.support.private_keys import AgeKey

CANARY = b"canary"


def never(prompt: str) -> str:
    raise AssertionError(prompt)


def opens(file: Path, recipient: str, passphrase: str | None = None) -> bool:
    """Whether a file of private keys opens what the program age encrypted to a public key."""
    keys = age_identities.load(file, never if passphrase is None else lambda _: passphrase)
    how = "-R" if recipient.endswith(".pub") else "-r"
    data = subprocess.run(
        ["age", how, recipient], input=CANARY, capture_output=True, check=True
    ).stdout

    def key(header: age_format.Header) -> bytes:
        found = age_identities.file_key(header, keys)
        assert found is not None
        return found

    return AgeSource(MemorySource("canary", data), key).read(0, 6) == CANARY


def refused(file: Path, passphrase: str | None = None) -> str:
    ask = never if passphrase is None else lambda _: passphrase
    with pytest.raises(e.UsageError) as caught:
        age_identities.load(file, ask)
    return f"{caught.value.message}; {caught.value.hint}"


def written(file: Path, data: bytes | str, mode: int = 0o600) -> Path:
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    file.chmod(mode)
    return file


def armored(data: bytes) -> str:
    lines = re.findall(".{1,64}", base64.b64encode(data).decode())
    return "\n".join(
        ["-----BEGIN AGE ENCRYPTED FILE-----", *lines, "-----END AGE ENCRYPTED FILE-----\n"]
    )


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_keys(tmp_path: Path, kind: str) -> None:
    """As ssh-keygen writes them, also with a passphrase; the same key as PKCS#8."""
    plain = private_keys.ssh_key(tmp_path, kind)
    assert opens(plain.file, plain.recipient)
    lock = ["ssh-keygen", "-p", "-q", "-N", "two words", "-f", str(plain.file)]
    subprocess.run(lock, check=True, capture_output=True)
    assert opens(plain.file, plain.recipient, "two words")
    for wrong in ("one word", ""):
        assert "could not decrypt the identity file" in refused(plain.file, wrong)
    if kind == "rsa":
        for passphrase in ("two words", ""):
            change = ["ssh-keygen", "-p", "-q", "-m", "PKCS8", "-P", "two words"]
            change += ["-N", passphrase, "-f", str(plain.file)]
            subprocess.run(change, check=True, capture_output=True)
            assert b"BEGIN ENCRYPTED PRIVATE" in plain.file.read_bytes() or not passphrase
            assert opens(plain.file, plain.recipient, passphrase or None)


def test_other_ssh_keys(tmp_path: Path) -> None:
    """A key that cannot decrypt is named as such, not as damaged."""
    assert "of another type, expected ssh-ed25519 or ssh-rsa" in refused(
        private_keys.ssh_key(tmp_path, "ecdsa").file
    )
    pem = subprocess.run(
        ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert "of another type" in refused(written(tmp_path / "ec", pem))
    ed25519 = private_keys.ssh_key(tmp_path, "ed25519").file
    assert "not a private SSH key that can be read" in refused(
        written(tmp_path / "half", ed25519.read_bytes()[:150])
    )
    assert "found a public key, expected AGE" in refused(
        written(tmp_path / "pub", ed25519.with_suffix(".pub").read_bytes())
    )


def test_several(tmp_path: Path, age_key: AgeKey, other_age_key: AgeKey) -> None:
    """Files with several keys, comments and Windows line ends; several files."""
    text = "".join(f"# key\r\n\n {key.file.read_text()}\r\n" for key in (age_key, other_age_key))
    both = written(tmp_path / "both", text)
    assert opens(both, age_key.recipient)
    assert opens(both, other_age_key.recipient)
    names = [key.recipient for key in Keys([age_key.file, other_age_key.file]).identities]
    assert names == [age_key.recipient, other_age_key.recipient]


def test_a_passphrase_is_asked_for_once(tmp_path: Path, age_key: AgeKey) -> None:
    """The age identity that `age -p` encrypted, binary or in ASCII armor."""
    data = private_keys.with_passphrase(age_key.file.read_bytes(), "two words")
    for content in (data, armored(data)):
        locked = written(tmp_path / "locked", content)
        assert opens(locked, age_key.recipient, "two words")
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "wrong"

    keys = Keys([locked], ask)
    for _ in range(2):  # as for each of many backups
        with pytest.raises(e.UsageError, match="could not decrypt the identity file"):
            _ = keys.identities
    assert asked == [f"passphrase of {locked}"]
    with pytest.raises(e.UsageError, match="standard input is not a terminal"):
        _ = Keys([locked]).identities


def test_an_identity_that_takes_years_to_decrypt(tmp_path: Path, age_key: AgeKey) -> None:
    """A file can ask for any amount of memory and time (scrypt's work factor)."""
    bomb = private_keys.with_passphrase(b"", "x", work_factor=40)
    began = time.monotonic()
    assert "could not decrypt" in refused(written(tmp_path / "bomb", bomb), "x")
    assert time.monotonic() - began < 30


def test_modes(tmp_path: Path, age_key: AgeKey) -> None:
    """A key that others can read is refused, also where Kubernetes mounts it: behind two links."""
    file = written(tmp_path / "key", b"")
    file.write_text(age_key.file.read_text())
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "..data").symlink_to(tmp_path)
    link = tmp_path / "mount" / "key"
    link.symlink_to(Path("..data") / "key")
    for mode in (0o400, 0o600, 0o440, 0o640):
        file.chmod(mode)
        assert len(age_identities.load(link, never)) == 1
    for mode in (0o644, 0o604, 0o444, 0o660, 0o700, 0o777, 0o620, 0o4600):
        file.chmod(mode)
        message = refused(link)
        assert f"has mode {mode:04o}, expected 0600, 0400, 0640 or 0440" in message
        assert "SECRET" not in message


def test_odd_files(tmp_path: Path, age_key: AgeKey) -> None:
    """Each of them is named for what it is; none hangs, none is read into memory."""
    secret = age_key.file.read_text().splitlines()[-1]
    os.mkfifo(tmp_path / "fifo", 0o600)
    written(tmp_path / "large", "")
    os.truncate(tmp_path / "large", 1 << 30)
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "loop").symlink_to("loop")
    cases = {
        tmp_path / "fifo": "is not a file",
        tmp_path / "folder": "is not a file",
        Path("/dev/zero"): "is not a file",
        tmp_path / "missing": "No such file or directory",
        tmp_path / "loop": "symbolic links",
        Path("nul\0"): "null",
        tmp_path / "large": "has 1073741824 bytes, expected at most 1048576",
        written(tmp_path / "empty", ""): "contains no private key",
        written(tmp_path / "comments", "# AGE-SECRET-KEY-1\n"): "contains no private key",
        written(tmp_path / "binary", os.urandom(3000) + b"\n\xff"): "expected AGE-SECRET-KEY-1",
        written(tmp_path / "plugin", "AGE-PLUGIN-YUBIKEY-1XXXX\n"): "a private key for a plugin",
        written(tmp_path / "public", age_key.recipient): "found a public key",
        written(tmp_path / "short", f"# x\n{secret[:-1]}\n"): "line 2: found something else",
        written(tmp_path / "armor", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n"): "a GPG key",
    }
    for file, expected in cases.items():
        message = refused(file)
        assert expected in message, message
        assert secret[:-1] not in message
