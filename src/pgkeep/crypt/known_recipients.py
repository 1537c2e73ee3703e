"""To which public keys a file is encrypted, as far as the keys of this machine show it."""

from ..model.naming import Cipher
from ..stores.store import Source
from . import gpg, openpgp_framing
from .opening import Keys


def known_recipients(source: Source, cipher: Cipher, keys: Keys) -> list[str]:
    """Return the recipients of an encrypted file as manifests name them; there can be others.

    Of age those whose private keys are given, of GPG those whose public keys are in the keyring.
    """
    if cipher is Cipher.GPG:
        framing = openpgp_framing.Framing(source.name)
        framing.feed(source.read(0, min(source.size, openpgp_framing.KEYS_LIMIT)))
        found = [gpg.fingerprint_of(key_id) for key_id in framing.key_ids]
        return [fingerprint for fingerprint in found if fingerprint is not None]
    from . import age_identities, age_source  # noqa: PLC0415 - optional dependencies

    header, _ = age_source.read_header(source)
    return [
        identity.recipient
        for identity in keys.identities
        if age_identities.file_key(header, [identity]) is not None
    ]
