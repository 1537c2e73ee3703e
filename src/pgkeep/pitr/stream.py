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

import msgspec
import psycopg

from .. import errors as e
from ..model import wal
from ..model.wal import Lsn
from ..postgres.connection import Connection, Endpoint
from ..progress import size
from ..stores.local import LocalStore
from . import receiver, slot, stream_state
from .new_base import NewBase
from .receiver import Receiver
from .shipper import Shipper
from .slot import Look, SlotState
from .stream_state import Break, SlotProgress, StoreProgress, StreamState

POLL = 0.5  # seconds between two looks at pg_receivewal
WATCH = 10.0  # longest time between two looks at the server, in seconds
FLOOR = 0.05  # of the spool's file system, which stays free for others
LOW = 0.25  # of it: people are told, since receiving stops at the floor
ENOUGH = 20 << 30  # bytes above the floor: on a large disk, a quarter is a lot
FINISH = 30.0  # seconds for storing what is left at the end
BREAKS = 20  # that are remembered


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
    broken: list[Break] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)  # problems by what has them
    # When the server was asked, with its timeline and position; only what is not stored yet.
    _seen: deque[tuple[datetime, tuple[int, Lsn]]] = field(
        default_factory=lambda: deque(maxlen=1000)
    )

    @property
    def problems(self) -> list[str]:
        """What is wrong now."""
        return [*self.found.values()]

    @property
    def begins_window(self) -> bool:
        """Whether WAL is missing, and no base backup was taken since."""
        return bool(self.broken) and self.broken[-1].healed_at is None

    def see(self, found: Look) -> None:
        """Note what the server says."""
        self.seen_at, self.server = found.at, found.position
        self.slot, self.timeline = found.slot, found.timeline
        self._seen.append((found.at, (found.timeline, found.position)))

    def store(self, reached: tuple[int, Lsn]) -> None:
        """Note up to which timeline and position every store has everything."""
        self.position = reached[1]
        while self._seen and self._seen[0][1] <= reached:
            self.complete_until = self._seen.popleft()[0]

    def break_window(self, reason: str) -> None:
        """Note that WAL is missing from now on, once until a base backup begins a new window."""
        if not self.begins_window:
            since = self.complete_until or datetime.now(UTC)
            self.broken = [*self.broken, Break(since=since, reason=reason)][-BREAKS:]

    def heal(self) -> None:
        """Note that a base backup was taken after WAL was missing."""
        now = datetime.now(UTC)
        self.broken = [
            found if found.healed_at else msgspec.structs.replace(found, healed_at=now)
            for found in self.broken
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How to receive WAL."""

    programs: Path  # of the server's major version
    state: Path  # the file for other commands on this host
    slot: str
    system_identifier: str
    watch: float = WATCH  # seconds between two looks at the server


class Stream:
    """Receives WAL until it is stopped."""

    def __init__(
        self, endpoint: Endpoint, shipper: Shipper, options: StreamOptions,
        tell: Callable[[str], None], take_base: Callable[[], None],
    ) -> None:  # fmt: skip
        """Store the parameters; `tell` reports changes of state to people."""
        self._endpoint = endpoint
        self._shipper = shipper
        self._options = options
        self._tell = tell
        self._received = shipper.received
        self._receiver = Receiver(options.programs, self._received.folder, options.slot)
        self._new_base = NewBase(take_base)
        self._stop = threading.Event()
        self._answers = True  # the server
        self._ended = ""  # why what is asked for can be on another timeline
        self._next_look = 0.0
        self.health = Health()

    def stop(self) -> None:
        """End `run` soon; what was received is stored before."""
        self._stop.set()

    def run(
        self, until: Callable[[], bool] = lambda: False, polled: Callable[[], None] = lambda: None
    ) -> None:
        """Receive and store WAL until `stop`, or until a condition holds; call `polled` each time.

        Raises:
            AlreadyRunning: another process receives into this spool.
            Differs: a store has other WAL of this cluster: two servers write one history.
            VerificationFailed: what was received is not WAL of this cluster.
            Refused: the server is another cluster.
            StoreError: a store did not get all that was received before the end.

        """
        spool = LocalStore(self._received.folder.parent)
        with spool.lock("lock") as alone:
            if not alone:  # pg_receivewal of two processes would write the same files
                raise e.AlreadyRunning(
                    f"another process receives WAL into {spool.url}",
                    hint="Only one pgkeep pitr stream runs for a cluster.",
                )
            self._remember()
            self._receiver.end_orphans()
            self._shipper.start()
            try:
                while not self._stop.is_set() and not until():
                    self._poll()
                    polled()
                    self._stop.wait(POLL)
            finally:
                self._receiver.stop()
                lacking = self._shipper.finish(FINISH)
                with suppress(OSError):  # reported before
                    self._shipper.remove()
                    self._note()
                self._write()
        self._shipper.check()
        for state in lacking:
            store = state.archive.store.url
            reason = state.error.message if state.error else "it does not answer"
            raise e.StoreError(
                f"{store} did not get all received WAL: {reason}",
                hint=f"It stays in {self._received.folder} until pgkeep pitr stream runs again.",
            )

    def _poll(self) -> None:
        """Do the next step; a disk that fails is like a store that fails."""
        try:
            self._step()
            self._solved("spool")
        except OSError as error:
            self._problem("spool", f"could not use the spool: {error}")
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + self._options.watch
                self._write()

    def _step(self) -> None:
        self._shipper.check()
        if (message := self._receiver.failure()) is not None:
            self._failed(message)
            self._next_look = 0.0
        space = self._has_space()
        if not space:
            self._receiver.stop()
        # Without a position to continue from, the stores are asked for it.
        known = self._shipper.listed or self._received.next is not None
        start = space and self._receiver.due and known
        if time.monotonic() >= self._next_look or (start and self._answers):
            self._look(start=start)
            self._note()
            self._write()
        if (taken := self._new_base.poll(wanted=self.health.begins_window)) is not None:
            self._took(taken)
        self._shipper.remove()
        self._note()

    def _look(self, *, start: bool) -> None:
        """Ask the server for its position and its slot, and start pg_receivewal if it is due."""
        name = self._options.slot
        self._answers = False
        try:
            with self._endpoint.connect() as connection:
                found = slot.look(connection, name)
                self._check_cluster(found)
                if found.slot is None or found.slot.lost:
                    self._renew(connection, found.slot)
                    found = slot.look(connection, name)
                self.health.see(found)
                self._shipper.flushed(None if found.slot is None else found.slot.restart)
                if start and self._receiver.due and found.slot is not None:
                    pinned = self._endpoint.pinned(connection)
                    if self._ended:
                        self._switch(pinned, found)
                    self._start(pinned, found.slot)
            self._answers = True
            self._solved("server")
            if self._receiver.stable:
                self._solved("receiver")
        except (e.ConnectionFailed, psycopg.Error) as error:
            self._problem("server", f"the server does not answer: {error}")
        self._next_look = time.monotonic() + self._options.watch

    def _check_cluster(self, found: Look) -> None:
        if found.system_identifier != self._options.system_identifier:
            raise e.Refused(
                f"the server is the cluster {found.system_identifier}, expected"
                f" {self._options.system_identifier}",
                hint="Enable it under its own identifier: pgkeep pitr enable.",
            )

    def _switch(self, pinned: Endpoint, found: Look) -> None:
        """Continue on the next timeline, where it left the one that was received.

        pg_receivewal does not, if it is started where the timeline has ended: at the border of a
        segment, or beyond, if it received more than the server that was promoted.
        """
        reason, self._ended = self._ended, ""
        received = self._received.next
        if received is None or received.timeline >= found.timeline:
            return
        switches = slot.history(pinned, found.timeline)
        following = [*(switch.parent for switch in switches[1:]), found.timeline]
        for switch, timeline in zip(switches, following, strict=True):
            number = switch.position // self._received.size
            if switch.parent == received.timeline and number <= received.number:
                self._received.set_aside()
                self._received.continue_with(wal.Segment(timeline, number))
                self._tell(f"timeline {received.timeline} ended at {switch.position}: receiving"
                           f" timeline {timeline}")  # fmt: skip
                return
        if received.timeline not in (switch.parent for switch in switches):
            self._lose(reason)

    def _start(self, pinned: Endpoint, found: SlotState) -> None:
        """Start pg_receivewal where the stores end, if there is nothing to continue here.

        The slot alone can begin later: what was received and not stored may have got lost here.
        """
        received, newest = self._received, self._shipper.newest
        received.prepare()
        if received.begins:
            self._shipper.jump()
        elif received.next is None and newest is not None and found.restart is not None:
            missing = newest.next.number < found.restart // received.size
            if missing and not self.health.begins_window:
                received.continue_with(newest.next)
        self._receiver.start(pinned)

    def _renew(self, connection: Connection, found: SlotState | None) -> None:
        """Create the slot again. Whether WAL is missing, the next start of pg_receivewal shows."""
        name = self._options.slot
        self._receiver.stop()
        try:
            if found is not None:
                slot.drop(connection, name)
            slot.create(connection, name)
        except e.Refused as error:
            self._problem("slot", error.message)
            return
        self._solved("slot")
        self._receiver.begin_again()
        how = "did not exist" if found is None else "was lost: the server has removed its WAL"
        self._tell(f"replication slot {name} {how}; it is created again")

    def _failed(self, message: str) -> None:
        """Tell that pg_receivewal ended, less often the more often; begin anew if WAL is lost."""
        count = self._receiver.failures
        self._ended = message if receiver.may_be_switched(message) else ""
        if receiver.is_lost(message):
            self._lose(message)
        elif count.bit_count() == 1:
            times = f" {count} times in a row" if count > 1 else ""
            self._problem("receiver", f"receiving ended{times}: {message}")

    def _lose(self, reason: str) -> None:
        """Begin again at the slot, because WAL is missing."""
        self._received.set_aside()
        self._shipper.jump()
        self._receiver.begin_again()
        self._break(reason)

    def _break(self, reason: str) -> None:
        self.health.break_window(reason)
        self._problem("window", f"WAL is missing, a window is broken: {reason}")

    def _took(self, error: str) -> None:
        """Note the end of a base backup, which has no error or failed."""
        if error:
            self._problem("base", f"no base backup after WAL was missing: {error}")
            return
        self.health.heal()
        self._solved("base")
        self._solved("window")
        self._tell("a new base backup is stored: a new window begins")

    def _has_space(self) -> bool:
        """Whether the spool's disk has space; tell before it has not."""
        folder = self._received.folder
        usage = shutil.disk_usage(folder)
        share = usage.free / usage.total
        if share < FLOOR:
            self._problem("disk", f"{folder} has less than {FLOOR:.0%} free: WAL stays on the"
                          " server")  # fmt: skip
        elif share < LOW and usage.free - FLOOR * usage.total < ENOUGH:
            self._problem("disk", f"{folder} has {size(usage.free)} free: receiving stops when less"
                          f" than {FLOOR:.0%} is free")  # fmt: skip
        else:
            self._solved("disk")
        return share >= FLOOR

    def _remember(self) -> None:
        """Take over the breaks that an earlier process has found."""
        with suppress(e.PgkeepError):
            former = stream_state.read(self._options.state)
            if former is not None:
                self.health.broken = former.broken
                if self.health.begins_window:
                    self._problem("window", f"a window is broken: {former.broken[-1].reason}")

    def _note(self) -> None:
        states = self._shipper.states
        health = self.health
        health.receiving = self._receiver.running
        health.waiting = self._shipper.waiting
        reached = [state.reached for state in states if state.reached is not None]
        if len(reached) == len(states):
            health.store(min(reached))
        for state in states:
            url = state.archive.store.url
            if state.gap is not None:
                gap, state.gap = state.gap, None
                self._break(gap)
            if state.error is None:
                self._solved(url)
            elif url in self.health.found:  # told once: each attempt names another file
                self.health.found[url] = state.error.message
            else:
                self._problem(url, state.error.message)

    @property
    def state(self) -> StreamState:
        """How it is doing now."""
        health, options = self.health, self._options
        found = health.slot
        return StreamState(
            pid=os.getpid(),
            written_at=datetime.now(UTC),
            system_identifier=options.system_identifier,
            receiving=health.receiving,
            position=_text(health.position),
            stores=[
                StoreProgress(
                    url=state.archive.store.url,
                    position=_text(state.reached[1] if state.reached else None),
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
            restarts=self._receiver.restarts,
            broken=health.broken,
            problems=health.problems,
        )

    def _write(self) -> None:
        """Tell other commands on this host how it is."""
        with suppress(OSError):  # its time tells that it is old
            stream_state.write(self._options.state, self.state)

    def _problem(self, what: str, text: str) -> None:
        if self.health.found.get(what) != text:
            self.health.found[what] = text
            self._tell(text)

    def _solved(self, what: str) -> None:
        self.health.found.pop(what, None)


def _text(position: Lsn | None) -> str | None:
    return None if position is None else str(position)
