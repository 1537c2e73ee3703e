"""Verify an artifact and believe nothing: the file alone, and against what its side files say.

Ours: end marker, index, every member's hash, CRC, length and row counts, and the structure of the
SQL. Any other plain dump of pg_dump, gzipped or not: the structure.
"""

from concurrent.futures import ThreadPoolExecutor

import msgspec

from .. import errors as e
from ..model import naming
from ..model.manifest import Manifest, TableRows
from ..progress import Advance
from ..sql.outline import Outline
from ..stores.store import Source, sha256_of
from . import consistency
from .file import Artifact, Object, is_artifact
from .plain_reader import GZIP, PlainReading


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found whole."""

    file: str
    kind: str  # pgkeep or plain
    size: int  # bytes of the file
    raw_bytes: int  # of SQL
    entries: int  # objects announced in the SQL
    tables: int
    rows: int
    checked: list[str]  # in words
    connects: bool = False  # reaches beyond one database, as pg_dump -C and pg_dumpall do
    statements: list[str] = []  # of a plain dump: the beginnings of those that pg_dump never writes
    edited: bool = False  # made by pgkeep and compressed anew: its index and hashes are lost
    sha256: str | None = None  # of a plain dump


def edited(report: Report) -> e.VerificationFailed:
    """Say that a file of pgkeep lost its index, and what pg_dump has not written in it."""
    unknown = "".join(f"\n  {statement}" for statement in report.statements)
    added = f"; statements that pg_dump does not write:{unknown}" if unknown else ""
    return e.VerificationFailed(
        f"{report.file}: made by pgkeep, but without its end marker: edited or compressed anew"
        f"{added}",
        hint="Its SQL is complete, but neither index nor hashes prove it. If the change was meant:"
        " pgkeep restore --backup=FILE --target-db=NAME --allow-statements.",
    )


class SideFiles(msgspec.Struct, frozen=True):
    """What lies beside an artifact and speaks of it."""

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
) -> Report:
    """Check an open file, and that it is what its side files say.

    A file of pgkeep that has lost its index is a plain dump if `accept_edited`, else damaged.
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


def check_digest(source: Source, artifact: Artifact | None, side: SideFiles) -> None:
    """Compare a file's SHA-256 with what its side files say.

    A remote one is not fetched for that: its index has the hashes of everything else, and the side
    files that of the index.
    """
    if source.remote and artifact is not None and side.index_sha256 is not None:
        if artifact.index_sha256 != side.index_sha256:
            raise e.VerificationFailed(
                f"{source.name}: the SHA-256 of its index is {artifact.index_sha256}, its manifest"
                f" says {side.index_sha256}"
            )
        return
    found = sha256_of(source)
    if side.sha256 is not None and side.sha256 != found:
        raise e.VerificationFailed(
            f"{source.name}: SHA-256 is {found}, its .sha256 file says {side.sha256}"
        )
    if side.manifest is not None and side.manifest.artifact.sha256 != found:
        raise e.VerificationFailed(
            f"{source.name}: SHA-256 is {found}, its manifest says {side.manifest.artifact.sha256}"
        )


def check_names(artifact: Artifact, manifest: Manifest | None) -> None:
    """Check that the name of a file, its manifest and its index speak of the same backup.

    A file that has another name than pgkeep gives is not told by it.
    """
    meta = artifact.index.meta
    said = [("its manifest", manifest.database.name, manifest.schema_only)] if manifest else []
    name = naming.parse(artifact.source.name.rpartition("/")[2])
    if name is not None:
        said.append(("its name", name.database, name.schema_only))
    for what, database, schema_only in said:
        if database != meta.database.name:
            raise e.VerificationFailed(
                f"{artifact.source.name}: it holds database {meta.database.name}, {what} says"
                f" {database}"
            )
        if schema_only != meta.schema_only:
            kinds = {True: "definitions only", False: "definitions and rows"}
            raise e.VerificationFailed(
                f"{artifact.source.name}: it holds {kinds[meta.schema_only]}, {what} says"
                f" {kinds[schema_only]}"
            )


def _verify_artifact(
    artifact: Artifact, manifest: Manifest | None, jobs: int, progress: Advance
) -> Report:
    source = artifact.source
    index = artifact.index
    by_member = index.objects_by_member()
    rows_members = [number for number in range(len(index.members)) if _is_rows(by_member[number])]

    def check_rows(number: int) -> consistency.RowsFound:
        found = consistency.check_rows(artifact, number, by_member[number])
        progress(index.members[number].length)
        return found

    rows: list[consistency.RowsFound] = []
    # Members of rows are whole statements each, so they can be read side by side.
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
    return Report(
        file=source.name, kind="pgkeep", size=source.size, raw_bytes=index.raw_bytes,
        entries=len(index.objects), tables=len(tables), rows=sum(table.rows for table in tables),
        checked=[],
    )  # fmt: skip


def _is_rows(objects: list[Object]) -> bool:
    return bool(objects) and all(entry.rows is not None for entry in objects)


def _compare(name: str, found: list[TableRows], expected: list[TableRows]) -> None:
    mine = {(one.schema, one.name): one.rows for one in found}
    theirs = {(one.schema, one.name): one.rows for one in expected}
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise e.VerificationFailed(
                f"{name}: table {'.'.join(key)} has {mine.get(key)} rows, its manifest says"
                f" {theirs.get(key)}"
            )


def _verify_plain(source: Source, progress: Advance) -> Report:
    reading = PlainReading(source, progress)
    try:
        for _ in reading.pieces():
            pass
    except e.VerificationFailed as error:
        if reading.ours:
            raise e.VerificationFailed(
                f"{source.name}: cut or unfinished: made by pgkeep, but without its end marker"
                f" ({error})",
                hint=error.hint,
            ) from error
        raise e.VerificationFailed(f"{source.name}: {error}", hint=error.hint) from error
    outline = reading.outline
    return Report(
        file=source.name, kind="plain", size=source.size, raw_bytes=outline.offset,
        entries=outline.entries, tables=outline.copies, rows=outline.rows, checked=[],
        connects=outline.connects, statements=reading.unknown, sha256=reading.sha256,
        edited=reading.ours and source.read(0, 2) == GZIP,
    )  # fmt: skip
