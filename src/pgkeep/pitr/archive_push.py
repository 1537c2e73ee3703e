"""What `pgkeep pitr push` stores: in every required store before it is acknowledged.

Another store gets the files afterwards, as they are stored in the first one: encrypted files are
copied without a private key.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .. import errors as e
from ..model import wal
from ..model.wal import PARTIAL, Lsn
from ..stores.store import Store, read_all, write_file
from ..task_group import for_each
from .archive import HISTORY_LIMIT, StoredFile, WalArchive, parse_stored
from .wal_file import Origin

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds between attempts with a store that fails


@dataclass(slots=True)
class Destination:
    """A store that must have a file before it is acknowledged."""

    archive: WalArchive
    prepare: Callable[[], None]  # before its first file, and after a failure
    prepared: bool = False
    error: e.PgkeepError | None = None

    def put(self, name: str, data: bytes) -> None:
        """Store a file; the same one again is no error."""
        try:
            if not self.prepared:
                self.prepare()
                self.prepared = True
            self.archive.put(name, data)
            self.error = None
        except e.StoreError as error:
            self.error = error
            self.prepared = False
            raise


class Pusher:
    """Stores one file after the other: only one thread uses it."""

    def __init__(
        self, required: Sequence[Destination], copies: "Sequence[Copier]", origin: Origin
    ) -> None:
        """Store the parameters."""
        self.required = required
        self.copies = copies
        self.end: Lsn | None = None  # of the newest segment
        self.timeline: int | None = None
        self.ends: deque[tuple[Lsn, datetime]] = deque(maxlen=1000)  # when the server was there
        self._origin = origin

    def size_problem(self, name: str, size: int) -> str | None:
        """Return why a file of this name and size is not accepted."""
        segment_size = self._origin.segment_size
        if wal.parse_segment(name.removesuffix(PARTIAL), segment_size) is not None:
            if size != segment_size:
                return f"{name}: found {size} bytes, expected {segment_size}"
            return None
        if wal.parse_history(name) is None and not wal.is_backup_label(name):
            return f"{name!r} is not the name of a WAL file"
        if size > HISTORY_LIMIT:
            return f"{name}: found {size} bytes, expected at most {HISTORY_LIMIT}"
        return None

    def push(self, name: str, data: bytes, changed: datetime) -> None:
        """Store a file; afterwards every required store has it durably.

        `changed` is the time of its last change.

        Raises:
            Differs: a store has a file of this name with other bytes.
            VerificationFailed: it is no file of this cluster's WAL.
            StoreError: it could not be stored.

        """
        if name.endswith(PARTIAL):  # stored as the receiver stores it
            data = data.rstrip(b"\0")
        for_each(
            self.required,
            [None] * len(self.required),
            lambda destination, worker, group: destination.put(name, data),
            name="push",
        )
        self._note(name, changed)
        for copier in self.copies:
            for found in self.required[0].archive.files()[name]:
                copier.add(found)

    def _note(self, name: str, changed: datetime) -> None:
        segment = wal.parse_segment(name, self._origin.segment_size)
        if segment is None:
            return
        end = segment.end(self._origin.segment_size)
        if self.end is None or self.end < end:
            self.end, self.timeline = end, segment.timeline
            # The server wrote into it at this time, so nothing after its end existed.
            self.ends.append((end, min(changed, datetime.now(UTC))))


@dataclass(slots=True)
class Copier:
    """Copies what the first store has to another one, as often as it takes."""

    source: Store
    target: Store
    origin: Origin
    prepare: Callable[[], None]
    pauses: Sequence[float] = PAUSES
    error: e.PgkeepError | None = None
    _pending: deque[str] | None = None  # None: to be found out
    _added: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    _stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def waiting(self) -> int:
        """The number of files that the other store does not have."""
        return len(self._pending or ()) + self._added.qsize()

    @property
    def complete(self) -> bool:
        """Whether the other store has everything."""
        return self._pending is not None and not self.waiting

    def add(self, found: StoredFile) -> None:
        """Copy a new file soon."""
        self._added.put(found.stored)

    def stop(self) -> None:
        """End `run` after the file that is being copied."""
        self._stopped.set()
        self._added.put("")

    def run(self) -> None:
        """Copy until it is stopped."""
        failures = 0
        while not self._stopped.is_set():
            try:
                self._copy()
                self.error, failures = None, 0
                added = self._added.get()
                if added and self._pending is not None:
                    self._pending.append(added)
            except e.PgkeepError as error:
                self.error, self._pending = error, None
                self._stopped.wait(self.pauses[min(failures, len(self.pauses) - 1)])
                failures += 1

    def _copy(self) -> None:
        if self._pending is None:
            while not self._added.empty():
                self._added.get()  # the listing has it
            self.prepare()
            self._pending = deque(missing_in(_names(self.source), _names(self.target)))
        while self._pending and not self._stopped.is_set():
            stored = self._pending[0]
            # Retention has removed it meanwhile, or another service has copied it.
            with suppress(e.Missing, e.Exists), closing(self.source.open(stored)) as source:
                limit = 2 * max(self.origin.segment_size, HISTORY_LIMIT)  # encrypted, too
                if source.size > limit:
                    raise e.VerificationFailed(
                        f"{source.name}: found more than {limit} bytes, expected a WAL file"
                    )
                data = read_all(source)
                owner = self.origin.system_identifier
                write_file(self.target, stored, data, owner=owner, new=True)
            self._pending.popleft()


def _names(store: Store) -> list[str]:
    return [item.name for item in store.items()]


def missing_in(source: Sequence[str], target: Sequence[str]) -> list[str]:
    """Return the files of the WAL that a store does not have, histories first.

    Raises:
        Differs: it has another file under the name of one of them.

    """
    has = {found.name: found for found in map(parse_stored, target) if found is not None}
    missing = []
    for found in filter(None, map(parse_stored, source)):
        other = has.get(found.name)
        if other is not None and other.sha256 != found.sha256 and not found.name.endswith(PARTIAL):
            raise e.Differs(
                f"the other store has {found.name} with other contents: {other.stored}",
                hint="Two servers have archived WAL of one cluster. Move the wrong file away.",
            )
        if other is None or other.sha256 != found.sha256:
            missing.append(found)
    missing.sort(key=lambda found: (wal.parse_history(found.name) is None, found.name))
    return [found.stored for found in missing]
