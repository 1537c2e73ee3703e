"""Check that OpenPGP data is one complete encrypted message, without a key.

RFC 9580, sections 4.2 (packets and partial lengths), 5.1 (session keys) and 5.13 (encrypted data).
What would make gpg ask for a password, or work for long, is refused before gpg sees it.
gpg writes the plain text before it reports damage, and does not report all bytes after the message.
"""

from collections.abc import Generator

from .. import errors as e
from ..stores.store import Source, chunks

PUBLIC_KEY, PASSWORD = 1, 3  # session keys, encrypted with one of them
# Data with integrity protection, the second as newer versions of gpg write it. Data without it (9)
# can be changed unnoticed.
ENCRYPTED = frozenset({18, 20})
KEYS_LIMIT = 64 << 10  # bytes of session keys; each takes 100 to 530
_KEY_ID = 9  # bytes of a session key's version and of the id of the key that it is for
MAGIC = frozenset({0x84, 0x85, 0xC1, 0x8C, 0xC3})  # the first byte of a session key packet
ARMOR = b"-----BEGIN PGP MESSAGE-----"

# A parser asks for a number of bytes and is sent them; of bytes that it skips, it is sent none.
_Parser = Generator[tuple[int, bool], bytes, None]


class Framing:
    """Follow the packets of a stream."""

    def __init__(self, name: str) -> None:
        """Store the name of the file, for messages."""
        self._name = name
        self.key_ids: list[str] = []  # of the keys that can decrypt; none if they are hidden
        self._parser = _message(self.key_ids)
        self._held = b""
        self._position = 0
        self._wanted, self._skips = next(self._parser)
        self._complete = False

    def feed(self, data: bytes) -> None:
        """Follow the next bytes.

        Raises:
            VerificationFailed: they are not those of an encrypted message.

        """
        view = memoryview(data)
        while view:
            if self._complete:
                raise e.VerificationFailed(
                    f"{self._name}: found bytes after the end of the OpenPGP message at byte"
                    f" {self._position}"
                )
            taken = view[: self._wanted - len(self._held)]
            if self._skips:
                self._wanted -= len(taken)
            else:
                self._held += taken
            view = view[len(taken) :]
            self._position += len(taken)
            if self._wanted == len(self._held):
                self._advance()

    def close(self) -> None:
        """Check that the message is complete.

        Raises:
            VerificationFailed: it is truncated.

        """
        if not self._complete:
            raise e.VerificationFailed(
                f"{self._name}: truncated: the OpenPGP message is incomplete after"
                f" {self._position} bytes"
            )

    def _advance(self) -> None:
        data, self._held = self._held, b""
        try:
            self._wanted, self._skips = self._parser.send(data)
            while not self._wanted:
                self._wanted, self._skips = self._parser.send(b"")
        except StopIteration:
            self._complete = True
        except e.VerificationFailed as error:
            raise type(error)(
                f"{self._name}: byte {self._position}: {error.message}", hint=error.hint
            ) from None


def check(source: Source) -> None:
    """Check that a file consists of session keys and one complete encrypted packet.

    Raises:
        VerificationFailed: it is truncated, longer, or not protected against changes.

    """
    framing = Framing(source.name)
    for chunk in chunks(source):
        framing.feed(chunk)
    framing.close()


def _message(key_ids: list[str]) -> _Parser:
    """Follow one message: session keys, then the encrypted data."""
    keys = 0  # bytes
    while True:
        first = (yield 1, False)[0]
        if not first & 0x80:
            raise e.VerificationFailed("damaged OpenPGP data: expected a packet")
        new = bool(first & 0x40)
        tag = first & 0x3F if new else first >> 2 & 0xF
        _check_tag(tag, begun=keys > 0)
        partial = True
        while partial:
            length, partial = yield from _new_length() if new else _old_length(first & 3)
            if tag == PUBLIC_KEY:
                keys += 2 + length
            if keys > KEYS_LIMIT:
                raise e.VerificationFailed(
                    f"found more than {KEYS_LIMIT} bytes of OpenPGP session keys"
                )
            if tag == PUBLIC_KEY and length >= _KEY_ID:
                version, *key_id = yield _KEY_ID, False
                if version == 3 and any(key_id):
                    key_ids.append(bytes(key_id).hex().upper())
                length -= _KEY_ID
            yield length, True
        if tag in ENCRYPTED:
            return


def _check_tag(tag: int, *, begun: bool) -> None:
    if tag == PASSWORD:
        raise e.NotPlainDump(
            "encrypted with a password, expected public keys",
            hint="Decrypt it: gpg -d FILE > FILE.sql.gz.",
        )
    if tag != PUBLIC_KEY and not (begun and tag in ENCRYPTED):
        raise e.VerificationFailed(
            f"found OpenPGP packet {tag}, expected session keys, then encrypted data with"
            " integrity protection"
        )


_Length = Generator[tuple[int, bool], bytes, tuple[int, bool]]  # bytes, and whether parts follow


def _old_length(kind: int) -> _Length:
    if kind == 3:
        raise e.VerificationFailed("found OpenPGP data without a length")
    return int.from_bytes((yield 1 << kind, False)), False


def _new_length() -> _Length:
    octet = (yield 1, False)[0]
    if octet < 192:
        return octet, False
    if octet < 224:
        return ((octet - 192) << 8) + (yield 1, False)[0] + 192, False
    if octet == 255:
        return int.from_bytes((yield 4, False)), False
    return 1 << (octet & 0x1F), True
