"""Report a directory of backups that does not exist, before it counts as one without backups."""

import os
from collections.abc import Sequence

from .. import config
from .. import errors as e
from ..settings import BUCKET
from . import output

_MISTYPED = (
    "Check the path, and that its file system is mounted. Only pgkeep backup and pgkeep adopt"
    " create the directory."
)


def origin(target: config.Config) -> str:
    """Return where the directory comes from, for messages."""
    given = target.values.get("BACKUP_DIR")
    return "the default" if given is None else given.origin


def missing(target: config.Config) -> e.UsageError | None:
    """Return the error for a directory that a setting names and that does not exist.

    The default directory appears with the first backup.
    """
    directory = target.settings.directory
    if "BACKUP_DIR" not in target.values or directory.startswith(BUCKET):
        return None
    try:
        os.stat(directory)  # noqa: PTH116 - a name from outside
    except (FileNotFoundError, NotADirectoryError):
        return e.UsageError(
            f"BACKUP_DIR, from {origin(target)}: directory {directory} does not exist",
            hint=_MISTYPED,
        )
    except OSError:
        pass  # reading it says more
    return None


def check(targets: Sequence[config.Config]) -> None:
    """Check that the directory to read exists; copies, or other targets, can be read without it.

    Raises:
        UsageError: it does not exist, and nothing else can be read.

    """
    for target in targets:
        error = missing(target)
        if error is not None and len(targets) == 1 and target.settings.s3_bucket is None:
            raise error
        if error is not None:
            output.current().warning(error.message)


def check_parent(target: config.Config) -> bool:
    """Return whether the directory of the backups has to be created.

    Raises:
        UsageError: its parent does not exist either: the path is mistyped, or a file system is not
            mounted and the backups would fill another one.

    """
    if missing(target) is None:
        return False
    directory = target.settings.directory
    parent = os.path.dirname(os.path.abspath(directory))  # noqa: PTH100, PTH120
    if not os.path.lexists(parent):
        raise e.UsageError(
            f"BACKUP_DIR, from {origin(target)}: directory {parent} does not exist",
            hint="Check the path, and that its file system is mounted. pgkeep creates only the last"
            f" directory of the path: mkdir -p {parent} creates the others.",
        )
    return True
