"""Private keys of age: files of them, and how they open a file.

The format of native keys: https://c2sp.org/age. SSH keys open the stanzas that age writes for them
(`agessh` in age's source).
"""

import base64
import hashlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import bech32
import pyrage
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from .. import errors as e
from .age_format import Header, Stanza, derived, opened_body, unpadded

ALLOWED_MODES = frozenset({0o400, 0o600, 0o440, 0o640})
LIMIT = 1 << 20  # bytes of an identity file
_SECRET = "AGE-SECRET-KEY-"  # noqa: S105 - the prefix of all, not a secret
_ARMOR = b"-----BEGIN AGE ENCRYPTED FILE-----"
_SSH = re.compile(rb"-----BEGIN (?:OPENSSH|RSA|EC|DSA|ENCRYPTED)? ?PRIVATE KEY-----")
_OTHER_KINDS = {
    "AGE-PLUGIN-": "a private key for a plugin",
    "AGE-SECRET-KEY-PQ-": "a post-quantum key",
    "age1": "a public key",
    "ssh-": "a public key",
    "-----BEGIN PGP ": "a GPG key, which belongs into GPG's keyring",
}
_POINT = serialization.Encoding.Raw, serialization.PublicFormat.Raw
Ask = Callable[[str], str]  # asks for a passphrase on the terminal


class Identity(Protocol):
    """A private key."""

    @property
    def recipient(self) -> str:
        """Its public key, as manifests name it."""

    def open(self, stanza: Stanza) -> bytes | None:
        """Return the file key in a stanza; None if it is for another recipient."""


@dataclass(frozen=True, slots=True)
class X25519Identity:
    """A native key of age."""

    key: X25519PrivateKey
    recipient: str

    def open(self, stanza: Stanza) -> bytes | None:
        """Return the file key in a stanza; None if it is for another recipient."""
        if stanza.arguments[0] != "X25519":
            return None
        share = _share(stanza, 1)
        salt = share + self.key.public_key().public_bytes(*_POINT)
        shared = _exchange(self.key, share)
        return opened_body(derived(shared, salt, b"age-encryption.org/v1/X25519"), stanza.body)


@dataclass(frozen=True, slots=True)
class Ed25519Identity:
    """An SSH key of type ed25519, used as a key for X25519."""

    key: Ed25519PrivateKey
    recipient: str
    wire: bytes  # the public key as SSH encodes it

    def open(self, stanza: Stanza) -> bytes | None:
        """Return the file key in a stanza; None if it is for another recipient."""
        if stanza.arguments[0] != "ssh-ed25519" or not _is_for(stanza, self.wire, 3):
            return None
        share = _share(stanza, 2)
        seed = self.key.private_bytes_raw()
        secret = X25519PrivateKey.from_private_bytes(hashlib.sha512(seed).digest()[:32])
        info = b"age-encryption.org/v1/ssh-ed25519"
        tweak = X25519PrivateKey.from_private_bytes(derived(b"", self.wire, info))
        shared = _exchange(tweak, _exchange(secret, share))
        salt = share + secret.public_key().public_bytes(*_POINT)
        return opened_body(derived(shared, salt, info), stanza.body)


@dataclass(frozen=True, slots=True)
class RsaIdentity:
    """An SSH key of type RSA."""

    key: RSAPrivateKey
    recipient: str
    wire: bytes  # the public key as SSH encodes it

    def open(self, stanza: Stanza) -> bytes | None:
        """Return the file key in a stanza; None if it is for another recipient."""
        if stanza.arguments[0] != "ssh-rsa" or not _is_for(stanza, self.wire, 2):
            return None
        label = b"age-encryption.org/v1/ssh-rsa"
        digest = hashes.SHA256()
        try:
            return self.key.decrypt(stanza.body, padding.OAEP(padding.MGF1(digest), digest, label))
        except ValueError:
            raise e.VerificationFailed(
                "damaged age header: the file key for an RSA key does not decrypt"
            ) from None


def _share(stanza: Stanza, position: int) -> bytes:
    """Return the ephemeral share, the last argument of a stanza."""
    if len(stanza.arguments) != position + 1:
        raise e.VerificationFailed(
            f"damaged age header: {stanza.arguments[0]} has {len(stanza.arguments)} arguments,"
            f" expected {position + 1}"
        )
    share = unpadded(stanza.arguments[position].encode())
    if len(share) != 32:
        raise e.VerificationFailed(
            f"damaged age header: a share has {len(share)} bytes, expected 32"
        )
    return share


def _exchange(secret: X25519PrivateKey, share: bytes) -> bytes:
    try:
        return secret.exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError:  # the result is zero
        raise e.VerificationFailed("damaged age header: a share has a low order") from None


def _is_for(stanza: Stanza, wire: bytes, arguments: int) -> bool:
    """Whether the stanza names this SSH key, by the beginning of its hash."""
    if len(stanza.arguments) != arguments:
        raise e.VerificationFailed(
            f"damaged age header: {stanza.arguments[0]} has {len(stanza.arguments)} arguments,"
            f" expected {arguments}"
        )
    return unpadded(stanza.arguments[1].encode()) == hashlib.sha256(wire).digest()[:4]


