"""Who waits for a lock because of pgkeep, and how far the replicas are behind."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo

from pgkeep.postgres.server import Server

INTERVAL = 0.05  # seconds between two looks

WAITING = """
select a.pid, a.application_name, l.mode, pg_blocking_pids(a.pid), a.query_start
from pg_stat_activity a
join pg_locks l on l.pid = a.pid and not l.granted
where a.datname is not null and a.wait_event_type = 'Lock'
"""
OURS = "select pid from pg_stat_activity where application_name like 'pgkeep%'"
LAG = """
select application_name, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::float8
from pg_stat_replication where replay_lsn is not null
"""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """One session that waited for a lock because of us."""

    application: str
    mode: str
    direct: bool  # for a lock of ours; otherwise queued behind a session that waits for us
    seconds: float


class Observer:
    """Looks at the server until the end of the with block."""

    def __init__(self, server: Server, database: str) -> None:
        self._conninfo = make_conninfo("", **server.params, dbname=database)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._open: dict[tuple[int, Any], tuple[float, str, str, bool]] = {}
        self.waits: list[Wait] = []
        self.lag: dict[str, float] = {}  # bytes, the largest
        self.failed: list[str] = []

    def reset(self) -> None:
        """Forget what was seen until now: another phase begins."""
        self.waits, self.lag = [], {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                while not self._stop.wait(INTERVAL):
                    self._look(connection)
        except psycopg.Error as error:
            self.failed.append(str(error))

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        now = time.monotonic()
        ours = {row[0] for row in connection.execute(OURS)}
        rows = connection.execute(WAITING).fetchall()
        blockers = {pid: set(blocked_by) for pid, _, _, blocked_by, _ in rows}
        caused: set[tuple[int, Any]] = set()
        for pid, application, mode, blocked_by, since in rows:
            if pid not in ours and reaches(pid, ours, blockers):
                key = (pid, since)
                caused.add(key)
                self._open.setdefault(
                    key, (now, application, mode, not ours.isdisjoint(blocked_by))
                )
        for key in self._open.keys() - caused:
            begun, application, mode, direct = self._open.pop(key)
            self.waits.append(
                Wait(application=application, mode=mode, direct=direct, seconds=now - begun)
            )
        for name, behind in connection.execute(LAG):
            self.lag[name] = max(self.lag.get(name, 0.0), behind)


def reaches(pid: int, ours: set[int], blockers: Mapping[int, set[int]]) -> bool:
    """Whether a session waits for one of ours, directly or through others."""
    seen: set[int] = set()
    pending = [pid]
    while pending:
        current = pending.pop()
        if current in ours:
            return True
        if current not in seen:
            seen.add(current)
            pending += blockers.get(current, ())
    return False
