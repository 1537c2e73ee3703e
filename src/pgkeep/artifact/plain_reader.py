"""Read the SQL of a file, compressed or not, and check it up to the end of the file."""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator

from .. import errors as e
from ..model.naming import Compression
from ..progress import Advance
from ..sql import dialect, script
from ..sql.outline import Outline, check_beginning
from ..sql.scanner import Scanner
from ..stores.store import Source, chunks
from .compression import LONGEST_HEAD, compression_of, inflater

OURS = b"\n-- Backup of database "
HEAD = 64 << 10  # bytes of SQL in which a dump must identify itself
LISTED = 50  # statements that pg_dump does not write are listed up to this number
_FORM = 1 << 20  # bytes of a statement that are kept to recognize its form


# Formats of files that are not plain dumps, and how to make a plain dump of each.
_FORMATS = (
    (b"PGDMP", "custom format of pg_dump (PGDMP)", "Convert it: pg_restore -f FILE.sql FILE."),
    (b"\xfd7zXZ\x00", "compressed with xz", "Decompress it: xz -d FILE."),
    (b"BZh", "compressed with bzip2", "Decompress it: bzip2 -d FILE."),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "Decompress it: lz4 -d FILE."),
    (b"\x02\x21\x4c\x18", "compressed with lz4", "Decompress it: lz4 -d FILE."),
    (b"PK\x03\x04", "a zip archive", "Unpack it: unzip FILE."),
    (b"\x1f\x9d", "compressed with compress", "Decompress it: gzip -d FILE."),
    (b"\xff\xfe", "text in UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > FILE.sql."),
    (b"\xfe\xff", "text in UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > FILE.sql."),
    (b"age-encryption.org/", "encrypted with age", "Decrypt it: age -d -i KEY FILE."),
    (b"-----BEGIN AGE", "encrypted with age", "Decrypt it: age -d -i KEY FILE."),
    (b"-----BEGIN PGP", "encrypted with gpg", "Decrypt it: gpg -d FILE > FILE.sql.gz."),
    (b"Salted__", "encrypted with openssl", "Decrypt it with openssl enc -d, as it was encrypted."),
)
# The first packet of an encrypted OpenPGP message: tag and length, and then the version (RFC 4880,
# 4.2 and 5.1): a session key for a public key (3) or for a password (4).
_OPENPGP = re.compile(
    rb"(?:\x84.|\x85..|\xc1(?:[\x00-\xbf]|[\xc0-\xdf].))\x03|(?:\x8c|\xc3).\x04", re.DOTALL
)
_TAR = (257, b"ustar")
# Version, sizes, and the format: pg_dump -Fd writes the table of contents of a tar archive.
_DIRECTORY = re.compile(rb"PGDMP.{5}\x03", re.DOTALL)


def check_format(head: bytes) -> None:
    """Raise VerificationFailed if a file begins like another known format."""
    if head[_TAR[0] :].startswith(_TAR[1]):
        raise _other_format(
            "a tar archive", "If pg_dump -Ft wrote it, convert it: pg_restore -f FILE.sql FILE."
        )
    if _DIRECTORY.match(head):
        raise _other_format(
            "directory format of pg_dump (toc.dat)", "Convert it: pg_restore -f FILE.sql DIRECTORY."
        )
    for magic, what, hint in _FORMATS:
        if head.startswith(magic):
            raise _other_format(what, hint)
    if _OPENPGP.match(head):
        raise _other_format("encrypted with gpg", "Decrypt it: gpg -d FILE > FILE.sql.gz.")


def _other_format(what: str, hint: str) -> e.NotPlainDump:
    return e.NotPlainDump(
        f"not a plain dump: {what}, expected plain SQL, optionally compressed with gzip or zstd",
        hint=hint,
    )


def check_head(source: Source) -> None:
    """Raise VerificationFailed if the first bytes of a file rule out a plain dump."""
    try:
        check_format(source.read(0, min(512, source.size)))
        _head(plain_blocks(source))
    except e.VerificationFailed as error:
        raise type(error)(f"{source.name}: {error}", hint=error.hint) from error


