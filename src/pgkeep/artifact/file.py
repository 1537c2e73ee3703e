"""The backup file: a compressed file of many members that ends with an index of its contents.

`zcat` or `zstdcat` reads it as plain SQL: members are concatenated (RFC 1952, section 2.2; RFC
8878, section 3). Each member contains complete statements. The index records the position of each
object and the hash of each member, and an end marker points to the index. docs/format.md describes
every byte.
"""

import hashlib
import json
import secrets
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from .. import errors as e
from ..model.manifest import Computed, DatabaseFacts, Extension, Resolution, ServerFacts, TableRows
from ..model.naming import Compression
from ..model.unreadable import UNREADABLE
from ..stores.store import Source, Upload
from .compression import compressor, member_blocks

FORMAT = 1
MEMBER_LIMIT = 1 << 30  # bytes of SQL in a member that is read at once: no statement is longer
INDEX_LIMIT = 512 << 20  # bytes of an index; 10,000 tables take 8 MiB
DROPS = "DROP"  # the type of the statements of pg_dump --clean in the index

_INDEX_HEADER = b"""\
--
-- pgkeep index: where each object of this file lies. Not needed to restore it.
--
"""
_META, _MEMBER, _OBJECT = b"-- meta ", b"-- member ", b"-- object "

_MAGIC = b"pgkeep\x00\x01"
_PAYLOAD = struct.Struct("<8sQQ32s")  # magic; the index: offset, length, SHA-256
# In gzip an empty member whose extra field has the payload. RFC 1952: magic, deflate, FEXTRA, no
# time, no flags, unknown system; the extra field's length and our subfield; then an empty deflate
# block, a CRC of nothing and a length of nothing. In zstd a skippable frame (RFC 8878, 3.1.2).
_MARKERS = {
    Compression.GZIP: (
        b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
        + struct.pack("<H2sH", 4 + _PAYLOAD.size, b"PK", _PAYLOAD.size),
        b"\x03\x00" + bytes(8),
    ),
    Compression.ZSTD: (b"\x50\x2a\x4d\x18" + struct.pack("<I", _PAYLOAD.size), b""),
}
MARKER_SIZES = {
    compression: len(begin) + _PAYLOAD.size + len(end)
    for compression, (begin, end) in _MARKERS.items()
}


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Facts about the backup: everything that a restore without a manifest needs."""

    format: int = FORMAT
    pgkeep: str
    database: DatabaseFacts
    server: ServerFacts
    client_version: str
    snapshot: str  # RFC 3339, UTC
    timezone: str | None = None  # in which time stamps are written
    lc_monetary: str | None = None  # the locale in which money is written, if any
    schema_only: bool = False
    extensions: list[Extension] = []
    roles: list[str] = []
    resolutions: list[Resolution] = []  # names that an empty search path would resolve differently
    computed: list[Computed] = []  # values that a restore computes, for drills to compare
    # Random. The manifest has the hash of the index: with it, nobody can confirm a guess of the
    # contents of an encrypted backup.
    salt: str = ""


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """A gzip member, or a few zstd frames: position, size of the SQL, SHA-256 of the bytes."""

    section: str  # pre, data or post
    offset: int
    length: int
    raw: int
    sha256: str


class Object(msgspec.Struct, omit_defaults=True):
    """One of pg_dump's entries, or one part of it: the position of its SQL.

    The rows of a large table have several parts, each with its own COPY statement. The parts of
    large object data must run in order, in one session.
    """

    type: str
    schema: str
    name: str
    owner: str
    member: int
    start: int  # in the member's SQL
    length: int = 0
    oid: int = 0
    rows: int | None = None
    settings: str = ""  # the SET default_... statements that apply to it


class Index(msgspec.Struct):
    """The contents of an artifact."""

    meta: Meta
    members: list[Member]
    objects: list[Object]

    @property
    def raw_bytes(self) -> int:
        """Bytes of SQL, without the index."""
        return sum(member.raw for member in self.members)

    def table_rows(self) -> list[TableRows]:
        """Return the number of rows of each table, in file order."""
        rows: dict[tuple[str, str], int] = {}
        for entry in self.objects:
            if entry.rows is not None:
                key = (entry.schema, entry.name)
                rows[key] = rows.get(key, 0) + entry.rows
        return [TableRows(schema, name, count) for (schema, name), count in rows.items()]

    def objects_by_member(self) -> list[list[Object]]:
        """Return the objects of each member, in member order."""
        found: list[list[Object]] = [[] for _ in self.members]
        for entry in self.objects:
            found[entry.member].append(entry)
        return found


class MemberBuilder:
    """Build one member: compress what is written and record where each object begins."""

    def __init__(self, section: str, compression: Compression = Compression.GZIP) -> None:
        self.section = section
        self.raw = 0
        self.objects: list[Object] = []
        self._compressor = compressor(compression)
        self._parts: list[bytes] = []
        self.compressed = 0

    def write(self, data: bytes) -> None:
        """Append SQL."""
        self.raw += len(data)
        self._keep(self._compressor.compress(data))

    def begin(self, entry: Object) -> None:
        """Record that an object begins here; this ends the previous object."""
        self.end()
        entry.start = self.raw
        self.objects.append(entry)

    def end(self) -> None:
        """Record that the last object ends here."""
        if self.objects and not self.objects[-1].length:
            self.objects[-1].length = self.raw - self.objects[-1].start

    def finish(self) -> bytes:
        """Return the complete member."""
        self.end()
        self._keep(self._compressor.flush())
        return b"".join(self._parts)

    def _keep(self, data: bytes) -> None:
        if data:
            self._parts.append(data)
            self.compressed += len(data)


class ArtifactWriter:
    """Append members, from any thread; then write the index and the end marker."""

    def __init__(self, upload: Upload, compression: Compression = Compression.GZIP) -> None:
        self.compression = compression
        self._upload = upload
        self._lock = threading.Lock()
        self._members: list[Member] = []
        self._objects: list[Object] = []
        self.size = 0
        self.raw = 0
        self.writing = False  # it waits for the store
        self.index_sha256 = ""  # set by finish; covers the hashes of all members

    def append(self, builder: MemberBuilder) -> None:
        """Append a finished member."""
        data = builder.finish()
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            number = len(self._members)
            for entry in builder.objects:
                entry.member = number
            self._objects += builder.objects
            self._members.append(Member(builder.section, self.size, len(data), builder.raw, digest))
            self.raw += builder.raw
            self._write(data)

    def stop(self) -> None:
        """Make threads that wait for the store fail.

        Before the first member none does, and another pg_dump can write what this one did not.
        """
        if self._members:
            self._upload.stop()

    def finish(self, meta: Meta) -> Index:
        """Write index and end marker, which complete the file."""
        salted = msgspec.structs.replace(meta, salt=secrets.token_hex(16))
        index = Index(salted, self._members, self._objects)
        data = _encode_index(index, self.compression)
        digest = hashlib.sha256(data).digest()
        self.index_sha256 = digest.hex()
        self._write(data + Marker(self.compression, self.size, len(data), digest).encoded())
        return index

    def _write(self, data: bytes) -> None:
        self.writing = True
        self._upload.write(data)
        self.writing = False
        self.size += len(data)


class Artifact:
    """A backup file that is open for reading; opening it checks the end marker and the index."""

    def __init__(self, source: Source) -> None:
        self.source = source
        marker = _read_marker(source)
        data = source.read(marker.offset, marker.length)
        if hashlib.sha256(data).digest() != marker.digest:
            raise e.VerificationFailed(f"{source.name}: damaged index: the SHA-256 differs")
        self.compression = marker.compression
        self.index_sha256 = marker.digest.hex()
        lines = _index_lines(data, marker.compression, source.name)
        self.index = _decode_index(lines, source.name)
        self._check_coverage(marker.offset)

    def _check_coverage(self, end: int) -> None:
        expected = 0
        for number, member in enumerate(self.index.members):
            if member.offset != expected:
                raise e.VerificationFailed(
                    f"{self.source.name}: member {number} begins at byte {member.offset},"
                    f" expected {expected}"
                )
            if not 0 <= member.length <= end - expected or member.raw < 0:
                raise e.VerificationFailed(
                    f"{self.source.name}: member {number} has {member.length} bytes, {member.raw}"
                    f" bytes of SQL; expected at most {end - expected} before the index"
                )
            expected += member.length
        if expected != end:
            raise e.VerificationFailed(
                f"{self.source.name}: members end at byte {expected}, the index begins at {end}"
            )
        for entry in self.index.objects:
            if not 0 <= entry.member < len(self.index.members):
                raise e.VerificationFailed(
                    f"{self.source.name}: {entry.type} {entry.name} lies in member {entry.member},"
                    f" which does not exist"
                )

    def compressed(self, number: int) -> bytes:
        """Return a member's compressed bytes after comparing their hash with the index.

        Raises:
            VerificationFailed: the member is damaged.

        """
        member = self.index.members[number]
        data = self.source.read(member.offset, member.length)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise e.VerificationFailed(f"{self.describe(number)}: the SHA-256 differs")
        return data

    def read(self, number: int) -> bytes:
        """Return a member's complete SQL; intended for small members.

        Raises:
            VerificationFailed: it is damaged, or larger than any that pgkeep writes.

        """
        raw = self.index.members[number].raw
        if raw > MEMBER_LIMIT:
            raise e.VerificationFailed(
                f"{self.describe(number)}: {raw} bytes of definitions, expected at most"
                f" {MEMBER_LIMIT}"
            )
        return b"".join(self.blocks(number))

    def blocks(self, number: int) -> Iterator[bytes]:
        """Yield a member's SQL in blocks; checks the hash first, then CRC and length."""
        data = self.compressed(number)
        raw = 0
        try:
            for block in member_blocks(data, self.compression):
                raw += len(block)
                if raw > self.index.members[number].raw:
                    break  # few compressed bytes can expand to very many
                yield block
        except e.VerificationFailed as error:
            raise e.VerificationFailed(f"{self.describe(number)}: {error}") from error
        if raw != self.index.members[number].raw:
            raise e.VerificationFailed(
                f"{self.describe(number)}: {raw} bytes of SQL, expected"
                f" {self.index.members[number].raw}"
            )

    def check_hashes(self, progress: Callable[[int], None] = lambda _: None) -> None:
        """Read every member once and compare its hash; reports the bytes done to `progress`."""
        for number, member in enumerate(self.index.members):
            self.compressed(number)
            progress(member.length)

    def describe(self, number: int) -> str:
        """Describe a member for messages: file, number, table, position."""
        member = self.index.members[number]
        names = {
            f"{entry.schema}.{entry.name}" for entry in self.index.objects if entry.member == number
        }
        of = f" ({min(names)})" if len(names) == 1 else f" ({len(names)} objects)" if names else ""
        return f"{self.source.name}: member {number}{of} at byte {member.offset}"


