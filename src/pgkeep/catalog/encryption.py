"""Encrypted backups among others: what manifests record, and that encryption is not forgotten."""

from contextlib import suppress

from .. import errors as e
from ..crypt.options import Encryption
from ..model.manifest import Encryption as EncryptionFacts
from ..stores.store import Store
from .catalog import Catalog, encrypted_file


def encryption_facts(encryption: Encryption) -> EncryptionFacts | None:
    """Return what the manifest records of an encryption."""
    recipients = encryption.recipients
    if recipients is None:
        return None
    return EncryptionFacts(recipients.cipher, list(recipients.names))


def check_not_forgotten(
    catalog: Catalog, copy: Store | None, encryption: Encryption, *, known: bool
) -> None:
    """Refuse to write plain text where backups were encrypted, unless that is asked for.

    The store was listed before. On a new host only the bucket has earlier backups: it is listed if
    the directory is not known to have a backup that the bucket accepted. A bucket that cannot be
    read does not prevent the backup, whose copy is then pending, and is listed by the next run.

    Raises:
        Refused: the store has an encrypted backup, and the new one would not be encrypted.

    """
    if encryption.recipients is not None or encryption.plain:
        return
    encrypted = catalog.encrypted
    if encrypted is None and copy is not None and not known:
        with suppress(Exception):  # the copy fails in the same way, and reports why
            encrypted = encrypted_file(item.name for item in copy.items())
    if encrypted is not None:
        raise e.Refused(
            f"{encrypted} is encrypted, and BACKUP_ENCRYPT_TO is not set: the new backup would not"
            " be encrypted",
            hint="Set BACKUP_ENCRYPT_TO to public keys. To stop encrypting, set it to none.",
        )
