"""Find what in a backup file uses the name of the database that it is loaded into."""

import re

from ..artifact.file import Artifact, Object

_NAME = rb"(?:current_database\(\)|\bCURRENT_CATALOG\b)"
_CHECK = re.compile(rb"\bCHECK \(.*%b" % _NAME)  # on one line, as pg_dump writes it
# What is computed while it is loaded.
_COMPUTED = {
    "TABLE": _CHECK,
    "DOMAIN": _CHECK,
    "CONSTRAINT": _CHECK,
    "CHECK CONSTRAINT": _CHECK,
    "MATERIALIZED VIEW": re.compile(_NAME),
}


def first(artifact: Artifact) -> Object | None:
    """Return the first object whose own text asks for the database's name while it is loaded."""
    for number, objects in enumerate(artifact.index.objects_by_member()):
        wanted = [entry for entry in objects if entry.type in _COMPUTED]
        if wanted:
            data = artifact.read(number)
            for entry in wanted:
                if _COMPUTED[entry.type].search(data, entry.start, entry.start + entry.length):
                    return entry
    return None
