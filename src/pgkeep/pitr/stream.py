"""Receive WAL without end: supervise pg_receivewal, store what it writes, watch the slot."""

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg

from .. import errors as e
from ..model import wal
from ..postgres.connection import Connection, Endpoint
from ..progress import size
from ..stores.local import LocalStore
from . import receiver, slot
from .new_base import NewBase
from .receiver import Receiver
from .shipper import Shipper
from .slot import Look, SlotState
from .stream_report import StreamOptions, StreamReport

POLL = 0.5  # seconds between two looks at pg_receivewal
FLOOR = 0.05  # of the spool's file system, which stays free for others
LOW = 0.25  # of it: people are told, since receiving stops at the floor
ENOUGH = 20 << 30  # bytes above the floor: on a large disk, a quarter is a lot
FINISH = 30.0  # seconds for storing what is left at the end


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
        self.report = StreamReport(shipper, self._receiver, options, tell)

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
            self.report.remember()
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
                    self.report.note()
                self.report.write()
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
            self.report.solved("spool")
        except OSError as error:
            self.report.problem("spool", f"could not use the spool: {error}")
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + self._options.watch
                self.report.write()

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
            self.report.note()
            self.report.write()
        if (taken := self._new_base.poll(wanted=self.report.health.begins_window)) is not None:
            self._took(taken)
        self._shipper.remove()
        self.report.note()

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
                self.report.health.see(found)
                self._shipper.flushed(None if found.slot is None else found.slot.restart)
                if start and self._receiver.due and found.slot is not None:
                    pinned = self._endpoint.pinned(connection)
                    if self._ended:
                        self._switch(pinned, found)
                    self._start(pinned, found.slot)
            self._answers = True
            self.report.solved("server")
            if self._receiver.stable:
                self.report.solved("receiver")
        except (e.ConnectionFailed, psycopg.Error) as error:
            self.report.problem("server", f"the server does not answer: {error}")
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
            if missing and not self.report.health.begins_window:
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
            self.report.problem("slot", error.message)
            return
        self.report.solved("slot")
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
            self.report.problem("receiver", f"receiving ended{times}: {message}")

    def _lose(self, reason: str) -> None:
        """Begin again at the slot, because WAL is missing."""
        self._received.set_aside()
        self._shipper.jump()
        self._receiver.begin_again()
        self.report.break_window(reason)

    def _took(self, error: str) -> None:
        """Note the end of a base backup, which has no error or failed."""
        if error:
            self.report.problem("base", f"no base backup after WAL was missing: {error}")
            return
        self.report.health.heal()
        self.report.solved("base")
        self.report.solved("window")
        self._tell("a new base backup is stored: a new window begins")

    def _has_space(self) -> bool:
        """Whether the spool's disk has space; tell before it has not."""
        folder = self._received.folder
        usage = shutil.disk_usage(folder)
        share = usage.free / usage.total
        if share < FLOOR:
            text = f"{folder} has less than {FLOOR:.0%} free: WAL stays on the server"
            self.report.problem("disk", text)
        elif share < LOW and usage.free - FLOOR * usage.total < ENOUGH:
            text = f"{folder} has {size(usage.free)} free: receiving stops when less than"
            self.report.problem("disk", f"{text} {FLOOR:.0%} is free")
        else:
            self.report.solved("disk")
        return share >= FLOOR
