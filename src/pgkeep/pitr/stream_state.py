"""What the receiver last knew of itself: a file in its spool, for other commands on this host."""

import contextlib
import os
from datetime import datetime
from pathlib import Path

import msgspec

from .. import errors as e
from ..model.manifest import Moment
from ..model.unreadable import UNREADABLE

NAME = "stream.json"
FRESH = 30.0  # seconds after which a state is outdated; it is written every 10 s
_LIMIT = 1 << 20  # bytes


class StoreProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What one store has."""

    url: str
    position: str | None = None  # LSN up to which it has everything since the receiver began
    error: str | None = None  # why it does not get more


class SlotProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What the server reports about the slot."""

    name: str
    status: str | None = None  # reserved, extended, unreserved, lost; None: it does not exist
    safe_size: int | None = None  # bytes until WAL may get lost; None: no limit
    restart: str | None = None  # LSN from which on the server keeps WAL


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """WAL that is missing for ever: a window ended, and another one begins after it."""

    since: Moment  # UTC: everything until then is stored
    reason: str
    healed_at: Moment | None = None  # when a base backup had begun a new window


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """How a receiver is doing; all times are UTC, all positions LSNs."""

    format: int = 1
    pid: int
    written_at: Moment
    system_identifier: str
    receiving: bool  # pg_receivewal runs
    position: str | None = None  # up to which every store has everything
    stores: list[StoreProgress] = []
    server: str | None = None  # where the server wrote at `seen_at`
    seen_at: Moment | None = None
    # Everything that the server had written at this time is in every store. On an idle server it is
    # the last look at it.
    complete_until: Moment | None = None
    slot: SlotProgress | None = None
    timeline: int | None = None
    waiting: int = 0  # complete segments that a store does not have
    restarts: int = 0  # of pg_receivewal, since the receiver began
    broken: list[Break] = []  # oldest first
    problems: list[str] = []

    def lag(self, now: datetime) -> float | None:
        """Return the age in seconds of the oldest change that may not be stored; None: unknown."""
        if self.complete_until is None:
            return None
        return max(0.0, (now - self.complete_until).total_seconds())

    def reasons(self, now: datetime, max_lag: float) -> list[str]:
        """Return why changes may be lost; nothing if all is well.

        Without a limit in seconds, unfinished segments are not stored, and their age is unknown.
        """
        found = [f"a window is broken: {last.reason}" for last in self.broken if not last.healed_at]
        lag = self.lag(now)
        if max_lag and lag is None:
            found.append("nothing is stored yet")
        elif max_lag and lag is not None and lag > max_lag:
            found.append(
                f"the newest {lag:.0f} s may not be stored, expected {max_lag:g} s at most"
            )
        elif not max_lag and not self.receiving:
            found.append("pg_receivewal does not run")
        return [*found, *self.problems] if found else []


def path_in(spool: Path) -> Path:
    """Return the file of the cluster whose spool this is."""
    return spool / NAME


def write(path: Path, state: StreamState) -> None:
    """Replace the file, in one step; it needs no fsync, since it is of use for seconds only.

    Raises:
        OSError: it cannot be written, for example on a full disk.

    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(state) + b"\n")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read(path: Path) -> StreamState | None:
    """Read the file; None if it does not exist.

    Raises:
        VerificationFailed: it has another form.
        StoreError: it cannot be read.

    """
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise e.StoreError(f"could not read {path}: {error.strerror}") from error
    return parse(data, path)


def parse(data: bytes, path: Path) -> StreamState:
    """Read the contents of the file.

    Raises:
        VerificationFailed: they have another form.

    """
    try:
        return msgspec.json.decode(data, type=StreamState)
    except UNREADABLE as error:
        raise e.VerificationFailed(f"{path} is not the state of a receiver: {error}") from error
