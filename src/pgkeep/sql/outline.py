"""Check that a plain SQL dump is complete: beginning, order of sections, COPY data, ending."""

import re

from .. import errors as e
from .script import (
    DATA_TYPES,
    Begin,
    Complete,
    CopyBegin,
    CopyEnd,
    Entry,
    Meta,
    Piece,
    Rows,
    Text,
    section_of,
)

_COLUMNS = re.compile(
    rb'COPY (?P<table>(?:"(?:[^"]|"")*+"|[^\s"(])+) \((?P<columns>(?:"(?:[^"]|"")*+"|[^")])*)\) '
)
_COLUMN = re.compile(rb'(?:"(?:[^"]|"")*+"|[^",])+')

_BEGINNING = re.compile(
    rb"^-- PostgreSQL database (?:cluster )?dump(?P<carriage>\r?)\n", re.MULTILINE
)


def check_beginning(head: bytes) -> None:
    """Raise VerificationFailed if these first bytes of a file rule out a plain dump.

    For files of any kind: a scanner would search a disk image for the end of its first line.
    """
    if not head:
        raise e.VerificationFailed(
            "the dump is empty",
            hint="pg_dump wrote nothing, or the disk was full. Use another backup.",
        )
    match = _BEGINNING.search(head)
    if match is None or b"\0" in head[: match.start()]:  # pg_dump -Ft has plain SQL inside
        raise _no_dump()
    if match["carriage"]:
        raise e.VerificationFailed(
            "found CR LF line ends, expected LF: the file was converted after pg_dump wrote it",
            hint="Make the dump with --file=NAME, and transfer it in binary mode.",
        )
    if head.startswith(_BYTE_ORDER_MARK):
        raise e.VerificationFailed(
            "found a byte order mark, which pg_dump never writes: the file was edited",
            hint="Remove the mark: tail -c +4 FILE > NEW.",
        )
    warning = _WARNING.search(head, 0, match.start())
    if warning is not None:
        raise e.VerificationFailed(
            f"found a message of pg_dump in the dump: {warning.group().decode('utf-8', 'replace')}",
            hint="Standard error was written to the same file. Repeat the dump without 2>&1: such"
            " lines can also be among the rows.",
        )


def _no_dump() -> e.VerificationFailed:
    return e.NotPlainDump(
        "not a plain dump of pg_dump: the comment at its beginning is missing",
        hint="pgkeep reads plain SQL (pg_dump -Fp). Use pg_restore for other formats.",
    )


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WARNING = re.compile(rb"^pg_dump(?:all)?: [^\n]{0,200}", re.MULTILINE)


class Outline:
    """Check the structure of a dump: beginning, closed COPY blocks, data before indexes, ending.

    Raises VerificationFailed for the first problem. Offsets are in bytes of the SQL.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.entries = 0
        self.copies = 0
        self.rows = 0
        self.connects = False  # affects more than one database, as pg_dump -C and pg_dumpall do
        self._section = "pre"
        self._begun = self._complete = False
        self._after_ending: bytes | None = None  # a statement after the ending
        self._cluster = False  # inside a dump of pg_dumpall, which has its own ending
        self._key: bytes | None = None  # of \restrict
        self._restricted = False
        self._copy = b""  # the COPY statement whose rows follow
        self._copied = self._tabs = 0  # rows and tabs of that COPY

    def add(self, piece: Piece) -> None:
        """Process the next piece of the dump."""
        match piece:
            case Entry():
                self._entry(piece)
                return
            case Rows():
                count = piece.data.count(b"\n")
                self.rows += count
                self._copied += count
                self._tabs += piece.data.count(b"\t")
            case CopyBegin():
                self.copies += 1
                self._complete = False
                self._copy, self._copied, self._tabs = piece.data, 0, 0
                self._expect_begun()
            case CopyEnd():
                self._check_columns()
            case Begin():
                self._begun, self._complete, self._after_ending = True, False, None
                self._cluster |= b" cluster " in piece.data
                self.connects |= self._cluster
            case Complete():
                self._expect_begun()
                self._cluster &= b" cluster " not in piece.data
                self._complete = not self._cluster
            case Meta():
                self._meta(piece.data)
            case Text() if self._complete:
                self._ending(piece.data)
        self.offset += len(piece.data)

    def finish(self) -> None:
        """Check that the dump ended with pg_dump's ending."""
        if not self._begun:
            raise _no_dump()
        if not self._complete:
            raise e.VerificationFailed(
                f"truncated dump: it ends after {self.offset} bytes of SQL without"
                ' "PostgreSQL database dump complete"'
            )
        if self._restricted:
            raise e.VerificationFailed(r"truncated dump: its \unrestrict line is missing")
        if self._after_ending is not None:
            raise e.VerificationFailed(
                "a statement after the end of the dump: "
                + self._after_ending[:60].decode("utf-8", "replace"),
                hint="pg_dump does not write it. Remove it if another program added it.",
            )

    def _entry(self, entry: Entry) -> None:
        self.entries += 1
        if self._section == "post" and entry.type in DATA_TYPES:
            raise e.VerificationFailed(
                f"sections out of order: data at byte {self.offset} after indexes or constraints"
            )
        self._section = section_of(entry, self._section)

    def _expect_begun(self) -> None:
        if not self._begun:
            raise e.VerificationFailed(
                f'the beginning is missing: byte {self.offset} precedes "PostgreSQL database dump"'
            )

    def _meta(self, line: bytes) -> None:
        command, _, argument = line.strip().partition(b" ")
        match command:
            case b"\\restrict":
                self._key, self._restricted = argument, True
            case b"\\unrestrict" if self._restricted and argument == self._key:
                self._restricted = False
            case b"\\connect":
                self.connects, self._section = True, "pre"
            case b"\\encoding" if argument == b"SQL_ASCII":
                pass  # precedes \connect to a database with an unusual name
            case _:
                raise e.VerificationFailed(
                    f"unexpected psql command at byte {self.offset}: {line[:60]!r}"
                )

    def _check_columns(self) -> None:
        """Check that the rows of a COPY have its columns: a tab in a value is escaped.

        This finds text that another program wrote into the dump.
        """
        match = _COLUMNS.match(self._copy)
        if match is None:
            return
        columns = len(_COLUMN.findall(match["columns"]))
        if self._tabs != self._copied * (columns - 1):
            table = match["table"].decode("utf-8", "replace")
            raise e.VerificationFailed(
                f"rows of {table} do not have its {columns} columns: {self._copied} rows with"
                f" {self._tabs + self._copied} values"
            )

    def _ending(self, text: bytes) -> None:
        """After the ending, only comments or another database of pg_dumpall can follow."""
        line = next(
            (part for part in text.split(b"\n") if part and not part.startswith(b"--")), None
        )
        if line is not None and self._after_ending is None:
            self._after_ending = line
