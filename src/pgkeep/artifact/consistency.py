"""Check that an artifact's index says exactly what lies in its members.

The hashes of a file that somebody made on purpose fit. So what a restore executes is compared with
what `zcat` shows: every entry that the SQL announces is an object of the index and the reverse, the
objects do not overlap, and only settings and comments lie between them.
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

# The types whose text may go on in another member.
_DIVISIBLE = frozenset({"TABLE DATA", "BLOBS"})
_SETTINGS = re.compile(
    r"(?:SET default_\w+ = (?:'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[^;'\"\n]*);\n)*"
)
_COPY_TARGET = re.compile(rb"COPY %b" % statements.QUALIFIED)
_PARTITIONED = re.compile(
    rb"^CREATE (?:UNLOGGED )?TABLE %b.*^PARTITION BY " % statements.QUALIFIED,
    re.MULTILINE | re.DOTALL,
)
_BLANK = re.compile(rb"(?:\s|--[^\n]*(?:\n|\Z))*+")
_HEAD = 1 << 20  # bytes that are kept of a statement to tell its form


class MemberCheck:
    """Follow the pieces of one member and compare them with the objects that the index has there.

    Raises:
        VerificationFailed: where they differ.

    """

    def __init__(self, artifact: Artifact, number: int, objects: Sequence[Object]) -> None:
        self._artifact = artifact
        self._number = number
        self._objects = {entry.start: entry for entry in objects}
        self._codec = codec(artifact.index.meta.database.encoding)
        self._announced: set[int] = set()
        self.offset = 0
        end = 0
        for one in objects:
            if one.start < end or one.length < 0:
                raise self.wrong(f"{_name(one)} begins within what is before it")
            end = one.start + one.length
            if not _SETTINGS.fullmatch(one.settings):
                raise self.wrong(f"{_name(one)} has settings that pg_dump does not write")
        if end > artifact.index.members[number].raw:
            raise self.wrong("an object reaches beyond the end of its member")

    def wrong(self, what: str) -> e.VerificationFailed:
        """Return the error that says how index and contents differ."""
        return e.VerificationFailed(
            f"{self._artifact.describe(self._number)}: its index is another one's: {what}"
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
        one = self._objects.get(self.offset)
        if one is None:
            raise self.wrong(f"it does not have {_name(found)}")
        if not _same(one, found, self._codec):
            raise self.wrong(f"it has {_name(one)} where {_name(found)} is")
        self._announced.add(self.offset)

    def continued(self) -> list[Object]:
        """Return the objects that the member does not announce: parts of what began before."""
        found = [one for start, one in self._objects.items() if start not in self._announced]
        for one in found:
            parts = one.start == 0 and self._number > 0 and one.type in _DIVISIBLE
            if not parts and not (one.type == DROPS and self._number == 0):
                raise self.wrong(f"{_name(one)} is not there")
        return found


def _schemas(artifact: Artifact) -> frozenset[bytes]:
    """Return the schemas that comments may name, as they stand there."""
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
    """Return what a comment can say of an object: blanks for line ends, and only its encoding."""
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
    """Check that a member's SQL announces the objects that the index has there, and no others."""
    check = MemberCheck(artifact, number, objects)
    for _ in check.follow(Scanner(_schemas(artifact)), [data], close=True):
        pass
    check.continued()


def pieces(artifact: Artifact, number: int, objects: Sequence[Object]) -> Iterator[script.Piece]:
    """Yield the pieces of a member of rows, whose entries are checked on the way."""
    check = MemberCheck(artifact, number, objects)
    yield from check.follow(Scanner(_schemas(artifact)), close=True)
    check.continued()


Table = tuple[bytes, bytes]  # schema and name as they are quoted in the SQL


