"""Read the objects of a backup file with their SQL, without what the options leave out."""

import re
from collections.abc import Iterator

from ...artifact import consistency
from ...artifact.file import Artifact, Object
from ...sql import script, statements
from .options import LoadOptions
from .session import EntryText

PRIVILEGE_TYPES = frozenset({"ACL", "DEFAULT ACL"})

# pg_dump ends an entry with this where the object has an owner. Only the access method of a
# partitioned table follows (PostgreSQL 17).
_OWNER = re.compile(
    rb'^ALTER [A-Z ]+ (?:"(?:[^"]|"")*+"|[^";])+? OWNER TO (?:"(?:[^"]|"")*+"|[^";\s]+);\n+'
    rb"(?=(?:ALTER TABLE (?:ONLY )?%b\.%b SET ACCESS METHOD %b;\n+)?\Z)"
    % (statements.IDENTIFIER, statements.IDENTIFIER, statements.IDENTIFIER),
    re.MULTILINE,
)
_LARGE_OBJECT_OWNER = re.compile(
    rb'^ALTER LARGE OBJECT \d+ OWNER TO (?:"(?:[^"]|"")*+"|[^";\s]+);\n', re.MULTILINE
)
_TRANSACTION = re.compile(rb"^(?:BEGIN|COMMIT);\n", re.MULTILINE)
_CLOSED = re.compile(rb"^REVOKE ALL ON (?:FUNCTION|PROCEDURE) .* FROM PUBLIC;$", re.MULTILINE)


class EntryReader:
    """Read the objects of a backup file that a load creates."""

    def __init__(self, artifact: Artifact, options: LoadOptions) -> None:
        self._artifact = artifact
        self._options = options
        self.objects = artifact.index.objects_by_member()
        self._opened: list[str] = []  # functions that PUBLIC may execute only in the target

    def section(self, section: str) -> Iterator[EntryText]:
        """Yield the objects of a section with their SQL."""
        for number, member in enumerate(self._artifact.index.members):
            if member.section == section:
                yield from self.member(number)

    def member(self, number: int) -> Iterator[EntryText]:
        """Yield the objects of a member with their SQL.

        Raises:
            VerificationFailed: the index does not say what the member holds.

        """
        data = self._artifact.read(number)
        consistency.check_entries(self._artifact, number, self.objects[number], data)
        for entry in self.objects[number]:
            adapted = self._adapted(entry, data[entry.start : entry.start + entry.length])
            if adapted is not None:
                yield adapted

    def _adapted(self, entry: Object, text: bytes) -> EntryText | None:
        """Return what is executed for an object, None if it is skipped."""
        options = self._options
        if not options.data and is_large_object(entry):
            return None  # pg_dump of 16 and older creates them in the pre-data
        if entry.type in PRIVILEGE_TYPES and not options.privileges:
            if _CLOSED.search(text):
                self._opened.append(f"{entry.schema}.{entry.name.partition(' ')[2]}")
            return None
        if not options.owner:
            text = without_owner(text)
        adapted = options.adapt(entry, text)
        if adapted is not None and entry.type == "BLOBS" and options.one_transaction:
            return entry, _TRANSACTION.sub(b"", adapted[1])
        return adapted

    def warnings(self) -> Iterator[str]:
        """Warn of functions that everyone may execute now: they may be SECURITY DEFINER (A4.7)."""
        if self._opened:
            yield (
                f"without privileges everyone may execute {len(self._opened)} functions that were"
                f" not open to everyone, such as {', '.join(self._opened[:5])}"
            )


def without_owner(text: bytes) -> bytes:
    """Return an entry's SQL without what gives the object to its owner."""
    return _OWNER.sub(b"", _LARGE_OBJECT_OWNER.sub(b"", text))


def is_large_object(entry: Object) -> bool:
    """Tell whether this is a large object, or about one: they count as rows."""
    return entry.type in script.LARGE_OBJECT_TYPES or (
        entry.type in script.FOLLOWING_TYPES and entry.name.startswith("LARGE OBJECT")
    )
