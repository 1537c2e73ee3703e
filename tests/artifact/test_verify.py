"""What reads a dump, on its own: the scanner, the inflater, the index, the manifest."""

import gzip
import hashlib
import random
import time
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from pgkeep import errors as e
from pgkeep.artifact import compression, consistency, file, verify
from pgkeep.artifact.compression import MultiMemberInflater
from pgkeep.artifact.file import FORMAT, Artifact, Index, Marker, Member, Meta, Object
from pgkeep.backup import copy_session
from pgkeep.model import manifest
from pgkeep.model.manifest import DatabaseFacts, ServerFacts
from pgkeep.model.naming import Compression
from pgkeep.sql import script
from pgkeep.sql.scanner import Scanner
from pgkeep.stores.memory import MemorySource

MIB = 1 << 20
BEGIN = b"--\n-- PostgreSQL database dump\n--\n\n"
COMPLETE = b"--\n-- PostgreSQL database dump complete\n--\n\n"
ENTRY = b"--\n-- Name: t; Type: TABLE; Schema: s; Owner: o\n--\n"

# What SQL is made of, as far as a scanner may stumble over it.
TOKENS = [
    b"'", b'"', b"$$", b"$a$", b"E'", b"\\", b"\\'", b"\n", b"\r\n", b"--", b"--\n", b"-- ", b"/*",
    b"*/", b"COPY ", b'COPY "a\n', b"t (a, ", b" FROM stdin;\n", b"\n\\.\n", b"\\.", b";", b"x",
    b" ", b"\t", b"$", b"1", b"\xff", b"\0", b"\\restrict x\n", b"COPY t (a) FROM stdin;\n",
    b"SET standard_conforming_strings = off;\n", b"SET standard_conforming_strings = on;\n",
    b"SET default_tablespace = '';\n", b"-- TOC entry 1 (class 2 OID 3)\n",
    b"-- Dependencies: 1 2\n", b"-- Name: x; Type: TABLE; Schema: s; Owner: o\n", ENTRY, BEGIN,
    COMPLETE,
]  # fmt: skip
soup = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=3), max_size=40).map(b"".join)


def scanned(*chunks: bytes) -> tuple[list[script.Piece], str | None]:
    """Return the pieces, neighbours of a kind joined, and the error that the input ends with."""
    scanner = Scanner()
    found: list[script.Piece] = []
    error = None
    try:
        for chunk in chunks:
            found += scanner.feed(chunk)
        found += scanner.close()
    except e.VerificationFailed as failure:
        error = str(failure)
    joined: list[script.Piece] = []
    for piece in found:
        last = joined[-1] if joined else None
        if isinstance(piece, script.Text) and isinstance(last, script.Text):
            joined[-1] = script.Text(last.data + piece.data)
        elif isinstance(piece, script.Rows) and isinstance(last, script.Rows):
            joined[-1] = script.Rows(last.data + piece.data)
        else:
            joined.append(piece)
    return joined, error


def typed(pieces: Iterable[script.Piece]) -> list[tuple[type, script.Piece]]:
    """Pieces are tuples: those of two kinds with the same data would be equal."""
    return [(type(piece), piece) for piece in pieces]


