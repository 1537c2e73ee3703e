"""Read from the statements of a backup file what a restore must create: objects, sequences."""

import re
from collections.abc import Set

from ..artifact.file import Artifact, Object
from ..sql.statements import Name

_CONSTRAINTS = frozenset({"CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT"})
_WITH_TEXT = _CONSTRAINTS | {"SEQUENCE SET"}
_SETVAL = re.compile(rb", (-?\d+), (true|false)\);\s*\Z")
_NOT_VALID = re.compile(rb" NOT VALID;\s*\Z")
_LINE_END = re.compile(r"[\r\n]")


class ExpectedObjects:
    """What the artifact's own statements say."""

    def __init__(self, artifact: Artifact, unproved: Set[tuple[str, str, str]]) -> None:
        self._unproved = unproved
        self.objects = [entry for entry in artifact.index.objects if self._is_expected(entry)]
        self.constraints: dict[Name, bool] = {}  # whether valid
        self.sequences: dict[Name, tuple[int, bool]] = {}  # as setval has it
        self.schema_only = artifact.index.meta.schema_only
        by_member = artifact.index.objects_by_member()
        for number, objects in enumerate(by_member):
            wanted = [
                entry for entry in objects if entry.type in _WITH_TEXT and self._is_expected(entry)
            ]
            if wanted:
                data = artifact.read(number)
                for entry in wanted:
                    self._take(entry, data[entry.start : entry.start + entry.length])

    def names(self, *types: str) -> set[Name]:
        """Return which objects of some types there are."""
        return {(entry.schema, entry.name) for entry in self.objects if entry.type in types}

    def _is_expected(self, entry: Object) -> bool:
        return (entry.type, entry.schema, entry.name) not in self._unproved

    def _take(self, entry: Object, text: bytes) -> None:
        key = (entry.schema, entry.name)
        if entry.type in _CONSTRAINTS:
            self.constraints[key] = not _NOT_VALID.search(text)
        elif match := _SETVAL.search(text):
            self.sequences[key] = (int(match[1]), match[2] == b"true")


def one_line(name: str) -> str:
    """Return a name as pg_dump announces it: a line end would end the comment."""
    return _LINE_END.sub(" ", name)


def dotted(key: Name) -> str:
    """Return a name for messages; of an object without a schema there is no dot."""
    return ".".join(filter(None, key))
