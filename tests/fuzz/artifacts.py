"""Readers of backup files: end marker, index, members.

The index is behind a hash, and the members too. So an input is a description of a file, from which
a file with correct hashes is made.
"""

import hashlib
import re
from contextlib import suppress

from pgkeep import errors as e
from pgkeep.artifact import compression, contents, extract, file, verify
from pgkeep.artifact.file import Artifact
from pgkeep.model.naming import Compression
from pgkeep.sql import selection
from pgkeep.stores.store import Source

from .checks import StrictSource

MEMBER, INDEX = b"\n%member\n", b"\n%index\n"
_FACT = re.compile(rb"@([OLRS])([0-9])")  # offset, length, raw bytes and SHA-256 of a member


def with_marker(members: bytes, index: bytes, kind: Compression = Compression.GZIP) -> bytes:
    """Return a file with a correct end marker."""
    marker = file.Marker(kind, len(members), len(index), hashlib.sha256(index).digest())
    return members + index + marker.encoded()


def _compressed(data: bytes, kind: Compression) -> bytes:
    stream = compression.compressor(kind)
    return stream.compress(data) + stream.flush()


def assembled(description: bytes, kind: Compression = Compression.GZIP) -> bytes:
    """Return the file of a description: the SQL of the members, then the lines of the index.

    In these, `@O0` is the offset of the first member, and so on.
    """
    sql, _, lines = description.partition(INDEX)
    packed = b""
    facts: dict[tuple[bytes, bytes], bytes] = {}
    for number, text in enumerate(sql.split(MEMBER)):
        part = _compressed(text, kind)
        digest = hashlib.sha256(part).hexdigest().encode()
        name = b"%d" % number
        values = (b"%d" % len(packed), b"%d" % len(part), b"%d" % len(text), digest)
        facts.update(zip([(fact, name) for fact in (b"O", b"L", b"R", b"S")], values, strict=True))
        packed += part
    index = _FACT.sub(lambda match: facts.get((match[1], match[2]), b"0"), lines)
    return with_marker(packed, _compressed(index, kind), kind)


def described(source: Source) -> bytes:
    """Return the description of a file, for a seed."""
    artifact = Artifact(source)
    marker = file._read_marker(source)
    data = source.read(marker.offset, marker.length)
    lines = b"\n".join(file._index_lines(data, marker.compression, "seed"))
    for number, member in enumerate(artifact.index.members[:10]):
        places = {
            b'"offset":%d,' % member.offset: b'"offset":@O%d,' % number,
            b'"length":%d,"raw":%d,' % (member.length, member.raw): b'"length":@L%d,"raw":@R%d,'
            % (number, number),
            member.sha256.encode(): b"@S%d" % number,
        }
        for found, token in places.items():
            lines = lines.replace(found, token, 1)
    sql = [artifact.read(number) for number in range(len(artifact.index.members))]
    return MEMBER.join(sql) + INDEX + lines


def _use(data: bytes) -> None:
    """Do with a file what the commands do: list, verify, divide by table, print."""
    source = StrictSource("shop_daily_20261126T130700Z.sql.gz", data)
    file.is_artifact(source)
    artifact = Artifact(source)
    assert artifact.index_sha256 == file.index_hash(source)
    extract.inventory(artifact, objects=True)
    artifact.index.table_rows()
    everything = selection.pattern("*")
    for use in (_verify, _contents, _print):
        use(artifact, everything)


def _verify(artifact: Artifact, _: selection.Pattern) -> None:
    verify.verify_source(artifact.source, jobs=1, progress=lambda _: None)


def _contents(artifact: Artifact, everything: selection.Pattern) -> None:
    found = contents.Contents(artifact)
    tables = found.matching([everything])
    found.of(tables)
    found.inserted(tables)
    for table in tables:
        found.relations(table)


def _print(artifact: Artifact, everything: selection.Pattern) -> None:
    for blocks in (
        extract.sql(artifact),
        extract.sql(artifact, schema_only=True),
        extract.table_sql(artifact, [everything]),
        extract.head(artifact, everything, 3),
    ):
        with suppress(e.PgkeepError):
            for _ in blocks:
                pass


def read_assembled(data: bytes) -> None:
    """A file with correct hashes, but any index and any SQL."""
    _use(assembled(data))


def print_assembled(data: bytes) -> None:
    """The same without a verification before: what `show`, `cat` and a restore of a table read."""
    source = StrictSource("FILE", assembled(data))
    artifact = Artifact(source)
    _print(artifact, selection.pattern("*"))


def divide_assembled(data: bytes) -> None:
    """The same: the contents by table."""
    _contents(Artifact(StrictSource("FILE", assembled(data))), selection.pattern("*"))


def read_bytes(data: bytes) -> None:
    """Any bytes as a backup file or a dump, also compressed with gzip or zstd."""
    source = StrictSource("FILE", data)
    file.is_artifact(source)
    verify.verify_source(source, jobs=1, progress=lambda _: None, accept_edited=True)


def read_index(data: bytes) -> None:
    """Any bytes as the compressed index behind a correct marker."""
    _use(with_marker(b"", data))


def read_members(data: bytes) -> None:
    """Any bytes as the compressed members, behind a correct index."""
    index = compression.gzip(
        b'-- meta {"pgkeep":"1","database":{"name":"shop","owner":"o","encoding":"UTF8",'
        b'"collate":"C","ctype":"C"},"server":{"version":"17","version_num":170000,"system_identifier":"1"},'
        b'"client_version":"17","snapshot":"2026-11-22T02:00:00Z"}\n'
        b'-- member {"section":"pre","offset":0,"length":%d,"raw":1000,"sha256":"%s"}\n'
        % (len(data), hashlib.sha256(data).hexdigest().encode())
    )
    _use(with_marker(data, index))


def read_zstd(data: bytes) -> None:
    """The same as the first one, with zstd."""
    _use(assembled(data, Compression.ZSTD))


def read_zstd_index(data: bytes) -> None:
    """Any bytes as the index in zstd."""
    _use(with_marker(b"", data, Compression.ZSTD))


READERS = (
    read_assembled, print_assembled, divide_assembled, read_bytes, read_index, read_members,
    read_zstd, read_zstd_index,
)  # fmt: skip
