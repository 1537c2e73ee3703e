r"""Turn a plain dump of pg_dump into an artifact, without a server; its SQL stays as it is.

The dump is read twice: first to its end, to check that it is complete, then to write
it anew, member by member. Memory is bounded by one member and the definitions.

What pg_dump -C and pg_dumpall write around a database (\connect, CREATE DATABASE and what names
the database itself) is left out, for it would lead a restore elsewhere; roles go to the globals.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

import msgspec

from .. import __version__
from .. import errors as e
from ..artifact import plain_reader, verify
from ..artifact.file import ArtifactWriter, Meta, is_artifact
from ..backup.assembly import MemberOrder
from ..catalog.catalog import Catalog
from ..catalog.encryption import check_not_forgotten, encryption_facts
from ..catalog.locks import GLANCE, backup_lock
from ..catalog.publication import manifest_of, publication
from ..crypt.options import UNENCRYPTED, Encryption
from ..model import naming
from ..model.manifest import Extension, FileFacts, Manifest
from ..postgres.repeatable_roles import repeatable_roles
from ..progress import Progress
from ..sql import dialect, script
from ..stores.hashed_upload import HashedUpload
from ..stores.store import Source, Store, locked
from ..task_group import TaskGroup
from . import plain
from .assembler import DROPPING, UNCONDITIONAL, PlainAssembler
from .names import Guess

_STARTED = re.compile(rb"^-- Started on (?P<time>[-\d]{10} [:\d]{8}) (?P<zone>\S+)$", re.MULTILINE)
_SEARCH_PATH = b"\nSELECT pg_catalog.set_config('search_path', '', false);\n"
_OLD = re.compile(r"[89]\.|10(?:\.[012])?\b(?!\.)")  # versions of pg_dump


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """What the user says of a dump, and what is known of its file."""

    jobs: int
    database: str | None = None
    type: naming.BackupType | None = None
    guess: Guess = field(default_factory=Guess)
    modified: datetime | None = None  # when the file was last written
    zone: tzinfo = UTC
    encryption: Encryption = UNENCRYPTED
    compression: naming.Compression = naming.Compression.GZIP


class Moment(NamedTuple):
    """When a dump was made, and what says so."""

    time: datetime
    origin: str


class IsThere(e.Refused):
    """The store has an artifact of that name."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(
            f"{name} exists already in {url}", hint="Another --type gives it another name."
        )
        self.name = name


def index(
    source: Source,
    store: Store,
    options: IndexOptions,
    progress: Progress,
    *,
    copy: Store | None = None,
) -> Manifest:
    """Write a plain dump as an artifact into a store; the dump is only read.

    Raises:
        VerificationFailed: the dump is damaged; nothing was written.
        Refused: it holds what cannot become an artifact, or is in the store already.
        StoreError: it could not be read or written.

    """
    if is_artifact(source):
        raise e.Refused(
            f"{source.name} is a backup file of pgkeep: it has its index",
            hint="If its manifest is lost: pgkeep adopt FILE.",
        )
    progress.step("checking the file")
    progress.total(source.size)
    found = plain.survey(source, progress.advance)
    number = plain.choose_part(found, options.database, source.name)
    part = found.parts[number]
    _refuse_unreadable(part, source.name)
    _refuse_unknown(part, source.name)
    moment = when(part.head, options)
    if moment is None:
        raise e.Refused(
            f"{source.name} does not contain the time at which it was made",
            hint="Give it a name with the time: app_20260506T070809.sql.gz.",
        )
    recipients = options.encryption.recipients
    name = naming.BackupName(
        database=_database_name(part, options, source.name),
        type=options.type or options.guess.type or naming.BackupType.MANUAL,
        taken=moment.time.astimezone(UTC).replace(microsecond=0),
        schema_only=part.tables > 0 and part.data == 0,
        compression=options.compression,
        cipher=None if recipients is None else recipients.cipher,
    )
    with locked(store, backup_lock(name.database), GLANCE) as alone:
        if not alone:
            raise e.AlreadyRunning(
                f"a backup of database {name.database} is already running in {store.url}",
                hint="Wait for it to end; a run that was killed holds no lock.",
            )
        catalog = Catalog(store)
        catalog.list_records()
        check_not_forgotten(catalog, copy, options.encryption, known=bool(catalog.files))
        if any(store.exists(file) for file in name.files):
            raise IsThere(name.artifact, store.url)
        run = _Index(source, store, options, progress, found, number, name, moment, copy)
        return run.make()


