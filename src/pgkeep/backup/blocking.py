"""Record which sessions wait for a backup, and give it up if one waits too long.

The server does not say this by itself, unless log_lock_waits is on: an ALTER that a backup blocks,
and the readers behind it, just wait.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from .. import errors as e
from .. import interrupts
from ..model.manifest import BlockedSession
from ..postgres import moved_names
from ..postgres.blocked import WaitingSession, end_session, end_sessions, find
from ..postgres.connection import Connection, Endpoint
from ..postgres.messages import one_line

_log = logging.getLogger(__name__)

RECORDED = 100  # waits in the manifest: the longest
# Seconds between two looks of the thread that gives up: a wait ends at most this much late.
INTERVAL = 0.25
PLANNING = "EXPLAIN"  # of a worker, which waits for at most 0.2 s


class BlockedSessions:
    """The sessions that wait for a backup now, and those that have waited."""

    def __init__(self) -> None:
        self._waiting: dict[WaitingSession, float] = {}  # -> when it was first seen
        self._ended: list[BlockedSession] = []

    def saw(self, sessions: list[WaitingSession]) -> None:
        """Record the sessions that wait now; all others have ended their wait."""
        now = time.monotonic()
        for session in self._waiting.keys() - sessions:
            self._end(session, now)
        for session in sessions:
            if session not in self._waiting:
                self._waiting[session] = now
                _log.warning("blocked by the backup: %s", session)

    def longest(self) -> tuple[WaitingSession, float] | None:
        """Return the session that has been waiting for the longest time, in seconds."""
        if not self._waiting:
            return None
        session, since = min(self._waiting.items(), key=lambda item: item[1])
        return session, time.monotonic() - since

    def released(self) -> None:
        """End all waits, because the locks have been released."""
        self.saw([])

    def recorded(self) -> list[BlockedSession]:
        """Return the longest waits, for the manifest."""
        ranked = sorted(self._ended, key=lambda wait: wait.seconds, reverse=True)
        return ranked[:RECORDED]

    def _end(self, session: WaitingSession, now: float) -> None:
        seconds = now - self._waiting.pop(session)
        _log.warning("no longer blocked by the backup, after %.1f s: %s", seconds, session)
        self._ended.append(
            BlockedSession(
                pid=session.pid,
                user=session.user,
                application=session.application,
                waits_for=session.waits_for,
                mode=session.mode,
                command=session.command,
                seconds=round(seconds, 1),
            )
        )
        if len(self._ended) > 2 * RECORDED:
            self._ended = self.recorded()


class LockWatch:
    """Look for blocked sessions while a backup holds its locks.

    Without a limit, the coordinator's connection looks, as long as it is idle, else one that is
    opened when needed. With a limit, a thread looks with its own connection from before the first
    lock: the coordinator can be busy for longer than the limit.
    """

    def __init__(
        self, endpoint: Endpoint, coordinator: int, sessions: BlockedSessions, limit: float | None
    ) -> None:
        self._endpoint = endpoint
        self._coordinator = coordinator
        self._sessions = sessions
        self._limit = limit
        self._observer: Connection | None = None
        self._stop = threading.Event()
        self._error: e.DumpFailed | None = None
        self.patient: set[int] = set()  # process ids of sessions of ours that do not wait for long

    def check(self) -> None:
        """Raise the reason if the backup was given up."""
        if self._error is not None:
            raise self._error

    def look(self, idle: Connection | None) -> None:
        """Record who waits, with the coordinator's connection if it is idle.

        Raises:
            Moved: none of us and of the sessions that wait for us can continue.

        """
        self.check()
        if self._limit is None:  # otherwise the thread looks
            self._look_by(idle)
            self.check()

    def _look_by(self, idle: Connection | None) -> None:
        if idle is not None:
            self._look(idle)
            return
        with suppress(psycopg.Error, e.ConnectionFailed):  # all connections can be in use
            if self._observer is None:
                self._observer = self._endpoint.connect(0)
            self._look(self._observer)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look during a block, which takes and releases the locks.

        Raises:
            DumpFailed: a session waited too long; this replaces the errors that follow from it.

        """
        thread = threading.Thread(target=self._watch, name="lock-watch", daemon=True)
        try:
            if self._limit is not None:
                self._observer = self._endpoint.connect()
                with interrupts.held():
                    thread.start()
            yield
        except Exception:
            self._close(thread)
            self.check()
            raise
        finally:
            self._close(thread)
        self.check()

    def _close(self, thread: threading.Thread) -> None:
        with interrupts.held():
            self._stop.set()
            if thread.ident is not None:
                thread.join(5)
            if self._observer is not None:
                self._observer.close()
            self._observer = None
            self._sessions.released()

    def _watch(self) -> None:
        assert self._observer is not None and self._limit is not None  # noqa: S101, PT018
        observer = self._observer
        while not self._stop.wait(INTERVAL):
            try:
                self._look(observer)
                longest = self._sessions.longest()
                if longest is not None and longest[1] >= self._limit:
                    self._error = _gave_up(*longest)
                    end_sessions(observer, self._coordinator)
            except psycopg.Error as error:
                self._error = self._error or e.DumpFailed(
                    f"lost the connection that looks for blocked sessions: {one_line(error)}"
                )
            if self._error is not None:
                return

    def _look(self, connection: Connection) -> None:
        found = find(connection, self._coordinator)
        self._sessions.saw(found.for_us)
        stuck = [
            session
            for session in found.stuck
            if session.pid not in self.patient and session.command != PLANNING
        ]
        if stuck:
            # At once: the server would end one of both after deadlock_timeout, maybe the other one.
            self._error = moved_names.Moved(
                f"a session that waits for the backup blocks it: {stuck[0]}"
            )
            end_session(connection, stuck[0].pid)


def _gave_up(session: WaitingSession, waited: float) -> e.DumpFailed:
    return e.DumpFailed(
        f"gave up after {waited:.0f} s of blocking another session: {session}",
        hint="Run the backup when no migration is running, or increase --yield-after.",
    )
