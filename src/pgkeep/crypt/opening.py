"""Open files of a store, encrypted or not; the caller reads their plain text."""

import hashlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from .. import errors as e
from ..model import naming
from ..model.naming import Cipher
from ..processes import Child
from ..stores.store import Source, chunks, sha256_of
from . import gpg, openpgp_framing

if TYPE_CHECKING:
    from .age_format import Header
    from .age_identities import Identity

Level = Literal["contents", "ciphertext"]  # what a verification compares, as manifests name it
CONTENTS: Final = "contents"
CIPHERTEXT: Final = "ciphertext"
AGE = b"age-encryption.org/"  # how its files begin
ARMORED = (b"-----BEGIN AGE ENCRYPTED FILE-----", openpgp_framing.ARMOR)
# The plain text cannot be larger than the message by more than this factor: a backup file is
# compressed, while gpg compresses the dumps that other tools give to it.
EXPANSION = 2
EXPANSION_OF_DUMPS = 50
PATIENCE = 5.0  # seconds for a thread to stop after it is no longer needed


class Keys:
    """The private keys of this machine's user; files of them are read when one is needed."""

    def __init__(self, files: Sequence[Path] = (), ask: Callable[[str], str] | None = None) -> None:
        """Store the files of age identities, and the function that asks for a passphrase."""
        self.files = tuple(files)
        self._ask = ask or _no_terminal
        self._identities: list[Identity] | None = None
        self._error: e.UsageError | None = None

    @property
    def identities(self) -> "list[Identity]":
        """The identities in the files.

        Raises:
            UsageError: a file cannot be read, or a package is missing.

        """
        if self._error is not None:
            raise self._error  # nobody is asked twice for one passphrase
        if self._identities is None:
            check_packages()
            from . import age_identities  # noqa: PLC0415 - an optional dependency

            try:
                self._identities = [
                    identity
                    for path in self.files
                    for identity in age_identities.load(path, self._ask)
                ]
            except e.UsageError as error:
                self._error = error
                raise
        return self._identities


def _no_terminal(prompt: str) -> str:
    raise e.UsageError(f"cannot ask for the {prompt}: standard input is not a terminal")


def check_packages() -> None:
    """Check that the packages of the extra `age` are installed.

    Raises:
        UsageError: one is missing.

    """
    try:
        import bech32  # noqa: F401, PLC0415
        import cryptography  # noqa: F401, PLC0415
        import pyrage  # noqa: F401, PLC0415
    except ImportError as error:
        raise e.UsageError(
            f"decryption requires another package: {error.name}", hint="pip install 'pgkeep[age]'"
        ) from None


def cipher_of(source: Source) -> Cipher | None:
    """Return the cipher of a file according to its first bytes.

    Raises:
        NotPlainDump: it is encrypted, but in the text form (ASCII armor).

    """
    head = source.read(0, min(64, source.size))
    if head.startswith(AGE):
        return Cipher.AGE
    if head.startswith(ARMORED):
        raise e.NotPlainDump(
            f"{source.name} is encrypted and in ASCII armor, expected the binary form",
            hint="Remove the armor: age -d -i KEY FILE | age -r RECIPIENT > NEW, or"
            " gpg --dearmor FILE.",
        )
    return Cipher.GPG if head[:1] and head[0] in openpgp_framing.MAGIC else None


def check_framing(source: Source) -> None:
    """Check an encrypted file as far as possible without a key: its form, not its contents.

    Raises:
        VerificationFailed: it is damaged or truncated.

    """
    if cipher_of(source) is Cipher.AGE:
        check_packages()
        from . import age_source  # noqa: PLC0415 - an optional dependency

        age_source.check_framing(source)
    else:
        openpgp_framing.check(source)


def decrypted(source: Source, cipher: Cipher, keys: Keys) -> Source:
    """Return the plain text of an encrypted file; closing it closes the file.

    Raises:
        NoKey, OtherKey: it cannot be decrypted with these keys.
        VerificationFailed: it is damaged.
        UsageError: a package or program is missing, or a key cannot be read.

    """
    if cipher is Cipher.AGE:
        check_packages()
        from .age_source import AgeSource  # noqa: PLC0415 - an optional dependency

        return AgeSource(source, lambda header: _file_key(source, header, keys))
    try:
        from .sealed_file import SealedFile  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise e.NoKey(
            f"decryption requires another package: {error.name}", hint="pip install 'pgkeep[age]'"
        ) from None
    digest = hashlib.sha256()
    with closing(_gpg_decrypted(source, digest.update)) as plain:
        sealed = SealedFile(source, plain)
    sealed.stored_sha256 = digest.hexdigest()
    return sealed


def plain_blocks(source: Source, cipher: Cipher | None, keys: Keys) -> Iterator[bytes]:
    """Yield the plain text of a file from beginning to end; the caller closes the file.

    Damage can be reported after the last block: nothing is valid until then.

    Raises:
        NoKey, OtherKey: it cannot be decrypted with these keys.
        VerificationFailed: it is damaged.

    """
    if cipher is Cipher.GPG:
        yield from _gpg_decrypted(source, lambda _: None)
    else:
        yield from chunks(source if cipher is None else decrypted(source, cipher, keys))


