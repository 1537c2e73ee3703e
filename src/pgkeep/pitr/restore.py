"""Restore a cluster to a point in time: choose, fetch, check, put together, recover, prove."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .. import errors as e
from ..crypt.options import Encryption
from ..model import wal
from ..model.wal import PARTIAL, Segment, segment_of
from ..progress import Progress
from ..progress import size as shown
from . import bases, installation, target, waldump
from .archive import WalArchive, histories
from .base_manifest import BaseManifest
from .location import Location
from .recovery import Proof, RecoveredServer, raised, stage_wal
from .target import Point, Target, TargetKind
from .waldump import WalContents

BATCH = 32  # segments that are fetched and read at once


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    """Everything that a restore to a point needs, decided before anything is changed."""

    location: Location
    target: Target
    chain: Sequence[BaseManifest]  # the full base backup first
    path: wal.Path
    segments: Sequence[Segment]  # that may be needed, without a gap
    partial: str | None  # the unfinished segment after them
    programs: Path

    @property
    def base(self) -> BaseManifest:
        """The base backup at which recovery begins."""
        return self.chain[-1]

    @property
    def base_bytes(self) -> int:
        """Bytes that the base backups need on the disk."""
        return sum(base.size for base in self.chain) + (
            self.base.size if len(self.chain) > 1 else 0
        )

    @property
    def wal_bytes(self) -> int:
        """Bytes of WAL on the disk, at most."""
        return len(self.segments) * self.base.segment_size


def make_plan(
    location: Location, wanted: Target, encryption: Encryption, timeline: int | None = None
) -> RecoveryPlan:
    """Choose a base backup and the WAL for a target; only names and manifests are read.

    Raises:
        Refused: the target cannot be reached: no base backup before it, a gap, a missing history.
        UsageError: the programs of the cluster's version are not installed.

    """
    archive = location.archive(encryption)
    size = archive.origin.segment_size
    known = location.bases().read()
    found = histories(archive)
    present = archive.segments()
    path = _path(found, present, timeline)
    runs = wal.extents(path, present, size)
    reachable = {
        name: end
        for name, base in known.items()
        if (end := target.end_of_wal(base, runs)) is not None
    }
    chosen = target.candidates(known, wanted, path, reachable)[0]
    chain = bases.chain_of(chosen, known)
    first = segment_of(chosen.timeline, chosen.start_lsn, size).number
    last = reachable[chosen.name] // size - 1
    segments = [
        Segment(path.timeline_at_segment(number, size), number) for number in range(first, last + 1)
    ]
    partial = Segment(path.timeline, last + 1).name(size) + PARTIAL
    return RecoveryPlan(
        location=location,
        target=wanted,
        chain=chain,
        path=path,
        segments=segments,
        partial=partial if archive.files().get(partial) else None,
        programs=installation.folder_of(chosen.major, installation.FOR_RESTORE),
    )


def _path(
    found: Mapping[int, Sequence[wal.Switch]], present: Sequence[Segment], timeline: int | None
) -> wal.Path:
    """Return the way to a timeline, by default to the newest one.

    Raises:
        Refused: the archive has no WAL, or a history is missing.

    """
    if not present:
        raise e.Refused("the archive has no WAL", hint="pgkeep pitr stream receives it.")
    newest = max({segment.timeline for segment in present} | set(found))
    wanted = newest if timeline is None else timeline
    if wanted > 1 and wanted not in found:
        raise e.Refused(
            f"the history of timeline {wanted} is missing in the archive: {wanted:08X}.history",
            hint="Without it, recovery would stop at the end of an older timeline. Choose another"
            " one with --timeline=N.",
        )
    return wal.Path(wanted, tuple(found.get(wanted, ())))


class Fetched:
    """The WAL of a plan in a folder, read as far as the target requires."""

    def __init__(self, plan: RecoveryPlan, archive: WalArchive, folder: Path, jobs: int) -> None:
        self._plan = plan
        self._archive = archive
        self._jobs = jobs
        self.folder = folder
        self.contents = WalContents([], [], {})

    def fetch(self, progress: Progress) -> Point:
        """Fetch WAL until the target is decided; return the point.

        Raises:
            Refused: the target is not in the WAL.
            VerificationFailed: a segment is damaged.
            StoreError: a segment could not be read.

        """
        size = self._archive.origin.segment_size
        names = [segment.name(size) for segment in self._plan.segments]
        if self._plan.partial is not None:
            names.append(self._plan.partial)
        progress.step("fetching WAL")
        progress.total(len(names) * size)
        self._stage([f"{switch:08X}.history" for switch in self._timelines()], progress)
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            self._stage(batch, progress)
            self._read([name.removesuffix(PARTIAL) for name in batch])
            if self._is_decided():
                break
        return target.resolve(
            self._plan.target, self._plan.base, self.contents.commits, self.contents.restore_points
        )

    def _timelines(self) -> list[int]:
        own = [switch.parent for switch in self._plan.path.switches] + [self._plan.path.timeline]
        return [timeline for timeline in own if timeline > 1]

    def _stage(self, names: Sequence[str], progress: Progress) -> None:
        size = self._archive.origin.segment_size

        def one(name: str) -> None:
            data = self._archive.get(name)
            if data is None and name.endswith(PARTIAL):  # it is complete now
                data = self._archive.get(name.removesuffix(PARTIAL))
            if data is None:
                raise e.StoreError(f"{name} is missing in {self._archive.store.url}")
            stage_wal(self.folder, {name: data}, size)
            progress.advance(size)

        with ThreadPoolExecutor(self._jobs) as pool:
            list(pool.map(one, names))

    def _read(self, names: Sequence[str]) -> None:
        """Read the commits of segments; a timeline is read by itself."""
        for timeline in dict.fromkeys(name[:8] for name in names):
            own = [name for name in names if name.startswith(timeline)]
            found = waldump.read(self._plan.programs, self.folder, own)
            seen = {commit.lsn for commit in self.contents.commits}
            self.contents.commits.extend(c for c in found.commits if c.lsn not in seen)
            self.contents.restore_points.extend(found.restore_points)
            for name, value in found.settings.items():
                highest = max(self.contents.settings.get(name, 0), value)
                self.contents.settings[name] = highest

    def _is_decided(self) -> bool:
        """Whether no later WAL can change the point; commits are not sorted by time."""
        wanted = self._plan.target
        if wanted.kind is TargetKind.TIME:
            assert wanted.time is not None  # noqa: S101 - the kind is time
            later = [commit for commit in self.contents.commits if commit.time > wanted.time]
            return len(later) > 100
        if wanted.kind is TargetKind.XID:
            return any(commit.xid == wanted.xid for commit in self.contents.commits[:-1])
        if wanted.kind is TargetKind.LSN:
            assert wanted.lsn is not None  # noqa: S101 - the kind is lsn
            return any(commit.lsn > wanted.lsn for commit in self.contents.commits)
        return False


@contextlib.contextmanager
def working_folder(beside: Path) -> Iterator[Path]:
    """Yield a private folder on the file system of the target; it is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=".pgkeep-pitr-", dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_directory(directory: Path, plan: RecoveryPlan) -> None:
    """Refuse a directory that is in use, and one without room.

    Raises:
        Refused: it is not empty, its parent does not exist, or space is short.

    """
    if not directory.parent.is_dir():
        raise e.Refused(f"directory {directory.parent} does not exist")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise e.Refused(
            f"{directory} is not an empty directory",
            hint="Restore into a new directory; nothing is ever restored over a cluster.",
        )
    needed = plan.base_bytes + plan.wal_bytes
    free = shutil.disk_usage(directory.parent).free
    if free < needed:
        raise e.Refused(
            f"{directory.parent} has {shown(free)} free, the restore needs {shown(needed)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A cluster that was recovered to a point."""

    server: RecoveredServer
    point: Point
    proof: Proof


@contextlib.contextmanager
def recovered(
    plan: RecoveryPlan, directory: Path, encryption: Encryption, jobs: int, progress: Progress
) -> Iterator[Recovered]:
    """Restore a cluster into a directory and recover it; the server runs inside the block.

    Raises:
        Refused, VerificationFailed, StoreError, RestoreFailed: the directory is removed.

    """
    check_directory(directory, plan)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(working_folder(directory.parent))
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgkeep-pitr-")))
        run.chmod(0o700)
        work.chmod(0o755)
        fetched = Fetched(plan, plan.location.archive(encryption), work / "wal", jobs)
        point = fetched.fetch(progress)
        with _removed_after_failure(directory):
            bases.assemble(
                plan.location.base, plan.chain, plan.programs, directory, work / "chain",
                encryption.keys, jobs, progress,
            )  # fmt: skip
            settings = raised(*(base.settings for base in plan.chain), fetched.contents.settings)
            server = RecoveredServer(plan.programs, directory, work / "wal", run, settings)
            stack.enter_context(server)
            progress.step("recovering")
            proof = server.recover(point, plan.path.timeline)
        yield Recovered(server=server, point=point, proof=proof)


@contextlib.contextmanager
def _removed_after_failure(directory: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def preview(
    plan: RecoveryPlan, encryption: Encryption, jobs: int, progress: Progress
) -> tuple[Point, WalContents]:
    """Return the point of a plan and the commits around it, and leave nothing behind.

    Raises:
        Refused: the target is not in the WAL.

    """
    with working_folder(Path(tempfile.gettempdir())) as work:
        fetched = Fetched(plan, plan.location.archive(encryption), work / "wal", jobs)
        return fetched.fetch(progress), fetched.contents
