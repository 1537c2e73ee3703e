"""Receive WAL without end: supervise pg_receivewal, store what it writes, watch the slot."""

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from .. import errors as e
from .. import processes
from ..model.wal import Lsn
from ..postgres.connection import Endpoint
from . import slot, stream_state
from .base import ServerState
from .shipper import Shipper
from .slot import SlotState
from .stream_state import SlotProgress, StoreProgress, StreamState

POLL = 0.5  # seconds between two looks at the folder
WATCH = 10.0  # longest time between two looks at the server, in seconds
FLOOR = 0.05  # of the spool's file system, which stays free for others
LONGEST_PAUSE = 30.0  # between two starts of pg_receivewal, in seconds


@dataclass(slots=True)
class Health:
    """How the receiver is doing; times are UTC."""

    receiving: bool = False
    position: Lsn | None = None  # the end of what every store has
    server: Lsn | None = None  # where the server writes
    seen_at: datetime | None = None  # when the server was asked
    complete_until: datetime | None = None  # as in StreamState
    slot: SlotState | None = None
    timeline: int | None = None
    waiting: int = 0  # complete segments that a store does not have
    restarts: int = 0  # of pg_receivewal
    problems: list[str] = field(default_factory=list)
    _seen: deque[tuple[datetime, Lsn]] = field(default_factory=lambda: deque(maxlen=1000))

    def see(self, now: datetime, server: Lsn) -> None:
        """Note where the server writes."""
        self.seen_at, self.server = now, server
        self._seen.append((now, server))

    def store(self, position: Lsn) -> None:
        """Note up to where every store has everything."""
        self.position = position
        while self._seen and self._seen[0][1] <= position:
            self.complete_until = self._seen.popleft()[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How to receive WAL."""

    programs: Path  # of the server's major version
    spool: Path
    state: Path  # the file for other commands on this host
    slot: str
    system_identifier: str
    watch: float = WATCH  # seconds between two looks at the server


class Stream:
    """Receives WAL until it is stopped."""

    def __init__(
        self, endpoint: Endpoint, shipper: Shipper, options: StreamOptions,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Store the parameters; `tell` reports changes of state to people."""
        self._endpoint = endpoint
        self._shipper = shipper
        self._options = options
        self._tell = tell
        self._stop = threading.Event()
        self._child: processes.Child | None = None
        self._pause = 1.0
        self._next_start = 0.0
        self.health = Health()

    def stop(self) -> None:
        """End `run` soon; what was received is stored before."""
        self._stop.set()

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Receive and store WAL until `stop`, or until a condition holds.

        Raises:
            Differs: a store has other WAL of this cluster: two servers write one history.
            Refused: the slot is lost, or the server is another cluster: a window is broken.

        """
        watched = 0.0
        try:
            while not self._stop.is_set() and not until():
                self._supervise()
                self._shipper.ship()
                looks = time.monotonic() - watched >= self._options.watch
                if looks:
                    self._watch()
                    watched = time.monotonic()
                self._note()
                if looks:
                    self._write()
                self._stop.wait(POLL)
        finally:
            self._end_child()
            self._shipper.ship()
            self._note()
            self._write()

    def _supervise(self) -> None:
        """Start pg_receivewal if it does not run, later each time, and not on a full disk."""
        usage = shutil.disk_usage(self._options.spool)
        full = usage.free < FLOOR * usage.total
        if self._child is not None and (self._child.running is False or full):
            self._end_child()
            self._next_start = time.monotonic() + self._pause
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
            self.health.restarts += 1
        if full:
            self._problem(f"{self._options.spool} has less than {FLOOR:.0%} free: WAL stays on the"
                          " server")  # fmt: skip
            return
        if self._child is None and time.monotonic() >= self._next_start:
            self._start_child()

    def _start_child(self) -> None:
        command = [
            str(self._options.programs / "pg_receivewal"), "--directory", str(self._options.spool),
            f"--slot={self._options.slot}", "--no-loop", "--no-password", "--synchronous",
        ]  # fmt: skip
        with self._endpoint.child() as access:
            self._child = processes.Child(
                [*command, *access.arguments], access.environment, access.descriptors
            )
            time.sleep(0.2)  # it reads the file with the password when it connects

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with suppress(e.ProgramFailed):
            if child.running:
                child.interrupt()
                child.finish()
            else:
                raise child.failure()
        child.close()

    def _watch(self) -> None:
        """Ask the server for its position and its slot; a lost slot ends the stream."""
        try:
            with self._endpoint.connect() as connection:
                found = ServerState(connection)
                if found.system_identifier != self._options.system_identifier:
                    raise e.Refused(
                        f"the server is the cluster {found.system_identifier}, expected"
                        f" {self._options.system_identifier}",
                        hint="Enable it under its own identifier: pgkeep pitr enable.",
                    )
                state = slot.state(connection, self._options.slot)
                now = datetime.now(UTC)  # before the position: what is written later is not in it
                self.health.see(now, slot.write_position(connection))
                self.health.slot = state
                self.health.timeline = slot.timeline(connection)
        except (e.ConnectionFailed, psycopg.Error) as error:
            self._problem(f"the server does not answer: {error}")
            return
        if state is None or state.lost:
            raise e.Refused(
                f"replication slot {self._options.slot} "
                + ("does not exist" if state is None else "is lost: the server removed WAL"),
                hint="WAL is missing from now on. Begin a new window: pgkeep pitr enable.",
            )
        self._shipper.received = state.restart
        self.health.problems.clear()
        self._pause = 1.0

    def _note(self) -> None:
        states = self._shipper.states
        health = self.health
        health.receiving = self._child is not None and self._child.running
        health.waiting = self._shipper.waiting
        positions = [state.position for state in states if state.position is not None]
        if len(positions) == len(states):
            health.store(min(positions))
        for state in states:
            if state.error is not None:
                self._problem(state.error.message)

    def _write(self) -> None:
        """Tell other commands on this host how it is."""
        health, options = self.health, self._options
        found = health.slot
        state = StreamState(
            pid=os.getpid(),
            written_at=datetime.now(UTC),
            system_identifier=options.system_identifier,
            receiving=health.receiving,
            position=_text(health.position),
            stores=[
                StoreProgress(
                    url=state.archive.store.url,
                    position=_text(state.position),
                    error=None if state.error is None else state.error.message,
                )
                for state in self._shipper.states
            ],
            server=_text(health.server),
            seen_at=health.seen_at,
            complete_until=health.complete_until,
            slot=SlotProgress(
                name=options.slot,
                status=None if found is None else found.status,
                safe_size=None if found is None else found.safe_size,
                restart=None if found is None else _text(found.restart),
            ),
            timeline=health.timeline,
            waiting=health.waiting,
            restarts=health.restarts,
            problems=health.problems,
        )
        with suppress(OSError):  # its time tells that it is old
            stream_state.write(options.state, state)

    def _problem(self, text: str) -> None:
        if text not in self.health.problems:
            self.health.problems.append(text)
            self._tell(text)


def _text(position: Lsn | None) -> str | None:
    return None if position is None else str(position)
