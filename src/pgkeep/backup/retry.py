"""Repeat the backup of a database after a failure that another attempt can outlast.

These are a lost connection, the restart or failover of a server, and a conflict with recovery on a
standby (trap A6.5). After any other failure, such as a missing privilege, a repetition would only
hide it, and hold locks twice.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Sequence

import psycopg

from .. import errors as e
from ..postgres.connection import Connection, Endpoint, application_name
from .backup import ADVISORY_LOCK, PublishedBackup

_log = logging.getLogger(__name__)

RECONNECT = 60.0  # seconds that a failover, or recovery after a crash, can take
_TRANSIENT = re.compile(
    "server closed the connection unexpectedly|terminating connection due to|"
    "connection to server was lost|no connection to the server|"
    "could not (receive data from|send data to) |consuming input failed|"
    "SSL connection has been closed unexpectedly|SSL SYSCALL error|lost the connection|"
    "Connection (reset by peer|timed out)|conflict with recovery|"
    "the database system is (starting up|shutting down|in recovery mode|not )"
)


def repeated(
    attempt: Callable[[Sequence[str]], PublishedBackup],
    retries: int,
    endpoint: Endpoint,
) -> PublishedBackup:
    """Call `attempt` with the warnings about earlier attempts, until it succeeds or gives up."""
    warnings: list[str] = []
    while True:
        try:
            return attempt(warnings)
        except e.DumpFailed as error:
            if len(warnings) >= retries or not is_transient(error):
                raise
            _log.warning("repeating the backup: %s", error.message)
            if not _prepared(endpoint):
                raise
            hint = f" ({error.hint})" if error.hint else ""
            warnings.append(f"attempt {len(warnings) + 1} failed: {error.message}{hint}")


def is_transient(error: e.DumpFailed) -> bool:
    """Whether another attempt can succeed although nobody changes anything."""
    text, cause = error.message, error.__cause__
    if isinstance(cause, e.ProgramFailed) and cause.message in text:
        text += " ".join(cause.said)  # the message has only its last lines
    return _TRANSIENT.search(text) is not None


def _prepared(endpoint: Endpoint) -> bool:
    """Wait for the server, and end what is left of the attempt; False if it stays away."""
    deadline = time.monotonic() + RECONNECT
    while True:
        try:
            with endpoint.connect() as connection:
                _end_sessions(connection)
                return True
        except (e.ConnectionFailed, psycopg.Error):
            if time.monotonic() > deadline:
                return False
        time.sleep(1)


def _end_sessions(connection: Connection) -> None:
    """End sessions of this process that hold locks or a snapshot, whose network was lost.

    The server would notice it only after its own keepalives. Until then the advisory lock is held,
    and the next attempt would take it for that of another run.
    """
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute(
            """
            SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
            WHERE a.application_name = %s AND a.pid <> pg_catalog.pg_backend_pid()
              AND a.datname = pg_catalog.current_database()
              AND (a.xact_start IS NOT NULL OR EXISTS (
                  SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid
                    AND l.locktype = 'advisory' AND l.objsubid = 1
                    AND (l.classid::pg_catalog.int8 << 32 | l.objid::pg_catalog.int8) = %s))
            """,
            [application_name(), ADVISORY_LOCK],
        )
