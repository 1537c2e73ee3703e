"""Download a backup to a local file that has no name, because a drill reads it twice."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import errors as e
from ..stores.local import LocalSource
from ..stores.store import Source
from .phases import Phases

PIECE = 8 << 20  # bytes that are downloaded at once


class _Downloaded(LocalSource):
    """A remote file's contents in a local one that has no name any more."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path)
        self._name = name

    @property
    def name(self) -> str:
        """Where it came from."""
        return self._name


@contextlib.contextmanager
def local_copy(original: Source, jobs: int, phases: Phases) -> Iterator[Source]:
    """Return a file that can be read twice: a remote one is downloaded, in a phase of its own."""
    if not original.remote:
        yield original
        return
    phases.step("downloading")
    phases.total(original.size)
    handle, name = tempfile.mkstemp(prefix="pgkeep-drill-")
    try:
        try:
            _download(original, handle, jobs, phases.advance)
            fetched = _Downloaded(Path(name), original.name)
        finally:
            # No kill -9 leaves it behind from here on.
            os.unlink(name)  # noqa: PTH108
            os.close(handle)
    except OSError as error:
        raise e.StoreError(
            f"could not download {original.name} into {name}: {error.strerror}",
            hint="Set TMPDIR to a directory with room for it.",
        ) from error
    phases.stop()
    with contextlib.closing(fetched):
        yield fetched


def _download(original: Source, handle: int, jobs: int, done: Callable[[int], None]) -> None:
    def piece(start: int) -> None:
        data = memoryview(original.read(start, min(PIECE, original.size - start)))
        done(len(data))
        while data:
            written = os.pwrite(handle, data, start)
            start, data = start + written, data[written:]

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for _ in pool.map(piece, range(0, original.size, PIECE)):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
