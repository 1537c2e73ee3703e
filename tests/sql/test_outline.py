"""What a plain dump must look like before its rows are believed."""

import pytest

from pgkeep import errors as e
from pgkeep.sql.outline import Outline, check_beginning
from pgkeep.sql.script import Begin, Complete, CopyBegin, CopyEnd, Entry, Meta, Piece, Rows, Text

BEGIN = b"--\n-- PostgreSQL database dump\n--\n"
COPY = CopyBegin(b"COPY a.t (a, b) FROM stdin;\n")


def entry(kind: str) -> Entry:
    return Entry(kind, b"t", b"a", b"owner", 0, 0)


def read(pieces: list[Piece]) -> Outline:
    outline = Outline()
    for piece in pieces:
        outline.add(piece)
    outline.finish()
    return outline


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "the dump is empty"),
        (b"PGDMP\x01\x0e", "not a plain dump of pg_dump"),
        (b"a\0" + BEGIN, "not a plain dump of pg_dump"),
        (BEGIN.replace(b"\n", b"\r\n"), "found CR LF line ends"),
        (b"\xef\xbb\xbf" + BEGIN, "found a byte order mark"),
        (b"pg_dump: warning: a\n" + BEGIN, "found a message of pg_dump in the dump"),
    ],
)
def test_beginnings_of_other_files(head: bytes, message: str) -> None:
    check_beginning(BEGIN)
    with pytest.raises(e.VerificationFailed, match=message):
        check_beginning(head)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([], "the comment at its beginning is missing"),
        ([COPY], "the beginning is missing: byte 0 precedes"),
        ([Complete(b"")], "the beginning is missing"),
        ([Begin(BEGIN)], "truncated dump: it ends after 34 bytes"),
        ([Begin(BEGIN), Meta(b"\\restrict k\n"), Complete(b"")], "line is missing"),
        ([Begin(BEGIN), Meta(b"\\! id\n")], "unexpected psql command at byte 34"),
        ([Begin(BEGIN), Meta(b"\\encoding UTF8\n")], "unexpected psql command"),
        ([Begin(BEGIN), entry("INDEX"), entry("TABLE DATA")], "data at byte 34 after indexes"),
        ([Begin(BEGIN), COPY, Rows(b"1\t2\n3\n"), CopyEnd()], "do not have its 2 columns: 2 rows"),
        ([Begin(BEGIN), Complete(b""), Text(b"--\nDROP TABLE t;\n")], "after the end of the dump"),
    ],
)  # fmt: skip
def test_other_programs_have_written_into_it(pieces: list[Piece], message: str) -> None:
    with pytest.raises(e.VerificationFailed, match=message):
        read(pieces)


def test_dumps_of_several_databases() -> None:
    """A dump of pg_dumpall contains other dumps, and ends with its own comment."""
    whole: list[Piece] = [
        Begin(b"--\n-- PostgreSQL database cluster dump\n--\n"), Meta(b"\\restrict k\n"),
        Meta(b"\\unrestrict k\n"), Meta(b"\\encoding SQL_ASCII\n"), Meta(b"\\connect app\n"),
        Begin(BEGIN), COPY, Rows(b"1\t2\n"), CopyEnd(), Complete(b""), Text(b"\n--\n"),
        Complete(b"-- PostgreSQL database cluster dump complete\n"), Text(b"--\n\n"),
    ]  # fmt: skip
    outline = read(whole)
    assert (outline.connects, outline.copies, outline.rows) == (True, 1, 1)
