"""The repository of pgBackRest, as a source of a drill's points.

pgBackRest restores the files and reads its archive. Recovery is that of pgkeep: the server must not
have the credentials of the repository, so all WAL is fetched before it starts.
"""

import contextlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import errors as e
from ..model import wal
from ..model.manifest import FileFacts
from ..model.wal import parse_segment
from ..pitr import installation, target, waldump
from ..pitr.base_manifest import BaseManifest, Kind
from ..pitr.control import ControlData, read_control
from ..pitr.recovery import Cluster, RecoveredServer
from ..pitr.recovery_settings import of_segments, raised
from ..pitr.restore import refuse_tablespaces
from ..pitr.tablespaces import created_after, elsewhere
from ..pitr.target import Target
from ..pitr.target_directory import run_folder
from ..pitr.waldump import WalContents
from ..postgres.server import Account
from ..progress import Progress
from ..progress import size as shown
from . import pgbackrest
from .pgbackrest_info import NO_BACKUP, OK, Stanza, StanzaBackup
from .pitr_result import Engine
from .points import Facts, RecoveredPoint, Window

PROGRAMS = (*installation.FOR_RESTORE, "pg_controldata")
BATCH = 32  # segments that are fetched and read at once


def source_of(name: str) -> "StanzaSource":
    """Return the source of a stanza.

    Raises:
        Refused: the repository does not have it.
        UsageError: pgBackRest is not installed, or cannot read the repository.

    """
    stanza = pgbackrest.info(name)
    if stanza.missing or stanza.system_identifier is None:
        raise e.Refused(
            f"stanza {name}: {stanza.message}",
            hint="pgbackrest info lists the stanzas. Check its configuration: pgkeep uses that of"
            " pgBackRest, or PGBACKREST_CONFIG.",
        )
    return StanzaSource(stanza)


class StanzaSource:
    """The backups and the archive of one stanza."""

    def __init__(self, stanza: Stanza) -> None:
        self._stanza = stanza

    @property
    def facts(self) -> Facts:
        """Of which cluster they are."""
        identifier, name = str(self._stanza.system_identifier), self._stanza.name
        return Facts(Engine.PGBACKREST, identifier, name, f"stanza {name} of pgBackRest")

    def window(self) -> Window:
        """Return what can be restored, as pgBackRest says."""
        stanza, found = self._stanza, Window()
        if stanza.code not in (OK, NO_BACKUP):
            found.warnings.append(f"stanza {stanza.name}: {stanza.message}")
        if not stanza.backups:
            found.findings.append(f"stanza {stanza.name} has no backup: {stanza.message}")
            return found
        for backup in stanza.backups:
            if backup.damaged:
                text = f"backup {backup.label} has pages with wrong checksums"
                newest = backup == stanza.backups[-1]
                (found.findings if newest else found.warnings).append(text)
        found.since = stanza.backups[0].stopped
        found.needed = max(backup.size for backup in stanza.backups)
        return found

    def _chosen(self, wanted: Target) -> StanzaBackup:
        usable = [
            backup
            for backup in self._stanza.backups
            if wanted.time is None or backup.stopped <= wanted.time
        ]
        if not usable:
            raise e.Refused(f"stanza {self._stanza.name} has no backup that ended before {wanted}")
        return usable[-1]

    @contextlib.contextmanager
    def recovered(
        self, target: Target, directory: Path, jobs: int, progress: Progress
    ) -> Iterator[RecoveredPoint]:
        """Recover the cluster in a new directory; the server runs inside the block.

        Raises:
            Refused, VerificationFailed, StoreError, RestoreFailed: it cannot be recovered.

        """
        backup = self._chosen(target)
        progress.step("restoring the backup")
        tablespaces = directory.with_name("tablespaces")
        for folder in (directory, tablespaces):
            folder.mkdir(mode=0o700)
        pgbackrest.restore(
            self._stanza.name, backup.label, backup.repository, directory, tablespaces, jobs
        )
        major = _major(directory)
        programs = installation.folder_of(major, PROGRAMS)
        control = read_control(programs, directory)
        base = _manifest(backup, control, str(self._stanza.version))
        fetched = _Wal(self._stanza.name, backup, directory, programs, control.segment_size)
        point, contents = fetched.find(target, base, jobs, progress)
        fetched.move_to(directory / "pg_wal")
        mapped = elsewhere(created_after(contents.tablespaces, base.start_lsn), tablespaces)
        account = Account.choose()
        with contextlib.ExitStack() as stack:
            run = stack.enter_context(run_folder(account))
            sizes = of_segments(control.segment_size)
            cluster = Cluster(
                programs=programs, major=major, data=directory, run=run,
                settings={**raised(control.settings, contents.settings), **sizes},
                superusers=["postgres"], databases=["postgres", "template1"],
                elsewhere={**mapped, str(tablespaces): tablespaces},
            )  # fmt: skip
            server = stack.enter_context(RecoveredServer(cluster))
            refuse_tablespaces(mapped, server)
            progress.step("recovering")
            proof = server.recover(point, fetched.path.timeline)
            yield RecoveredPoint(
                server=server, proof=proof, programs=programs, base=backup.label,
                version=base.version,
            )  # fmt: skip


