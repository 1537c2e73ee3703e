"""The recipients of encrypted backups: public keys of age, SSH or GPG, or files of them."""

import base64
import re
from dataclasses import dataclass, replace
from pathlib import Path

from .. import errors as e
from ..model.naming import Cipher
from ..model.private_key import PRIVATE_KEY
from . import gpg

FINGERPRINT = re.compile(r"(?:0x)?(?P<digits>[0-9A-Fa-f]{40})")
LIMIT = 1 << 20  # bytes of a file of recipients
EXPECTED = (
    "age1..., ssh-ed25519 ..., ssh-rsa ..., a file of such keys, a file with a GPG public key"
)
_AGE = re.compile(r"age1|ssh-|ecdsa-|sk-")
_HINT = (
    "Set BACKUP_ENCRYPT_TO to public keys, separated by commas, or to files of them. pgkeep key new"
    " creates a key."
)


@dataclass(frozen=True, slots=True)
class Recipients:
    """Who can decrypt a backup; all of them with the same cipher."""

    cipher: Cipher
    names: tuple[str, ...]  # as manifests name them: public keys of age, fingerprints
    keys: tuple[str, ...] = ()  # public keys of age and SSH
    keyring: bytes = b""  # GPG public keys
    expires: tuple[tuple[str, int], ...] = ()  # of GPG keys: name and time (Unix)


def parse(text: str) -> Recipients:
    """Read recipients, separated by commas, and the files that contain some.

    Raises:
        UsageError: a key does not parse, has expired or was revoked, or a package or program is
            missing; with all problems.

    """
    if PRIVATE_KEY.search(text):  # of which no part may be printed
        raise e.UsageError(
            "BACKUP_ENCRYPT_TO: found a private key, expected public keys", hint=_HINT
        )
    problems: list[str] = []
    hints: list[str] = []
    names: dict[str, str] = {}  # with the key itself
    keyrings: list[bytes] = []
    for element in _elements(text):
        try:
            _add(element, names, keyrings)
        except e.UsageError as error:
            problems.append(error.message)
            hints += [error.hint] if error.hint else []
    if names and keyrings:
        problems.append(
            "found recipients of age and of GPG: a backup is encrypted with one of them"
        )
    if not problems and keyrings:
        return _gpg(keyrings)
    if problems:
        raise e.UsageError("BACKUP_ENCRYPT_TO: " + "; ".join(problems), hint=[*hints, _HINT][0])
    return Recipients(Cipher.AGE, tuple(names), tuple(names.values()))


def _elements(text: str) -> list[str]:
    """Split a list of recipients; lines are for a mounted file of them, which can have comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [part.strip() for line in lines for part in line.split(",")] or [""]


def _gpg(keyrings: list[bytes]) -> Recipients:
    try:
        found = gpg.usable_keys(keyrings)
    except e.UsageError as error:
        raise e.UsageError(f"BACKUP_ENCRYPT_TO: {error.message}", hint=error.hint) from error
    return replace(
        Recipients(Cipher.GPG, tuple(key.fingerprint for key in found)),
        keyring=b"".join(keyrings),
        expires=tuple((key.fingerprint, key.expires) for key in found if key.expires is not None),
    )


def _add(element: str, names: dict[str, str], keyrings: list[bytes]) -> None:
    if not element:
        raise e.UsageError("found an empty recipient")
    if (fingerprint := FINGERPRINT.fullmatch(element)) is not None:
        keyrings.append(gpg.exported(fingerprint["digits"].upper()))
    elif _AGE.match(element):
        names.update([age_recipient(element)])
    else:
        _add_file(Path(element), names, keyrings)


def _add_file(path: Path, names: dict[str, str], keyrings: list[bytes]) -> None:
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise e.UsageError(
            f"{str(path)!r} is no recipient ({EXPECTED}), and no file: {reason}"
        ) from None
    if len(data) == LIMIT:
        raise e.UsageError(f"file {path} has {LIMIT} bytes or more, expected public keys")
    text = data.decode("utf-8", "replace")
    if gpg.is_private_key(data) or PRIVATE_KEY.search(text):
        raise e.UsageError(f"file {path}: found a private key, expected public keys")
    if gpg.is_public_key(data):
        keyrings.append(gpg.unarmored(data))
        return
    if not data.strip():
        raise e.UsageError(f"file {path} is empty, expected public keys")
    found: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        if not _AGE.match(line):  # it can be anything, also a secret: it is not printed
            raise e.UsageError(f"file {path}, line {number}: expected age1..., or an SSH key")
        try:
            found.update([age_recipient(line)])
        except e.UsageError as error:
            raise e.UsageError(f"file {path}, line {number}: {error.message}") from None
    if not found:
        raise e.UsageError(f"file {path} contains no public key")
    names.update(found)


def age_recipient(text: str) -> tuple[str, str]:
    """Return the name of a public key of age or SSH, and the key.

    Raises:
        UsageError: it is none, or the package for age is missing.

    """
    try:
        import pyrage  # noqa: PLC0415 - an optional dependency

        from .age_identities import ssh_fingerprint  # noqa: PLC0415 - imports other packages
    except ImportError as error:
        raise e.UsageError(
            f"encryption with age requires another package: {error.name}",
            hint="pip install 'pgkeep[age]'",
        ) from None
    shown = text if len(text) <= 80 else f"{text[:80]}..."
    try:
        if not text.startswith("ssh-"):
            return str(pyrage.x25519.Recipient.from_str(text)), text
        pyrage.ssh.Recipient.from_str(text)
        wire = base64.b64decode(text.split()[1])
    except (pyrage.RecipientError, ValueError) as error:
        other = re.match(r"age1(pq|tag|tagpq|[a-z0-9-]{1,40})1", text)
        reason = f"recipients of type {other[1]} are not supported" if other else str(error)
        raise e.UsageError(f"found {shown!r}, expected {EXPECTED}: {reason}") from None
    return ssh_fingerprint(wire), text
