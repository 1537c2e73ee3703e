"""How a receiver of WAL is doing: what people are told, and the file for other commands."""

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .. import errors as e
from ..model.wal import Lsn
from . import stream_state
from .receiver import Receiver
from .shipper import Shipper
from .slot import Look, SlotState
from .stream_state import Break, SlotProgress, StoreProgress, StreamState

WATCH = 10.0  # longest time between two looks at the server, in seconds
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


class StreamReport:
    """Notes how the receiver, the stores and the server are, and reports changes."""

    def __init__(
        self, shipper: Shipper, receiver: Receiver, options: StreamOptions,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Store the parameters; `tell` reports changes of state to people."""
        self._shipper = shipper
        self._receiver = receiver
        self._options = options
        self._tell = tell
        self.health = Health()

    def remember(self) -> None:
        """Take over the breaks that an earlier process has found."""
        with suppress(e.PgkeepError):
            former = stream_state.read(self._options.state)
            if former is not None:
                self.health.broken = former.broken
                if self.health.begins_window:
                    self.problem("window", f"a window is broken: {former.broken[-1].reason}")

    def note(self) -> None:
        """Note what is received and stored now, and what prevents it."""
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
                self.break_window(gap)
            if state.error is None:
                self.solved(url)
            elif url in self.health.found:  # told once: each attempt names another file
                self.health.found[url] = state.error.message
            else:
                self.problem(url, state.error.message)

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

    def write(self) -> None:
        """Tell other commands on this host how it is."""
        with suppress(OSError):  # its time tells that it is old
            stream_state.write(self._options.state, self.state)

    def break_window(self, reason: str) -> None:
        """Note and report that WAL is missing."""
        self.health.break_window(reason)
        self.problem("window", f"WAL is missing, a window is broken: {reason}")

    def problem(self, what: str, text: str) -> None:
        """Note a problem of something, and report it unless it is known."""
        if self.health.found.get(what) != text:
            self.health.found[what] = text
            self._tell(text)

    def solved(self, what: str) -> None:
        """Note that something has no problem."""
        self.health.found.pop(what, None)


def _text(position: Lsn | None) -> str | None:
    return None if position is None else str(position)
