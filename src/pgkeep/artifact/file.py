"""The backup file: a gzip file of many members that ends with an index of its contents.

`zcat` reads it as plain SQL (RFC 1952, section 2.2: members are concatenated). Each member contains
complete statements. The index records the position of each object and the hash of each member, and
an end marker points to the index. docs/format.md describes every byte.
"""

import hashlib
import json
import secrets
import struct
import threading
from collections.abc import Callable, Iterator

import msgspec
from isal import isal_zlib
from isal.igzip_lib import IsalError

from .. import errors as e
from ..model.manifest import Computed, DatabaseFacts, Extension, Resolution, ServerFacts, TableRows
from ..stores.store import Source, Upload

FORMAT = 1
_LEVEL = 1  # ISA-L's level 1: about the size of gzip -6 at ten times its speed
BLOCK = 1 << 20
MEMBER_LIMIT = 1 << 30  # bytes of SQL in a member that is read at once: no statement is longer
INDEX_LIMIT = 512 << 20  # bytes of an index; 10,000 tables take 8 MiB
DROPS = "DROP"  # the type of the statements of pg_dump --clean in the index

_INDEX_HEADER = b"""\
--
-- pgkeep index: where each object of this file lies. Not needed to restore it.
--
"""
_META, _MEMBER, _OBJECT = b"-- meta ", b"-- member ", b"-- object "

# RFC 1952: magic, deflate, FEXTRA, no time, no flags, unknown system; then the extra field's length
# and our subfield; then an empty deflate block, a CRC of nothing and a length of nothing.
_MARKER = struct.Struct("<10sH2sH8sQQ32s10s")
_MARKER_HEADER = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
_SUBFIELD = b"PK"
_MAGIC = b"pgkeep\x00\x01"
_EMPTY = b"\x03\x00" + bytes(8)
_PAYLOAD = 8 + 8 + 8 + 32
MARKER_SIZE = _MARKER.size


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
    """One gzip member: its position, the size of its SQL, the SHA-256 of its bytes."""

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


def compress(data: bytes) -> bytes:
    """Return a small file's contents as gzip."""
    compressed: bytes = isal_zlib.compress(data, _LEVEL, 31)
    return compressed