class Marker(NamedTuple):
    """The end of a backup file, which names the position of the index."""

    compression: Compression
    offset: int  # of the index
    length: int
    digest: bytes

    def encoded(self) -> bytes:
        """Return the bytes at the end of the file."""
        begin, end = _MARKERS[self.compression]
        return begin + _PAYLOAD.pack(_MAGIC, self.offset, self.length, self.digest) + end


def is_artifact(source: Source) -> bool:
    """Whether a file ends like a backup file, complete or damaged."""
    tail = _tail(source)
    return _MAGIC in tail or any(
        tail[-MARKER_SIZES[compression] :].startswith(begin[:10])
        for compression, (begin, _) in _MARKERS.items()
    )


def index_hash(source: Source) -> str:
    """Return the hash of the index, as the end marker has it.

    Raises:
        VerificationFailed: the file does not end as a backup file.

    """
    return _read_marker(source).digest.hex()


def _tail(source: Source) -> bytes:
    size = min(max(MARKER_SIZES.values()), source.size)
    return source.read(source.size - size, size)


def _read_marker(source: Source) -> Marker:
    found = _marker_payload(_tail(source))
    if found is None:
        raise e.VerificationFailed(
            f"{source.name}: truncated or incomplete: no end marker in {source.size} bytes"
        )
    compression, payload = found
    magic, offset, length, digest = _PAYLOAD.unpack(payload)
    if magic != _MAGIC:
        raise e.VerificationFailed(
            f"{source.name}: unknown end marker {magic!r}",
            hint="Use the version of pgkeep that wrote the file, or a newer one.",
        )
    expected = offset + length + MARKER_SIZES[compression]
    if expected != source.size:
        raise e.VerificationFailed(
            f"{source.name}: found {source.size} bytes, expected {expected} according to its end"
            " marker"
        )
    return Marker(compression, offset, length, digest)