def _refuse_unreadable(part: plain.Part, file: str) -> None:
    if _SEARCH_PATH in part.head:
        return
    hint = "Restore it with pgkeep restore --backup=FILE --target-db=NAME, and back that up."
    version = plain.client_version(part.head)
    if _OLD.match(version) is None:
        raise e.Refused(
            f"{file}: pg_dump {version or 'of an unknown version'} sets an empty search_path, which"
            " is missing: the dump was edited",
            hint=hint,
        )
    raise e.Refused(
        f"{file} was made by a pg_dump older than 10.3: its statements depend on search_path",
        hint=hint,
    )


def _refuse_unknown(part: plain.Part, file: str) -> None:
    if part.unknown:
        shown = "; ".join(dialect.shown(statement) for statement in part.unknown[:3])
        raise e.Refused(
            f"{file} holds {len(part.unknown)} statements that pg_dump does not write: {shown}",
            hint="Read them. If they are intended: pgkeep restore --backup=FILE --target-db=NAME"
            " --allow-statements, and back that up.",
        )


def _database_name(part: plain.Part, options: IndexOptions, file: str) -> str:
    name = part.name or options.database or options.guess.database
    if name is None:
        raise e.Refused(
            f"{file} does not contain the name of its database", hint="Name it: --database=NAME."
        )
    return name


def when(head: bytes, options: IndexOptions) -> Moment | None:
    """Return when a dump was made: as it says itself, as its name says, or as its file does."""
    started = _STARTED.search(head)
    if started is not None:
        time = datetime.fromisoformat(started["time"].decode())
        zone = started["zone"].decode("ascii", "replace")
        for believed in (UTC, options.zone):
            # Abbreviations mean many things; only those that are certain are believed.
            if time.replace(tzinfo=believed).tzname() == zone:
                return Moment(time.replace(tzinfo=believed), "its own beginning")
    guess, modified = options.guess, options.modified
    if guess.time is not None:
        if guess.end is None:
            return Moment(guess.time, "its name")
        if modified is not None and guess.time <= modified < guess.end:
            return Moment(modified, "the file's time, which agrees with its name")
        return Moment(guess.time, "its name")
    return Moment(modified, "the file's time") if modified is not None else None


