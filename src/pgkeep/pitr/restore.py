"""Restore a cluster to a point in time: choose, fetch, check, put together, recover, prove."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import errors as e
from .. import interrupts, processes
from ..crypt.options import Encryption
from ..postgres.server import Account
from ..progress import Progress
from . import (
    bases,
    recovery_settings,
    tablespaces,
    target_directory,
)
from .plan import RecoveryPlan
from .recovery import Cluster, Proof, RecoveredServer
from .target import Point
from .target_directory import DATA, working_folder
from .wal_search import WalSearch
from .waldump import WalContents

NOT_ISOLATED = (
    "the server that recovers runs as the user of pgkeep and can read its files: this system has no"
    " user namespaces for it (unshare of util-linux)"
)

PROMOTED = (
    "no session was possible at the point, as when a transaction with many subtransactions is"
    " running: PostgreSQL did not pause there, and became a primary"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """How a cluster is restored."""

    owner: str | None = None  # of the files, if pgkeep runs as root
    keep: bool = True  # False: the directory does not remain
    superuser: str | None = None  # that initdb made; the base backup knows it
    tablespaces: Mapping[str, Path] = field(default_factory=dict)  # location of the source -> new


DEFAULT = RestoreOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A cluster that was recovered to a point."""

    plan: RecoveryPlan  # for this point
    server: RecoveredServer
    point: Point
    proof: Proof
    owner: str  # of the files
    warnings: list[str]


@contextlib.contextmanager
def recovered(
    plan: RecoveryPlan, directory: Path, encryption: Encryption, jobs: int, progress: Progress,
    options: RestoreOptions = DEFAULT,
) -> Iterator[Recovered]:  # fmt: skip
    """Restore a cluster and recover it; the server runs inside the block.

    The directory exists when the block has ended without an error, and not before.

    Raises:
        Refused, VerificationFailed, StoreError, RestoreFailed: there is no directory.

    """
    account = Account.choose()
    owner, files_of = target_directory.owner_of(directory, options.owner)
    target_directory.check(directory, plan.base_bytes, account)
    _check_tablespaces(plan, options)
    with contextlib.ExitStack() as stack:
        stack.enter_context(target_directory.passable(directory))
        work = stack.enter_context(working_folder(target_directory.place_of(directory)))
        scratch = stack.enter_context(target_directory.run_folder(account))
        moved = {
            old: stack.enter_context(tablespaces.working_folder(new))
            for old, new in options.tablespaces.items()
        }
        data = work / DATA
        search = WalSearch(plan, plan.location.archive(encryption), work / "wal", jobs, progress)
        point = search.find()
        plan = plan.narrowed(point)
        target_directory.check_space(work, plan.base_bytes + plan.wal_bytes)
        search.narrow(plan)
        contents = search.fetch_all()
        bases.assemble(
            plan.location.base, plan.chain, plan.programs, data, work / "chain", encryption.keys,
            jobs, progress,
        )  # fmt: skip
        shutil.rmtree(work / "chain", ignore_errors=True)
        search.move_to(data / "pg_wal")
        mapped = _mapped(plan, contents, work, data)
        cluster = _cluster(plan, contents, data, scratch, mapped, options)
        server = stack.enter_context(RecoveredServer(cluster))
        refuse_tablespaces(mapped, server)
        progress.step("recovering")
        proof = server.recover(point, plan.path.timeline)
        found = Recovered(
            plan=plan, server=server, point=point, proof=proof, owner=owner,
            warnings=[
                *([] if server.isolation else [NOT_ISOLATED]),
                *([PROMOTED] if proof.promoted else []),
            ],
        )  # fmt: skip
        yield found
        server.stop(immediate=not options.keep)
        if options.keep:
            progress.step("writing to disk")
            _finish(found, cluster, options, moved)
            _flush(plan.programs, data, moved.values(), files_of)
            with interrupts.held():
                tablespaces.appear(moved, options.tablespaces)
                target_directory.appear(data, directory)


def _flush(programs: Path, data: Path, moved: Iterable[Path], owner: Account) -> None:
    """Give the files to their owner, and make them durable."""
    folders = list(moved)
    for path in (data, *folders):
        owner.own(path)
    processes.run([str(programs / "initdb"), "--sync-only", str(data)], {}, e.RestoreFailed)
    for path in folders:  # initdb does not see them: their links lead elsewhere
        target_directory.flush(path)


def _finish(
    found: Recovered, cluster: Cluster, options: RestoreOptions, moved: Mapping[str, Path]
) -> None:
    """Make a data directory that can be started where it will be."""
    data, plan = cluster.data, found.plan
    locations = tablespaces.bring_home(data, cluster.elsewhere)
    locations |= {space.oid: space.location for space in plan.base.tablespaces}
    stay = tablespaces.move(data, locations, options.tablespaces, moved)
    final = dict(cluster.settings)
    if (data / "recovery.signal").exists():
        final |= recovery_settings.recovery(found.point, plan.path.timeline)
    recovery_settings.write_final(
        data, final, superuser=found.server.superuser, owner=found.owner, in_place=bool(stay)
    )


def _check_tablespaces(plan: RecoveryPlan, options: RestoreOptions) -> None:
    known = {space.location for base in plan.candidates for space in base.tablespaces}
    tablespaces.check_mapping(options.tablespaces, known)


def _mapped(plan: RecoveryPlan, contents: WalContents, work: Path, data: Path) -> dict[str, Path]:
    """Return folders for the tablespaces that recovery will create."""
    created = tablespaces.created_after(contents.tablespaces, plan.base.start_lsn)
    mapped = tablespaces.elsewhere(created, work)
    tablespaces.vacate(data, mapped, plan.base.tablespaces)
    return mapped


def refuse_tablespaces(mapped: Mapping[str, Path], server: RecoveredServer) -> None:
    """Refuse WAL that creates tablespaces if the server would reach their locations.

    Raises:
        Refused: there is one.

    """
    if mapped and "namespaces" not in server.isolation:
        raise e.Refused(
            "the WAL creates a tablespace, and recovery would write to its location on the source:"
            f" {', '.join(mapped)}",
            hint="This system has no user namespaces (unshare of util-linux), in which the location"
            " would be another directory. Restore from a base backup that was taken after it, or on"
            " a host that has them.",
        )


def _cluster(
    plan: RecoveryPlan, contents: WalContents, data: Path, scratch: Path,
    mapped: Mapping[str, Path], options: RestoreOptions,
) -> Cluster:  # fmt: skip
    base = plan.base
    names = [base.superuser, "postgres"] if options.superuser is None else [options.superuser]
    return Cluster(
        programs=plan.programs,
        major=base.major,
        data=data,
        run=scratch,
        settings={
            **recovery_settings.raised(*(base.settings for base in plan.chain), contents.settings),
            **recovery_settings.of_segments(base.segment_size),
        },
        superusers=list(dict.fromkeys(names)),
        databases=list(dict.fromkeys(["postgres", base.database, "template1"])),
        elsewhere=mapped,
    )


def preview(
    plan: RecoveryPlan, encryption: Encryption, jobs: int, progress: Progress
) -> tuple[RecoveryPlan, Point]:
    """Return the point of a plan with the commits around it, and leave nothing behind.

    Raises:
        Refused: the target is not in the WAL.

    """
    with working_folder(Path(tempfile.gettempdir())) as work:
        search = WalSearch(plan, plan.location.archive(encryption), work / "wal", jobs, progress)
        point = search.find()
        return plan.narrowed(point), point
