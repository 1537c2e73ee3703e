"""Encrypt and decrypt with the gpg program (GnuPG 2.2 or newer).

Public keys are imported into a home directory of our own that is removed afterwards, so that
nobody's keyring is changed. Private keys stay in the user's keyring, with its agent.
"""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .. import errors as e
from .. import processes

MISSING = "apt-get install gpg, dnf install gnupg2, or brew install gnupg"
_ARMOR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
# The first byte of a public key packet: tag 6 in the old and in the new format (RFC 9580, 4.2).
_PUBLIC_KEY = frozenset({0x98, 0x99, 0x9A, 0xC6})
_PRIVATE_KEY = frozenset({0x94, 0x95, 0x96, 0xC5})  # tag 5
# What gpg needs of our environment besides: the keyring and the agent, also one that is forwarded.
_AGENT = ("GNUPGHOME", "GPG_TTY", "XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY")
_PREFIX = "pgkeep-gpg-"
_MINUTE = 60.0  # seconds
_FULL = "Free disk space in the directory for temporary files (TMPDIR)."
_LONGEST = 60  # bytes: gpg adds names of sockets, and fails if their paths have over 107
_TRUST = ("--trust-model", "always", "--no-auto-check-trustdb")
_WHY = {"e": "expired", "r": "was revoked", "d": "is disabled", "i": "is invalid"}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key to which backups can be encrypted."""

    fingerprint: str
    expires: int | None  # when it can no longer be used to encrypt (Unix time)


def is_public_key(data: bytes) -> bool:
    """Whether the contents of a file are an OpenPGP public key."""
    return _ARMOR in data[:4096] or (data[:1] != b"" and data[0] in _PUBLIC_KEY)


def is_private_key(data: bytes) -> bool:
    """Whether the contents of a file are an OpenPGP private key in binary form."""
    return data[:1] != b"" and data[0] in _PRIVATE_KEY


def unarmored(data: bytes) -> bytes:
    """Return an OpenPGP key in its binary form.

    Raises:
        UsageError: gpg is missing, or it is no key.

    """
    return data if _ARMOR not in data[:4096] else _run(["--dearmor"], {}, data)


def exported(fingerprint: str) -> bytes:
    """Return a public key from the user's keyring.

    Raises:
        UsageError: gpg is missing, or the keyring does not have the key.

    """
    home = Path(os.environ.get("GNUPGHOME") or Path.home() / ".gnupg")
    data = b""
    if home.is_dir():  # otherwise gpg would create it
        data = _run(["--export", fingerprint], _agent())
    if not data:
        raise e.UsageError(f"the GPG keyring in {home} has no key {fingerprint}")
    # That a user has disabled a key is only in his keyring, and is not exported.
    listing = _run(["--list-keys", fingerprint], _agent())
    keys = [line.split(b":") for line in listing.splitlines() if line.startswith(b"pub:")]
    if any(b"D" in key[11] for key in keys):
        raise e.UsageError(f"GPG key {fingerprint} is disabled in the keyring in {home}")
    return data


def fingerprint_of(key_id: str) -> str | None:
    """Return the fingerprint of the key in the user's keyring that has this key or subkey."""
    with suppress(e.UsageError):
        for line in _run(["--list-keys", key_id], _agent()).splitlines():
            if line.startswith(b"fpr:"):
                return line.split(b":")[9].decode()
    return None


def usable_keys(keyrings: Sequence[bytes]) -> list[PublicKey]:
    """Return the keys of keyrings, each of which can be used to encrypt.

    Raises:
        UsageError: gpg is missing, or a key has expired, was revoked, or cannot encrypt.

    """
    with home_of(b"".join(keyrings), refuse_private=True) as home:
        own = {"GNUPGHOME": home}
        found = _checked(_run(["--list-keys"], own).decode("utf-8", "replace"))
        # What this gpg cannot do, such as a new algorithm, it must report before the backup.
        _run(["--encrypt", *_recipients([key.fingerprint for key in found])], own)
    return found


def _checked(listing: str) -> list[PublicKey]:
    found, problems = [], []
    for lines in re.split(r"^(?=pub:)", listing, flags=re.MULTILINE)[1:]:
        try:
            found.append(_usable([line.split(":") for line in lines.splitlines()]))
        except e.UsageError as error:
            problems.append(error.message)
    if problems:
        raise e.UsageError(
            "; ".join(problems), hint="Export a current key: gpg --export KEY > FILE."
        )
    if not found:
        raise e.UsageError("found no GPG public key")
    return found