def file_key(header: Header, identities: Sequence[Identity]) -> bytes | None:
    """Return the key of a file; None if no identity opens it.

    Raises:
        VerificationFailed: a stanza does not have the form of its type.

    """
    for stanza in header.stanzas:
        for identity in identities:
            key = identity.open(stanza)
            if key is not None:
                if len(key) != 16:
                    raise e.VerificationFailed(
                        f"damaged age header: the file key has {len(key)} bytes"
                    )
                return key
    return None


def ssh_fingerprint(wire: bytes) -> str:
    """Return the fingerprint of a public key as `ssh-keygen -l` prints it."""
    return f"SHA256:{base64.b64encode(hashlib.sha256(wire).digest()).decode().rstrip('=')}"


def load(path: Path, ask: Ask) -> list[Identity]:
    """Read a file of private keys: of age, also protected by a passphrase, or an SSH key.

    Raises:
        UsageError: it cannot be read, others can read it, or it contains something else.

    """
    data = _unlocked(path, read_private(path), ask)
    if _SSH.match(data.lstrip()):
        return [_ssh(path, data, ask)]
    found: list[Identity] = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            found.append(_native(text, f"{path}, line {number}"))
    if not found:
        raise e.UsageError(f"{path} contains no private key", hint=_HINT)
    return found


def native_key(path: Path, ask: Ask) -> str:
    """Return the text of the only native key of age in a file.

    Raises:
        UsageError: it cannot be read, others can read it, or it contains something else.

    """
    data = _unlocked(path, read_private(path), ask)
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    found = [line for line in lines if line.startswith(_SECRET)]
    if len(found) != 1:
        raise e.UsageError(f"{path} contains {len(found)} native keys of age, expected 1")
    _native(found[0], str(path))
    return found[0]


_HINT = "Private keys begin with AGE-SECRET-KEY-1. Create one with: pgkeep key new."


def read_private(path: Path) -> bytes:
    """Read a file that only its owner, or also its group, can read.

    Raises:
        UsageError: it cannot be read, is no file, or its mode is another one.

    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe must not block
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise e.UsageError(f"could not read the identity file {path}: {reason}") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise e.UsageError(f"the identity file {path} is not a file")
        mode = stat.S_IMODE(found.st_mode)
        if mode not in ALLOWED_MODES:
            raise e.UsageError(
                f"the identity file {path} has mode {mode:04o}, expected 0600, 0400, 0640 or 0440",
                hint=f"Other users could read the private key. Change it with: chmod 600 {path}",
            )
        if found.st_size > LIMIT:
            raise e.UsageError(
                f"the identity file {path} has {found.st_size} bytes, expected at most {LIMIT}"
            )
        return os.read(handle, LIMIT)
    finally:
        os.close(handle)


def _unlocked(path: Path, data: bytes, ask: Ask) -> bytes:
    """Return the contents of an identity file, decrypted if a passphrase protects it."""
    if not data.startswith((_ARMOR, b"age-encryption.org/")):
        return data
    passphrase = ask(f"passphrase of {path}")
    try:
        return bytes(pyrage.passphrase.decrypt(data, passphrase))
    except (pyrage.DecryptError, ValueError) as error:
        raise e.UsageError(f"could not decrypt the identity file {path}: {error}") from error


def _native(text: str, where: str) -> Identity:
    """Return a native key; the message of an error does not contain it."""
    try:
        public = str(pyrage.x25519.Identity.from_str(text).to_public())
    except pyrage.IdentityError as error:
        kinds = (kind for start, kind in _OTHER_KINDS.items() if text.startswith(start))
        kind = next(kinds, "something else")
        raise e.UsageError(f"{where}: found {kind}, expected {_SECRET}1...", hint=_HINT) from error
    _, words = bech32.bech32_decode(text)
    secret = bytes(bech32.convertbits(words or [], 5, 8, False) or [])
    return X25519Identity(X25519PrivateKey.from_private_bytes(secret), public)


def _ssh(path: Path, data: bytes, ask: Ask) -> Identity:
    """Return an SSH key; a protected one needs its passphrase."""
    try:
        key = _ssh_key(data, None)
    except TypeError:  # it is protected
        key = _ssh_key_with(path, data, ask(f"passphrase of {path}").encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise e.UsageError(f"{path} is not a private SSH key that can be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey | RSAPrivateKey):
        raise e.UsageError(f"{path} is an SSH key of another type, expected ssh-ed25519 or ssh-rsa")
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    wire = base64.b64decode(public.split()[1])
    if isinstance(key, Ed25519PrivateKey):
        return Ed25519Identity(key, ssh_fingerprint(wire), wire)
    return RsaIdentity(key, ssh_fingerprint(wire), wire)


def _ssh_key(data: bytes, passphrase: bytes | None) -> object:
    if b"OPENSSH" in data[:64]:
        return serialization.load_ssh_private_key(data, passphrase)
    return serialization.load_pem_private_key(data, passphrase)


def _ssh_key_with(path: Path, data: bytes, passphrase: bytes) -> object:
    try:
        return _ssh_key(data, passphrase)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:  # TypeError: it is empty
        raise e.UsageError(f"could not decrypt the identity file {path}: {error}") from error
