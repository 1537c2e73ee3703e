"""Problems of encryption: keys that will be missing when they are needed."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

from .. import errors as e
from ..backup.findings import Finding
from ..catalog.catalog import Catalog, encrypted_file
from ..crypt import gpg, recipients
from ..crypt.recipients import Recipients
from ..model.manifest import Manifest
from ..model.naming import Cipher
from ..stores.store import Store

EXPIRY = timedelta(days=30)  # before which a new key has to be made and distributed
_PACKAGES = ("pyrage", "cryptography")
_REKEY = "pgkeep rekey encrypts existing backups to the configured keys."


def examine(
    encrypt_to: str | None, identities: Sequence[Path], stores: Sequence[Store], *, plain: bool
) -> tuple[str | None, list[Finding]]:
    """Return how new backups are encrypted, and the problems of that.

    `plain` says that no encryption was chosen explicitly.
    """
    backups = _backups(stores)
    if encrypt_to is None:
        return None, [] if plain else list(_forgotten(stores))
    try:
        keys = recipients.parse(encrypt_to)
    except e.UsageError as error:
        return "cannot be used", [Finding("error", error.message, error.hint)]
    now = datetime.now(UTC)
    found = [
        *_of_keys(keys, now),
        *_of_backups(keys, backups),
        *(
            Finding("note", f"the private keys in {path} can decrypt backups on this host")
            for path in identities
            if path.exists()
        ),
    ]
    count = len(keys.names)
    return f"{_programs(keys.cipher)}, {count} recipient{'' if count == 1 else 's'}", found


def _programs(cipher: Cipher) -> str:
    if cipher is Cipher.GPG:
        return f"GPG, {gpg.version()}"
    return "age, " + ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)


def _of_keys(keys: Recipients, now: datetime) -> Iterator[Finding]:
    if len(keys.names) == 1:
        yield Finding(
            "warning",
            "backups are encrypted to one recipient: without its private key, all are lost",
            "Add the public key of a second private key to BACKUP_ENCRYPT_TO, and keep that one"
            " elsewhere, such as on paper.",
        )
    for name, moment in keys.expires:
        expires = datetime.fromtimestamp(moment, UTC)
        if expires < now + EXPIRY:
            yield Finding(
                "warning",
                f"GPG key {name} expires on {expires:%Y-%m-%d}: backups fail from then on",
                "Extend it on the machine that has its private key, with gpg --quick-set-expire,"
                " and export its public key again.",
            )


def _of_backups(keys: Recipients, backups: Sequence[Manifest]) -> Iterator[Finding]:
    plain = [manifest for manifest in backups if manifest.encryption is None]
    if plain:
        yield Finding("warning", f"{_count(plain, backups)} not encrypted", _REKEY)
    others = [
        manifest
        for manifest in backups
        if manifest.encryption is not None
        # Who can decrypt an adopted file is not known.
        and manifest.encryption.recipients
        and {*manifest.encryption.recipients} != {*keys.names}
    ]
    if others:
        yield Finding(
            "warning",
            f"{_count(others, backups)} encrypted to other recipients than BACKUP_ENCRYPT_TO has",
            _REKEY,
        )


def _count(some: Sequence[Manifest], backups: Sequence[Manifest]) -> str:
    noun = "backup" if len(backups) == 1 else "backups"
    return f"{len(some)} of {len(backups)} {noun} {'is' if len(some) == 1 else 'are'}"


def _forgotten(stores: Sequence[Store]) -> Iterator[Finding]:
    for store in stores:
        with suppress(e.StoreError):  # which is reported already
            name = encrypted_file(item.name for item in store.items())
            if name is not None:
                yield Finding(
                    "error",
                    f"{store.url_of(name)} is encrypted, and BACKUP_ENCRYPT_TO is not set: a backup"
                    " would be refused",
                    "Set BACKUP_ENCRYPT_TO to public keys. To stop encrypting, set it to none.",
                )


def _backups(stores: Sequence[Store]) -> list[Manifest]:
    found: dict[str, Manifest] = {}
    for store in stores:
        with suppress(e.StoreError):  # which is reported already
            found |= {manifest.name.stem: manifest for manifest in Catalog(store).whole()}
    return list(found.values())