def _major(directory: Path) -> int:
    try:
        return int((directory / "PG_VERSION").read_text().strip())
    except (OSError, ValueError) as error:
        raise e.VerificationFailed(f"{directory} is not a data directory: {error}") from error


class _Wal:
    """The WAL after a backup, fetched and read as far as a target requires."""

    def __init__(
        self, stanza: str, backup: StanzaBackup, data: Path, programs: Path, size: int
    ) -> None:
        self._stanza = stanza
        self._backup = backup
        self._data = data
        self._programs = programs
        self._size = size
        self._contents = WalContents()
        self.folder = data.with_name("wal")
        self.path = wal.Path(1, ())

    def find(
        self, wanted: Target, base: BaseManifest, jobs: int, progress: Progress
    ) -> tuple[target.Point, WalContents]:
        """Fetch WAL until the target is decided; return the point and what the WAL contains.

        Raises:
            VerificationFailed: a segment is missing or damaged.
            StoreError: the archive cannot be read.
            NoSpace: there is not enough space for the WAL.

        """
        self.folder.mkdir(mode=0o700)
        names = self._names()
        needed, free = len(names) * self._size, shutil.disk_usage(self.folder).free
        if free < needed:
            raise e.NoSpace(
                f"{self.folder} has {shown(free)} free, the WAL requires {shown(needed)}"
            )
        progress.step("fetching WAL")
        progress.total(needed)
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(self._fetch, batch))
            # A record can begin in the segment before.
            read = waldump.read(
                self._programs, self.folder, names[max(0, start - 1) : start + BATCH]
            )
            self._contents.add(read)
            progress.advance(len(batch) * self._size)
            target.prune(wanted, self._contents)
            if target.is_decided(wanted, self._contents, read.commits):
                break
        return target.resolve(wanted, base, self._contents), self._contents

    def move_to(self, folder: Path) -> None:
        """Move all files into the directory in which the server finds them."""
        for path in self.folder.iterdir():
            path.replace(folder / path.name)

    def _names(self) -> list[str]:
        """Return the segments from the backup to the newest one, along its timelines."""
        first = parse_segment(self._backup.first_segment, self._size)
        last = parse_segment(self._backup.archive_max or "", self._size)
        if first is None or last is None or last.number < first.number:
            raise e.VerificationFailed(
                f"the archive of stanza {self._stanza} has no WAL of backup {self._backup.label}:"
                f" its newest segment is {self._backup.archive_max}, expected"
                f" {self._backup.first_segment} or a newer one"
            )
        self.path = wal.Path(last.timeline, self._switches(last.timeline))
        return [
            self.path.segment(number, self._size).name(self._size)
            for number in range(first.number, last.number + 1)
        ]

    def _switches(self, timeline: int) -> tuple[wal.Switch, ...]:
        if timeline == 1:
            return ()
        name = f"{timeline:08X}.history"
        self._fetch(name)
        switches = wal.decode_history((self.folder / name).read_text("ascii", "replace"), name)
        for switch in switches:
            if switch.parent > 1:
                self._fetch(f"{switch.parent:08X}.history")
        return switches

    def _fetch(self, name: str) -> None:
        repository = self._backup.repository
        target = self.folder / name
        if not pgbackrest.archive_get(self._stanza, repository, self._data, name, target):
            raise e.VerificationFailed(f"{name} is missing in the archive of stanza {self._stanza}")


def _manifest(backup: StanzaBackup, control: ControlData, version: str) -> BaseManifest:
    """Return the facts of a backup as those of a base backup."""
    return BaseManifest(
        pgkeep="", system_identifier=control.system_identifier, version=version,
        version_num=int(version.partition(".")[0]) * 10000, kind=Kind.FULL,
        timeline=int(backup.first_segment[:8], 16), start=str(backup.start), stop=str(backup.stop),
        started=backup.started, stopped=backup.stopped, segment_size=control.segment_size,
        size=backup.size, parts=[], backup_manifest=FileFacts("", 0, ""),
        settings=dict(control.settings),
    )  # fmt: skip
