"""Advisory locks, which coordinate sessions of pgkeep (manual, 13.3.5).

The server holds these locks and releases them with the session, so they also exclude other hosts.
"""

import hashlib

from .connection import Connection


def key_of(*parts: str) -> int:
    """Return the key of a lock for this combination of names."""
    digest = hashlib.sha256(",".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def acquire(connection: Connection, key: int) -> None:
    """Wait for a lock, which is held until the session ends."""
    connection.execute("SELECT pg_catalog.pg_advisory_lock(%s)", [key])


def try_acquire(connection: Connection, key: int) -> bool:
    """Return whether the lock was free; if so, it is held until the session ends."""
    row = connection.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", [key]).fetchone()
    return row is not None and bool(row[0])


def held(connection: Connection) -> set[int]:
    """Return the keys of all locks on the server, in any database."""
    rows = connection.execute(
        """
        SELECT (classid::pg_catalog.int8 << 32) | objid::pg_catalog.int8
        FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objsubid = 1
        """
    )
    return {row[0] for row in rows}


def holder_is_idle(connection: Connection, key: int) -> bool:
    """Return whether a session of another run holds a lock of this database and waits for it.

    The server notices the death of a waiting session's client at once, so its client is alive. A
    session of this run that holds the lock has just been closed, and releases it in a moment.
    """
    row = connection.execute(
        """
        SELECT a.state LIKE 'idle%%' FROM pg_catalog.pg_locks l
        JOIN pg_catalog.pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND a.datname = pg_catalog.current_database()
          AND l.database = a.datid AND l.objsubid = 1
          AND a.application_name <> pg_catalog.current_setting('application_name')
          AND (l.classid::pg_catalog.int8 << 32 | l.objid::pg_catalog.int8) = %s
        """,
        [key],
    ).fetchone()
    return row is not None and bool(row[0])