@dataclass(frozen=True, slots=True)
class _Index:
    """One backup file that is made from a complete dump."""

    source: Source
    store: Store
    options: IndexOptions
    progress: Progress
    found: plain.Survey
    number: int
    name: naming.BackupName
    moment: Moment
    copy: Store | None

    @property
    def part(self) -> plain.Part:
        return self.found.parts[self.number]

    def make(self) -> Manifest:
        """Write all files, then give them their names."""
        name = self.name
        roles = repeatable_roles(self.found.roles) if self.found.cluster else None
        encryption = self.options.encryption
        with publication(self.store, name, roles=roles is not None, encryption=encryption) as files:
            stored = HashedUpload(files.artifact)
            with encryption.upload(stored) as artifact:
                writer = ArtifactWriter(artifact, name.compression)
                index = writer.finish(self._meta(self._write(writer)))
                artifact.seal()
            side = verify.SideFiles(sha256=stored.sha256, index_sha256=writer.index_sha256)
            verified = files.read_back(side, self.options.jobs, self.progress)
            facts = FileFacts(name.artifact, stored.size, stored.sha256)
            manifest = msgspec.structs.replace(
                manifest_of(name, facts, index, writer.index_sha256, encryption_facts(encryption)),
                data_only=self.part.data > 0 and not self.part.tables,
                globals=None if roles is None else files.write_roles(roles),
                role_passwords=roles is not None and b" PASSWORD '" in roles,
                warnings=self._warnings(),
                verified=verified.when,
                verified_level=verified.level,
                pending=[self.copy.url] if self.copy is not None else [],
            )
            files.publish(manifest)
            return manifest

    def _write(self, writer: ArtifactWriter) -> PlainAssembler:
        self.progress.step("indexing")
        self.progress.total(self.source.size)
        dump = plain_reader.PlainReading(
            self.source, self.progress.advance, self.found.schemas, statements=False
        )
        order = MemberOrder(writer, TaskGroup(), 0)
        assembler = PlainAssembler(self._header(), self.part, order)
        pieces = plain.numbered(plain.checked(self.source, dump))
        for piece in chosen(pieces, self.number, cluster=self.found.cluster):
            assembler.add(piece)
        assembler.finish()
        if dump.sha256 != self.found.sha256:
            raise e.VerificationFailed(f"{self.source.name} has changed while it was read")
        return assembler

    def _header(self) -> bytes:
        name = re.sub(r"\s", " ", self.name.database.encode("ascii", "backslashreplace").decode())
        program = self.name.compression.program
        return f"""\
--
-- Backup of database {name} as it was at {self.name.taken:%Y-%m-%d %H:%M:%S} UTC
-- A plain dump, indexed by pgkeep {__version__}; the time is that of {self.moment.origin}
--
-- To restore it:          pgkeep restore --backup=FILE
-- Without pgkeep, if its roles exist, into a new and empty database:
--   sha256sum -c FILE.sha256
--   createdb -T template0 -E {self.part.encoding} NEWDB
--   {program} FILE | psql -X -v ON_ERROR_STOP=1 -d NEWDB && psql -c ANALYZE NEWDB
-- A complete file ends with the index of its contents, in comments such as this one.
--

""".encode()

    def _meta(self, written: PlainAssembler) -> Meta:
        part = self.part
        return Meta(
            pgkeep=__version__,
            database=plain.database_facts(part, self.name.database),
            server=plain.server_facts(part.head),
            client_version=plain.client_version(part.head),
            snapshot=self.moment.time.astimezone(UTC).isoformat(),
            lc_monetary=plain.lc_monetary(part.head),
            schema_only=self.name.schema_only,
            extensions=[Extension(extension, "") for extension in written.extensions],
            roles=sorted(written.owners | part.grantees),
        )

    def _warnings(self) -> list[str]:
        part = self.part
        found = [f"made from {self.source.name}; the time is that of {self.moment.origin}"]
        encoding = plain.database_facts(part, self.name.database).encoding
        if encoding != part.encoding:
            found.append(
                f"its text is in {part.encoding}, its database was in {encoding}: pg_dump -E has"
                " converted it, and a restore converts it back"
            )
        if part.data and not part.tables:
            found.append("it holds rows only: restore it with --data-only")
        if part.inserts:
            found.append("its rows are INSERT statements, which are not counted")
        if self.found.cluster:
            others = [str(other.name) for other in self.found.parts if other is not part]
            found.append(f"left out, databases: {', '.join(others)}; the roles are in the globals")
        if part.left_out:
            found.append(
                f"left out, for they name the database itself: \\connect,"
                f" {', '.join(part.left_out)}"
            )
        drops = DROPPING.search(part.head)
        if drops is not None and UNCONDITIONAL.search(part.head, drops.start()):
            found.append(
                "its DROP statements fail in a new database: pgkeep restore skips them, psql"
                " with ON_ERROR_STOP stops"
            )
        return found


def chosen(
    pieces: Iterator[tuple[int, script.Piece]], number: int, *, cluster: bool
) -> Iterator[script.Piece]:
    r"""Yield one database's pieces, without what names or leads to the database itself.

    The settings after \connect are those before it, again.
    """
    skipping = False
    for part, piece in pieces:
        if part != number:
            continue
        match piece:
            case script.Entry():
                skipping = plain.is_of_database(piece)
            case script.Complete() | script.Setting():
                if isinstance(piece, script.Complete):
                    skipping = False
                yield piece
                continue
            case script.Meta() if cluster:
                continue  # \restrict, whose end is beyond this part
            case script.Begin() if cluster:
                yield script.Text(b"--\n")
        if not skipping:
            yield piece
    if cluster:
        yield script.Text(b"--\n\n")
