"""Find out how much space the server's disk has, if that can be known from here."""

import contextlib
import os
import shutil
from pathlib import Path

from ...postgres.connection import Connection

RESERVE = 0.1  # of the size of the database
BEGINNING = 4096  # bytes; the third line has the time


def free(connection: Connection) -> int | None:
    """Return the free bytes of the data directory's file system; None: it is not known."""
    directory = data_directory(connection)
    if directory is not None:
        with contextlib.suppress(OSError):
            return shutil.disk_usage(directory).free
    return None


def data_directory(connection: Connection) -> Path | None:
    """Return the data directory of the server if it can be reached from here.

    A path of the server means the same here only on the same host and in the same container. The
    file of the postmaster proves it with the time at which it started.
    """
    row = connection.execute(
        """
        SELECT setting, floor(extract(epoch FROM pg_catalog.pg_postmaster_start_time()))
        FROM pg_catalog.pg_settings WHERE name = 'data_directory'
        """
    ).fetchone()
    if row is None or not row[0]:
        return None  # only some roles see the setting
    directory, started = Path(row[0]), int(row[1])
    written = start_time(directory)
    return None if written is None or abs(written - started) > 1 else directory


def warnings(free_bytes: int | None, size: int | None) -> list[str]:
    """Warn if a database of this size might not fit; bloat of the original can explain it."""
    if free_bytes is None or size is None or free_bytes >= size * (1 + RESERVE):
        return []
    warning = (
        f"the server's disk has {free_bytes / 1e9:.1f} GB free, the database had"
        f" {size / 1e9:.1f} GB when it was backed up"
    )
    return [warning]


def start_time(directory: Path) -> int | None:
    """Return when the server of a data directory started, None if there is no such file.

    The server names the directory, so the file can be anything: it is not waited for, and only its
    beginning is read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(directory / "postmaster.pid", flags)
        try:
            return int(os.read(fd, BEGINNING).splitlines()[2])
        finally:
            os.close(fd)
    except (OSError, ValueError, IndexError):
        return None
