"""How new files are encrypted, and how existing ones are decrypted."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from ..stores.store import Upload
from .opening import Keys
from .recipients import Recipients


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """The recipients of new files, and the private keys for reading."""

    recipients: Recipients | None = None
    plain: bool = False  # "none" was given explicitly, although earlier backups are encrypted
    keys: Keys = field(default_factory=Keys)

    def upload(self, upload: Upload) -> AbstractContextManager[Upload]:
        """Return an upload whose contents are encrypted, if they are to be."""
        if self.recipients is None:
            return upload
        from .encryption import EncryptedUpload  # noqa: PLC0415 - optional packages

        return EncryptedUpload(upload, self.recipients)

    def encrypted(self, data: bytes) -> bytes:
        """Return the contents of a small file, encrypted if they are to be."""
        if self.recipients is None:
            return data
        from .encryption import encrypt  # noqa: PLC0415 - optional packages

        return encrypt(data, self.recipients)


UNENCRYPTED = Encryption()
