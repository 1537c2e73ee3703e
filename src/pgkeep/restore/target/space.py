"""Find out how much space the server's disk has, if that can be known from here."""

import os
import shutil
from pathlib import Path

from ...postgres.connection import Connection


def free(connection: Connection) -> int | None:
    """Return the free bytes of the data directory's file system; None: it is not known.

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
    try:
        written = int((directory / "postmaster.pid").read_text().splitlines()[2])
        if abs(written - started) > 1:
            return None
        return shutil.disk_usage(os.fspath(directory)).free
    except (OSError, ValueError, IndexError):
        return None