class MemberBuilder:
    """Build one gzip member: compress what is written and record where each object begins."""

    def __init__(self, section: str) -> None:
        self.section = section
        self.raw = 0
        self.objects: list[Object] = []
        self._compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, 31)
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

    def __init__(self, upload: Upload) -> None:
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
        """Make threads that wait for the store fail."""
        self._upload.stop()

    def finish(self, meta: Meta) -> Index:
        """Write index and end marker, which complete the file."""
        salted = msgspec.structs.replace(meta, salt=secrets.token_hex(16))
        index = Index(salted, self._members, self._objects)
        data = _encode_index(index)
        digest = hashlib.sha256(data).digest()
        self.index_sha256 = digest.hex()
        marker = _MARKER.pack(
            _MARKER_HEADER, 4 + _PAYLOAD, _SUBFIELD, _PAYLOAD,
            _MAGIC, self.size, len(data), digest, _EMPTY,
        )  # fmt: skip
        self._write(data + marker)
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
        offset, length, digest = _read_marker(source)
        data = source.read(offset, length)
        if hashlib.sha256(data).digest() != digest:
            raise e.VerificationFailed(f"{source.name}: damaged index: the SHA-256 differs")
        self.index_sha256 = digest.hex()
        self.index = _decode_index(_index_lines(data, source.name), source.name)
        self._check_coverage(offset)

    def _check_coverage(self, end: int) -> None:
        expected = 0
        for number, member in enumerate(self.index.members):
            if member.offset != expected:
                raise e.VerificationFailed(
                    f"{self.source.name}: member {number} begins at byte {member.offset},"
                    f" expected {expected}"
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
            for block in decompressed_blocks(data):
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


def is_artifact(source: Source) -> bool:
    """Whether a file ends like a backup file, complete or damaged."""
    if source.size < MARKER_SIZE:
        return False
    tail = source.read(source.size - MARKER_SIZE, MARKER_SIZE)
    return _MAGIC in tail or tail.startswith(_MARKER_HEADER)


def index_hash(source: Source) -> str:
    """Return the hash of the index, as the end marker has it.

    Raises:
        VerificationFailed: the file does not end as a backup file.

    """
    return _read_marker(source)[2].hex()


def decompressed_blocks(data: bytes) -> Iterator[bytes]:
    """Yield the contents of exactly one gzip member; raise VerificationFailed if it is damaged."""
    inflater = isal_zlib.decompressobj(wbits=31)
    try:
        while True:
            block = inflater.decompress(data, BLOCK)
            if block:
                yield block
            data = inflater.unconsumed_tail
            if inflater.eof or not (block or data):
                break
    except IsalError as error:  # type: ignore[misc]  # the stub declares it as a variable
        raise e.VerificationFailed(f"damaged gzip data: {error}") from error
    if not inflater.eof:
        raise e.VerificationFailed("truncated gzip data")
    if inflater.unused_data:
        raise e.VerificationFailed("bytes after the end of the gzip data")


class MultiMemberInflater:
    """Decompress a stream of gzip members up to the end of the last one."""

    def __init__(self) -> None:
        self._inflater = isal_zlib.decompressobj(wbits=31)
        self._begun = False  # inside a member

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes; raise VerificationFailed if they are damaged."""
        while data:
            if self._inflater.eof and data.startswith(b"\0"):
                raise e.VerificationFailed(
                    "zero bytes after the end of the gzip data",
                    hint="Tapes and block devices add them. Remove them with:"
                    " gzip -dc FILE | gzip > NEW.",
                )
            if self._inflater.eof:
                self._inflater = isal_zlib.decompressobj(wbits=31)
            self._begun = True
            try:
                block = self._inflater.decompress(data, BLOCK)
            except IsalError as error:  # type: ignore[misc]  # the stub declares it as a variable
                raise e.VerificationFailed(f"damaged gzip data: {error}") from error
            if block:
                yield block
            if self._inflater.eof:
                data = self._inflater.unused_data
                self._begun = False
            else:
                data = self._inflater.unconsumed_tail

    def close(self) -> None:
        """Check that the data ends at the end of a member."""
        if self._begun:
            raise e.VerificationFailed("truncated gzip data")


def _read_marker(source: Source) -> tuple[int, int, bytes]:
    """Return the index's offset, length and hash."""
    missing = e.VerificationFailed(
        f"{source.name}: truncated or incomplete: no end marker in {source.size} bytes"
    )
    if source.size < MARKER_SIZE:
        raise missing
    fields = _MARKER.unpack(source.read(source.size - MARKER_SIZE, MARKER_SIZE))
    header, extra, subfield, length, magic, offset, index_length, digest, empty = fields
    fixed = (header, extra, subfield, length, empty)
    if fixed != (_MARKER_HEADER, 4 + _PAYLOAD, _SUBFIELD, _PAYLOAD, _EMPTY):
        raise missing
    if magic != _MAGIC:
        raise e.VerificationFailed(
            f"{source.name}: unknown end marker {magic!r}",
            hint="Use the version of pgkeep that wrote the file, or a newer one.",
        )
    if offset + index_length + MARKER_SIZE != source.size:
        raise e.VerificationFailed(
            f"{source.name}: found {source.size} bytes, expected"
            f" {offset + index_length + MARKER_SIZE} according to its end marker"
        )
    return offset, index_length, digest


def _encode_index(index: Index) -> bytes:
    builder = MemberBuilder("index")
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


def _index_lines(data: bytes, file_name: str) -> Iterator[bytes]:
    """Yield the lines of a compressed index."""
    size = 0
    held: list[bytes] = []  # the parts of a line whose end was not read yet
    for block in decompressed_blocks(data):
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
    except msgspec.DecodeError as error:
        raise e.VerificationFailed(f"{file_name}: unreadable index: {error}") from error
    if meta is None:
        raise e.VerificationFailed(f"{file_name}: the first line of the index is missing")
    if meta.format > FORMAT:
        raise e.VerificationFailed(
            f"{file_name} has format {meta.format}, this pgkeep reads up to {FORMAT}",
            hint="Use the version of pgkeep that wrote it, or a newer one.",
        )
    return Index(meta, members, objects)
