"""Read any part of a file that is encrypted with age, without decrypting the rest.

The payload consists of chunks that are encrypted one by one (https://c2sp.org/age, "Payload").
"""

from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .. import errors as e
from ..model.naming import Cipher
from ..stores.store import Source
from . import age_format
from .age_format import CHUNK, NONCE, SEALED, Header

HEAD = 4096  # bytes that are read for a header first: enough for dozens of recipients


def read_header(source: Source) -> tuple[Header, bytes]:
    """Read the header of an age file; return it, and all bytes that were read for it.

    Raises:
        VerificationFailed: the header is incomplete or has another form.

    """
    head = source.read(0, min(HEAD, source.size))
    try:
        try:
            return age_format.parse(head), head
        except e.VerificationFailed:
            if source.size <= HEAD:
                raise
            head = source.read(0, min(age_format.HEADER_LIMIT, source.size))
            return age_format.parse(head), head
    except e.VerificationFailed as error:
        raise _of(source, error) from error


def check_framing(source: Source) -> None:
    """Check what can be checked without a key: the header, and the length of the payload.

    Raises:
        VerificationFailed: the file is damaged or truncated.

    """
    header, _ = read_header(source)
    try:
        age_format.plain_length(source.size - header.length)
    except e.VerificationFailed as error:
        raise _of(source, error) from error


def _of(source: Source, error: e.VerificationFailed) -> e.VerificationFailed:
    """Return an error with the name of the file."""
    return type(error)(f"{source.name}: {error.message}", hint=error.hint)


class AgeSource:
    """The plain text of an age file, open for random access; safe to share between threads."""

    cipher = Cipher.AGE

    def __init__(self, stored: Source, file_key_of: Callable[[Header], bytes]) -> None:
        """Check header, length and last chunk; `file_key_of` finds the key of the file."""
        self.stored = stored
        self.remote = stored.remote
        header, head = read_header(stored)
        try:
            file_key = file_key_of(header)
            header.check(file_key)
            self.size = age_format.plain_length(stored.size - header.length)
        except e.OtherKey:
            raise
        except e.VerificationFailed as error:
            raise _of(stored, error) from error
        self._begin = header.length + NONCE
        self._head = head  # what it contains is not requested again
        salt = self._stored(header.length, NONCE)
        self._cipher = ChaCha20Poly1305(age_format.derived(file_key, salt, b"payload"))
        # The number of the last chunk. Its plain text is kept: it contains the end marker.
        self._last = max(0, self.size - 1) // CHUNK
        self._tail = self._decrypted(self._last, self._last)

    @property
    def name(self) -> str:
        """The location of the encrypted file."""
        return self.stored.name

    def read(self, start: int, length: int) -> bytes:
        """Return these bytes of the plain text.

        Raises:
            VerificationFailed: the file is damaged there, or has fewer bytes.

        """
        if start + length > self.size:
            raise e.VerificationFailed(
                f"{self.name}: found {self.size} bytes, expected {start + length}"
            )
        if not length:
            return b""
        first, last = start // CHUNK, (start + length - 1) // CHUNK
        plain = self._tail if first == self._last else self._decrypted(first, last)
        offset = start - first * CHUNK
        return plain[offset : offset + length]

    def close(self) -> None:
        """Release the file."""
        self.stored.close()

    def _stored(self, start: int, length: int) -> bytes:
        """Return these bytes of the encrypted file."""
        if start + length <= len(self._head):
            return self._head[start : start + length]
        return self.stored.read(start, length)

    def _decrypted(self, first: int, last: int) -> bytes:
        """Return the plain text of these chunks."""
        start = self._begin + first * SEALED
        end = self.stored.size if last == self._last else self._begin + (last + 1) * SEALED
        data = memoryview(self._stored(start, end - start))
        chunks = []
        for number in range(first, last + 1):
            nonce = age_format.chunk_nonce(number, final=number == self._last)
            offset = (number - first) * SEALED
            try:
                chunks.append(self._cipher.decrypt(nonce, data[offset : offset + SEALED], None))
            except InvalidTag:
                raise e.VerificationFailed(
                    f"{self.name}: damaged at byte {start + offset}: chunk {number} does not"
                    " decrypt"
                ) from None
        return b"".join(chunks)
