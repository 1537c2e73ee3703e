"""Give up a backup that does not advance, or whose snapshot becomes too old.

A thread ends the backup from outside, because every other thread can be waiting: it kills the
children and shuts down the sockets of the sessions. It never waits for the server itself.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import psycopg

from .. import errors as e
from .. import interrupts, processes
from ..postgres.connection import Connection, Endpoint, application_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a backup; None: no limit."""

    stall: float | None = None  # seconds without a byte from the server and without work on it
    snapshot_age: float | None = None  # seconds
    rate: float | None = None  # bytes of SQL per second


class Watch:
    """Watches one backup; `advanced` reports that something was read."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._over = threading.Event()
        self._armed = False
        self._advanced = 0.0  # time of the last progress
        self._snapshot: float | None = None  # since when it is held
        self._endpoint: Endpoint | None = None
        self._connections: list[Connection] = []  # all, so that no list of open ones is needed
        self._actions: list[Callable[[e.PgkeepError], None]] = []
        self._asking: threading.Thread | None = None
        self._asked = 0.0
        self.waits_for_store: Callable[[], bool] = lambda: False
        self.error: e.DumpFailed | None = None
        self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)

    @contextlib.contextmanager
    def connected(self, endpoint: Endpoint) -> Iterator[tuple[Connection, Endpoint]]:
        """Yield a connection, and the endpoint of its server whose sessions are watched too."""
        endpoint = self._endpoint = replace(endpoint, opened=self._connections.append)
        with self.armed():
            connection = endpoint.connect()
        with connection:
            self._endpoint = endpoint.pinned(connection)
            yield connection, self._endpoint

    def advanced(self) -> None:
        """Record that something was read from the server."""
        self._advanced = time.monotonic()

    def on_give_up(self, action: Callable[[e.PgkeepError], None]) -> None:
        """Register an action that is given the error; the newest action is the first."""
        self._actions.insert(0, action)

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Watch the server while the block runs; what waits for a store is not watched."""
        self.advanced()
        self._armed = True
        try:
            yield
        except Exception as error:
            if self.error is not None:
                raise self.error from error
            raise
        finally:
            self._armed = False
        if self.error is not None:
            raise self.error

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Limit the age of the snapshot that the block holds."""
        self._snapshot = time.monotonic()
        try:
            yield
        finally:
            self._snapshot = None

    def __enter__(self) -> Self:
        if self.limits.stall or self.limits.snapshot_age:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with interrupts.held():
            self._over.set()
            if self._thread.is_alive():
                self._thread.join()

    def _watch(self) -> None:
        limits = [limit for limit in (self.limits.stall, self.limits.snapshot_age) if limit]
        while not self._over.wait(min(1.0, *(limit / 20 for limit in limits))):
            error = self._exceeded()
            if error is not None:
                self._give_up(error)
                return

    def _exceeded(self) -> e.DumpFailed | None:
        now, limit, since = time.monotonic(), self.limits.snapshot_age, self._snapshot
        if limit is not None and since is not None and now - since > limit:
            return e.DumpFailed(
                f"the snapshot is older than {limit:g} s, the limit is BACKUP_MAX_SNAPSHOT_AGE",
                hint="A snapshot holds back VACUUM. Increase the limit, increase --jobs, or back"
                " up a standby.",
            )
        limit = self.limits.stall
        if limit is None or not self._armed:
            return None
        if self.waits_for_store():  # which has its own limits
            self.advanced()
        idle = now - self._advanced
        if idle > limit:
            return e.DumpFailed(
                f"the backup has not advanced for {limit:g} s: no byte arrived from the server, and"
                " no session of the backup worked there",
                hint="Check the network between this host and the server, or increase"
                " BACKUP_STALL_TIMEOUT.",
            )
        if idle > limit / 2 and now - self._asked > limit / 10:
            self._ask(now)
        return None

    def _ask(self, now: float) -> None:
        """Ask the server, without waiting for its answer, whether it works for the backup."""
        if self._asking is None or not self._asking.is_alive():
            self._asked = now
            self._asking = threading.Thread(target=self._answer, name="question", daemon=True)
            self._asking.start()

    def _answer(self) -> None:
        if self._endpoint is None:
            return
        # An answer that fails is none: then the limit decides.
        with contextlib.suppress(psycopg.Error, e.ConnectionFailed):
            try:
                with self._endpoint.connect(0) as connection:
                    if _works(connection, self._pids()):
                        self.advanced()
            except e.Crowded:
                # The server answers, and cannot be asked.
                self.advanced()

    def _pids(self) -> list[int]:
        return [each.info.backend_pid for each in [*self._connections] if not each.closed]

    def _give_up(self, error: e.DumpFailed) -> None:
        self.error = error
        for action in self._actions:
            action(error)
        processes.kill_all()
        for connection in [*self._connections]:
            _shut_down(connection)


def _works(connection: Connection, pids: list[int]) -> bool:
    """Whether a session of this run works. A session that waits for a lock has another limit."""
    row = connection.execute(
        """
        SELECT EXISTS (
            SELECT FROM pg_catalog.pg_stat_activity
            WHERE (application_name = %s OR pid = ANY (%s)) AND pid <> pg_catalog.pg_backend_pid()
              AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Client')
        """,
        [application_name(), pids],
    ).fetchone()
    return row is not None and bool(row[0])


def _shut_down(connection: Connection) -> None:
    """End a session from another thread, so that the thread that waits for it wakes up."""
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as duplicate,
    ):
        duplicate.shutdown(socket.SHUT_RDWR)
