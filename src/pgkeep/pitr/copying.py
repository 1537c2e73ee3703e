"""Run pg_basebackup, with progress, and refuse before it fills the disk."""

import select
import shutil
from collections.abc import Sequence
from pathlib import Path

import psycopg

from .. import errors as e
from .. import processes
from ..postgres.connection import Connection, Endpoint, application_name
from ..progress import Progress
from ..progress import size as shown

POLL = 0.5  # seconds between two questions how far the server is
_RATES = (32, 1 << 20)  # kB/s that pg_basebackup accepts
RESERVE = 64 << 20  # bytes of WAL that can be written during the backup, at least


def check_space(connection: Connection, staging: Path, expected: int | None) -> None:
    """Refuse a base backup that does not fit into the staging directory.

    `expected` has the bytes of an incremental one, if an earlier one lets them be guessed. Those of
    a full one are asked from the server, unless the role cannot ask.

    Raises:
        Refused: with both sizes.

    """
    if expected is None:
        try:
            row = connection.execute(
                "SELECT pg_catalog.sum(pg_catalog.pg_tablespace_size(oid))::pg_catalog.int8"
                " FROM pg_catalog.pg_tablespace"
            ).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return
        expected = 0 if row is None else int(row[0])
    needed = expected + RESERVE
    free = shutil.disk_usage(staging).free
    if free < needed:
        raise e.Refused(
            f"{staging} has {shown(free)} free, the base backup needs {shown(needed)}",
            hint="A base backup is copied there before it is stored. Set BACKUP_SPOOL_DIR to a"
            " larger file system, or take incremental ones (PostgreSQL 17 and newer).",
        )


def max_rate(rate: float | None) -> list[str]:
    """Return the option of pg_basebackup for a limit in bytes per second."""
    if rate is None:
        return []
    low, high = _RATES
    return [f"--max-rate={min(high, max(low, int(rate / 1024)))}k"]


def copy(
    endpoint: Endpoint, connection: Connection, command: Sequence[str], progress: Progress
) -> None:
    """Run pg_basebackup to its end, and show how far the server is.

    Raises:
        DumpFailed: it failed.

    """
    with (
        endpoint.child() as access,
        processes.Child([*_ends_with_us(), *command, *access.arguments], access.environment)
        as child,
    ):  # fmt: skip
        child.name = "pg_basebackup"
        _follow(child, connection, progress)
        try:
            child.finish()
        except e.ProgramFailed as error:
            raise e.DumpFailed(error.message) from error


def _ends_with_us() -> list[str]:
    """Return the prefix that ends a program with us, also when we are killed with -9.

    Otherwise it would fill the staging directory, while the next run cleans it.
    """
    setpriv = shutil.which("setpriv")  # util-linux
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _follow(child: processes.Child, connection: Connection, progress: Progress) -> None:
    """Wait until the program closes its output."""
    output = select.poll()
    output.register(child.output, select.POLLIN)
    done = 0
    is_known = True
    while True:
        if output.poll(POLL * 1000):
            if not child.read():
                return
            continue
        if not is_known:
            continue
        try:
            row = connection.execute(
                "SELECT s.backup_streamed, s.backup_total"
                " FROM pg_catalog.pg_stat_progress_basebackup s"
                " JOIN pg_catalog.pg_stat_activity a USING (pid) WHERE a.application_name = %s",
                [application_name()],
            ).fetchone()
        except psycopg.Error:  # a lost server: pg_basebackup reports it
            is_known = False
            continue
        if row is not None and row[0] is not None:
            if row[1]:
                progress.total(row[1])
            progress.advance(row[0] - done)
            done = row[0]
