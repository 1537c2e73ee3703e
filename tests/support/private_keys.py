"""Private keys of age and GPG for tests, made by the standard programs."""

import base64
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pgkeep.crypt import age_format


@dataclass(frozen=True, slots=True)
class AgeKey:
    """A private key of age in a file, and its public key."""

    file: Path
    recipient: str


def age_key(folder: Path, name: str = "identity.txt") -> AgeKey:
    """Create a key with age-keygen."""
    file = folder / name
    subprocess.run(["age-keygen", "-o", file], check=True, capture_output=True)
    recipient = subprocess.check_output(["age-keygen", "-y", file], text=True).strip()
    return AgeKey(file, recipient)


def with_passphrase(data: bytes, passphrase: str, work_factor: int = 4) -> bytes:
    """Encrypt as `age -p`, whose work factor of 18 takes a second each time."""
    salt, key = os.urandom(16), os.urandom(16)
    scrypt = Scrypt(b"age-encryption.org/v1/scrypt" + salt, 32, 1 << min(work_factor, 4), 8, 1)
    wrapped = ChaCha20Poly1305(scrypt.derive(passphrase.encode())).encrypt(bytes(12), key, None)
    stanza = b"-> scrypt %s %d\n%s\n---" % (_unpadded(salt), work_factor, _unpadded(wrapped))
    head = b"age-encryption.org/v1\n" + stanza
    nonce = os.urandom(16)
    payload = ChaCha20Poly1305(age_format.derived(key, nonce, b"payload"))
    chunk = payload.encrypt(age_format.chunk_nonce(0, final=True), data, None)
    return head + b" " + _unpadded(age_format.mac(key, head)) + b"\n" + nonce + chunk


def _unpadded(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def ssh_key(folder: Path, kind: str, passphrase: str = "") -> AgeKey:
    """Create a key with ssh-keygen; the recipient is the file of the public key."""
    file = folder / f"id_{kind}{'_locked' if passphrase else ''}"
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(file)]
    command += ["-b", "2048"] * (kind == "rsa")  # more takes seconds
    subprocess.run(command, check=True, capture_output=True)
    return AgeKey(file, f"{file}.pub")


@dataclass(frozen=True, slots=True)
class GpgKey:
    """A GPG key in a keyring of its own, and the file of its public key."""

    home: Path
    public: Path
    fingerprint: str

    @property
    def environment(self) -> Mapping[str, str]:
        """What gpg and pgkeep need to use the keyring."""
        return {"GNUPGHOME": str(self.home)}


def gpg(home: Path, *args: str, data: bytes = b"") -> bytes:
    """Run gpg with a keyring; return its output."""
    command = ["gpg", "--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase", "", *args]
    environment = {**os.environ, "GNUPGHOME": str(home)}
    return subprocess.run(
        command, env=environment, input=data, check=True, capture_output=True
    ).stdout


def gpg_key(
    folder: Path, user: str = "backup@example.com", expires: str = "1y", passphrase: str = ""
) -> GpgKey:
    """Create a key with a subkey for encryption."""
    # Its agent listens on a socket there, whose path must be short.
    home = Path(tempfile.mkdtemp(prefix="gpg"))
    (home / "gpg-agent.conf").write_text("s2k-count 65536\n")  # measuring a count takes a second
    lock = ("--passphrase", passphrase)
    gpg(home, *lock, "--quick-generate-key", user, "ed25519", "sign,cert", expires)
    listing = gpg(home, "--with-colons", "--list-keys").decode()
    fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line[:3] == "fpr")
    gpg(home, *lock, "--quick-add-key", fingerprint, "cv25519", "encr", expires)
    public = folder / f"{user}.asc"
    public.write_bytes(gpg(home, "--armor", "--export", fingerprint))
    return GpgKey(home, public, fingerprint)


def forget(key: GpgKey) -> None:
    """Make the agent of a keyring forget passphrases."""
    subprocess.run(["gpgconf", "--homedir", key.home, "--reload", "gpg-agent"], check=True)


def close(key: GpgKey) -> None:
    """Stop the agent of a keyring and remove the keyring."""
    _remove(key.home)


# What a person types into the window of the agent (the protocol of Assuan).
_PINENTRY = """#!/bin/sh
echo OK
while read -r command rest; do
    case $command in
    GETPIN) printf 'D %s\\nOK\\n' '{passphrase}' ;;
    BYE) echo OK && exit ;;
    *) echo OK ;;
    esac
done
"""


@contextmanager
def empty_keyring(passphrase: str) -> Iterator[Path]:
    """Return a keyring without keys, whose agent asks for passphrases and is answered."""
    home = Path(tempfile.mkdtemp(prefix="gpg"))
    pinentry = home / "pinentry"
    pinentry.write_text(_PINENTRY.format(passphrase=passphrase))
    pinentry.chmod(0o700)
    # Without the second line, the agent measures for seconds how slow a passphrase can be.
    agent = f"pinentry-program {pinentry}\ns2k-count 65536\n"
    (home / "gpg-agent.conf").write_text(agent)
    (home / "gpg.conf").write_text("batch\n")  # no terminal
    try:
        yield home
    finally:
        _remove(home)


def _remove(home: Path) -> None:
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    subprocess.run(["rm", "-rf", home], check=True)
