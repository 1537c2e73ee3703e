"""Verify a backup file from its contents alone, and compare it with its side files.

A file of pgkeep: end marker, index, the hash, CRC, length and row count of every member, and the
structure of the SQL. Any other plain dump of pg_dump, compressed or not: the structure.
"""

from concurrent.futures import ThreadPoolExecutor

import msgspec

from .. import errors as e
from ..crypt import opening
from ..crypt.opening import CIPHERTEXT, CONTENTS, Level, stored_sha256
from ..model import naming
from ..model.manifest import Manifest, TableRows
from ..progress import Advance
from ..sql.outline import Outline
from ..stores.store import Source
from . import consistency
from .file import Artifact, Object, is_artifact
from .plain_reader import PlainReading, is_compressed


class VerificationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a successful verification."""

    file: str
    kind: str  # pgkeep or plain; encrypted, if only the stored bytes were compared
    size: int  # bytes of the file
    raw_bytes: int  # of SQL
    entries: int  # objects announced in the SQL
    tables: int
    rows: int
    checked: list[str]  # names of the checks
    connects: bool = False  # affects more than one database, as dumps of pg_dump -C and pg_dumpall
    statements: list[str] = []  # of a plain dump: beginnings of those that pg_dump never writes
    edited: bool = False  # made by pgkeep, then compressed again: without index and hashes
    sha256: str | None = None  # of a plain dump
    level: Level = CONTENTS  # what was compared; of an encrypted file without a key: ciphertext


def edited(report: VerificationReport) -> e.VerificationFailed:
    """Return the error for a file of pgkeep that lost its index; lists statements added to it."""
    unknown = "".join(f"\n  {statement}" for statement in report.statements)
    added = f"; statements that pg_dump does not write:{unknown}" if unknown else ""
    return e.VerificationFailed(
        f"{report.file}: made by pgkeep, but the end marker is missing: edited or recompressed"
        f"{added}",
        hint="Its SQL is complete, but has neither index nor hashes to verify it. If the change was"
        " intended, restore it with: pgkeep restore --backup=FILE --target-db=NAME"
        " --allow-statements.",
    )


class SideFiles(msgspec.Struct, frozen=True):
    """The contents of the side files of a backup file."""

    sha256: str | None = None
    manifest: Manifest | None = None
    index_sha256: str | None = None


def verify_source(
    source: Source,
    *,
    jobs: int,
    progress: Advance,
    side: SideFiles | None = None,
    accept_edited: bool = False,
) -> VerificationReport:
    """Verify an open file and compare it with its side files.

    A file of pgkeep that lost its index is treated as a plain dump if `accept_edited`, otherwise as
    damaged.
    """
    side = side or SideFiles()
    checked = ["structure"]
    artifact = Artifact(source) if is_artifact(source) else None
    if side.sha256 is not None or side.manifest is not None:
        check_digest(source, artifact, side)
        checked.append("SHA-256")
    if artifact is not None:
        check_names(artifact, side.manifest)
        report = _verify_artifact(artifact, side.manifest, jobs, progress)
        checked = ["end marker", "index", "hashes", "row counts", *checked]
    else:
        report = _verify_plain(source, progress)
        if report.edited and not accept_edited:
            raise edited(report)
    if side.manifest is not None:
        checked.append("manifest")
    return msgspec.structs.replace(report, checked=checked)


def verify_stored(source: Source, side: SideFiles, progress: Advance) -> VerificationReport:
    """Verify an encrypted file without a private key: its form, its length, its SHA-256.

    Raises:
        VerificationFailed: it is damaged, or no side file has its SHA-256.

    """
    opening.check_framing(source)
    if side.manifest is None and side.sha256 is None:
        raise e.VerificationFailed(
            f"{source.name} cannot be verified: it is encrypted, no private key is given, and"
            " neither a manifest nor a .sha256 file contains its SHA-256",
            hint="Give the private key with --identity=FILE, or BACKUP_IDENTITY_FILE; GPG uses its"
            " keyring.",
        )
    check_digest(source, None, side)
    progress(source.size)
    manifest = side.manifest
    return VerificationReport(
        file=source.name, kind="encrypted", size=source.size,
        raw_bytes=0 if manifest is None else manifest.raw_bytes,
        entries=0,
        tables=0 if manifest is None else len(manifest.tables),
        rows=0 if manifest is None else manifest.rows,
        checked=["form of the encrypted file", "SHA-256", *(["manifest"] if manifest else [])],
        level=CIPHERTEXT,
    )  # fmt: skip


def check_digest(source: Source, artifact: Artifact | None, side: SideFiles) -> None:
    """Compare a file's SHA-256 with its side files.

    A file in a bucket is not downloaded for that: its index contains the hashes of all members, and
    the side files contain the hash of the index.
    """
    if source.remote and artifact is not None and side.index_sha256 is not None:
        if artifact.index_sha256 != side.index_sha256:
            raise e.VerificationFailed(
                f"{source.name}: the SHA-256 of its index is {artifact.index_sha256}, its manifest"
                f" has {side.index_sha256}"
            )
        return
    found = stored_sha256(source)
    if side.sha256 is not None and side.sha256 != found:
        raise e.VerificationFailed(
            f"{source.name}: SHA-256 is {found}, its .sha256 file has {side.sha256}"
        )
    if side.manifest is not None and side.manifest.artifact.sha256 != found:
        raise e.VerificationFailed(
            f"{source.name}: SHA-256 is {found}, its manifest has {side.manifest.artifact.sha256}"
        )


def check_names(artifact: Artifact, manifest: Manifest | None) -> None:
    """Check that a file's name, its manifest and its index describe the same backup.

    The name is not checked if it does not have the form of pgkeep's names.
    """
    meta = artifact.index.meta
    claims = [("its manifest", manifest.database.name, manifest.schema_only)] if manifest else []
    name = naming.parse(artifact.source.name.rpartition("/")[2])
    if name is not None:
        claims.append(("its name", name.database, name.schema_only))
        if artifact.compression != name.compression:
            raise e.VerificationFailed(
                f"{artifact.source.name}: compressed with {artifact.compression}, expected"
                f" {name.compression} according to its name"
            )
    for what, database, schema_only in claims:
        if database != meta.database.name:
            raise e.VerificationFailed(
                f"{artifact.source.name}: contains database {meta.database.name}, expected"
                f" {database} according to {what}"
            )
        if schema_only != meta.schema_only:
            kinds = {True: "definitions only", False: "definitions and rows"}
            raise e.VerificationFailed(
                f"{artifact.source.name}: contains {kinds[meta.schema_only]}, expected"
                f" {kinds[schema_only]} according to {what}"
            )


def _verify_artifact(
    artifact: Artifact, manifest: Manifest | None, jobs: int, progress: Advance
) -> VerificationReport:
    source = artifact.source
    index = artifact.index
    by_member = index.objects_by_member()
    rows_members = [number for number in range(len(index.members)) if _is_rows(by_member[number])]

    def check_rows(number: int) -> consistency.RowsFound:
        found = consistency.check_rows(artifact, number, by_member[number])
        progress(index.members[number].length)
        return found

    rows: list[consistency.RowsFound] = []
    # Members of rows contain complete statements, so they can be checked in parallel.
    with ThreadPoolExecutor(jobs) as pool:
        for result in [pool.submit(check_rows, number) for number in rows_members]:
            try:
                rows.append(result.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    in_parallel = set(rows_members)
    outline = Outline()
    text = consistency.TextCheck(artifact)
    for number, member in enumerate(index.members):
        if number not in in_parallel:
            for piece in text.member(number, by_member[number]):
                outline.add(piece)
            progress(member.length)
    for piece in text.close():
        outline.add(piece)
    outline.finish()
    consistency.check_roots(artifact, rows, text.partitioned)
    tables = index.table_rows()
    if manifest is not None:
        _compare(source.name, tables, manifest.tables)
    return VerificationReport(
        file=source.name, kind="pgkeep", size=source.size, raw_bytes=index.raw_bytes,
        entries=len(index.objects), tables=len(tables), rows=sum(table.rows for table in tables),
        checked=[],
    )  # fmt: skip


def _is_rows(objects: list[Object]) -> bool:
    return bool(objects) and all(entry.rows is not None for entry in objects)


def _compare(name: str, found: list[TableRows], expected: list[TableRows]) -> None:
    mine = {(table.schema, table.name): table.rows for table in found}
    theirs = {(table.schema, table.name): table.rows for table in expected}
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise e.VerificationFailed(
                f"{name}: table {'.'.join(key)} has {mine.get(key)} rows, its manifest has"
                f" {theirs.get(key)}"
            )


def _verify_plain(source: Source, progress: Advance) -> VerificationReport:
    reading = PlainReading(source, progress)
    try:
        for _ in reading.pieces():
            pass
    except e.VerificationFailed as error:
        if reading.ours:
            raise e.VerificationFailed(
                f"{source.name}: truncated or incomplete: made by pgkeep, but the end marker is"
                f" missing ({error})",
                hint=error.hint,
            ) from error
        raise type(error)(f"{source.name}: {error}", hint=error.hint) from error
    outline = reading.outline
    return VerificationReport(
        file=source.name, kind="plain", size=source.size, raw_bytes=outline.offset,
        entries=outline.entries, tables=outline.copies, rows=outline.rows, checked=[],
        connects=outline.connects, statements=reading.unknown, sha256=reading.sha256,
        edited=reading.ours and is_compressed(source),
    )  # fmt: skip