def check_gpg_key(source: Source) -> None:
    """Decrypt the beginning of an OpenPGP file, which proves the key and not the contents.

    Raises:
        NoKey: the keyring has none of its private keys.
        VerificationFailed: it is damaged.

    """
    with closing(_gpg_decrypted(source, lambda _: None)) as blocks:
        next(blocks, None)


def opened_if_possible(
    source: Source, keys: Keys, *, keyring: bool = False
) -> tuple[Source, Level]:
    """Return the plain text of an encrypted file; without a private key, the file itself.

    GPG's keyring is only asked with `keyring`: without a terminal, its agent cannot ask for a
    passphrase.

    Raises:
        VerificationFailed: it is damaged.
        UsageError: a private key cannot be read.

    """
    cipher = cipher_of(source)
    if cipher is None or not (keyring if cipher is Cipher.GPG else keys.files):
        return source, CIPHERTEXT
    try:
        return decrypted(source, cipher, keys), CONTENTS
    except (e.OtherKey, e.NoKey):
        return source, CIPHERTEXT


def stored_cipher(source: Source) -> Cipher | None:
    """Return with what the file is encrypted that a source reads."""
    cipher: Cipher | None = getattr(source, "cipher", None)
    return cipher


def stored_sha256(source: Source) -> str:
    """Return the SHA-256 of a file as it is stored: of an encrypted one, not of its plain text."""
    digest: str | None = getattr(source, "stored_sha256", None)  # known after reading it once
    return digest or sha256_of(getattr(source, "stored", source))


def _file_key(source: Source, header: "Header", keys: Keys) -> bytes:
    from . import age_identities  # noqa: PLC0415 - an optional dependency

    if not keys.files:
        raise e.NoKey(
            f"{source.name} is encrypted with age, and no private key is given",
            hint="Give its file with --identity=FILE, or BACKUP_IDENTITY_FILE.",
        )
    key = age_identities.file_key(header, keys.identities)
    if key is None:
        files = ", ".join(str(path) for path in keys.files)
        raise e.OtherKey(
            f"{source.name}: no private key in {files} decrypts it",
            hint="The manifest lists the public keys to which it is encrypted: pgkeep key check"
            " --identity=FILE tests a key with all backups.",
        )
    return key


def _gpg_decrypted(source: Source, digest: Callable[[bytes], None]) -> Generator[bytes, None, None]:
    """Yield the plain text of an OpenPGP file, as the user's keyring and agent decrypt it.

    `digest` receives the bytes of the file.
    """
    own = naming.parse(source.name.rpartition("/")[2]) is not None
    limit = (EXPANSION if own else EXPANSION_OF_DUMPS) * source.size + (1 << 20)
    with ExitStack() as stack:
        child = gpg.decryption()
        feeder = _Feeder(source, child, digest)
        feeder.start()
        stack.callback(feeder.join, PATIENCE)  # it must not read a file that is closed
        stack.enter_context(child)
        size = 0
        while block := child.read():
            size += len(block)
            if size > limit:
                raise e.VerificationFailed(
                    f"{source.name}: its plain text has more than {limit} bytes, expected less for"
                    f" a message of {source.size} bytes",
                    hint="If you know that it is correct, decrypt it: gpg -d FILE > NEW.",
                )
            yield block
        feeder.join()
        if feeder.error is not None:
            raise feeder.error
        try:
            child.finish()
        except e.ProgramFailed as error:
            raise _gpg_failure(source, error) from error


class _Feeder(threading.Thread):
    """Writes a file to a program; its own failure is kept, that of the program is not."""

    def __init__(self, source: Source, child: Child, digest: Callable[[bytes], None]) -> None:
        super().__init__(name="decrypt", daemon=True)
        self._framing = openpgp_framing.Framing(source.name)
        self._digest = digest
        self._source = source
        self._child = child
        self.error: BaseException | None = None

    def run(self) -> None:
        """Write the file, then close the program's input."""
        try:
            for chunk in chunks(self._source):
                self._digest(chunk)
                self._framing.feed(chunk)
                try:
                    self._child.write(chunk)
                except e.ProgramFailed:
                    return
            self._framing.close()
            self._child.end_input()
        except BaseException as error:  # noqa: BLE001 - raised by the reader
            self.error = error
            self._child.kill()


def _gpg_failure(source: Source, error: e.ProgramFailed) -> e.PgkeepError:
    text = " ".join(error.said)
    locked = [line for line in error.said if "public key decryption failed" in line]
    if locked:
        return e.NoKey(
            f"{source.name} is encrypted with GPG, and the private key could not be used:"
            f" {locked[0]}",
            hint="If it has a passphrase, gpg's agent must know it or be able to ask for it: set"
            " GPG_TTY=$(tty), and decrypt another file with gpg -d first.",
        )
    if "No secret key" in text:
        return e.NoKey(
            f"{source.name} is encrypted with GPG, and the keyring has none of its private keys",
            hint="gpg --list-secret-keys lists yours. GNUPGHOME names another keyring.",
        )
    return e.VerificationFailed(f"{source.name} could not be decrypted: {error.message}")