class TextCheck:
    """Check the members that hold no rows, in their order."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._codec = codec(artifact.index.meta.database.encoding)
        self._scanner = Scanner(_schemas(artifact), statements=True)
        self._collected = dialect.Statements(_HEAD)
        self._settings: dict[bytes, bytes] = {}
        self._last: tuple[str, ...] = ()  # the last object of the member before
        self.partitioned: set[Table] = set()

    def member(self, number: int, objects: Sequence[Object]) -> Iterator[script.Piece]:
        """Yield the pieces of a member after they were checked."""
        check = MemberCheck(self._artifact, number, objects)
        remaining = collections.deque(objects)
        for piece in check.follow(self._scanner):
            match piece:
                case script.Setting():
                    self._settings[piece.data.partition(b" = ")[0]] = piece.data
                case script.CopyBegin():
                    raise check.wrong("there are rows among other statements")
                case script.Meta() if b"restrict " not in piece.data:
                    raise e.VerificationFailed(
                        f"{self._artifact.describe(number)}: unexpected psql command"
                        f" {dialect.shown(piece.data)}"
                    )
                case script.Entry():
                    self._check_settings(check, objects)
            statement = self._collected.add(piece)
            if statement is not None:
                while remaining and remaining[0].start + remaining[0].length < check.offset:
                    remaining.popleft()
                inside = bool(remaining) and remaining[0].start < check.offset
                # What pg_dump --clean writes stands before all entries.
                cleaning = number == 0 and (not objects or check.offset <= objects[0].start)
                self._statement(check, number, statement, inside=inside, cleaning=cleaning)
            yield piece
        self._collected.finish()
        for one in check.continued():
            if one.type != DROPS and _part(one) != self._last:
                raise check.wrong(f"{_name(one)} has no beginning")
        if objects:
            self._last = _part(objects[-1])

    def close(self) -> Iterator[script.Piece]:
        """Yield what the last member leaves."""
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
        """Check one statement: between objects there are only settings."""
        if statement.whole and statement.text:
            dialect.check(statement.text, self._artifact.describe(number))
        if not inside and not dialect.is_setting(statement.text, cleaning=cleaning):
            raise check.wrong(f"it does not have {dialect.shown(statement.text)}")
        match = _PARTITIONED.match(statement.text)
        if match is not None:
            self.partitioned.add((match["schema"], match["name"]))

    def _check_settings(self, check: MemberCheck, objects: Sequence[Object]) -> None:
        settings = b"".join(self._settings.values()).decode(self._codec, "replace")
        for entry in objects:
            if entry.start == check.offset and entry.settings != settings:
                raise check.wrong(f"{_name(entry)} has other settings")


@dataclass(frozen=True, slots=True)
class RowsFound:
    """What a member of rows holds."""

    parts: set[tuple[str, ...]]  # that continue what another member announces
    announced: set[tuple[str, ...]]
    roots: set[Table]  # tables that rows are loaded through instead of their own


def check_rows(artifact: Artifact, number: int, objects: Sequence[Object]) -> RowsFound:
    """Check that a member holds the COPY statements and the rows that the index has there.

    Raises:
        VerificationFailed: it does not, or holds anything else.

    """
    check = MemberCheck(artifact, number, objects)
    counts: list[int] = []
    roots: set[Table] = set()
    text: list[bytes] = []

    for piece in check.follow(Scanner(_schemas(artifact)), close=True):
        match piece:
            case script.CopyBegin():
                one = objects[len(counts)] if len(counts) < len(objects) else None
                if one is None or not one.start <= check.offset < one.start + one.length:
                    raise check.wrong("it does not have a COPY that is there")
                counts.append(0)
                roots |= _other_target(piece.data, one, artifact)
            case script.Rows():
                counts[-1] += piece.data.count(b"\n")
            case script.Text():
                text.append(piece.data)
            case script.Meta() | script.Setting() | script.Begin() | script.Complete():
                raise check.wrong(f"there is {dialect.shown(piece.data)} among rows")
    expected = [entry.rows for entry in objects]
    if counts != expected:
        raise e.VerificationFailed(
            f"{artifact.describe(number)}: rows per COPY are {counts[:5]}, the index says"
            f" {expected[:5]}"
        )
    if _BLANK.fullmatch(b"".join(text)) is None:
        raise check.wrong(f"there is {dialect.shown(dialect.bare(b''.join(text)))} among rows")
    parts = {_part(one) for one in check.continued()}
    return RowsFound(parts, {_part(entry) for entry in objects} - parts, roots)


def check_roots(artifact: Artifact, found: Iterable[RowsFound], partitioned: set[Table]) -> None:
    """Check that rows go to their own table or a partitioned one, and that each has a beginning."""
    found = list(found)
    parts = set[tuple[str, ...]]().union(*(one.parts for one in found))
    announced = set[tuple[str, ...]]().union(*(one.announced for one in found))
    if parts - announced:
        names = ".".join(min(parts - announced)[1:3])
        raise e.VerificationFailed(f"{artifact.source.name}: rows of {names} have no beginning")
    roots = set[Table]().union(*(one.roots for one in found))
    # A dump of rows only does not say which tables are partitioned.
    if partitioned and roots - partitioned:
        name = b".".join(min(roots - partitioned)).decode("utf-8", "replace")
        raise e.VerificationFailed(
            f"{artifact.source.name}: its index is another one's: {name} gets another table's rows"
        )


def _part(entry: Object) -> tuple[str, ...]:
    return (entry.type, entry.schema, entry.name, entry.owner, str(entry.oid))


def _other_target(statement: bytes, entry: Object, artifact: Artifact) -> set[Table]:
    """Return the table that a COPY names if it is not the object's own."""
    match = _COPY_TARGET.match(statement)
    if match is None:
        return set()  # a very old dump, without schemas
    name = statements.name_of(match, codec(artifact.index.meta.database.encoding))
    flat = tuple(re.sub(r"\s", " ", it) for it in name)
    own = tuple(re.sub(r"\s", " ", it) for it in (entry.schema, entry.name))
    return set() if flat == own else {(match["schema"], match["name"])}
