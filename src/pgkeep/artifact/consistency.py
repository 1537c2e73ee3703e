"""Check that the index of a backup file describes exactly what its members contain.

Hashes do not protect against a file that was crafted on purpose: they match. Therefore what a
restore executes is compared with what `zcat` shows. Every entry that the SQL announces must be an
object of the index, and the reverse; objects must not overlap; only settings and comments are
allowed between them.
"""

import collections
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .. import errors as e
from ..sql import dialect, script, statements
from ..sql.encodings import codec
from ..sql.scanner import Scanner
from .file import DROPS, Artifact, Object
from .packer import object_of_entry

# Types whose text can continue in another member.
_DIVISIBLE = frozenset({"TABLE DATA", "BLOBS"})
_SETTINGS = re.compile(
    r"(?:SET default_\w+ = (?:'(?:[^']|'')*+'|\"(?:[^\"]|\"\")*+\"|[^;'\"\n]*);\n)*"
)
_COPY_TARGET = re.compile(rb"COPY %b" % statements.QUALIFIED)
_PARTITIONED = re.compile(
    rb"^CREATE (?:UNLOGGED )?TABLE %b.*^PARTITION BY " % statements.QUALIFIED,
    re.MULTILINE | re.DOTALL,
)
_BLANK = re.compile(rb"(?:\s|--[^\n]*(?:\n|\Z))*+")
_HEAD = 1 << 20  # bytes of a statement that are kept to recognize its form


class MemberCheck:
    """Read the pieces of one member and compare them with the index entries of that member.

    Raises:
        VerificationFailed: they differ.

    """

    def __init__(self, artifact: Artifact, number: int, objects: Sequence[Object]) -> None:
        self._artifact = artifact
        self._number = number
        self._objects = {entry.start: entry for entry in objects}
        self._codec = codec(artifact.index.meta.database.encoding)
        self._announced: set[int] = set()
        self.offset = 0
        end = 0
        for entry in objects:
            if entry.start < end or entry.length < 0:
                raise self.wrong(f"{_name(entry)} overlaps the object before it")
            end = entry.start + entry.length
            if not _SETTINGS.fullmatch(entry.settings):
                raise self.wrong(f"{_name(entry)} has settings that pg_dump does not write")
        if end > artifact.index.members[number].raw:
            raise self.wrong("an object extends beyond the end of its member")

    def wrong(self, what: str) -> e.VerificationFailed:
        """Return the error that describes how index and contents differ."""
        return e.VerificationFailed(
            f"{self._artifact.describe(self._number)}: index does not match the contents: {what}"
        )

    def follow(
        self, scanner: Scanner, blocks: Iterable[bytes] | None = None, *, close: bool = False
    ) -> Iterator[script.Piece]:
        """Yield the pieces of the member."""
        try:
            for block in self._artifact.blocks(self._number) if blocks is None else blocks:
                yield from self._checked(scanner.feed(block))
            if close:
                yield from self._checked(scanner.close())
        except e.VerificationFailed as error:
            if self._artifact.source.name in error.message:
                raise
            place = self._artifact.describe(self._number)
            raise e.VerificationFailed(f"{place}: {error.message}", hint=error.hint) from error

    def _checked(self, pieces: Iterable[script.Piece]) -> Iterator[script.Piece]:
        for piece in pieces:
            if isinstance(piece, script.Entry):
                self._entry(piece)
            else:
                self.offset += len(piece.data)
            yield piece

    def _entry(self, entry: script.Entry) -> None:
        found = object_of_entry(entry, self._codec)
        expected = self._objects.get(self.offset)
        if expected is None:
            raise self.wrong(f"{_name(found)} is missing in the index")
        if not _same(expected, found, self._codec):
            raise self.wrong(f"found {_name(found)}, expected {_name(expected)}")
        self._announced.add(self.offset)

    def continued(self) -> list[Object]:
        """Return the objects that the member does not announce: parts of an earlier object."""
        found = [entry for start, entry in self._objects.items() if start not in self._announced]
        for entry in found:
            parts = entry.start == 0 and self._number > 0 and entry.type in _DIVISIBLE
            if not parts and not (entry.type == DROPS and self._number == 0):
                raise self.wrong(f"{_name(entry)} is missing in the contents")
        return found


