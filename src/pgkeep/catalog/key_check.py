"""Whether private keys decrypt a backup, from a few bytes of its file."""

from contextlib import closing
from enum import StrEnum
from typing import NamedTuple

from .. import errors as e
from ..crypt import opening
from ..crypt.opening import Keys
from ..model.manifest import Manifest
from ..model.naming import Cipher
from ..stores.store import Store
from . import side_files
from .catalog import Backup


class State(StrEnum):
    """The result for one backup."""

    OPENED = "opened"
    OTHER_KEY = "other key"
    NOT_ENCRYPTED = "not encrypted"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
    MISSING = "missing"  # the file, or its end, although its manifest exists


class KeyCheck(NamedTuple):
    """Whether a backup in a store can be decrypted, and what was decrypted to know it."""

    state: State
    proved: str = ""
    error: e.PgkeepError | None = None


def check(store: Store, backup: Backup, keys: Keys) -> KeyCheck:
    """Decrypt a small part of a backup.

    Of age, header and last chunk: the header's MAC and the chunk prove the key. Of GPG, the file of
    roles, which has the same recipients, or the beginning of the backup file.

    Raises:
        UsageError: a private key cannot be read, or a package or program is missing.

    """
    name = backup.manifest.name
    if backup.manifest.encryption is None and name.cipher is None:
        return KeyCheck(State.NOT_ENCRYPTED)
    if backup.missing:
        return KeyCheck(
            State.MISSING,
            error=e.VerificationFailed(
                f"{store.url_of(name.artifact)} is missing or incomplete",
                hint="Check the files of all backups with: pgkeep verify --all.",
            ),
        )
    try:
        return KeyCheck(State.OPENED, _opened(store, backup.manifest, keys))
    except (e.NoKey, e.OtherKey) as error:
        return KeyCheck(State.OTHER_KEY, error=error)
    except e.VerificationFailed as error:
        return KeyCheck(State.DAMAGED, error=error)
    except e.StoreError as error:
        return KeyCheck(State.UNREADABLE, error=error)


def _opened(store: Store, manifest: Manifest, keys: Keys) -> str:
    """Decrypt a part of a backup; return which."""
    name = manifest.name
    if name.cipher is Cipher.GPG and manifest.globals is not None:
        with closing(side_files.open_contents(store, manifest.globals.name, keys)):
            return "globals"
    with closing(store.open(name.artifact)) as source:
        if side_files.cipher_of(source, name.artifact) is Cipher.GPG:
            opening.check_gpg_key(source)
            return "beginning"
        with closing(opening.decrypted(source, Cipher.AGE, keys)):
            return "header and last chunk"
