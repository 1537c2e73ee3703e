"""Run pgBackRest: its own configuration says where the repository is, and how it is encrypted."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from .. import errors as e
from .. import processes
from ..settings import STANZA
from . import pgbackrest_info
from .pgbackrest_info import LARGEST, Stanza

PROGRAM = "pgbackrest"
# Its messages are read from standard error; its log file may belong to another user.
_QUIET = ("--log-level-console=off", "--log-level-stderr=error", "--log-level-file=off")
_ABSENT = 1  # exit status of archive-get
_HINTS = {
    37: "A required option is not set, such as repo1-cipher-pass of an encrypted repository. Check"
    " its configuration file, or PGBACKREST_CONFIG.",
    41: "Check the path, and run pgkeep as the user of pgBackRest.",
    50: "Another command of pgBackRest holds the lock of the stanza. Try again when it has ended.",
    55: "Check the name of the stanza and the path of the repository.",
    95: "The repository is encrypted, and the passphrase (repo1-cipher-pass) is not the right one.",
}


def info(stanza: str) -> Stanza:
    """Return the state of a stanza.

    Raises:
        UsageError: pgBackRest is not installed, or its configuration has an error.
        VerificationFailed: its output has an unknown form.

    """
    output = _run([f"--stanza={_checked(stanza)}", "--output=json", "info"])
    return pgbackrest_info.parse(output, stanza)


def restore(
    stanza: str, label: str, repository: int, directory: Path, tablespaces: Path, jobs: int
) -> None:
    """Restore a backup into an empty directory, without settings of recovery.

    Options of the configuration are for the server's host: they could write to its own files.

    Raises:
        RestoreFailed: pgBackRest could not do it.

    """
    options = [
        f"--set={label}", f"--repo={repository}", "--type=none", "--archive-mode=off",
        "--reset-tablespace-map", f"--tablespace-map-all={tablespaces}", "--no-link-all",
        "--reset-link-map", "--no-delta", "--reset-db-include", "--reset-db-exclude",
        "--reset-recovery-option", f"--process-max={jobs}",
    ]  # fmt: skip
    try:
        _run([*_here(stanza, directory), *options, "restore"])
    except e.UsageError as error:
        raise e.RestoreFailed(error.message, hint=error.hint) from error


def archive_get(stanza: str, repository: int, data: Path, name: str, target: Path) -> bool:
    """Write an archived file into a file; return False if the archive does not have it.

    Raises:
        StoreError: it could not be read.

    """
    options = [f"--repo={repository}", "--no-archive-async", "archive-get", name, str(target)]
    try:
        _run([*_here(stanza, data), *options])
    except e.UsageError as error:
        if isinstance(error.__cause__, e.ProgramFailed) and _absent(error.__cause__):
            return False
        raise e.StoreError(f"{name}: {error.message}", hint=error.hint) from error
    return True


def _absent(error: e.ProgramFailed) -> bool:
    return f"exit status {_ABSENT})" in error.message and not error.said


def _here(stanza: str, data: Path) -> list[str]:
    """Return the options for a directory of this host, whatever host has the server."""
    return [f"--stanza={_checked(stanza)}", f"--pg1-path={data}", "--reset-pg1-host"]


def _checked(stanza: str) -> str:
    if STANZA.fullmatch(stanza) is None:
        raise e.UsageError(
            f"found {stanza!r}, expected the name of a stanza", hint="Use letters and digits."
        )
    return stanza


def _run(arguments: Sequence[str]) -> bytes:
    """Run pgBackRest to its end; return its output.

    Raises:
        UsageError: it is not installed, or it failed.

    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise e.UsageError(
            "pgbackrest is not installed",
            hint="Install it on this host, with the configuration of the repository:\n"
            "sudo apt install pgbackrest",
        )
    own = {name: text for name, text in os.environ.items() if name.startswith("PGBACKREST_")}
    output = bytearray()
    with processes.Child([program, *_QUIET, *arguments], processes.environment(own)) as child:
        while (block := child.read()) and len(output) <= LARGEST:
            output += block
        if len(output) > LARGEST:
            return bytes(output)
        try:
            child.finish()
        except e.ProgramFailed as error:
            raise e.UsageError(error.message, hint=_hint(error.message)) from error
    return bytes(output)


def _hint(message: str) -> str | None:
    return next((hint for code, hint in _HINTS.items() if f"exit status {code})" in message), None)
