"""pg_receivewal under supervision: started again after a pause, ended with its supervisor."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from .. import processes
from ..postgres.connection import Endpoint

LONGEST_PAUSE = 30.0  # between two starts, in seconds
STABLE = 30.0  # seconds after which a start counts as successful
ENDING = 10.0  # seconds for it to end by itself
LOST = "has already been removed"  # what it asks for
# What it prints where a timeline ends at or before the position that it asks for. It follows a
# switch only while it is receiving.
SWITCHED = ("is not in this server's history", 'could not send replication command "START_REPL')


class Receiver:
    """One pg_receivewal at a time, which writes into a folder."""

    def __init__(self, programs: Path, folder: Path, slot: str) -> None:
        """Store the parameters; the programs are those of the server's major version."""
        self._programs = programs
        self._folder = folder
        self._slot = slot
        self._child: processes.Child | None = None
        self._since = 0.0
        self._pause = 1.0
        self._next_start = 0.0
        self.restarts = 0
        self.failures = 0  # in a row

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._child is not None and self._child.running

    @property
    def stable(self) -> bool:
        """Whether it has run for so long that earlier failures do not matter."""
        return self.running and time.monotonic() - self._since > STABLE

    @property
    def due(self) -> bool:
        """Whether it does not run, and can be started."""
        return self._child is None and time.monotonic() >= self._next_start

    def start(self, endpoint: Endpoint) -> None:
        """Start it.

        `--synchronous` makes the server know at once what is on our disk, except at the border of a
        segment: then only the status message reports it. An interrupted one is
        started by us, because only we can check first which server it is.
        """
        command = [
            str(self._programs / "pg_receivewal"), "--directory", str(self._folder),
            f"--slot={self._slot}", "--no-loop", "--no-password", "--synchronous",
            "--status-interval=1",
        ]  # fmt: skip
        with endpoint.child() as access:
            self._child = processes.Child(
                [*command, *access.arguments], access.environment, access.descriptors
            )
            self._since = time.monotonic()
            if not access.descriptors:
                time.sleep(0.2)  # a file with the password lasts until it has connected

    def failure(self) -> str | None:
        """Return why it ended, if it ended; it can be started again after a pause."""
        child = self._child
        if child is None or child.running:
            return None
        found = child.failure()
        self.stop()
        if time.monotonic() - self._since > STABLE:
            self.failures, self._pause = 0, 1.0
        self.failures += 1
        self.restarts += 1
        self._next_start = time.monotonic() + self._pause
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        return found.message

    def begin_again(self) -> None:
        """Let the next start be at once, because what it fails for has changed."""
        self._next_start, self._pause = 0.0, 1.0

    def stop(self) -> None:
        """End it; what it has received is on the disk."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.running:
            with suppress(ProcessLookupError):
                child.interrupt()
            deadline = time.monotonic() + ENDING
            while child.running and time.monotonic() < deadline:
                time.sleep(0.02)
        child.close()

    def end_orphans(self) -> None:
        """End those of killed supervisors: one holds the slot, and would go on for ever."""
        for number in (signal.SIGINT, signal.SIGKILL):
            deadline = time.monotonic() + ENDING
            while (found := self._orphans()) and time.monotonic() < deadline:
                for pid in found:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(0.05)

    def _orphans(self) -> list[int]:
        """Return the processes that receive into this folder, where the system shows them."""
        ours = {os.fsencode(self._folder), f"--slot={self._slot}".encode()}
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if ours <= {*file.read_bytes().split(b"\0")}:
                    found.append(int(file.parent.name))
        return found


def is_lost(message: str) -> bool:
    """Whether the server has no longer what was asked for; nothing but a new window helps."""
    return LOST in message


def may_be_switched(message: str) -> bool:
    """Whether the timeline of what was asked for can have ended."""
    return not is_lost(message) and any(text in message for text in SWITCHED)
