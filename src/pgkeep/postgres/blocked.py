"""Find the sessions that wait for a backup: for one of its locks, or behind a session that does."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..sql.encodings import codec, shared_text
from .connection import Connection, application_name

# Sessions for which the server is asked who blocks them, in one look. It locks the whole lock
# manager for a moment to answer that for one session (manual, pg_blocking_pids).
LIMIT = 100
# Columns of other roles' sessions are hidden from a role without pg_read_all_stats. Only pg_locks
# shows then whether they wait. It is larger, so it is not read if nobody can be waiting.
_ANYBODY = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_stat_activity
    WHERE datname = pg_catalog.current_database()
      AND (wait_event_type = 'Lock' OR query = '<insufficient privilege>'))
"""
_WAITING = """
SELECT w.pid, pg_catalog.pg_blocking_pids(w.pid), w.locktype,
       pg_catalog.convert_to(w.relation::pg_catalog.regclass::pg_catalog.text, e.name), w.mode,
       w.since, pg_catalog.convert_to(coalesce(a.usename, '?'), e.name),
       coalesce(a.application_name, '?'),
       pg_catalog.upper(pg_catalog.substring(a.query, '^\\s*([A-Za-z]+)'))
FROM (
    SELECT l.pid, l.locktype, l.relation, l.mode, {since} AS since
    FROM pg_catalog.pg_locks l
    WHERE NOT l.granted
      AND coalesce(l.database, 0) IN (0, (
          SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
    ORDER BY 5 LIMIT %(limit)s OFFSET 0) w
JOIN pg_catalog.pg_stat_activity a ON a.pid = w.pid
CROSS JOIN pg_catalog.getdatabaseencoding() AS e(name)
WHERE a.datname = pg_catalog.current_database()
"""
_OURS = """
SELECT pid FROM pg_catalog.pg_stat_activity
WHERE application_name = %s AND datname = pg_catalog.current_database()
"""
# A session of ours without a transaction holds no lock that matters: it runs several backups.
_END = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE pid <> pg_catalog.pg_backend_pid() AND datname = pg_catalog.current_database()
  AND (pid = %s OR application_name = %s AND xact_start IS NOT NULL)
"""
WAIT_START_SINCE = 140000  # pg_locks.waitstart
# The first word of a statement is shown only if it is one of these: the text itself can contain
# what is secret.
_COMMANDS = frozenset({
    "ALTER", "ANALYZE", "BEGIN", "CALL", "CLUSTER", "COMMENT", "COPY", "CREATE", "DELETE", "DO",
    "DROP", "EXECUTE", "EXPLAIN", "GRANT", "INSERT", "LOCK", "MERGE", "REFRESH", "REINDEX",
    "REVOKE", "SELECT", "TRUNCATE", "UPDATE", "VACUUM", "WITH",
})  # fmt: skip
_OTHERS = {"virtualxid": "the end of a snapshot", "transactionid": "the end of a transaction"}


@dataclass(frozen=True, slots=True)
class WaitingSession:
    """A session that waits for a lock; equal if it is the same wait."""

    pid: int
    user: str
    application: str
    waits_for: str  # a relation, or something else
    mode: str | None  # of the lock on a relation, such as AccessExclusiveLock
    command: str | None  # such as ALTER
    since: str | None  # when the wait began; unknown before PostgreSQL 14
    blockers: frozenset[int] = field(compare=False)

    def __str__(self) -> str:
        known = ", ".join(filter(None, [self.user, self.application, self.command]))
        lock = f"{self.mode} on " if self.mode else ""
        return f"process {self.pid} ({known}) waits for {lock}{self.waits_for}"


class Waits(NamedTuple):
    """Which sessions wait, at one moment."""

    for_us: list[WaitingSession]
    stuck: list[WaitingSession]  # sessions of ours that wait for those


def find(connection: Connection, coordinator: int) -> Waits:
    """Return who waits for this run, whose coordinator is the given process.

    A session of ours that waits for one of these cannot continue before the backup ends, which
    waits for it. The server sees such a deadlock only if the same session of ours is waited for,
    and can then end the other one (traps D4, D32).
    """
    # Otherwise a transaction would always see the same sessions.
    connection.execute("SELECT pg_catalog.pg_stat_clear_snapshot()")
    if connection.execute(_ANYBODY.encode()).fetchall() == [(False,)]:
        return Waits([], [])
    ours = {row[0] for row in connection.execute(_OURS, [application_name()])} | {coordinator}
    newer = connection.info.server_version >= WAIT_START_SINCE
    query = _WAITING.format(since="l.waitstart" if newer else "NULL::pg_catalog.timestamptz")
    rows = connection.execute(query.encode(), {"limit": LIMIT})
    waiting = {row[0]: _session(connection, *row) for row in rows}
    found = behind(ours, {pid: session.blockers for pid, session in waiting.items()})
    stuck = [waiting[pid] for pid in ours & waiting.keys() if waiting[pid].blockers & {*found}]
    return Waits([waiting[pid] for pid in found], stuck)


def behind(ours: Collection[int], blockers: Mapping[int, Collection[int]]) -> list[int]:
    """Return the sessions that wait for ours, directly or behind another one, nearest first."""
    found: list[int] = []
    nearer: Collection[int] = ours
    while nearer:
        nearer = [
            pid
            for pid, of in blockers.items()
            if pid not in found and pid not in ours and any(blocker in nearer for blocker in of)
        ]
        found += nearer
    return found


def end_sessions(connection: Connection, coordinator: int) -> None:
    """End all sessions of this run that can hold locks; they are gone when their locks are."""
    connection.execute(_END, [coordinator, application_name()])


def end_session(connection: Connection, pid: int) -> None:
    """End a session, which otherwise waits on after its client has been killed."""
    connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])


def _session(
    connection: Connection, pid: int, blockers: list[int], kind: str, *more: Any
) -> WaitingSession:
    relation, mode, since, user, application, command = more
    encoding = codec(connection.info.parameter_status("server_encoding") or "")
    return WaitingSession(
        pid=pid,
        user=shared_text(user, encoding),
        application=application,
        waits_for=_OTHERS.get(kind, f"a lock of type {kind}")
        if relation is None
        else relation.decode(encoding, "backslashreplace"),
        mode=None if relation is None else mode,
        command=command if command in _COMMANDS else None,
        since=None if since is None else since.isoformat(),
        blockers=frozenset(blockers),
    )
