"""A temporary file whose contents only this process can read.

It has no name, and it is encrypted with a key that is nowhere else, in chunks as age's. So a file
that can only be decrypted from beginning to end can be read at any position afterwards, and no
plain text is on a disk.
"""

import os
import secrets
import tempfile
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .. import errors as e
from ..model.naming import Cipher
from ..stores.store import Source
from .age_format import CHUNK, SEALED, chunk_nonce


class SealedFile:
    """The plain text of an encrypted file; safe to share between threads."""

    remote = False
    cipher = Cipher.GPG

    def __init__(self, stored: Source, plain: Iterable[bytes]) -> None:
        """Keep the plain text; the blocks can have any length."""
        self.stored = stored
        self.stored_sha256: str | None = None  # of the encrypted file, once it is known
        self.size = 0
        self._cipher = ChaCha20Poly1305(secrets.token_bytes(32))  # for this file only
        self._file = tempfile.TemporaryFile(prefix="pgkeep-")  # noqa: SIM115 - closed by `close`
        try:
            self._keep(plain)
        except BaseException:
            self._file.close()
            raise

    @property
    def name(self) -> str:
        """The location of the encrypted file."""
        return self.stored.name

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes of the plain text."""
        if start + length > self.size:
            raise e.StoreError(f"{self.name}: found {self.size} bytes, expected {start + length}")
        if not length:
            return b""
        first, last = start // CHUNK, (start + length - 1) // CHUNK
        data = os.pread(self._file.fileno(), (last - first + 1) * SEALED, first * SEALED)
        try:
            plain = b"".join(
                self._cipher.decrypt(
                    chunk_nonce(first + number, final=False),
                    data[number * SEALED : (number + 1) * SEALED],
                    None,
                )
                for number in range(last - first + 1)
            )
        except InvalidTag:
            raise e.StoreError(
                f"{self.name}: its temporary file in {tempfile.gettempdir()} is damaged"
            ) from None
        return plain[start - first * CHUNK :][:length]

    def close(self) -> None:
        """Release both files."""
        self._file.close()
        self.stored.close()

    def _keep(self, plain: Iterable[bytes]) -> None:
        waiting = bytearray()
        number = 0
        try:
            for block in plain:
                waiting += block
                self.size += len(block)
                while len(waiting) >= CHUNK:
                    self._write(number, bytes(waiting[:CHUNK]))
                    del waiting[:CHUNK]
                    number += 1
            self._write(number, bytes(waiting))
            self._file.flush()
        except OSError as error:
            raise e.StoreError(
                f"could not keep {self.name} in {tempfile.gettempdir()}: {error.strerror}",
                hint="Set TMPDIR to a directory with room for it. It is encrypted there.",
            ) from error

    def _write(self, number: int, chunk: bytes) -> None:
        self._file.write(self._cipher.encrypt(chunk_nonce(number, final=False), chunk, None))
