"""Files that commands write for people: a report, a runbook, a recovery kit."""

import os
from pathlib import Path

from .. import errors as e


def write(path: Path, data: bytes) -> None:
    """Write a file: afterwards it is complete, or as it was before.

    A device or a pipe is written directly, because a rename would replace it.

    Raises:
        PgkeepError: it could not be written.

    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        partial = path.with_name(f".{path.name}.partial-{os.urandom(4).hex()}")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise e.PgkeepError(f"could not write {path}: {error.strerror}") from error
