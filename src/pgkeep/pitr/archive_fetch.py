"""What `pgkeep pitr fetch` gets: a checked file, or whether its absence is the end of the archive.

PostgreSQL takes "absent" for the end of the WAL, and a server that recovers is promoted there. So
it is only said of what lies beyond the newest archived segment, after a listing of every store.
"""

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .. import errors as e
from ..model import wal
from ..model.wal import PARTIAL, Segment
from .archive import WalArchive
from .wal_file import Origin

AHEAD = 256 << 20  # bytes of segments that are fetched before PostgreSQL asks for them
PLAIN = 64 << 20  # bytes of segments that are decompressed at the same time
THREADS = 4
KEPT = 4  # segments that stay after PostgreSQL had them: it asks for the last ones again
PAUSES = (0.5, 2.0, 5.0)  # seconds between attempts
LISTED = 1.0  # seconds for which a listing is used to say that a file is absent


class Absent(Exception):
    """The archive ends before this file."""


@dataclass(slots=True)
class Source:
    """A store of the archive."""

    archive: WalArchive
    check: Callable[[], None]  # that an empty listing is no lost mount: raises StoreError
    listed: float = 0.0  # monotonic; 0: not, or without success
    names: frozenset[str] = frozenset()  # then
    newest: dict[int, int] = field(default_factory=dict)  # segment by timeline, ever seen


def is_end(name: str, archived: Iterable[str], size: int) -> bool:
    """Whether the absence of a file means that the archive ends before it."""
    if wal.parse_history(name) is not None:
        return True
    segment = wal.parse_segment(name, size)
    if segment is None:
        return False
    found = [parsed for each in archived if (parsed := wal.parse_segment(each, size)) is not None]
    own = [each.number for each in found if each.timeline == segment.timeline]
    # Without any segment of this timeline, those of its successors show where it went on.
    later = [each.number for each in found if each.timeline > segment.timeline] if not own else []
    return segment.number > max([*own, *later], default=-1)


