"""Check that OpenPGP data is one complete encrypted message, without a key.

RFC 9580, sections 4.2 (packets and partial lengths), 5.1 (session keys) and 5.13 (encrypted data).
gpg writes the plain text before it reports damage, and does not report all bytes after the message.
"""

from collections.abc import Generator

from .. import errors as e
from ..stores.store import Source, chunks

SESSION_KEYS = frozenset({1, 3})  # for a public key, for a password
ENCRYPTED = 18  # data with integrity protection; tag 9, without it, can be changed unnoticed
MAGIC = frozenset({0x84, 0x85, 0xC1, 0x8C, 0xC3})  # the first byte of a session key packet
ARMOR = b"-----BEGIN PGP MESSAGE-----"

# A parser asks for a number of bytes and is sent them; of bytes that it skips, it is sent none.
_Parser = Generator[tuple[int, bool], bytes, None]


class Framing:
    """Follow the packets of a stream."""

    def __init__(self, name: str) -> None:
        """Store the name of the file, for messages."""
        self._name = name
        self._parser = _message()
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
            raise e.VerificationFailed(
                f"{self._name}: {error.message} before byte {self._position}"
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


def _message() -> _Parser:
    """Follow one message: session keys, then the encrypted data."""
    tag, session_keys = 0, 0
    while tag != ENCRYPTED:
        first = (yield 1, False)[0]
        if not first & 0x80:
            raise e.VerificationFailed("damaged OpenPGP data: expected a packet")
        new = bool(first & 0x40)
        tag = first & 0x3F if new else first >> 2 & 0xF
        session_keys += tag in SESSION_KEYS
        if tag not in SESSION_KEYS and (tag != ENCRYPTED or not session_keys):
            raise e.VerificationFailed(
                f"found OpenPGP packet {tag}, expected session keys, then encrypted data with"
                " integrity protection"
            )
        yield from _new_body() if new else _old_body(first & 3)


def _old_body(kind: int) -> _Parser:
    if kind == 3:
        raise e.VerificationFailed("found OpenPGP data without a length")
    yield int.from_bytes((yield 1 << kind, False)), True


def _new_body() -> _Parser:
    while True:
        octet = (yield 1, False)[0]
        if octet < 192:
            yield octet, True
        elif octet < 224:
            yield ((octet - 192) << 8) + (yield 1, False)[0] + 192, True
        elif octet == 255:
            yield int.from_bytes((yield 4, False)), True
        else:
            yield 1 << (octet & 0x1F), True  # a part; another one follows
            continue
        return
