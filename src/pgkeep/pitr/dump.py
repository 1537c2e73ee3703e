"""One database as it was at a point in time, as an ordinary backup of pgkeep."""

from contextlib import ExitStack
from pathlib import Path

from ..backup.backup import BackupOptions, backup
from ..crypt.options import Encryption
from ..model.manifest import Manifest
from ..model.naming import BackupType
from ..progress import Progress
from ..stores.local import LocalStore
from .restore import RecoveryPlan, recovered, working_folder


def dump(
    plan: RecoveryPlan, database: str, folder: Path, encryption: Encryption, jobs: int,
    progress: Progress,
) -> Manifest:  # fmt: skip
    """Recover a cluster in a temporary directory, and back up one of its databases.

    The backup is written into a folder of its own, so that it is never taken for the newest one.

    Raises:
        Refused, VerificationFailed, StoreError, RestoreFailed, DumpFailed: nothing is written.

    """
    options = BackupOptions(
        type=BackupType.MANUAL, jobs=jobs, verify=True, chosen=True, encryption=encryption
    )
    with ExitStack() as stack:
        work = stack.enter_context(working_folder(folder.parent))
        work.chmod(0o755)
        found = stack.enter_context(
            recovered(plan, work / "data", encryption, jobs, progress)
        )  # fmt: skip
        endpoint = found.server.endpoint.to(database)
        return backup(endpoint, LocalStore(folder), options, progress).manifest
