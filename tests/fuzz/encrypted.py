"""Readers of encrypted files: headers and payload of age, packets of OpenPGP, private keys.

The header is behind a MAC. So the MAC of an input is replaced by the correct one.
"""

import base64
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pgkeep import errors as e
from pgkeep.crypt import age_format, age_identities, age_source, gpg, opening, recipients
from pgkeep.crypt.age_format import CHUNK, Header
from pgkeep.crypt.openpgp_framing import Framing
from pgkeep.model.private_key import PRIVATE_KEY

from .checks import Broken, StrictSource, chunked, text_of

_KEY = bytes(range(16))
_SALT = bytes(range(16, 32))
_MAC = re.compile(rb"--- ?[^\n]*\n?\Z")
_WIRE = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + bytes(32)
IDENTITIES: list[age_identities.Identity] = [
    age_identities.X25519Identity(X25519PrivateKey.from_private_bytes(bytes(range(32))), "age1a"),
    age_identities.Ed25519Identity(
        Ed25519PrivateKey.from_private_bytes(bytes(range(32))), "SHA256:a", _WIRE
    ),
]


def _authenticated(header: bytes) -> bytes:
    """Return a header with the correct MAC, if it has a place for one."""
    found = _MAC.search(header)
    if found is None:
        return header
    covered = header[: found.start() + 3]
    code = age_format.mac(_KEY, covered)
    return covered + b" " + base64.b64encode(code).rstrip(b"=") + b"\n"


def _payload(plan: bytes) -> bytes:
    """Return chunks with correct tags: their lengths, numbers and final marks follow a plan."""
    cipher = ChaCha20Poly1305(age_format.derived(_KEY, _SALT, b"payload"))
    found = _SALT
    for number, step in enumerate(chunked(plan[:20], 4)):
        size = int.from_bytes(step[:2]) % (CHUNK + 2) if len(step) > 1 else CHUNK
        final = step[-1] & 1 == 1 if len(step) > 2 else number == (len(plan[:20]) - 1) // 4
        other = step[3] % 3 if len(step) > 3 else 0
        nonce = age_format.chunk_nonce(number + other, final=final)
        found += cipher.encrypt(nonce, bytes(size), None)
    return found + plan[20:]


def read_age(data: bytes) -> None:
    """A header with a correct MAC, and a payload whose chunks are authentic."""
    header, _, plan = data.partition(b"\n%payload\n")
    source = StrictSource("FILE.age", _authenticated(header + b"\n") + _payload(plan))
    opening.cipher_of(source)
    age_source.check_framing(source)

    def file_key(found: Header) -> bytes:
        with suppress(e.VerificationFailed):
            age_identities.file_key(found, IDENTITIES)
        return _KEY

    opened = age_source.AgeSource(source, file_key)
    size = opened.size
    if len(opened.read(0, size)) != size:
        raise Broken("the plain text has another length")
    opened.read(size // 2, size - size // 2)
    opened.read(size, 0)


def read_age_bytes(data: bytes) -> None:
    """Any bytes as an encrypted file, without a key."""
    source = StrictSource("FILE.age", data)
    if opening.cipher_of(source) is not None:
        opening.check_framing(source)


def read_stanzas(data: bytes) -> None:
    """What a header offers to private keys."""
    header = age_format.parse(_authenticated(b"age-encryption.org/v1\n" + data + b"\n---\n"))
    age_identities.file_key(header, IDENTITIES)


def read_openpgp(data: bytes) -> None:
    """Packets of OpenPGP; the result does not depend on where the input is divided."""
    size, message = (data[0] if data else 1), data[1:]
    results = []
    for pieces in ([message], list(chunked(message, size))):
        framing = Framing("FILE.gpg")
        try:
            for piece in pieces:
                framing.feed(piece)
            framing.close()
            results.append("")
        except e.VerificationFailed as error:
            results.append(error.message)
    if results[0] != results[1]:
        raise Broken(f"in chunks of {size} bytes: {results}")


def read_identity(data: bytes) -> None:
    """A file of private keys; nobody is asked for a passphrase."""
    with tempfile.NamedTemporaryFile(prefix="fuzz-") as file:
        Path(file.name).write_bytes(data)
        Path(file.name).chmod(0o600)
        for read in (age_identities.load, age_identities.native_key):
            with suppress(e.UsageError):
                read(Path(file.name), opening._no_terminal)


def read_recipients(data: bytes) -> None:
    """Public keys, alone and in a file of them; keys of GPG are left to gpg."""
    text = text_of(data)
    PRIVATE_KEY.search(text)
    gpg.is_private_key(data)
    with suppress(e.UsageError):
        recipients.age_recipient(text)
    if gpg.is_public_key(data):
        return
    with tempfile.NamedTemporaryFile(prefix="fuzz-") as file:
        Path(file.name).write_bytes(data)
        recipients.parse(file.name)


READERS = (
    read_age, read_age_bytes, read_stanzas, read_openpgp, read_identity, read_recipients,
)  # fmt: skip
