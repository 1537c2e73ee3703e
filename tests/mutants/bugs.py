"""All bugs, by kind."""

from collections.abc import Mapping, Sequence

from . import backups, encryption, files, monitoring, point_in_time, restores
from .bug import Bug

KINDS: Mapping[str, Sequence[Bug]] = {
    "Durability": files.DURABILITY,
    "Locks": backups.LOCKS,
    "Snapshot": backups.SNAPSHOT,
    "Names": backups.NAMES,
    "Rows": backups.ROWS,
    "Backup file": files.ARTIFACT,
    "Retention": files.RETENTION_BUGS,
    "Stores": files.STORE,
    "Encryption": encryption.ENCRYPTION,
    "Restore": restores.RESTORE,
    "Swap": restores.SWAPS,
    "Drill": restores.DRILL,
    "Monitoring": monitoring.MONITOR,
    "Exit codes": monitoring.EXIT_CODES,
    "WAL archive": point_in_time.WAL_ARCHIVE,
    "Windows": point_in_time.WINDOW,
    "Base backups": point_in_time.BASES,
    "Recovery": point_in_time.RECOVERIES,
    "Expiry": point_in_time.EXPIRY,
}