def _marker_payload(tail: bytes) -> tuple[Compression, bytes] | None:
    for compression, (begin, end) in _MARKERS.items():
        payload = tail[len(tail) - len(end) - _PAYLOAD.size : len(tail) - len(end)]
        if tail.endswith(begin + payload + end) and len(payload) == _PAYLOAD.size:
            return compression, payload
    return None


def _encode_index(index: Index, compression: Compression) -> bytes:
    builder = MemberBuilder("index", compression)
    builder.write(_INDEX_HEADER)
    builder.write(_META + _ascii_json(index.meta) + b"\n")
    for prefix, records in ((_MEMBER, index.members), (_OBJECT, index.objects)):
        for start in range(0, len(records), 1000):
            chunk = records[start : start + 1000]
            builder.write(b"".join(prefix + _ascii_json(record) + b"\n" for record in chunk))
    builder.write(b"--\n")
    return builder.finish()


def _ascii_json(value: object) -> bytes:
    """Return JSON on one line in ASCII, because the dump around it can be in any encoding."""
    data = msgspec.json.encode(value)
    return data if data.isascii() else json.dumps(json.loads(data)).encode("ascii")


def _index_lines(data: bytes, compression: Compression, file_name: str) -> Iterator[bytes]:
    """Yield the lines of a compressed index."""
    size = 0
    held: list[bytes] = []  # the parts of a line whose end was not read yet
    for block in member_blocks(data, compression):
        size += len(block)
        if size > INDEX_LIMIT:
            raise e.VerificationFailed(
                f"{file_name}: the index has more than {INDEX_LIMIT >> 20} MiB"
            )
        first, *lines = block.split(b"\n")
        held.append(first)
        if lines:
            yield b"".join(held)
            held = [lines.pop()]
            yield from lines
    yield b"".join(held)


def _decode_index(lines: Iterator[bytes], file_name: str) -> Index:
    meta: Meta | None = None
    members: list[Member] = []
    objects: list[Object] = []
    member_decoder = msgspec.json.Decoder(Member)
    object_decoder = msgspec.json.Decoder(Object)
    try:
        for line in lines:
            if line.startswith(_OBJECT):
                objects.append(object_decoder.decode(line[len(_OBJECT) :]))
            elif line.startswith(_MEMBER):
                members.append(member_decoder.decode(line[len(_MEMBER) :]))
            elif line.startswith(_META):
                meta = msgspec.json.decode(line[len(_META) :], type=Meta)
    except UNREADABLE as error:
        raise e.VerificationFailed(f"{file_name}: unreadable index: {error}") from error
    if meta is None:
        raise e.VerificationFailed(f"{file_name}: the first line of the index is missing")
    if meta.format > FORMAT:
        raise e.VerificationFailed(
            f"{file_name} has format {meta.format}, this pgkeep reads up to {FORMAT}",
            hint="Use the version of pgkeep that wrote it, or a newer one.",
        )
    return Index(meta, members, objects)
