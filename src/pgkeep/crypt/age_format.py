"""The age file format: header, chunks of the payload, and how a key opens a file.

Source: https://c2sp.org/age. pyrage writes the files; it can only read them from beginning to end,
and a restore of one table reads little of a large file.
"""

import base64
import binascii
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import constant_time, hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .. import errors as e

CHUNK = 64 << 10  # bytes of plain text in a chunk
SEALED = CHUNK + 16  # the chunk as it is stored, with its authentication tag
NONCE = 16  # bytes at the beginning of the payload
HEADER_LIMIT = 64 << 10  # bytes; a recipient takes about 100, with RSA about 500
_VERSION = b"age-encryption.org/v1\n"
_ARGUMENTS = re.compile(rb"-> ([!-~]+(?: [!-~]+)*)\n")
_BODY = re.compile(rb"(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n")
_MAC = re.compile(rb"--- ([A-Za-z0-9+/]{43})\n")


@dataclass(frozen=True, slots=True)
class Stanza:
    """The file key, encrypted to one recipient."""

    arguments: tuple[str, ...]  # the first is the type of the recipient
    body: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an age file."""

    stanzas: tuple[Stanza, ...]
    mac: bytes
    authenticated: bytes  # what the MAC covers
    length: int  # bytes; the payload follows

    def check(self, file_key: bytes) -> None:
        """Compare the MAC.

        Raises:
            VerificationFailed: the header was changed.

        """
        if not constant_time.bytes_eq(mac(file_key, self.authenticated), self.mac):
            raise e.VerificationFailed("damaged age header: its MAC differs")


def mac(file_key: bytes, authenticated: bytes) -> bytes:
    """Return the MAC of a header, up to and including its last three hyphens."""
    code = hmac.HMAC(derived(file_key, b"", b"header"), hashes.SHA256())
    code.update(authenticated)
    return code.finalize()


def parse(data: bytes) -> Header:
    """Read the header at the beginning of a file.

    Raises:
        VerificationFailed: it is not a complete header of version 1, or needs a passphrase.

    """
    if not data.startswith(_VERSION):
        raise e.VerificationFailed(f"found {data[:40]!r}, expected an age header of version 1")
    position = len(_VERSION)
    stanzas: list[Stanza] = []
    while (arguments := _ARGUMENTS.match(data, position)) is not None:
        body = _BODY.match(data, arguments.end())
        if body is None:
            raise e.VerificationFailed(
                f"damaged age header at byte {arguments.end()}: expected Base64"
            )
        words = tuple(arguments[1].decode("ascii").split(" "))
        stanzas.append(Stanza(words, unpadded(body[0].replace(b"\n", b""))))
        position = body.end()
    end = _MAC.match(data, position)
    if end is None or not stanzas:
        raise e.VerificationFailed(
            f"damaged age header at byte {position}: expected a recipient or the end of the header"
        )
    if any(stanza.arguments[0] == "scrypt" for stanza in stanzas):
        # A header can ask for any amount of memory and time. pgkeep writes none of these.
        raise e.NotPlainDump(
            "encrypted with a passphrase, expected public keys",
            hint="Decrypt it: age -d FILE > FILE.sql.gz.",
        )
    return Header(tuple(stanzas), unpadded(end[1]), data[: position + 3], end.end())


def unpadded(text: bytes) -> bytes:
    """Decode canonical Base64 without padding (RFC 4648, section 4).

    Raises:
        VerificationFailed: it is not canonical.

    """
    try:
        decoded = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise e.VerificationFailed(f"damaged age header: {text[:80]!r} is not Base64") from None
    if base64.b64encode(decoded).rstrip(b"=") != text:
        raise e.VerificationFailed(f"damaged age header: {text[:80]!r} is not canonical Base64")
    return decoded


def derived(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Derive a key of 32 bytes (HKDF, RFC 5869)."""
    return HKDF(hashes.SHA256(), 32, salt or None, info).derive(key)


def opened_body(wrap_key: bytes, body: bytes) -> bytes | None:
    """Return the file key in a stanza; None if the stanza is for another recipient."""
    if len(body) != 32:
        raise e.VerificationFailed(
            f"damaged age header: a file key has {len(body)} bytes, expected 32"
        )
    try:
        return ChaCha20Poly1305(wrap_key).decrypt(bytes(12), body, None)
    except InvalidTag:
        return None


def chunk_nonce(number: int, *, final: bool) -> bytes:
    """Return the nonce of a chunk: its number, and whether it is the last one."""
    return number.to_bytes(11) + bytes([final])


def plain_length(payload: int) -> int:
    """Return the length of the plain text for a payload of so many bytes, with its nonce.

    Raises:
        VerificationFailed: no payload has this length.

    """
    chunks, rest = divmod(payload - NONCE, SEALED)
    # The last chunk can only be empty if it is the only one.
    if payload < NONCE + 16 or (0 < rest <= 16 and chunks):
        raise e.VerificationFailed(f"truncated: no age file has a payload of {payload} bytes")
    return chunks * CHUNK + max(0, rest - 16)
