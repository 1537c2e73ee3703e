"""Readers of the SQL of a dump: the scanner, the outline, names in statements, foreign dumps."""

from contextlib import suppress
from datetime import UTC, datetime

from pgkeep import errors as e
from pgkeep.artifact import verify
from pgkeep.foreign import index, plain
from pgkeep.foreign.index import IndexOptions
from pgkeep.progress import Silent
from pgkeep.sql import (
    dialect,
    encodings,
    named_roles,
    node_trees,
    portability,
    script,
    selection,
    statements,
)
from pgkeep.sql.scanner import Scanner
from pgkeep.stores.memory import MemoryStore

from .checks import Broken, StrictSource, chunked

LONGEST = 32 << 10  # bytes of a text with repetitions
_KINDS = sorted(
    {*statements._SUBJECT, *statements._OWN, *statements._OF_TABLE, *portability._SUPERUSER}
    | {*portability._FORMS, *named_roles.TYPES, "SEQUENCE SET", "EXTENSION", "SUBSCRIPTION"}
    | {"DEFAULT ACL"}
)
_ROLE = portability.TargetServer(version_num=170000, superuser=False)
_AS_OF = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)


def read_dump(data: bytes) -> None:
    """A plain dump, from its first byte to its last one."""
    source = StrictSource("dump.sql", data)
    plain.is_dump(source)
    found = plain.survey(source)
    for part in found.parts:
        plain.database_facts(part, "app")
        plain.server_facts(part.head)
        plain.client_version(part.head)
        plain.lc_monetary(part.head)
        index.when(part.head, IndexOptions(jobs=1, modified=_AS_OF))


def index_dump(data: bytes) -> None:
    """A dump of another tool: the backup file that is made of it must be a good one."""
    store = MemoryStore()
    options = IndexOptions(jobs=1, database="app", modified=_AS_OF)
    made = index.index(StrictSource("dump.sql", data), store, options, Silent())
    try:
        verify.verify_source(store.open(made.artifact.name), jobs=1, progress=lambda _: None)
    except e.VerificationFailed as error:
        raise Broken(f"the file of a dump that was accepted is refused: {error}") from error


def scan_in_pieces(data: bytes) -> None:
    """Pieces do not depend on where the input is divided, and nothing gets lost."""
    size, text = data[:1] or b"\1", data[1:]
    whole, whole_error = _scanned([text])
    pieces, error = _scanned(list(chunked(text, size[0])))
    if error != whole_error or (error is None and pieces != whole):
        raise Broken(
            f"in chunks of {size[0]} bytes: {pieces!r} {error!r}, {whole!r} {whole_error!r}"
        )
    if error is None and b"".join(data for _, data in whole) != text:
        raise Broken("the pieces are not the input")


def _scanned(chunks: list[bytes]) -> tuple[list[tuple[str, bytes]], str | None]:
    """Return kinds and data of the pieces, neighbours of a kind joined."""
    found: list[tuple[str, bytes]] = []
    scanner = Scanner(statements=True)
    try:
        for pieces in [*map(scanner.feed, chunks), scanner.close()]:
            for piece in pieces:
                kind = type(piece).__name__
                data = b"" if isinstance(piece, script.Entry) else piece.data
                if found and found[-1][0] == kind and kind in ("Text", "Rows"):
                    data = found.pop()[1] + data
                found.append((kind, data))
    except e.VerificationFailed as error:
        return found, error.message
    return found, None


def read_statement(data: bytes) -> None:
    """The SQL of one object, of the kind that the first byte selects: names, roles, form."""
    kind, text = _KINDS[data[0] % len(_KINDS)] if data else "", data[1:]
    statements.subject(kind, text, "utf-8")
    statements.own_name(kind, text, "utf-8")
    portability.obstacle(kind, text, _ROLE, "utf-8")
    named_roles.named(kind, text, "utf-8")
    named_roles.without(kind, text, {"app"}, "utf-8")
    names = statements.mentioned(text, "utf-8")
    statements.moved(text, dict.fromkeys(names, "other"), "utf-8")
    dialect.is_known(text)
    dialect.is_setting(text, cleaning=True)
    dialect.is_of_cluster(text)
    dialect.shown(text)
    script.without_marks(text)
    for read in (_divided, dialect.without_cluster):
        with suppress(e.PgkeepError):
            read(text)


def _divided(data: bytes) -> list[bytes]:
    return list(dialect.statements_of(data))


def read_repeated(data: bytes) -> None:
    """The same with a part that is repeated: the time must not grow with the square."""
    before, _, rest = data.partition(b"\0")
    repeated, _, after = rest.partition(b"\0")
    text = before + repeated * (LONGEST // max(1, len(repeated))) + after
    read_statement(text)
    scanner = Scanner(statements=True)
    with suppress(e.PgkeepError):
        for pieces in (scanner.feed(text), scanner.close()):
            for _ in pieces:
                pass


def read_names(data: bytes) -> None:
    """What users and dumps name: patterns of tables, encodings, parse trees of a server."""
    text = data.decode("utf-8", "surrogateescape")
    codec = encodings.codec(text[:40])
    encodings.shared_text(data, codec)
    data.decode(codec, "backslashreplace").encode(codec, "backslashreplace")
    node_trees.uses(text)
    first, _, second = text.partition("\n")
    for read in (selection.pattern, selection.names):
        with suppress(e.UsageError):
            read(first)
    for kind in ("FUNCTION", "CAST", "AGGREGATE", "TABLE"):
        portability.followers(kind, first).fullmatch(second)


READERS = (read_dump, index_dump, scan_in_pieces, read_statement, read_repeated, read_names)