def _usable(records: Sequence[Sequence[str]]) -> PublicKey:
    """Return one key; its records are those of `gpg --with-colons` (DETAILS in GnuPG's manual)."""
    primary = records[0]
    fingerprint = next(record[9] for record in records if record[0] == "fpr")
    if primary[1] in _WHY:
        raise e.UsageError(f"GPG key {fingerprint} {_WHY[primary[1]]}{_since(primary)}")
    encrypting = [r for r in records if r[0] in ("pub", "sub") and "e" in r[11]]
    usable = [record for record in encrypting if record[1] not in _WHY]
    if not usable:
        what = "has no subkey that can encrypt"
        if encrypting:
            what = f"has no usable subkey: {_WHY[encrypting[-1][1]]}{_since(encrypting[-1])}"
        raise e.UsageError(f"GPG key {fingerprint} {what}")
    ends = [[int(record[6]) for record in group if record[6]] for group in ([primary], usable)]
    last = None if len(ends[1]) < len(usable) else max(ends[1])
    expires = min((moment for moment in (*ends[0], last) if moment is not None), default=None)
    return PublicKey(fingerprint, expires)


def _since(record: Sequence[str]) -> str:
    if record[1] != "e" or not record[6]:
        return ""
    return f" on {time.strftime('%Y-%m-%d', time.gmtime(int(record[6])))}"


@contextmanager
def home_of(keyring: bytes, *, refuse_private: bool = False) -> Iterator[str]:
    """Return a home directory with these public keys; it is removed at the end.

    Raises:
        UsageError: gpg is missing, or cannot import the keys; or private keys are among them.

    """
    with _home() as home:
        if refuse_private:  # gpg would write them into the directory
            packets = _run(["--list-packets"], {"GNUPGHOME": home}, keyring)
            if re.search(rb"^:secret (sub )?key packet:", packets, re.MULTILINE):
                raise e.UsageError("found a GPG private key, expected public keys")
        _run(["--import"], {"GNUPGHOME": home}, keyring)
        yield home


@contextmanager
def _home() -> Iterator[str]:
    """Return an empty home directory; those of killed runs are removed too.

    They contain public keys only. A lock shows which ones are in use, also to other containers.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _LONGEST:
        folder = "/tmp"  # noqa: S108 - mkdtemp creates a private directory
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                _sweep(entry)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder) as home:
        lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield home
        finally:
            os.close(lock)


def _sweep(entry: "os.DirEntry[str]") -> None:
    """Remove a directory that a killed run of this user has left."""
    with suppress(OSError):
        state = entry.stat(follow_symlinks=False)
        # A new one can be without a lock for a moment.
        if state.st_uid != os.geteuid() or time.time() - state.st_mtime < _MINUTE:
            return
        lock = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path)
        finally:
            os.close(lock)


def version() -> str:
    """Return name and version of the program.

    Raises:
        UsageError: gpg is missing.

    """
    first = _run(["--version"], {}).decode("utf-8", "replace").splitlines()[0]
    return " ".join(first.split()[::2])  # gpg (GnuPG) 2.2.40


def encryption(home: str, fingerprints: Sequence[str]) -> processes.Child:
    """Start a program that encrypts its input to keys of a home directory."""
    # The input is compressed already.
    command = [*_command(), "--no-encrypt-to", "--compress-algo=none", "--cipher-algo=AES256"]
    command += ["--no-armor", *_recipients(fingerprints), "--encrypt"]
    environment = processes.environment({"GNUPGHOME": home})
    return processes.Child(command, environment, with_input=True)


def _recipients(fingerprints: Sequence[str]) -> list[str]:
    return [argument for key in fingerprints for argument in ("--recipient", key)]


def decryption() -> processes.Child:
    """Start a program that decrypts its input with the user's keyring and agent."""
    # Signatures of dumps that other tools made are not needed, and not every signer is known.
    # With --quiet, gpg would not say why it cannot use a private key.
    program = [argument for argument in _command() if argument != "--quiet"]
    command = [*program, "--skip-verify", "--decrypt"]
    return processes.Child(command, processes.environment(_agent()), with_input=True)


def _command() -> list[str]:
    found = shutil.which("gpg")
    if found is None:
        raise e.UsageError(
            "encryption with GPG requires a program: gpg", hint=f"Install it: {MISSING}."
        )
    # --no-options: settings of a user must not change the recipients or the format.
    return [found, "--no-options", "--batch", "--quiet", *_TRUST]


def _agent() -> dict[str, str]:
    return {name: os.environ[name] for name in _AGENT if name in os.environ}


def _run(arguments: Sequence[str], extra: dict[str, str], data: bytes = b"") -> bytes:
    """Run a command of gpg that ends soon; return its output."""
    command = [*_command(), "--with-colons", "--fixed-list-mode", "--no-autostart", *arguments]
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, timeout=60, check=False,
            env=processes.environment(extra),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise e.UsageError(f"could not run gpg: {error}") from error
    if done.returncode != 0:
        lines = [
            line
            for line in done.stderr.decode("utf-8", "replace").splitlines()
            if line.strip() and "no gpg-agent running" not in line  # which is not required
        ]
        failure = e.UsageError(f"gpg {arguments[0]} failed: {lines[-1] if lines else 'no message'}")
        if any(os.strerror(errno.ENOSPC) in line for line in lines):
            raise e.NoSpace(failure.message, hint=_FULL)
        raise failure
    return done.stdout
