"""One database as it was at a point in time, as an ordinary backup of pgkeep."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psycopg

from .. import errors as e
from ..backup.backup import BackupOptions, backup
from ..crypt.options import Encryption
from ..model.manifest import Manifest
from ..model.naming import BackupType, Compression
from ..postgres.connection import Endpoint
from ..progress import Progress
from ..stores.local import LocalStore
from .plan import RecoveryPlan
from .restore import DEFAULT, RestoreOptions, recovered


class Asked(NamedTuple):
    """A database, tables that it must have had, and where and how its backup is written."""

    database: str
    tables: Sequence[str]
    folder: Path
    compression: Compression = Compression.GZIP


def check_folder(folder: Path, places: Sequence[str]) -> None:
    """Refuse a folder in which the backup would be taken for the newest one of the database.

    Raises:
        Refused: it is the directory of the backups, or in it, or does not exist.

    """
    for place in places:
        own = Path(place).resolve()
        if "://" not in place and (folder.resolve() == own or own in folder.resolve().parents):
            raise e.Refused(
                f"{folder} is in the directory of the backups, {place}",
                hint="There, it would be the newest backup of the database. Choose another one.",
            )
    if not folder.absolute().parent.is_dir():
        raise e.Refused(f"directory {folder.absolute().parent} does not exist")


def dump(
    plan: RecoveryPlan, asked: Asked, encryption: Encryption, jobs: int, progress: Progress,
    options: RestoreOptions = DEFAULT,
) -> tuple[Manifest, list[str]]:  # fmt: skip
    """Recover a cluster in a temporary directory, and back up one of its databases.

    The backup has the whole database: a backup of some tables could not be restored by itself.

    Raises:
        Refused, VerificationFailed, StoreError, RestoreFailed, DumpFailed: nothing is written.

    """
    how = BackupOptions(
        type=BackupType.MANUAL, jobs=jobs, verify=True, chosen=True, encryption=encryption,
        compression=asked.compression,
    )  # fmt: skip
    options = replace(options, keep=False)
    with ExitStack() as stack:
        place = asked.folder.parent / f".{asked.folder.name}.recovered"  # it never exists
        found = stack.enter_context(recovered(plan, place, encryption, jobs, progress, options))
        endpoint = found.server.endpoint.to(asked.database)
        check_tables(endpoint, asked.tables)
        made = backup(endpoint, LocalStore(asked.folder), how, progress).manifest
        return made, found.warnings


def check_tables(endpoint: Endpoint, tables: Sequence[str]) -> None:
    """Check that the database has tables, before it is backed up.

    Raises:
        Refused: it does not have one.

    """
    if not tables:
        return
    with endpoint.connect() as connection:
        connection.execute("SET search_path = public")
        for table in tables:
            try:
                row = connection.execute(
                    "SELECT pg_catalog.to_regclass(%s) IS NOT NULL", [table]
                ).fetchone()
            except psycopg.Error as error:
                raise e.UsageError(f"--table: {error.diag.message_primary}") from error
            if row != (True,):
                raise e.Refused(f"the database had no table {table} at the point")