def _schemas(artifact: Artifact) -> frozenset[bytes]:
    """Return the schemas that comments can name, as the comments write them."""
    codec_name = codec(artifact.index.meta.database.encoding)
    names = {re.sub(r"[\r\n]", " ", entry.schema) for entry in artifact.index.objects}
    return frozenset(name.encode(codec_name, "backslashreplace") for name in names)


def _name(entry: Object) -> str:
    return (
        f"{entry.type} {entry.schema}.{entry.name}"
        if entry.schema
        else f"{entry.type} {entry.name}"
    )


def _same(entry: Object, found: Object, codec_name: str) -> bool:
    mine, theirs = (_identity(it, codec_name) for it in (entry, found))
    return mine == theirs and (not found.oid or found.oid == entry.oid)


def _identity(entry: Object, codec_name: str) -> tuple[str, ...]:
    """Return the part of an object's identity that a comment preserves.

    Comments have spaces in place of line ends, and only characters of the dump's encoding.
    """
    return (
        entry.type,
        *(
            re.sub(r"\s", " ", name)
            .encode(codec_name, "backslashreplace")
            .decode(codec_name, "backslashreplace")
            for name in (entry.schema, entry.name, entry.owner)
        ),
    )


def check_entries(artifact: Artifact, number: int, objects: Sequence[Object], data: bytes) -> None:
    """Check that a member's SQL announces exactly the objects that the index lists for it."""
    check = MemberCheck(artifact, number, objects)
    for _ in check.follow(Scanner(_schemas(artifact)), [data], close=True):
        pass
    check.continued()


def pieces(artifact: Artifact, number: int, objects: Sequence[Object]) -> Iterator[script.Piece]:
    """Yield the pieces of a member that contains rows, and check its entries on the way."""
    check = MemberCheck(artifact, number, objects)
    yield from check.follow(Scanner(_schemas(artifact)), close=True)
    check.continued()


Table = tuple[bytes, bytes]  # schema and name, quoted as in the SQL


