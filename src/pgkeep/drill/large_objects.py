"""Compare the large objects of a restored database with the backup file, byte by byte.

Both sides are hashed here. There may be millions, so that what is kept is a sum for each 256 of
them, which does not depend on their order.
"""

import hashlib
import re
from collections.abc import Iterator

from ..artifact.file import Artifact
from ..postgres.connection import Connection
from .checks import DrillCheck

GROUP = 8  # bits of an identifier that tell members of a group apart
PIECE = 1 << 20  # bytes that are read at once
TYPES = frozenset({"BLOB", "BLOB METADATA", "BLOBS"})

# As pg_dump writes them, a statement on a line (pg_dump, "dumpLOs").
_STATEMENT = re.compile(
    rb"^SELECT pg_catalog\.(?:lo_create\('(?P<made>\d+)'\)"
    rb"|lo_open\('(?P<opened>\d+)', \d+\)"
    rb"|lowrite\(0, '\\{1,2}x(?P<data>[0-9a-f]*)'\)"
    rb"|(?P<closed>lo_close)\(0\));$"
    rb'|^ALTER LARGE OBJECT \d+ OWNER TO "(?:[^"]|"")*+";$',  # may have lines like these in it
    re.MULTILINE,
)


class Sums:
    """Large objects, each added once, in any order."""

    def __init__(self) -> None:
        self.count = 0
        self.groups: dict[int, int] = {}  # the sum of each

    def add(self, identifier: int, digest: bytes) -> None:
        """Take one, with the hash of its contents."""
        self.count += 1
        whole = hashlib.sha256(b"%d %b" % (identifier, digest)).digest()
        group = identifier >> GROUP
        self.groups[group] = (self.groups.get(group, 0) + int.from_bytes(whole)) % (1 << 256)

    def differences(self, other: "Sums") -> list[str]:
        """Return the groups in which the two differ, as people name them."""
        differ = [
            group
            for group in sorted(self.groups.keys() | other.groups.keys())
            if self.groups.get(group) != other.groups.get(group)
        ]
        return [f"{group << GROUP} to {((group + 1) << GROUP) - 1}" for group in differ]


def compare(connection: Connection, artifact: Artifact) -> DrillCheck:
    """Compare all large objects.

    Raises:
        VerificationFailed: the artifact is damaged.

    """
    theirs, mine = of_artifact(artifact), of_database(connection)
    findings = []
    if mine.count != theirs.count:
        findings.append(f"{mine.count:,} large objects, the backup has {theirs.count:,}")
    elif differ := mine.differences(theirs):
        findings.append(
            f"large objects are not those of the backup: at least one from {differ[0]}"
            + (f", and of {len(differ) - 1} more such ranges" if len(differ) > 1 else "")
        )
    return DrillCheck(name="large objects", checked=theirs.count, findings=findings)


def of_artifact(artifact: Artifact) -> Sums:
    """Hash what the artifact's statements write."""
    sums = Sums()
    empty = hashlib.sha256().digest()
    unwritten: set[int] = set()  # made, and not filled yet
    identifier, contents = 0, hashlib.sha256()
    for match in _statements(artifact):
        if match["made"] is not None:
            unwritten.add(int(match["made"]))
        elif match["opened"] is not None:
            identifier, contents = int(match["opened"]), hashlib.sha256()
        elif match["data"] is not None:
            contents.update(bytes.fromhex(match["data"].decode()))
        elif match["closed"] is not None:
            unwritten.discard(identifier)
            sums.add(identifier, contents.digest())
    for oid in unwritten:
        sums.add(oid, empty)
    return sums


def _statements(artifact: Artifact) -> Iterator[re.Match[bytes]]:
    """Yield them in their order; one object's may lie in several members."""
    for number, objects in enumerate(artifact.index.objects_by_member()):
        wanted = [entry for entry in objects if entry.type in TYPES]
        if wanted:
            data = artifact.read(number)
            for entry in wanted:
                yield from _STATEMENT.finditer(data, entry.start, entry.start + entry.length)


def of_database(connection: Connection) -> Sums:
    """Hash what the database has; nothing may change it meanwhile."""
    sums = Sums()
    query = (
        "SELECT oid::pg_catalog.int8, pg_catalog.lo_get(oid, 0, %s)"
        " FROM pg_catalog.pg_largeobject_metadata"
    )
    with connection.transaction(), connection.cursor("large_objects", binary=True) as cursor:
        cursor.itersize = 16  # pieces of a megabyte
        for identifier, piece in cursor.execute(query, [PIECE]):
            contents = hashlib.sha256(piece)
            offset = len(piece)
            while len(piece) == PIECE:
                piece = _piece(connection, identifier, offset)  # noqa: PLW2901
                contents.update(piece)
                offset += len(piece)
            sums.add(identifier, contents.digest())
    return sums


def _piece(connection: Connection, identifier: int, offset: int) -> bytes:
    query = "SELECT pg_catalog.lo_get(%s::pg_catalog.oid, %s::pg_catalog.int8, %s::pg_catalog.int4)"
    with connection.cursor(binary=True) as cursor:
        row = cursor.execute(query, [identifier, offset, PIECE]).fetchone()
    return b"" if row is None else bytes(row[0])
