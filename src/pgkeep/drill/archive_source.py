"""The base backups and the WAL archive of pgkeep, as a source of a drill's points."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import errors as e
from ..crypt.options import Encryption
from ..model import wal
from ..model.wal import segment_of
from ..pitr import windows
from ..pitr.archive import WalArchive, histories
from ..pitr.base_manifest import BaseManifest
from ..pitr.location import Location
from ..pitr.plan import make_plan, plan_of
from ..pitr.restore import RestoreOptions, recovered
from ..pitr.target import Target, TargetKind
from ..progress import Progress
from .pitr_result import Engine
from .points import Facts, RecoveredPoint, Window


@dataclass(frozen=True, slots=True)
class ArchiveSource:
    """Base backups and WAL in one store."""

    location: Location
    encryption: Encryption

    @property
    def facts(self) -> Facts:
        """Of which cluster they are."""
        own = self.location.facts
        return Facts(Engine.PGKEEP, own.system_identifier, own.name, self.location.url)

    def window(self) -> Window:
        """Return what can be restored: files that are damaged or missing are findings.

        Raises:
            UsageError: the programs of the cluster's version are missing.
            StoreError: the files cannot be listed.

        """
        found = Window()
        catalog = self.location.bases()
        known = catalog.read()
        found.findings += catalog.unreadable
        archive = self.location.archive(self.encryption)
        with _damage_noted(found):
            _examine(archive, list(known.values()), found)
            if known:
                plan = plan_of(self.location, archive, known, Target(TargetKind.LATEST))
                found.needed = plan.base_bytes + plan.wal_bytes
                runs = _runs(archive, plan.path)
                usable = windows.windows(known, plan.path, runs)
                found.since = usable[-1].since if usable else None
        return found

    @contextlib.contextmanager
    def recovered(
        self, target: Target, directory: Path, jobs: int, progress: Progress
    ) -> Iterator[RecoveredPoint]:
        """Recover the cluster in a new directory; the server runs inside the block.

        Raises:
            Refused, VerificationFailed, StoreError, RestoreFailed: it cannot be recovered.

        """
        plan = make_plan(self.location, target, self.encryption)
        options = RestoreOptions(keep=False)
        with recovered(plan, directory, self.encryption, jobs, progress, options) as found:
            yield RecoveredPoint(
                server=found.server, proof=found.proof, programs=plan.programs,
                base=found.plan.base.name, version=found.plan.base.version,
            )  # fmt: skip


@contextlib.contextmanager
def _damage_noted(window: Window) -> Iterator[None]:
    try:
        yield
    except e.OtherKey:
        raise
    except (e.VerificationFailed, e.Refused) as error:
        window.findings.append(error.message)


def _examine(archive: WalArchive, known: list[BaseManifest], window: Window) -> None:
    """Report gaps in the WAL: after the newest base backup they lose the newest commits.

    An older gap ends a window, and base backups after it begin the next one.
    """
    path = windows.newest_path(histories(archive), archive.segments())
    if path is None:
        return
    size = archive.origin.segment_size
    begins = [segment_of(base.timeline, base.start_lsn, size).number for base in known]
    expected = min(begins, default=0)
    for run in _runs(archive, path):
        if known and run.first.number > expected:
            numbers = range(expected, run.first.number)
            lost = max(begins) < run.first.number
            text = f"{_names(path, numbers, size)} missing in {archive.store.url}"
            (window.findings if lost else window.warnings).append(text)
        expected = max(expected, run.last.number + 1)


def _names(path: wal.Path, numbers: range, size: int) -> str:
    first, last = (path.segment(number, size).name(size) for number in (numbers[0], numbers[-1]))
    return f"WAL segment {first} is" if first == last else f"WAL segments {first} to {last} are"


def _runs(archive: WalArchive, path: wal.Path) -> list[wal.Extent]:
    return wal.extents(path, archive.segments(), archive.origin.segment_size)
