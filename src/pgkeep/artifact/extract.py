"""List the contents of a backup file and extract SQL from it; reads only the members it needs."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from .. import errors as e
from ..crypt import opening
from ..model.manifest import DatabaseFacts, Extension, ServerFacts
from ..sql import statements
from ..sql.encodings import codec
from ..sql.selection import Pattern
from ..sql.statements import SETTING
from .copy_statements import COPY, copies, scan
from .file import Artifact, Object

_COLUMN = re.compile(rb"\s*(%b),?" % statements.IDENTIFIER)
_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}  # as COPY writes text


class TableFacts(msgspec.Struct, frozen=True):
    """One table's rows in a backup file; `rows` is None for INSERT statements."""

    schema: str
    name: str
    rows: int | None
    raw_bytes: int  # of SQL
    bytes: int  # its share of the file


class ObjectFacts(msgspec.Struct, frozen=True):
    """One of pg_dump's entries, or one part of it."""

    section: str
    type: str
    schema: str
    name: str
    owner: str
    rows: int | None
    raw_bytes: int


class Inventory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The contents of a backup file, read from its index."""

    file: str
    size: int
    raw_bytes: int
    pgkeep: str
    client_version: str
    snapshot: str
    schema_only: bool
    database: DatabaseFacts
    server: ServerFacts
    extensions: list[Extension]
    roles: list[str]
    tables: list[TableFacts]
    types: dict[str, int]
    cipher: str | None = None  # of the file
    objects: list[ObjectFacts] | None = None


def inventory(artifact: Artifact, *, objects: bool = False) -> Inventory:
    """Return the contents of a backup file."""
    index = artifact.index
    meta = index.meta
    roles = {*meta.roles, meta.database.owner, *(entry.owner for entry in index.objects)}
    entries = Counter({entry.type: 0 for entry in index.objects})
    entries.update(entry.type for entry in index.objects if entry.type != "TABLE DATA")
    tables = _tables(artifact)
    source = artifact.source
    entries["TABLE DATA"] = len(tables)
    return Inventory(
        file=source.name,
        size=source.size,
        raw_bytes=index.raw_bytes,
        pgkeep=meta.pgkeep,
        client_version=meta.client_version,
        snapshot=meta.snapshot,
        schema_only=meta.schema_only,
        database=meta.database,
        server=meta.server,
        extensions=meta.extensions,
        roles=sorted(roles - {""}),
        tables=tables,
        cipher=opening.stored_cipher(source),
        types={name: count for name, count in sorted(entries.items()) if count},
        objects=_objects(artifact) if objects else None,
    )


def _tables(artifact: Artifact) -> list[TableFacts]:
    found: dict[tuple[str, str], tuple[int | None, int, float]] = {}
    for entry in artifact.index.objects:
        if entry.type == "TABLE DATA":
            member = artifact.index.members[entry.member]
            rows, raw, size = found.get((entry.schema, entry.name), (0, 0, 0.0))
            count = None if rows is None or entry.rows is None else rows + entry.rows
            share = member.length * entry.length / member.raw if member.raw else 0.0
            found[entry.schema, entry.name] = count, raw + entry.length, size + share
    return [
        TableFacts(schema, name, rows, raw, round(size))
        for (schema, name), (rows, raw, size) in found.items()
    ]


def _objects(artifact: Artifact) -> list[ObjectFacts]:
    members = artifact.index.members
    return [
        ObjectFacts(
            members[entry.member].section, entry.type, entry.schema, entry.name,
            entry.owner, entry.rows,
            entry.length,
        )
        for entry in artifact.index.objects
    ]  # fmt: skip


def sql(artifact: Artifact, *, schema_only: bool = False) -> Iterator[bytes]:
    """Yield the SQL of a backup file; each member is checked when it is read.

    Raises:
        VerificationFailed: a member is damaged.

    """
    for number, member in enumerate(artifact.index.members):
        if not schema_only:
            yield from artifact.blocks(number)
        elif member.section != "data":
            yield from _ranges(artifact.blocks(number), _definitions(artifact, number))


def _definitions(artifact: Artifact, number: int) -> list[tuple[int, int]]:
    """Return the ranges of a member that do not refresh materialized views: start and length."""
    found, position = [], 0
    for entry in artifact.index.objects:
        if entry.member == number and entry.type == "MATERIALIZED VIEW DATA":
            found.append((position, entry.start - position))
            position = entry.start + entry.length
    return [*found, (position, artifact.index.members[number].raw - position)]


def table_sql(artifact: Artifact, patterns: Sequence[Pattern]) -> Iterator[bytes]:
    """Yield the COPY statements of some tables, after the settings of the dump.

    Raises:
        UsageError: a pattern matches no table with rows.
        VerificationFailed: a member is damaged.

    """
    chosen = _chosen(artifact, patterns)
    yield b"".join(match.group() for match in SETTING.finditer(_header(artifact)))
    for number in sorted({entry.member for entry in chosen}):
        ranges = [(entry.start, entry.length) for entry in chosen if entry.member == number]
        yield b"\n"
        yield from _ranges(artifact.blocks(number), ranges)


def _header(artifact: Artifact) -> bytes:
    first = artifact.index.objects[0] if artifact.index.objects else None
    data = next(artifact.blocks(0), b"") if artifact.index.members else b""
    return data[: first.start] if first is not None and first.member == 0 else data


def _ranges(blocks: Iterator[bytes], ranges: list[tuple[int, int]]) -> Iterator[bytes]:
    """Yield these ranges of a stream; the ranges must be in ascending order."""
    position = 0
    for block in blocks:
        for start, length in ranges:
            begin, end = max(start - position, 0), start + length - position
            if end > 0 and begin < len(block):
                yield block[begin:end]
        position += len(block)


def head(artifact: Artifact, pattern: Pattern, count: int) -> Iterator[bytes]:
    """Yield a table's column names, then its first rows, as COPY writes them.

    Raises:
        UsageError: the pattern matches no table, several, or one whose rows are INSERT statements.
        VerificationFailed: a required member is damaged.

    """
    chosen = _chosen(artifact, [pattern])
    names = sorted({f"{entry.schema}.{entry.name}" for entry in chosen})
    if len(names) > 1:
        raise e.UsageError(
            f"{pattern.text} matches {len(names)} tables: {', '.join(names[:5])}",
            hint="Give a pattern that matches one table.",
        )
    if any(entry.rows is None for entry in chosen):
        raise e.UsageError(
            f"the rows of {names[0]} are INSERT statements",
            hint=f"Print them with: pgkeep cat FILE --table='{pattern.text}'.",
        )
    codec_name = codec(artifact.index.meta.database.encoding)
    header_written = False
    for part in chosen:
        blocks = _ranges(artifact.blocks(part.member), [(part.start, part.length)])
        for header, data in copies(scan(blocks)):
            if not header_written:
                header_written = True
                yield _columns(header, codec_name)
            if not count:
                return
            for block in data:
                rows, ended = _first(block, count)
                yield rows
                count -= ended
                if not count:
                    return


def _first(data: bytes, count: int) -> tuple[bytes, int]:
    """Return the first `count` lines, and how many of them end in these bytes."""
    position = ended = 0
    while ended < count:
        end = data.find(b"\n", position) + 1
        if not end:
            return data, ended
        position, ended = end, ended + 1
    return data[:position], ended


def _columns(statement: bytes, codec_name: str) -> bytes:
    match = COPY.fullmatch(statement)
    names = [
        statements.unquoted(text, codec_name) for text in _COLUMN.findall(match["columns"])
    ] if match and match["columns"] else []  # fmt: skip
    escaped = ["".join(_ESCAPES.get(character, character) for character in name) for name in names]
    return "\t".join(escaped).encode(codec_name, "backslashreplace") + b"\n"


def _chosen(artifact: Artifact, patterns: Sequence[Pattern]) -> list[Object]:
    data = [entry for entry in artifact.index.objects if entry.type == "TABLE DATA"]
    for pattern in patterns:
        if not any(pattern.matches(entry.schema, entry.name) for entry in data):
            raise e.UsageError(
                f"{artifact.source.name} contains no rows of table {pattern.text}",
                hint="List the tables with pgkeep show FILE. Names with capital letters need double"
                " quotes. The rows of a partitioned table are in its partitions.",
            )
    return [
        entry
        for entry in data
        if any(pattern.matches(entry.schema, entry.name) for pattern in patterns)
    ]
