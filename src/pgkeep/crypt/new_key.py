"""Create a private key of age, and the file that keeps it."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .. import errors as e
from .opening import check_packages


@dataclass(frozen=True, slots=True)
class NewKey:
    """A private key of age, as text; not shown by `repr`, because that can be logged."""

    private: str
    public: str
    created: datetime

    def __repr__(self) -> str:
        return f"NewKey({self.public})"

    @property
    def text(self) -> str:
        """The contents of its file, as age-keygen writes them."""
        moment = f"{self.created:%Y-%m-%dT%H:%M:%SZ}"
        return f"# created: {moment}\n# public key: {self.public}\n{self.private}\n"

    def protected(self, passphrase: str) -> str:
        """Return the contents of its file encrypted with a passphrase, in text form."""
        import pyrage  # noqa: PLC0415 - an optional dependency

        data: bytes = pyrage.passphrase.encrypt(self.text.encode(), passphrase, armored=True)
        return data.decode("ascii")


def create() -> NewKey:
    """Create a key.

    Raises:
        UsageError: a package is missing.

    """
    check_packages()
    import pyrage  # noqa: PLC0415 - an optional dependency

    identity = pyrage.x25519.Identity.generate()
    return NewKey(str(identity), str(identity.to_public()), datetime.now(UTC))


def write_private(path: Path, text: str) -> None:
    """Write a new file that only this user can read, to the disk.

    An existing file is not replaced, and a link is not followed.

    Raises:
        Refused: something exists at the path.
        UsageError: it cannot be written; nothing is left.

    """
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise e.Refused(
            f"{path} exists: a private key is never replaced", hint="Choose another file."
        ) from error
    except (OSError, ValueError) as error:
        raise _not_written(path, error) from error
    try:
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(handle, 0o600)  # the umask can remove permissions of the owner too
            file.write(text)
            file.flush()
            os.fsync(handle)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _not_written(path, error) from error
        raise


def _not_written(path: Path, error: Exception) -> e.UsageError:
    reason = getattr(error, "strerror", None) or str(error)
    return e.UsageError(f"could not write the private key to {path}: {reason}")
