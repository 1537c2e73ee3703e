"""Store what pg_receivewal has received: complete segments, histories, and the newest seconds.

A received file is removed only after every store has it. The newest complete segment stays until a
later one is complete: pg_receivewal reads the position to continue from the names.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import errors as e
from ..model import wal
from ..model.wal import PARTIAL, Lsn
from .archive import WalArchive

ATTEMPTS_PAUSE = 30.0  # longest pause between attempts with a store that fails, in seconds


@dataclass(slots=True)
class StoreState:
    """What one store has received, and why not more."""

    archive: WalArchive
    position: Lsn | None = None  # the end of what is stored
    error: e.PgkeepError | None = None
    pause: float = 0.0
    next_attempt: float = 0.0  # monotonic
    done: set[str] = field(default_factory=set)  # files that it has
    partial: tuple[str, int] | None = None  # name and time of change of the last partial
    length: int = 0  # of its bytes without the zeros at its end


class Shipper:
    """Stores the files of a folder of pg_receivewal."""

    def __init__(
        self,
        folder: Path,
        archives: Sequence[WalArchive],
        *,
        max_lag: float,
        stored: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Store the parameters; `max_lag` is in seconds, 0 stores no unfinished segments."""
        self._folder = folder
        self._size = archives[0].origin.segment_size
        self._max_lag = max_lag
        self._stored = stored
        self.received: Lsn | None = None  # up to here, the server knows that it is on our disk
        self.states = [StoreState(archive) for archive in archives]

    def ship(self) -> None:
        """Store what is new, in every store that does not have to wait after a failure.

        Raises:
            Differs: a store has other WAL under the same name: two servers write one history.
            VerificationFailed: a received file is not one of this cluster.

        """
        names = sorted(path.name for path in self._folder.iterdir())
        # Histories first: without them nothing after a promotion can be found.
        histories = [name for name in names if wal.parse_history(name) is not None]
        complete = [name for name in names if self._is_complete(name)]
        for state in self.states:
            if time.monotonic() < state.next_attempt:
                continue
            try:
                for name in (*histories, *complete):
                    self._put(state, name)
                self._put_partials(state, [name for name in names if name.endswith(PARTIAL)])
                state.error, state.pause = None, 0.0
            except e.Differs:
                raise
            except e.StoreError as error:
                state.error = error
                state.pause = min(ATTEMPTS_PAUSE, max(1.0, 2 * state.pause))
                state.next_attempt = time.monotonic() + state.pause
        self._remove(complete)

    @property
    def waiting(self) -> int:
        """The number of complete segments that at least one store does not have."""
        names = [path.name for path in self._folder.iterdir() if self._is_complete(path.name)]
        return sum(any(name not in state.done for state in self.states) for name in names)

    def _is_complete(self, name: str) -> bool:
        if wal.parse_segment(name, self._size) is None:
            return False
        return (self._folder / name).stat().st_size == self._size

    def _put(self, state: StoreState, name: str) -> None:
        if name in state.done:
            return
        data = (self._folder / name).read_bytes()
        if state.archive.put(name, data):
            self._stored(name)
        state.done.add(name)
        segment = wal.parse_segment(name, self._size)
        if segment is not None:
            state.archive.remove_partial(name + PARTIAL)
            end = segment.end(self._size)
            state.position = end if state.position is None else Lsn(max(state.position, end))

    def _put_partials(self, state: StoreState, names: Sequence[str]) -> None:
        """Store the unfinished segments if they have changed, the newest timeline last."""
        if not self._max_lag:
            return
        for name in names:
            path, received = self._folder / name, self.received
            try:
                changed = path.stat().st_mtime_ns
                if state.partial != (name, changed):
                    data = path.read_bytes()
                    if len(data) != self._size:
                        continue  # it is being created
                    data = data.rstrip(b"\0")
                    if data and state.archive.put_partial(name, data):
                        self._stored(name)
                    state.partial, state.length = (name, changed), len(data)
            except FileNotFoundError:  # it is complete now, and has another name
                continue
            segment = wal.parse_segment(name.removesuffix(PARTIAL), self._size)
            if segment is not None:
                # What was received before the file was read is in it.
                end = _end(segment.start(self._size), state.length, self._size, received)
                state.position = end if state.position is None else Lsn(max(state.position, end))

    def _remove(self, complete: Sequence[str]) -> None:
        for name in complete[:-1]:
            if all(name in state.done for state in self.states):
                (self._folder / name).unlink(missing_ok=True)


def _end(start: Lsn, length: int, size: int, received: Lsn | None) -> Lsn:
    """Return up to where an unfinished segment has WAL.

    Records are padded to 8 bytes. A record can end with more zeros, as the rest of the file does:
    only the server knows then that it was received.
    """
    end = start + (length + 7) // 8 * 8
    if received is not None and start <= received <= start + size:
        end = max(end, received)
    return Lsn(end)