class Fetcher:
    """Fetches files, and those that PostgreSQL will ask for next."""

    def __init__(
        self, sources: Sequence[Source], folder: Path, origin: Origin,
        pauses: Sequence[float] = PAUSES,
    ) -> None:  # fmt: skip
        """Store the parameters; files of the folder are removed."""
        size = origin.segment_size
        self._sources = sources
        self._size = size
        self._pauses = pauses
        self._ahead = max(2, min(16, AHEAD // size))
        self._spool = Spool(folder, self._ahead + KEPT)
        self._threads = ThreadPoolExecutor(max(1, min(THREADS, PLAIN // size)), "fetch")
        self._loading: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._listing = threading.Lock()

    def close(self) -> None:
        """Fetch nothing any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def fetch(self, name: str) -> BinaryIO:
        """Return a file whose size, checksum and header were checked.

        Raises:
            Absent: the archive ends before it.
            VerificationFailed: it is damaged, or missing within the archive.
            StoreError: a store cannot be read.
            PgkeepError: it cannot be decrypted.

        """
        while True:
            self._obtain(name)
            file = self._spool.open(name)
            if file is not None:  # else others have taken its place already
                break
        if name.endswith(PARTIAL):
            self._spool.discard(name)  # it can change
        segment = wal.parse_segment(name, self._size)
        if segment is not None:
            self._fetch_ahead(segment)
        return file

    def _fetch_ahead(self, segment: Segment) -> None:
        for _ in range(self._ahead):
            segment = segment.next
            name = segment.name(self._size)
            if self._spool.has(name):
                continue
            with self._lock:
                if name in self._loading:
                    continue
            if not any(name in source.names for source in self._sources):
                continue
            self._threads.submit(self._obtain_ahead, name)

    def _obtain_ahead(self, name: str) -> None:
        with contextlib.suppress(e.PgkeepError, Absent):  # who asks for it gets the error
            self._obtain(name)

    def _obtain(self, name: str) -> None:
        """Put a file into the spool; only one thread reads it."""
        with self._lock:
            if self._spool.has(name):
                return
            loading = self._loading.get(name)
            ours = loading is None
            if loading is None:
                loading = self._loading[name] = Future()
        if ours:
            try:
                self._spool.add(name, self._read(name))
                loading.set_result(None)
            except BaseException as error:  # noqa: BLE001 - passed to all who wait
                loading.set_exception(error)
            finally:
                with self._lock:
                    del self._loading[name]
        loading.result()

    def _read(self, name: str) -> bytes:
        for pause in (*self._pauses, None):
            try:
                return self._read_once(name)
            except e.StoreError:
                if pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError

    def _read_once(self, name: str) -> bytes:
        data = self._get(name)
        if data is None and self._is_archived(name):  # since the last listing
            data = self._get(name)
            if data is None:
                for source in self._sources:
                    source.listed = 0.0
                raise e.Missing(f"{name} is listed, and no store has it")
        if data is None:
            raise self._absence(name)
        return data + bytes(self._size - len(data) if name.endswith(PARTIAL) else 0)

    def _get(self, name: str) -> bytes | None:
        """Return a file of the first store that has it undamaged; None if no store has it.

        Raises:
            StoreError: a store cannot be read.
            VerificationFailed: no store has it undamaged.

        """
        errors: list[e.PgkeepError] = []
        for source in self._sources:
            try:
                self._list(source)
                data = source.archive.get(name)
            except e.PgkeepError as error:
                errors.append(error)
                continue
            if data is not None:
                return data
        # Of several, the one that can pass is reported: it is tried again.
        errors.sort(key=lambda error: not isinstance(error, e.StoreError))
        if errors:
            raise errors[0]
        return None

    def _is_archived(self, name: str) -> bool:
        """Whether a store lists a file now.

        Raises:
            StoreError: a store cannot be listed, so nothing is known.

        """
        for source in self._sources:
            self._list(source, LISTED)
        return any(name in source.names for source in self._sources)

    def _absence(self, name: str) -> Exception:
        """Return what it means that no store has a file."""
        archived = frozenset[str]().union(*(source.names for source in self._sources))
        if not is_end(name, archived, self._size):
            return e.VerificationFailed(
                f"{name} is missing in the WAL archive, which does not end there",
                hint="pgkeep pitr windows lists the gaps.",
            )
        more = ""
        if name + PARTIAL in archived:
            more = f"; {name}{PARTIAL} has newer changes, which pgkeep pitr restore uses"
        return Absent(f"the WAL archive ends before {name}{more}")

    def _list(self, source: Source, seconds: float | None = None) -> None:
        """List a store, unless that was done within some seconds, or at all."""
        with self._listing:
            now = time.monotonic()
            if source.listed and (seconds is None or now - source.listed < seconds):
                return
            source.listed = 0.0
            source.archive.refresh()
            names = frozenset(list(source.archive.files()))
            source.check()
            newest: dict[int, int] = {}
            for parsed in (wal.parse_segment(name, self._size) for name in names):
                if parsed is not None:
                    newest[parsed.timeline] = max(newest.get(parsed.timeline, 0), parsed.number)
            if any(newest.get(timeline, -1) < known for timeline, known in source.newest.items()):
                raise e.StoreError(
                    f"{source.archive.store.url} has lost its newest WAL",
                    hint="Check that the directory is mounted, and that nobody removed files.",
                )
            source.newest, source.names, source.listed = newest, names, now


class Spool:
    """A folder of fetched files, up to a number.

    A new file takes the place of the one that PostgreSQL had for the longest time, if it had more
    than `KEPT`, else of the oldest one.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Create the folder, or empty it: a file of a killed run can be incomplete."""
        self._folder = folder
        self._limit = limit
        self._names: OrderedDict[str, bool] = OrderedDict()  # whether PostgreSQL had it
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        with self._lock:
            return name in self._names

    def open(self, name: str) -> BinaryIO | None:
        """Open a file; it can be read to its end even if it is removed meanwhile."""
        with self._lock:
            if name not in self._names:
                return None
            self._names[name] = True
            self._names.move_to_end(name)
            return (self._folder / name).open("rb")

    def add(self, name: str, data: bytes) -> None:
        """Add a file.

        Raises:
            StoreError: it cannot be written.

        """
        with self._lock:
            while len(self._names) >= self._limit:
                had = [found for found, served in self._names.items() if served]
                self._remove(had[0] if len(had) > KEPT else next(iter(self._names)))
        path = self._folder / name
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123
                file.write(data)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise e.StoreError(
                f"could not write {path}: {error.strerror}", hint="Free space in the spool."
            ) from error
        with self._lock:
            self._names[name] = False

    def discard(self, name: str) -> None:
        """Remove a file."""
        with self._lock:
            if name in self._names:
                self._remove(name)

    def _remove(self, name: str) -> None:
        del self._names[name]
        (self._folder / name).unlink(missing_ok=True)