def data_of(pieces: list[script.Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces if not isinstance(piece, script.Entry))


@given(soup)
@example(b"COPY t (a) FROM stdin;\nx\\.\n\\.\nafter\n")
@settings(max_examples=300, deadline=None)
def test_pieces_joined_are_the_input(data: bytes) -> None:
    pieces, error = scanned(data)
    if error is None:
        assert data_of(pieces) == data
    else:
        assert data.startswith(data_of(pieces))


@given(soup, st.randoms(use_true_random=False), st.sampled_from([1, 2, 7, 60]))
@example(b"$" + ENTRY + b"a\n", random.Random(1), 60)  # noqa: S311
@example(b"''E'' FROM stdin;\n-- TOC entry 1 (class 2 OID 3)\n'", random.Random(1), 2)  # noqa: S311
@settings(max_examples=500, deadline=None)
def test_chunks_cut_anywhere_give_the_same_pieces(
    data: bytes, cuts: random.Random, longest: int
) -> None:
    chunks = []
    start = 0
    while start < len(data):
        length = cuts.randint(1, longest)
        chunks.append(data[start : start + length])
        start += length
    pieces, error = scanned(data)
    in_chunks, error_in_chunks = scanned(*chunks)
    assert error_in_chunks == error
    if error is None:
        assert typed(in_chunks) == typed(pieces)


def test_a_string_on_the_line_after_an_escape_string() -> None:
    """A view's columns: whether the second line is fed later, it continues no string."""
    lines = (b"SELECT E'a\\\\b'::text AS x,\n", b"    'c'::text AS y;\n")
    for chunks in (lines, (b"".join(lines),)):
        pieces, error = scanned(*chunks)
        assert error is None
        assert data_of(pieces) == b"".join(lines)


@given(soup)
@settings(max_examples=300, deadline=None)
def test_soup_is_refused_with_a_reason(data: bytes) -> None:
    """Whatever a file holds, it is whole or VerificationFailed."""
    for content in (data, BEGIN + data, BEGIN + data + COMPLETE):
        for packed in (content, gzip.compress(content, 1)):
            try:
                report = verify.verify_source(
                    MemorySource("soup", packed), jobs=1, progress=lambda _: None
                )
                assert report.raw_bytes == len(content)
            except e.VerificationFailed as error:
                assert str(error).startswith("soup: ")  # noqa: PT017 - either will do


@pytest.mark.parametrize(
    "quoted",
    [
        b"'%b'",
        b"'it''s %b'",
        b"E'it\\'s %b'",
        b"E'it\\'s \\\\\\'%b'",
        b"e'\\\\''%b'",
        b"U&'\\0041%b'",
        b'"%b"',
        b'"a"" %b"',
        b"$$%b$$",
        b"$a$ $$ $b$ %b$a$",
        b"$\xc3\xa4_1$%b$\xc3\xa4_1$",
        b"/* /* */ %b */",
        b"/* '%b */",
        b"1;\nSET standard_conforming_strings = off;\nSELECT 'it\\'s%b'",
    ],
)
def test_what_is_quoted_is_not_believed(quoted: bytes) -> None:
    """A2.4: an ending, an entry or a COPY inside of quotes; what follows them counts again."""
    for inside in (COMPLETE, ENTRY, b"\nCOPY t (a) FROM stdin;\n1\n", b"\n\\connect x\n"):
        data = BEGIN + b"SELECT\n" + quoted.replace(b"%b", b"\n" + inside) + b";\n" + ENTRY
        pieces, error = scanned(data)
        assert error is None
        kinds = [type(piece) for piece in pieces if not isinstance(piece, script.Text)]
        assert kinds == [script.Begin, script.Entry], data


@pytest.mark.parametrize(
    "text", [b"- -'\\';\n", b"-- it's \"\n", b"SELECT '\\', 'a'';';\n", b'a.b::"VERSION"[1:n];\n']
)
def test_what_is_not_quoted_is_believed(text: bytes) -> None:
    pieces, error = scanned(BEGIN + text + ENTRY)
    assert error is None
    assert script.Entry in [type(piece) for piece in pieces]


def test_copy_header_over_several_lines() -> None:
    header = b'COPY s."a;\n FROM stdin;\nb" ("c""\n\\.\n", d) FROM stdin;\n'
    rows = b"1\t2\nx\\.\n3\\.\t\n"
    data = header + rows + b"\\.\n" + ENTRY
    for size in (1, 5, len(data)):
        chunks = [data[at : at + size] for at in range(0, len(data), size)]
        pieces, error = scanned(*chunks)
        assert error is None
        expected: list[script.Piece] = [
            script.CopyBegin(header),
            script.Rows(rows),
            script.CopyEnd(),
        ]
        assert typed(pieces[:3]) == typed(expected)


def test_rows_longer_than_the_chunks_are_not_gathered() -> None:
    scanner = Scanner()
    assert list(scanner.feed(b"COPY t (a) FROM stdin;\n")) != []
    for _ in range(5):
        (piece,) = scanner.feed(b"x" * 1000)
        assert typed([piece]) == typed([script.Rows(b"x" * 1000)])
    # The end of a row that looks like the end of the data, cut from what is before it.
    assert typed(scanner.feed(b"\\.\n")) == typed([script.Rows(b"\\.\n")])
    assert typed(scanner.feed(b"\\.\n")) == typed([script.CopyEnd()])
    assert list(scanner.close()) == []


def test_what_never_becomes_a_copy_is_not_gathered() -> None:
    scanner = Scanner()
    told = len(data_of([*scanner.feed(b'COPY "this\n')]))
    for _ in range(300):
        told += len(data_of([*scanner.feed(b"without an end\n" * 1000)]))
    assert told > 300 * 15_000 - 2 * MIB


@pytest.mark.parametrize(
    ("size", "before", "unit", "after"),
    [
        (20, b"INSERT INTO t VALUES ('", b"a", b"');\n"),
        (5, b"SELECT ", b"'abcdefghijklmnopqrstuvwxyz', ", b"1;\n"),
        (20, b"COPY t (", b"a, ", b"b) FROM stdin;\n"),
        (20, b"COPY t (\n", b"a,\n", b"b) FROM stdin;\n"),
        (2, b"", b"COPY this to\n", b"\n"),
        (20, b'COPY "', b"nothing\n", b'";\n'),
        (10, b"SELECT ", b"$abcdefghijklmnopqrstuvwxyz ", b"1;\n"),
        (5, b"", b"-- a comment among comments\n--\n", b"\n"),
        (20, b"COPY t (a) FROM stdin;\n", b"x", b"\n\\.\n"),
    ],
    ids=["string", "strings", "copy", "lines", "copies", "name", "dollars", "comments", "row"],
)
def test_time_grows_with_the_size_only(size: int, before: bytes, unit: bytes, after: bytes) -> None:
    """MiB of one line, or of lines that might become something, in chunks of 1 MiB."""
    data = before + unit * (size * MIB // len(unit)) + after
    scanner = Scanner()
    began = time.process_time()
    told = 0
    for at in range(0, len(data), MIB):
        told += sum(len(data_of([piece])) for piece in scanner.feed(data[at : at + MIB]))
    told += sum(len(data_of([piece])) for piece in scanner.close())
    assert told == len(data)
    assert time.process_time() - began < 15  # quadratic would be minutes


@pytest.mark.parametrize("extra", [-1, 0, 1, 8, 20, 257, 32768, 65537])
@pytest.mark.parametrize("chunk", [1, 3, 1000, None])
def test_gzip_members_cut_anywhere(extra: int, chunk: int | None) -> None:
    """B27: members of about the size of a block, an empty one, one by another program."""
    parts = [b"abc%d\n" % extra * MIB, b"", b"x" * MIB * 2]
    parts = [part[: MIB + extra] for part in parts]
    data = b"".join(
        [gzip.compress(parts[0], 9), compression.gzip(parts[1]), compression.gzip(parts[2])]
    )
    size = chunk or len(data)
    inflater = MultiMemberInflater()
    found = b"".join(
        block for at in range(0, len(data), size) for block in inflater.feed(data[at : at + size])
    )
    inflater.close()
    assert found == b"".join(parts)


@given(st.integers(0, 10_000), st.integers(0, 7), st.integers(0, 10_000))
@settings(max_examples=300, deadline=None)
def test_damaged_gzip_is_refused(at: int, bit: int, length: int) -> None:
    """B27, B28: a flipped bit or a cut gives an error or, in a header's idle bits, the same."""
    parts = [hashlib.shake_128(b"noise").digest(300), b"abc" * 100, b""]
    data = b"".join(gzip.compress(part, 6, mtime=0) for part in parts)
    flipped = bytearray(data)
    flipped[at % len(data)] ^= 1 << bit
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + len(gzip.compress(part, 6, mtime=0)))
    cut = length % len(data)
    for damaged, whole in ((bytes(flipped), True), (data[:cut], cut in ends)):
        inflater = MultiMemberInflater()
        try:
            found = b"".join(inflater.feed(damaged))
            inflater.close()
        except e.VerificationFailed:
            continue
        assert whole
        assert b"".join(parts).startswith(found)


ROWS = b"COPY s.t (a) FROM stdin;\n1\n2\n\\.\n\n"


ANNOUNCED = b"--\n-- Data for Name: t; Type: TABLE DATA; Schema: s; Owner: o\n--\n\n"


def artifact_bytes(
    *,
    index_member: int = 1,
    offset: int = 0,
    missing: int = 0,
    raw: int = 0,
    rows: int = 2,
    data: bytes = ANNOUNCED + ROWS,
    ending: bytes = COMPLETE,
    meta_format: int = FORMAT,
    more: int = 0,
) -> MemorySource:
    """An artifact that its writer made wrong, hashes and all; or with more tables."""
    tables = [
        b"--\n-- Name: t%d; Type: TABLE; Schema: s; Owner: o\n--\n\n"
        b"CREATE TABLE s.t%d (\n);\n\n\n" % (number, number)
        for number in range(more)
    ]
    members: list[Member] = []
    packed = b""
    for section, text in (
        ("pre", BEGIN + ENTRY + b"".join(tables)),
        ("data", data),
        ("post", ending),
    ):
        part = compression.gzip(text)
        digest = hashlib.sha256(part).hexdigest()
        place = len(packed) + (offset if section == "data" else 0)
        length = len(text) + (raw if section == "data" else 0)
        members.append(Member(section, place, len(part), length, digest))
        packed += part
    facts = DatabaseFacts(name="d", owner="o", encoding="UTF8", collate="C", ctype="C")
    server = ServerFacts(version="17.2", version_num=170002, system_identifier="1")
    meta = Meta(
        format=meta_format, pgkeep="1", database=facts, server=server, client_version="17.2",
        snapshot="2026-11-22T02:00:00Z",
    )  # fmt: skip
    objects = [Object("TABLE", "s", "t", "o", 0, len(BEGIN), len(ENTRY))]
    for number, text in enumerate(tables):
        start = objects[-1].start + objects[-1].length
        objects.append(Object("TABLE", "s", f"t{number}", "o", 0, start, len(text)))
    objects += [
        Object("TABLE DATA", "s", "t", "o", index_member, 0, len(data), rows=rows),
    ]
    index = file._encode_index(
        Index(meta, members[: len(members) - missing], objects), Compression.GZIP
    )
    marker = Marker(Compression.GZIP, len(packed), len(index), hashlib.sha256(index).digest())
    return MemorySource("FILE", packed + index + marker.encoded())


def verified(source: MemorySource) -> verify.VerificationReport:
    return verify.verify_source(source, jobs=1, progress=lambda _: None)


class Undescribed(Artifact):
    """A file of which nothing is reported: to describe a member looks at all objects."""

    def describe(self, number: int) -> str:
        raise AssertionError(number)


class Looked(list[Object]):
    """Objects that count how often they are looked through."""

    def __init__(self, objects: Iterable[Object]) -> None:
        super().__init__(objects)
        self.looks = 0

    def __iter__(self) -> Iterator[Object]:
        self.looks += 1
        return super().__iter__()


def looks(tables: int) -> int:
    """Return how often the definitions of so many tables are looked through."""
    artifact = Undescribed(artifact_bytes(more=tables))
    objects = Looked(entry for entry in artifact.index.objects if entry.member == 0)
    pieces = list(consistency.TextCheck(artifact).member(0, objects))
    assert sum(isinstance(piece, script.Entry) for piece in pieces) == len(objects) == tables + 1
    return objects.looks


def test_no_object_is_compared_with_all_others() -> None:
    """B28: a file of 10,000 tables took a quarter of an hour to verify, all of it in this."""
    assert looks(2) == looks(30)


WRONG: dict[str, tuple[MemorySource, str]] = {
    "object nowhere": (artifact_bytes(index_member=3), "lies in member 3, which does not exist"),
    "object before": (artifact_bytes(index_member=-1), "lies in member -1, which does not exist"),
    "hole": (artifact_bytes(offset=1), "member 1 begins at byte"),
    "member missing": (artifact_bytes(missing=1), "members end at byte"),
    "length": (artifact_bytes(raw=1), "bytes of SQL, expected"),
    "rows": (artifact_bytes(rows=3), r"found \[2\] rows per COPY, expected \[3\]"),
    "open COPY": (
        artifact_bytes(data=ANNOUNCED + ROWS[:-4]),
        r"member 1 \(s.t\) at byte .* inside",
    ),
    "psql command": (artifact_bytes(data=ANNOUNCED + b"\\q\n" + ROWS), "unexpected psql command"),
    "no ending": (artifact_bytes(ending=b"\n"), "truncated dump"),
    "open quote": (artifact_bytes(ending=b"'" + COMPLETE), "without a semicolon"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_index_that_lies_about_its_members(wrong: str) -> None:
    """B28: the hashes are right, what they vouch for is not."""
    assert verified(artifact_bytes()).rows == 2
    source, said = WRONG[wrong]
    with pytest.raises(e.VerificationFailed, match=said):
        verified(source)


def test_artifact_of_a_format_of_the_future() -> None:
    with pytest.raises(e.VerificationFailed, match="format 2, this pgkeep reads up to 1") as caught:
        Artifact(artifact_bytes(meta_format=2))
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"format": 1', b'{"format": "1"}', b"null", b"[" * 9999]
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(e.VerificationFailed, match="x is not a manifest of pgkeep"):
        manifest.decode(data, "x")


def test_manifest_of_the_future_may_look_different() -> None:
    with pytest.raises(e.VerificationFailed, match="x has format 2, this pgkeep reads up to 1"):
        manifest.decode(b'{"format": 2, "database": "renamed", "new": [1]}', "x")


def test_an_unfinished_member_is_not_waited_for() -> None:
    """The end of the input inside of a deflate stream, whatever the block size."""
    packed = isal_zlib.compress(b"abc" * MIB, 1, 31)
    for length in (1, 17, len(packed) // 2, len(packed) - 1):
        with pytest.raises(e.VerificationFailed, match="truncated gzip data"):
            list(compression.member_blocks(packed[:length], Compression.GZIP))
    with pytest.raises(e.VerificationFailed, match="bytes after the end"):
        list(compression.member_blocks(packed + b"\0", Compression.GZIP))


@given(st.lists(st.sampled_from(["\\\\.", "a", "\\N", "", "\\\\", "."])), st.data())
def test_rows_from_psql_end_where_they_end(rows: list[str], data: st.DataObject) -> None:
    """However the pipe cuts what psql writes, the rows are all there and the end is not."""
    text = "".join(row + "\n" for row in rows).encode()
    stream = text + b"\\.\n"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1))))
    pieces = iter([stream[i:j] for i, j in zip([0, *cuts], [*cuts, len(stream)], strict=True)])
    assert b"".join(copy_session.rows_until_end(lambda: next(pieces))) == text