class TextCheck:
    """Check the members without rows, in file order."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._codec = codec(artifact.index.meta.database.encoding)
        self._scanner = Scanner(_schemas(artifact), statements=True)
        self._collected = dialect.Statements(_HEAD)
        self._settings: dict[bytes, bytes] = {}
        self._last: tuple[str, ...] = ()  # the last object of the previous member
        self.partitioned: set[Table] = set()

    def member(self, number: int, objects: Sequence[Object]) -> Iterator[script.Piece]:
        """Yield the pieces of a member after checking them."""
        check = MemberCheck(self._artifact, number, objects)
        remaining = collections.deque(objects)
        begun = collections.defaultdict[int, list[Object]](list)
        for entry in objects:
            begun[entry.start].append(entry)
        for piece in check.follow(self._scanner):
            match piece:
                case script.Setting():
                    self._settings[piece.data.partition(b" = ")[0]] = piece.data
                case script.CopyBegin():
                    raise check.wrong("rows among other statements")
                case script.Meta() if b"restrict " not in piece.data:
                    raise e.VerificationFailed(
                        f"{self._artifact.describe(number)}: unexpected psql command"
                        f" {dialect.shown(piece.data)}"
                    )
                case script.Entry():
                    self._check_settings(check, begun.get(check.offset, ()))
            statement = self._collected.add(piece)
            if statement is not None:
                while remaining and remaining[0].start + remaining[0].length < check.offset:
                    remaining.popleft()
                inside = bool(remaining) and remaining[0].start < check.offset
                # pg_dump --clean writes its statements before all entries.
                cleaning = number == 0 and (not objects or check.offset <= objects[0].start)
                self._statement(check, number, statement, inside=inside, cleaning=cleaning)
            yield piece
        self._collected.finish()
        for part in check.continued():
            if part.type != DROPS and _part(part) != self._last:
                raise check.wrong(f"the first part of {_name(part)} is missing")
        if objects:
            self._last = _part(objects[-1])

    def close(self) -> Iterator[script.Piece]:
        """Yield the pieces that remain after the last member."""
        yield from self._scanner.close()

    def _statement(
        self,
        check: MemberCheck,
        number: int,
        statement: dialect.Statement,
        *,
        inside: bool,
        cleaning: bool,
    ) -> None:
        """Check one statement: only settings are allowed between objects."""
        # Only an error is described: that looks at all objects of the file.
        if statement.whole and statement.text and not dialect.is_known(statement.text):
            raise dialect.unknown(statement.text, self._artifact.describe(number))
        if not inside and not dialect.is_setting(statement.text, cleaning=cleaning):
            raise check.wrong(f"{dialect.shown(statement.text)} is missing in the index")
        match = _PARTITIONED.match(statement.text)
        if match is not None:
            self.partitioned.add((match["schema"], match["name"]))

    def _check_settings(self, check: MemberCheck, objects: Sequence[Object]) -> None:
        settings = b"".join(self._settings.values()).decode(self._codec, "replace")
        for entry in objects:
            if entry.settings != settings:
                raise check.wrong(f"{_name(entry)} has different settings")


@dataclass(frozen=True, slots=True)
class RowsFound:
    """The contents of a member of rows."""

    parts: set[tuple[str, ...]]  # continue an object that another member announces
    announced: set[tuple[str, ...]]
    roots: set[Table]  # tables through which rows of another table are loaded


def check_rows(artifact: Artifact, number: int, objects: Sequence[Object]) -> RowsFound:
    """Check that a member contains exactly the COPY statements and rows that the index lists.

    Raises:
        VerificationFailed: it does not, or contains anything else.

    """
    check = MemberCheck(artifact, number, objects)
    counts: list[int] = []
    roots: set[Table] = set()
    text: list[bytes] = []

    for piece in check.follow(Scanner(_schemas(artifact)), close=True):
        match piece:
            case script.CopyBegin():
                entry = objects[len(counts)] if len(counts) < len(objects) else None
                if entry is None or not entry.start <= check.offset < entry.start + entry.length:
                    raise check.wrong("a COPY statement is missing in the index")
                counts.append(0)
                roots |= _other_target(piece.data, entry, artifact)
            case script.Rows():
                counts[-1] += piece.data.count(b"\n")
            case script.Text():
                text.append(piece.data)
            case script.Meta() | script.Setting() | script.Begin() | script.Complete():
                raise check.wrong(f"{dialect.shown(piece.data)} among rows")
    expected = [entry.rows for entry in objects]
    if counts != expected:
        raise e.VerificationFailed(
            f"{artifact.describe(number)}: found {counts[:5]} rows per COPY, expected"
            f" {expected[:5]}"
        )
    if _BLANK.fullmatch(b"".join(text)) is None:
        raise check.wrong(f"{dialect.shown(dialect.bare(b''.join(text)))} among rows")
    parts = {_part(entry) for entry in check.continued()}
    return RowsFound(parts, {_part(entry) for entry in objects} - parts, roots)


def check_roots(artifact: Artifact, found: Iterable[RowsFound], partitioned: set[Table]) -> None:
    """Check that rows go to their own or a partitioned table, and that no first part is missing."""
    found = list(found)
    parts = set[tuple[str, ...]]().union(*(rows.parts for rows in found))
    announced = set[tuple[str, ...]]().union(*(rows.announced for rows in found))
    if parts - announced:
        names = ".".join(min(parts - announced)[1:3])
        raise e.VerificationFailed(
            f"{artifact.source.name}: the first part of the rows of {names} is missing"
        )
    roots = set[Table]().union(*(rows.roots for rows in found))
    # A data-only dump does not show which tables are partitioned.
    if partitioned and roots - partitioned:
        name = b".".join(min(roots - partitioned)).decode("utf-8", "replace")
        raise e.VerificationFailed(
            f"{artifact.source.name}: index does not match the contents: rows of another table"
            f" are loaded into {name}"
        )


def _part(entry: Object) -> tuple[str, ...]:
    return (entry.type, entry.schema, entry.name, entry.owner, str(entry.oid))


def _other_target(statement: bytes, entry: Object, artifact: Artifact) -> set[Table]:
    """Return the table that a COPY statement names if it differs from the object's own table."""
    match = _COPY_TARGET.match(statement)
    if match is None:
        return set()  # very old dumps do not name the schema
    name = statements.name_of(match, codec(artifact.index.meta.database.encoding))
    flat = tuple(re.sub(r"\s", " ", it) for it in name)
    own = tuple(re.sub(r"\s", " ", it) for it in (entry.schema, entry.name))
    return set() if flat == own else {(match["schema"], match["name"])}
