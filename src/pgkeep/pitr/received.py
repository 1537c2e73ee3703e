"""The files that pg_receivewal has written on this host, and where it continues.

It reads the position to continue from the names of the files: the newest complete segment stays
until a later one is complete.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..model import wal
from ..model.wal import PARTIAL


@dataclass(frozen=True, slots=True)
class Received:
    """The folders of received files."""

    folder: Path  # where pg_receivewal writes
    earlier: Path  # files of a window that is broken: nothing is added, all are removed when stored
    placeholder: Path  # contains the name of a file that only says where to continue
    size: int  # of a segment

    def files(self) -> dict[str, Path]:
        """Return all files by name."""
        found: dict[str, Path] = {}
        for folder in (self.earlier, self.folder):
            with suppress(FileNotFoundError):
                found |= {path.name: path for path in folder.iterdir()}
        ignored = self._ignored()
        return {name: path for name, path in found.items() if name != ignored}

    def complete(self, files: dict[str, Path]) -> list[str]:
        """Return the names of the complete segments in ascending order."""
        return sorted(name for name, path in files.items() if self._is_complete(name, path))

    @property
    def next(self) -> wal.Segment | None:
        """The segment with which pg_receivewal would continue; None: with the one of the slot."""
        found = []
        for path in self.folder.iterdir():
            segment = wal.parse_segment(path.name.removesuffix(PARTIAL), self.size)
            if segment is not None:
                partial = path.name.endswith(PARTIAL)
                found.append((segment.number + (not partial), segment.timeline))
        return wal.Segment(max(found)[1], max(found)[0]) if found else None

    def continue_with(self, segment: wal.Segment) -> None:
        """Let pg_receivewal continue with a segment, by the name of the one before."""
        name = wal.Segment(segment.timeline, segment.number - 1).name(self.size)
        self.placeholder.write_text(name)
        with (self.folder / name).open("wb") as file:
            file.truncate(self.size)

    @property
    def begins(self) -> bool:
        """Whether pg_receivewal begins at the slot, wherever the stores end."""
        return self._ignored() == ""

    def begin(self) -> None:
        """Let pg_receivewal begin at the slot, which is new."""
        self.set_aside()
        self.placeholder.write_text("")

    def set_aside(self) -> None:
        """Move everything that was received, so that pg_receivewal begins at the slot."""
        self.earlier.mkdir(mode=0o700, exist_ok=True)
        ignored = self._ignored()
        for path in self.folder.iterdir():
            if path.name == ignored:
                path.unlink()
            else:
                path.replace(self.earlier / path.name)
        self.placeholder.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Remove files that pg_receivewal left while it created them: it refuses their size."""
        for path in self.folder.glob(f"*{PARTIAL}"):
            if path.stat().st_size not in (0, self.size):
                path.unlink()

    def remove(self, stored: Callable[[str, Path], bool]) -> None:
        """Remove files that every store has; the newest complete segment is still required."""
        files = self.files()
        here = {name: path for name, path in files.items() if path.parent == self.folder}
        kept = self.complete(here)[-1:]
        for name, path in files.items():
            old = name not in here or (name not in kept and self._is_complete(name, path))
            if old and stored(name, path):
                path.unlink(missing_ok=True)
        if kept and (ignored := self._ignored()) is not None:
            if ignored:
                (self.folder / ignored).unlink(missing_ok=True)
            self.placeholder.unlink()

    def _ignored(self) -> str | None:
        try:
            return self.placeholder.read_text()
        except FileNotFoundError:
            return None

    def _is_complete(self, name: str, path: Path) -> bool:
        if wal.parse_segment(name, self.size) is None:
            return False
        with suppress(FileNotFoundError):
            return path.stat().st_size == self.size
        return False
