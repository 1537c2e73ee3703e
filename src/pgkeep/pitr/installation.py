"""The programs of a server's own major version, which alone understand its files."""

from pathlib import Path

from .. import errors as e
from ..postgres import client_packages, programs

FOR_BASE = ("pg_basebackup", "pg_verifybackup", "pg_controldata", "pg_waldump")
FOR_RESTORE = ("postgres", "initdb", "pg_verifybackup", "pg_waldump")
FOR_STREAM = ("pg_receivewal",)


def folder_of(major: int, names: tuple[str, ...]) -> Path:
    """Return the folder that has these programs of a major version, of its newest minor one.

    Raises:
        UsageError: no installation has them.

    """
    own = [found for found in programs.installations() if found.major == major]
    whole = [found for found in own if all((found.bin / name).is_file() for name in names)]
    if not whole:
        missing = sorted(
            {name for name in names for found in own if not (found.bin / name).is_file()}
        )
        lacks = f" without {', '.join(missing)}" if own else ""
        raise e.UsageError(
            f"the cluster is PostgreSQL {major}, and the programs of its server are not installed"
            f" (found: {', '.join(map(str, own)) or 'none'}{lacks})",
            hint=f"Install the server package of PostgreSQL {major}; its service need not run:\n"
            + "\n".join(client_packages.commands(major)),
        )
    return max(whole, key=lambda found: found.version).bin