def _head(blocks: Iterator[bytes]) -> bytes:
    """Read and check the first bytes of the SQL."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= HEAD:
            break
    check_format(head)
    check_beginning(head)
    return head


def plain_blocks(
    source: Source,
    progress: Advance = lambda _: None,
    digest: Callable[[bytes], object] = lambda _: None,
) -> Iterator[bytes]:
    """Yield the SQL of a dump, compressed with gzip or zstd or not, up to the end of the file.

    `digest` receives the bytes of the file as stored.

    zlib stops silently after the first member; gunzip only warns about bytes after the last one
    (trap B27).
    """
    compression = _compression(source)
    stream = None if compression is None else inflater(compression)
    for chunk in chunks(source):
        digest(chunk)
        if stream is None:
            yield chunk
        else:
            yield from stream.feed(chunk)
        progress(len(chunk))
    if stream is not None:
        stream.close()


def is_ours(source: Source) -> bool:
    """Whether a file begins like a file of pgkeep; a truncated one has no end marker."""
    try:
        return OURS in next(plain_blocks(source), b"")[:100]
    except e.PgkeepError:
        return False


def is_compressed(source: Source) -> bool:
    """Whether a file begins as gzip or zstd does."""
    return _compression(source) is not None


def _compression(source: Source) -> Compression | None:
    return compression_of(source.read(0, min(LONGEST_HEAD, source.size)))


class PlainReading:
    """Read a plain dump once to its end: yields its pieces and records what was found.

    With `statements`, the SQL is split into statements, and those that pg_dump does not write are
    recorded. The SHA-256 of the file shows whether two readings saw the same file.
    """

    def __init__(
        self,
        source: Source,
        progress: Advance = lambda _: None,
        schemas: set[bytes] | None = None,
        *,
        statements: bool = True,
    ) -> None:
        self._source = source
        self._progress = progress
        self._digest = hashlib.sha256()
        self._statements = dialect.Statements(_FORM) if statements else None
        self._unknown: list[bytes] = []
        self.scanner = Scanner(schemas, statements=statements)
        self.outline = Outline()
        self.done = 0  # bytes of the file
        self.ours = False  # begins as a file of pgkeep

    def pieces(self) -> Iterator[script.Piece]:
        """Yield the pieces of the dump.

        Raises:
            VerificationFailed: it is damaged, or not a plain dump.

        """
        check_format(self._source.read(0, min(512, self._source.size)))
        blocks = plain_blocks(self._source, self._count, self._digest.update)
        head = _head(blocks)
        self.ours = OURS in head[:100]
        for block in itertools.chain([head], blocks):
            yield from self._noted(self.scanner.feed(block))
        yield from self._noted(self.scanner.close())
        if self._statements is not None:
            self._statements.finish()
        self.outline.finish()

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, available after reading it."""
        return self._digest.hexdigest()

    @property
    def unknown(self) -> list[str]:
        """The beginnings of the statements that neither pg_dump nor pg_dumpall writes."""
        cluster = self.outline.connects
        found = [
            statement
            for statement in self._unknown
            if not (cluster and dialect.is_of_cluster(statement))
        ]
        shown = [dialect.shown(statement) for statement in found[:LISTED]]
        return shown + [f"and {len(found) - LISTED} more"] * (len(found) > LISTED)

    def _noted(self, pieces: Iterator[script.Piece]) -> Iterator[script.Piece]:
        for piece in pieces:
            self.outline.add(piece)
            if self._statements is not None:
                statement = self._statements.add(piece)
                if statement is not None and statement.text:
                    self._note(statement)
            yield piece

    def _note(self, statement: dialect.Statement) -> None:
        if statement.text[:5].upper() == b"COPY ":
            # The scanner would take its rows for statements.
            raise e.VerificationFailed(
                f"a COPY that pg_dump does not write: {dialect.shown(statement.text)}"
            )
        known = dialect.is_known(statement.text) if statement.whole else dialect.begins(statement)
        if not known and len(self._unknown) <= 20 * LISTED:
            self._unknown.append(statement.text[: 8 << 10])

    def _count(self, size: int) -> None:
        self.done += size
        self._progress(size)
