"""Store what pg_receivewal has received: complete segments, histories, and the newest seconds.

Each store has its own thread, so that a slow or dead one does not delay the others. A received file
is removed only after every store has it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import errors as e
from ..model import wal
from ..model.wal import PARTIAL, Lsn
from .archive import WalArchive, parse_stored
from .received import Received

POLL = 0.5  # seconds between two looks at the folder
LONGEST_PAUSE = 30.0  # between attempts with a store that fails, in seconds
TICK = 100_000_000  # ns; the times of files are less exact than the clock
TIDY = 3600.0  # seconds between two attempts to remove unfinished segments that were retained


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often unfinished segments are stored."""

    max_lag: float  # seconds; 0: never

    @property
    def interval(self) -> float:
        """Seconds between two uploads of an unfinished segment.

        The newest change waits for as long, then for the upload: that may take most of the lag.
        """
        return max(1.0, self.max_lag / 4)

    @property
    def longest_pause(self) -> float:
        """Seconds after which a store that fails is tried again."""
        return min(LONGEST_PAUSE, self.interval) if self.max_lag else LONGEST_PAUSE


class StoreShipper:
    """Stores received files in one store."""

    def __init__(
        self, archive: WalArchive, received: Received, pace: Pace,
        register: Callable[[WalArchive], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """Store the parameters; `register` is called when the store answers."""
        self.archive = archive
        self.reached: tuple[int, Lsn] | None = None  # timeline and end of what is stored
        self.gap: str | None = None  # WAL that it does not have, and will not get
        self.may_jump = False  # the next gap is known already
        self.error: e.PgkeepError | None = None  # why it does not get more
        self.done: set[str] = set()  # files that it has
        self.flushed: Lsn | None = None  # up to here, the server knows what is on our disk
        self.newest: wal.Segment | None = None  # complete one, when the store was listed
        self._received = received
        self._pace = pace
        self._register = register
        self._partials: dict[str, tuple[int, int]] = {}  # time of change, length without zeros
        self._listed = False
        self._next_partial = 0.0  # monotonic
        self._next_tidy = 0.0

    def ship(self, *, at_once: bool = True) -> bool:
        """Store what is new; return whether everything is stored.

        Unfinished segments are stored only as often as required, unless `at_once`.

        Raises:
            Differs: the store has other WAL under the same name: two servers write one history.
            VerificationFailed: a received file is not one of this cluster.
            StoreError: the store failed.

        """
        if not self._listed:
            self._begin()
        files = self._files()
        self.done.intersection_update(files)
        # Histories first: without them nothing after a promotion can be found.
        histories = sorted(name for name in files if wal.parse_history(name) is not None)
        complete = self._received.complete(files)
        for name in (*histories, *complete):
            if name not in self.done:
                self._put(name, files[name])
        whole = self._put_partials(files, at_once=at_once)
        if self.archive.retains and time.monotonic() >= self._next_tidy:
            self.archive.tidy()
            self._next_tidy = time.monotonic() + TIDY
        if complete and complete[0] > self.archive.forgotten:
            self.archive.forget_before(complete[0])
        return whole

    def _begin(self) -> None:
        """Remove or keep what a killed process left, and look where to continue."""
        self._register(self.archive)
        store, owner = self.archive.store, self.archive.origin.system_identifier
        store.sweep(lambda name: parse_stored(name) is not None, owner)
        self.archive.tidy()
        segments = self.archive.segments()
        store.sync()
        if segments:
            self.newest = segments[-1]
            self._reached(self.newest, self.newest.end(self._received.size))
        self._listed = True

    @property
    def listed(self) -> bool:
        """Whether the store has answered since the beginning."""
        return self._listed

    def _files(self) -> dict[str, Path]:
        try:
            return self._received.files()
        except OSError as error:
            raise _unreadable(error) from error

    def _put(self, name: str, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(error) from error
        self.archive.put(name, data)
        self.done.add(name)
        segment = wal.parse_segment(name, self._received.size)
        if segment is not None:
            self.archive.remove_partial(name + PARTIAL)
            self._partials.pop(name + PARTIAL, None)
            self._reached(segment, segment.end(self._received.size))

    def has(self, name: str, path: Path) -> bool:
        """Whether the store has a file as it is now; an unfinished segment can have changed."""
        if name not in self.done or not name.endswith(PARTIAL):
            return name in self.done
        with suppress(FileNotFoundError):
            return self._partials.get(name, (0, 0))[0] == path.stat().st_mtime_ns
        return False

    def _put_partials(self, files: dict[str, Path], *, at_once: bool) -> bool:
        """Store the unfinished segments that have changed; return whether all are stored."""
        size, whole = self._received.size, True
        names = sorted(name for name in files if name.endswith(PARTIAL))
        self._partials = {name: self._partials[name] for name in names if name in self._partials}
        for name in names:
            segment = wal.parse_segment(name.removesuffix(PARTIAL), size)
            final = files[name].parent == self._received.earlier
            if segment is None or not (self._pace.max_lag or final):
                continue
            flushed = self.flushed if name == names[-1] else None  # before the file is read
            try:
                status = files[name].stat()
                if status.st_size != size:
                    continue  # it is being created
                if self._partials.get(name, (0, 0))[0] != status.st_mtime_ns:
                    whole = False
                    if not (at_once or final) and time.monotonic() < self._next_partial:
                        continue
                    self._put_partial(name, files[name], status.st_mtime_ns)
            except FileNotFoundError:  # it is complete now, and has another name
                whole = False
                continue
            except OSError as error:
                raise _unreadable(error) from error
            self.done.add(name)
            self._reached(segment, _end(segment, self._partials[name][1], size, flushed))
        return whole

    def _put_partial(self, name: str, path: Path, changed: int) -> None:
        self._next_partial = time.monotonic() + self._interval
        # Another change in the same tick of the clock does not change the time.
        known = changed if time.time_ns() - changed > TICK else 0
        data = path.read_bytes().rstrip(b"\0")
        if data:
            self.archive.put_partial(name, data)
        self._partials[name] = (known, len(data))

    @property
    def _interval(self) -> float:
        # What cannot be removed accumulates.
        return self._pace.interval * (2 if self.archive.retains else 1)

    def _reached(self, segment: wal.Segment, end: Lsn) -> None:
        """Note what is stored; of a former timeline, the end does not matter any more."""
        start = segment.start(self._received.size)
        if self.reached is not None and start > self.reached[1]:
            if not self.may_jump:
                url = self.archive.store.url
                self.gap = f"{url} does not have WAL from {self.reached[1]} to {start}"
            self.may_jump = False
        self.reached = max((segment.timeline, end), self.reached or (0, Lsn(0)))


class Shipper:
    """Stores the received files in every store."""

    def __init__(
        self,
        received: Received,
        archives: Sequence[WalArchive],
        *,
        max_lag: float,
        register: Callable[[WalArchive], None] = lambda _: None,
    ) -> None:
        """Store the parameters; `max_lag` is in seconds, 0 stores no unfinished segments.

        `register` is called when a store answers for the first time.
        """
        self.received = received
        self._pace = Pace(max_lag=max_lag)
        self.states = [
            StoreShipper(archive, received, self._pace, register) for archive in archives
        ]
        self._ending = threading.Event()
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        self._fatal: list[BaseException] = []

    def start(self) -> None:
        """Store in the background, until `finish`."""
        for state in self.states:
            name = f"store in {state.archive.store.url}"
            # A daemon: one that waits for a dead store must not hold up our end.
            thread = threading.Thread(target=self._work, args=(state,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def finish(self, seconds: float) -> list[StoreShipper]:
        """Store what is left, for at most some seconds; return the stores that lack something."""
        self._ending.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        alive = [thread.is_alive() for thread in self._threads]
        return [
            state for state, waits in zip(self.states, alive, strict=False)
            if waits or state.error is not None
        ]  # fmt: skip

    def check(self) -> None:
        """Raise what cannot pass by itself.

        Raises:
            Differs: a store has other WAL under the same name: two servers write one history.
            VerificationFailed: a received file is not one of this cluster.

        """
        if self._fatal:
            raise self._fatal[0]

    def flushed(self, position: Lsn | None) -> None:
        """Note up to where the server knows that WAL is on our disk."""
        for state in self.states:
            state.flushed = position

    def jump(self) -> None:
        """Expect a gap: a window is broken."""
        for state in self.states:
            state.may_jump = True

    def remove(self) -> None:
        """Remove what every store has."""
        self.received.remove(lambda name, path: all(state.has(name, path) for state in self.states))

    @property
    def waiting(self) -> int:
        """The number of complete segments that at least one store does not have."""
        names = self.received.complete(self.received.files())
        return sum(any(name not in state.done for state in self.states) for name in names)

    @property
    def newest(self) -> wal.Segment | None:
        """The newest complete segment that a store had at the beginning."""
        known = [state.newest for state in self.states if state.newest is not None]
        return max(known, default=None)

    @property
    def listed(self) -> bool:
        """Whether a store has answered since the beginning."""
        return any(state.listed for state in self.states)

    def _work(self, state: StoreShipper) -> None:
        for pause in self._pauses(state):
            self._ending.wait(pause)
            ending = self._ending.is_set()
            try:
                whole = state.ship(at_once=ending)
                state.error = None
            except (e.Differs, e.VerificationFailed) as error:
                state.error = error
                self._fatal.append(error)
                return
            except e.StoreError as error:
                state.error = error
                if ending:
                    return
            except BaseException as error:  # noqa: BLE001 - raised by `check`
                self._fatal.append(error)
                return
            if ending and state.error is None and whole:
                return

    def _pauses(self, state: StoreShipper) -> Iterator[float]:
        """Yield seconds to wait before each attempt, more after each failure."""
        pause = 0.0
        while True:
            yield pause
            if state.error is None:
                pause = POLL
            else:
                pause = min(self._pace.longest_pause, max(1.0, 2 * pause))


def _end(segment: wal.Segment, length: int, size: int, flushed: Lsn | None) -> Lsn:
    """Return up to where an unfinished segment has WAL.

    Records are padded to 8 bytes. A record can end with more zeros, as the rest of the file does:
    only the server knows then that it was received.
    """
    end = segment.start(size) + (length + 7) // 8 * 8
    if flushed is not None and segment.start(size) <= flushed <= segment.end(size):
        end = max(end, flushed)
    return Lsn(end)


def _unreadable(error: OSError) -> e.StoreError:
    return e.StoreError(f"could not read {error.filename}: {error.strerror}")
