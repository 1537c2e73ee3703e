"""What a planted bug is."""

from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path("src/pgkeep")


@dataclass(frozen=True, slots=True)
class Bug:
    """A change of one place in the code, and the tests that have to notice it."""

    name: str
    file: str  # below src/pgkeep
    text: str  # must occur exactly once in the file
    replacement: str
    effect: str  # what it would cause
    tests: tuple[str, ...]  # files, or single tests of files that take long

    @property
    def path(self) -> Path:
        """The file, relative to the root of the repository."""
        return PACKAGE / self.file

    def planted(self, code: str) -> str:
        """Return the file's code with the bug.

        Raises:
            ValueError: the text does not occur exactly once: the code has changed.

        """
        count = code.count(self.text)
        if count != 1 or self.text == self.replacement:
            raise ValueError(f"{self.name}: its text occurs {count} times in {self.file}")
        return code.replace(self.text, self.replacement)
