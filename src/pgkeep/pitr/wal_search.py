"""Fetch WAL into a folder, and find the point of a target in it, with as few segments as possible.

Commit times ascend with the position, nearly: segments are bisected, and read around the target.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import errors as e
from ..model.wal import PARTIAL, parse_history
from ..progress import Progress
from . import target, waldump
from .archive import WalArchive
from .plan import RecoveryPlan
from .target import SHOWN, Point, TargetKind
from .waldump import Commit, WalContents

_READ_AT_ONCE = 64 << 20  # bytes of segments: pg_waldump prints a line for each commit


class WalSearch:
    """The WAL of a plan, of which some segments are in a folder."""

    def __init__(
        self, plan: RecoveryPlan, archive: WalArchive, folder: Path, jobs: int, progress: Progress
    ) -> None:
        self._plan = plan
        self._archive = archive
        self._jobs = jobs
        self._progress = progress
        self._folder = folder
        self._size = archive.origin.segment_size
        self._names = plan.names
        self._there: set[str] = set()

    def find(self) -> Point:
        """Return the point of the target.

        Raises:
            Refused: the target is not in the WAL.
            VerificationFailed: a segment is damaged.
            StoreError: a segment could not be read.

        """
        self._progress.step("fetching WAL around the point")
        wanted, base = self._plan.target, self._plan.base
        match wanted.kind:
            case TargetKind.LATEST:
                contents = self._newest(SHOWN + 1)
            case TargetKind.TIME:
                assert wanted.time is not None  # noqa: S101 - the kind is time
                newest, time = self._newest(1), wanted.time
                own = [commit for commit in newest.commits if commit.lsn >= base.stop_lsn]
                if max((commit.time for commit in own), default=base.stopped) < time:
                    raise target.beyond(wanted, base, own, self._plan.missing)
                first = self._bisect(lambda own: min(commit.time for commit in own) > time)
                contents = self._forward(first)
            case TargetKind.LSN:
                assert wanted.lsn is not None  # noqa: S101 - the kind is lsn
                number = wanted.lsn // self._size - self._plan.segments[0].number
                contents = self._forward(max(0, min(number, len(self._names)) - 2))
            case TargetKind.XID:
                xid = wanted.xid or 0
                first = self._bisect(lambda own: max(commit.xid for commit in own) >= xid)
                contents = self._forward(first)
                if first and not any(commit.xid == xid for commit in contents.commits):
                    contents = self._forward(0)
            case _:
                contents = self._forward(0)
        return target.resolve(wanted, base, contents)

    def narrow(self, plan: RecoveryPlan) -> None:
        """Take another plan with fewer segments, and remove what it does not need."""
        self._plan, self._names = plan, plan.names
        for name in self._there - set(self._names):
            (self._folder / name.removesuffix(PARTIAL)).unlink(missing_ok=True)
        self._there &= set(self._names)

    def move_to(self, folder: Path) -> None:
        """Move all files into the directory in which the server finds them."""
        for path in self._folder.iterdir():
            path.replace(folder / path.name)

    def fetch_all(self) -> WalContents:
        """Fetch and read all segments and histories of the plan, and nothing else.

        Raises:
            VerificationFailed: a segment is damaged.
            StoreError: a file could not be read.

        """
        self._progress.step("fetching WAL")
        self._progress.total(len(self._names) * self._size)
        # That of the target has all switches. A promotion takes the first number that has none.
        for name in self._archive.files():
            if parse_history(name) is not None:
                self._stage(name)
        found = WalContents()
        for start in range(0, len(self._names), self._batch):
            read = self._read(start, min(start + self._batch, len(self._names)))
            read.commits.clear()
            found.add(read)
        return found

    @property
    def _batch(self) -> int:
        return max(self._jobs, _READ_AT_ONCE // self._size, 1)

    def _forward(self, first: int) -> WalContents:
        """Read from a segment on until no later one can change the point."""
        contents = WalContents()
        for start in range(first, len(self._names), self._batch):
            # A record can begin in the segment before.
            read = self._read(max(0, start - 1), min(start + self._batch, len(self._names)))
            contents.add(read)
            target.prune(self._plan.target, contents)
            if target.is_decided(self._plan.target, contents, read.commits):
                break
        return contents

    def _newest(self, count: int) -> WalContents:
        """Read from the end backwards until some commits after the base backup are found."""
        width = 1
        while True:
            first = max(0, len(self._names) - width)
            contents = self._read(first, len(self._names))
            if len(contents.commits) >= count or first == 0:
                return contents
            width *= 2

    def _bisect(self, is_after: Callable[[Sequence[Commit]], bool]) -> int:
        """Return a segment before the first one whose commits are after the target."""
        low, high = 0, len(self._names)
        while high - low > 1:
            middle = (low + high) // 2
            for number in range(middle, high):
                commits = self._read(number, number + 1).commits
                if commits:
                    break
            else:
                high = middle
                continue
            if is_after(commits):
                high = middle
            else:
                low = number
        # Commits that are shown, and some that are not in the order of their times.
        return max(0, low - 2)

    def _read(self, first: int, last: int) -> WalContents:
        """Read the segments from one up to another."""
        names = self._names[first:last]
        with ThreadPoolExecutor(self._jobs) as pool:
            list(pool.map(self._stage, names))
        complete = [name.removesuffix(PARTIAL) for name in names]
        return waldump.read(self._plan.programs, self._folder, complete, self._plan.target.xid)

    def _stage(self, name: str) -> None:
        if name in self._there:
            return
        data = self._archive.get(name)
        if data is None and name.endswith(PARTIAL):  # it is complete now
            data = self._archive.get(name.removesuffix(PARTIAL))
        if data is None:
            raise e.StoreError(f"{name} is missing in {self._archive.store.url}")
        stage(self._folder, name, data, self._size)
        self._there.add(name)
        self._progress.advance(self._size)


def stage(folder: Path, name: str, data: bytes, segment_size: int) -> None:
    """Write a file of the WAL archive; an unfinished segment is padded, and gets its full name."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / name.removesuffix(PARTIAL)
    if name.endswith(PARTIAL):
        data += bytes(segment_size - len(data))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with open(os.open(target, flags, 0o600), "wb") as file:  # noqa: PTH123
            file.write(data)
    except OSError as error:
        raise e.RestoreFailed(f"could not write {target}: {error.strerror}") from error
