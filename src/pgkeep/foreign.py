r"""Turn a plain dump of pg_dump into an artifact, without a server; its SQL stays as it is.

The dump is read twice: first to its end, to see that it is whole and what it holds, then to write
it anew, member by member. Memory is bounded by one member and the definitions.

What pg_dump -C and pg_dumpall write around a database (\connect, CREATE DATABASE and what names
the database itself) is left out, for it would lead a restore elsewhere; roles go to the globals.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

from . import __version__, backup, naming, script, statements, verify
from . import artifact as a
from . import errors as e
from . import manifest as m
from .assembly import Assembler, Order
from .crew import Crew
from .database import codec, shared_text
from .foreign_names import Guess
from .packer import TEXT_SIZE
from .stores import Source, Store, all_or_none

UNKNOWN_CLUSTER = "0"  # a system identifier that no cluster has
HEAD = 64 << 10  # bytes before the first entry in which a dump speaks of itself
BEFORE_LIMIT = 64 << 20  # bytes of SQL before the first entry: the DROP statements of --clean

_DUMPED_FROM = re.compile(rb"^-- Dumped from database version (?P<version>\S+)", re.MULTILINE)
_DUMPED_BY = re.compile(rb"^-- Dumped by pg_dump version (?P<version>\S+)", re.MULTILINE)
_STARTED = re.compile(rb"^-- Started on (?P<time>[-\d]{10} [:\d]{8}) (?P<zone>\S+)$", re.MULTILINE)
_ENCODING = re.compile(rb"^SET client_encoding = '(\w+)';$", re.MULTILINE)
_SEARCH_PATH = b"\nSELECT pg_catalog.set_config('search_path', '', false);\n"
_VERSION = re.compile(r"(?P<major>\d+)(?:\.(?P<minor>\d+))?")
_AUTHORIZATION = re.compile(rb"^SET SESSION AUTHORIZATION [^\n]*;\s*\Z", re.MULTILINE)
# What pg_dump --clean writes before the first entry.
_DROPPING = re.compile(
    rb"^(?:DROP |ALTER |CREATE OR REPLACE |SELECT pg_catalog\.lo_unlink)", re.MULTILINE
)
_DROP_PUBLIC = re.compile(rb"^DROP SCHEMA (?:IF EXISTS )?public;\n", re.MULTILINE)
_UNCONDITIONAL = re.compile(
    rb"^(?:DROP (?!SCHEMA public;)(?:(?!IF EXISTS).)*;$"
    rb"|ALTER (?:(?!IF EXISTS).)*;$|CREATE OR REPLACE VIEW "
    rb"|SELECT pg_catalog\.lo_unlink\('\d+'\);$)",
    re.MULTILINE,
)
_CREATE_DATABASE = re.compile(
    rb"^CREATE DATABASE (?P<name>%b) WITH (?P<options>[^\n]*);$" % statements.IDENTIFIER,
    re.MULTILINE,
)
_OPTION = re.compile(rb"(?P<name>\w+) = '(?P<text>(?:[^']|'')*)'|(?P<plain>\w+) = (?P<word>\w+)")
_OWNER_TO = re.compile(
    rb"^ALTER DATABASE %b OWNER TO (?P<owner>%b);$"
    % (statements.IDENTIFIER, statements.IDENTIFIER),
    re.MULTILINE,
)
_GRANTEE = re.compile(
    rb"^(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) [^\n]* (?:TO|FROM) (?P<role>%b)"
    rb"(?: WITH GRANT OPTION)?;$" % statements.IDENTIFIER,
    re.MULTILINE,
)
_QUOTE_OR_END = re.compile(rb"['\"]|;\n|--[^\n]*\n")
_STATEMENT = re.compile(rb"^(?!--)\S", re.MULTILINE)
_COPY_TARGET = re.compile(rb"COPY %b" % statements.QUALIFIED)
_ROLES = b"\n--\n-- Roles\n--\n"
_OF_DATABASE = frozenset({"DATABASE", "DATABASE PROPERTIES"})
_PROVIDERS = {b"libc": "c", b"icu": "i", b"builtin": "b"}
_CLUSTER = -1  # the part of pg_dumpall's output that belongs to no database
_DROPS = "DROP"  # the type under which the statements of --clean are indexed


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """What the user says of a dump, and what is known of its file."""

    jobs: int
    database: str | None = None
    type: naming.BackupType | None = None
    guess: Guess = field(default_factory=Guess)
    modified: datetime | None = None  # when the file was last written
    zone: tzinfo = UTC


@dataclass(slots=True)
class Part:
    """One database in a dump: a dump of pg_dump is one part, of pg_dumpall several."""

    name: str | None = None
    head: bytes = b""
    creation: bytes = b""
    encoding: str = "SQL_ASCII"
    entries: int = 0
    data: int = 0
    tables: int = 0
    rows: int = 0
    inserts: bool = False
    grantees: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)

    @property
    def codec(self) -> str:
        """The Python codec of its SQL."""
        return codec(self.encoding)


class Survey(NamedTuple):
    """What a whole dump holds."""

    raw_bytes: int
    entries: int
    schemas: set[bytes]
    cluster: bool
    roles: bytes
    parts: list[Part]


class Moment(NamedTuple):
    """When a dump was made, and what says so."""

    time: datetime
    origin: str


class IsThere(e.Refused):
    """The store has an artifact of that name."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(
            f"{name} is in {url} already", hint="Another --type gives it another name."
        )
        self.name = name


def is_dump(source: Source) -> bool:
    """Whether a file begins like a plain dump, compressed or not; damaged ones may not."""
    try:
        script.check_beginning(next(verify.plain_blocks(source), b""))
    except e.PgkeepError:
        return False
    return True


def index(
    source: Source,
    store: Store,
    options: IndexOptions,
    progress: backup.Progress,
    *,
    copy: Store | None = None,
) -> m.Manifest:
    """Write a plain dump as an artifact into a store; the dump is only read.

    Raises:
        VerificationFailed: the dump is damaged; nothing was written.
        Refused: it holds what cannot become an artifact, or is in the store already.
        StoreError: it could not be read or written.

    """
    if a.is_artifact(source):
        raise e.Refused(
            f"{source.name} is an artifact of pgkeep: it has its index",
            hint="If its manifest is lost: pgkeep adopt FILE.",
        )
    progress.step("checking the file")
    progress.verifying(source.size)
    found = survey(source, progress.verified)
    number = choose_part(found, options.database, source.name)
    part = found.parts[number]
    _refuse_unreadable(part, source.name)
    moment = when(part.head, options)
    if moment is None:
        raise e.Refused(
            f"{source.name} does not say when it was made",
            hint="Give it a name with the time: app_20260506T070809.sql.gz.",
        )
    name = naming.BackupName(
        database=_database_name(part, options, source.name),
        type=options.type or options.guess.type or naming.BackupType.MANUAL,
        taken=moment.time.astimezone(UTC).replace(microsecond=0),
        schema_only=part.tables > 0 and part.data == 0,
    )
    with store.lock(f".{naming.encode_database(name.database)}.lock") as alone:
        if not alone:
            raise e.AlreadyRunning(
                f"a backup of database {name.database} is already running in {store.url}",
                hint="Wait for it to end; a run that was killed holds no lock.",
            )
        if any(store.exists(file) for file in name.files):
            raise IsThere(name.artifact, store.url)
        run = _Index(source, store, options, progress, found, number, name, moment, copy)
        return run.make()


def survey(source: Source, progress: verify.Progress = lambda _: None) -> Survey:
    """Read a dump to its end; tell what it holds.

    Raises:
        VerificationFailed: it is damaged.

    """
    outline = script.Outline()
    reading = _Reading()
    # Even the few schemas that are known tell the others' entries from what they might look like.
    scanner = script.Scanner(reading.schemas)
    for number, piece in numbered(_checked(source, scanner, outline, progress)):
        try:
            reading.add(number, piece)
        except e.PgkeepError as error:
            place = f"at byte {outline.offset} of the SQL"
            raise type(error)(f"{source.name}: {error.message} {place}", hint=error.hint) from error
    return Survey(
        raw_bytes=outline.offset,
        entries=outline.entries,
        schemas=reading.schemas,
        cluster=reading.cluster,
        roles=_roles(bytes(reading.roles)),
        parts=reading.parts,
    )


def _roles(cluster: bytes) -> bytes:
    """Return the roles of pg_dumpall's output, without the DROP statements of its --clean."""
    before, heading, after = cluster.partition(_ROLES)
    settings = b"".join(line + b"\n" for line in before.split(b"\n") if line.startswith(b"SET "))
    return settings + heading + after if heading else b""


def _checked(
    source: Source,
    scanner: script.Scanner,
    outline: script.Outline,
    progress: verify.Progress,
) -> Iterator[script.Piece]:
    """Yield the pieces of a dump, and see that it is one, to its end."""
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(size)

    try:
        blocks = verify.plain_blocks(source, count)
        head = b""
        for block in blocks:
            head += block
            if len(head) >= verify.HEAD:
                break
        script.check_beginning(head)
        if verify.OURS in head[:100]:
            raise e.VerificationFailed(
                "made by pgkeep, but without its end marker: cut, or compressed anew",
            )
        yield from _scanned(scanner, outline, head)
        for block in blocks:
            yield from _scanned(scanner, outline, block)
        for piece in scanner.close():
            outline.add(piece)
            yield piece
        outline.finish()
    except e.VerificationFailed as error:
        place = f"byte {outline.offset} of the SQL, byte {done} of {source.size} of the file"
        raise e.VerificationFailed(
            f"{source.name}: {error.message} (read up to {place})", hint=error.hint
        ) from error


def _scanned(
    scanner: script.Scanner, outline: script.Outline, block: bytes
) -> Iterator[script.Piece]:
    for piece in scanner.feed(block):
        outline.add(piece)
        yield piece


def numbered(pieces: Iterator[script.Piece]) -> Iterator[tuple[int, script.Piece]]:
    """Tell of each piece which database's it is; _CLUSTER for what is of none."""
    before: list[script.Piece] = []
    number, last, cluster = _CLUSTER, -1, False
    for piece in pieces:
        if isinstance(piece, script.Begin):
            if b" cluster " in piece.data:
                cluster = True
            else:
                number = last = last + 1
            yield from ((number, one) for one in before)
            before.clear()
        elif not cluster and last < 0:
            before.append(piece)
            continue
        yield number, piece
        if cluster and isinstance(piece, script.Complete):
            number = _CLUSTER
    yield from ((_CLUSTER, one) for one in before)


class _Reading:
    """Collect what the parts of a dump are."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.roles = bytearray()
        self.schemas = {b"public"}
        self.cluster = False
        self._connected: bytes | None = None  # before a part of pg_dumpall
        self._entry: script.Entry | None = None
        self._tail = b""
        self._copied = self._spoken = False  # of this entry: there are rows, other statements

    def add(self, number: int, piece: script.Piece) -> None:
        """Take the next piece of the dump."""
        if number == _CLUSTER:
            self._cluster(piece)
            return
        if number == len(self.parts):
            self.parts.append(Part())
            self._entry = None
            if self._connected is not None:
                self.parts[-1].name = _connected(self._connected)
                self._connected = None
        part = self.parts[number]
        match piece:
            case script.Entry():
                self._begin(part, piece)
            case script.CopyBegin() if self._entry is None or self._entry.type != "TABLE DATA":
                raise e.VerificationFailed("rows that no comment of pg_dump announces")
            case script.CopyBegin():
                self._copied = True
            case script.Rows():
                part.rows += piece.data.count(b"\n")
            case script.Text():
                self._text(part, piece.data)

    def _cluster(self, piece: script.Piece) -> None:
        if isinstance(piece, script.Begin):
            self.cluster = True
        if isinstance(piece, script.Meta) and piece.data.startswith(b"\\connect"):
            self._connected = piece.data
        elif not self.parts and not isinstance(piece, script.Meta | script.Entry):
            self.roles += piece.data

    def _begin(self, part: Part, entry: script.Entry) -> None:
        if _AUTHORIZATION.search(self._tail):
            raise e.Refused(
                "the dump was made with --use-set-session-authorization: its parts depend on what"
                " was executed before",
                hint="Restore it by --target-db, and back up the new database.",
            )
        if self._copied and self._spoken:
            raise e.Refused(
                "statements stand between the rows, as pg_dump --disable-triggers writes them",
                hint="Restore it by hand with psql.",
            )
        self._copied = self._spoken = False
        if self._entry is None:
            match = _ENCODING.search(part.head)
            part.encoding = match[1].decode() if match else part.encoding
        self._entry = entry
        if is_of_database(entry):
            if entry.type not in part.left_out:
                part.left_out.append(entry.type)
            return
        part.entries += 1
        part.data += entry.type in ("TABLE DATA", "BLOBS")
        part.tables += entry.type == "TABLE"
        if entry.type == "SCHEMA":
            self.schemas.add(entry.name)

    def _text(self, part: Part, data: bytes) -> None:
        self._tail = (self._tail + data)[-300:]
        if self._entry is None:
            part.head += data[: BEFORE_LIMIT - len(part.head)]
            if len(part.head) >= BEFORE_LIMIT:
                raise e.VerificationFailed(
                    f"no comment of pg_dump announces an object in the first {BEFORE_LIMIT} bytes"
                )
        elif self._entry.type == "TABLE DATA":
            # Of a large INSERT dump every piece would be searched in vain.
            self._spoken = self._spoken or _STATEMENT.search(data) is not None
            part.inserts |= self._spoken
        elif self._entry.type == "DATABASE":
            part.creation = (part.creation + data)[:HEAD]
            match = _CREATE_DATABASE.search(part.creation)
            if match is not None:
                part.name = statements.unquoted(match["name"], part.codec)
        elif self._entry.type in ("ACL", "DEFAULT ACL") and not is_of_database(self._entry):
            roles = {one["role"] for one in _GRANTEE.finditer(data)} - {b"PUBLIC"}
            part.grantees |= {shared_text(_unquoted(one), part.codec) for one in roles}


def is_of_database(entry: script.Entry) -> bool:
    """Whether an entry names the database itself: only pg_dump -C writes such."""
    return entry.type in _OF_DATABASE or (
        entry.schema == b"-"
        and entry.type in script.FOLLOWING_TYPES
        and entry.name.startswith(b"DATABASE ")
    )


def _unquoted(identifier: bytes) -> bytes:
    if identifier.startswith(b'"'):
        return identifier[1:-1].replace(b'""', b'"')
    return identifier


def _connected(command: bytes) -> str:
    r"""Return the database of a \connect, as it is written for ordinary names."""
    argument = command.removeprefix(b"\\connect").strip()
    return statements.unquoted(argument)


def choose_part(found: Survey, database: str | None, file: str) -> int:
    """Return the number of the database that is meant, or the only one that holds anything.

    Raises:
        Refused: there are several, or another one.

    """
    full = [number for number, part in enumerate(found.parts) if part.entries]
    if len(full) > 1 and database is not None:
        full = [number for number in full if found.parts[number].name == database]
    if len(full) == 1:
        name = found.parts[full[0]].name
        if database is not None and name not in (None, database):
            raise e.Refused(f"{file} holds database {name}, not {database}")
        return full[0]
    names = ", ".join(str(part.name or "?") for part in found.parts if part.entries)
    if not names:
        if len(found.parts) == 1:
            return 0  # an empty database
        raise e.Refused(f"{file} holds no database with anything in it")
    raise e.Refused(f"{file} holds several databases: {names}", hint="Choose one: --database=NAME.")


def _refuse_unreadable(part: Part, file: str) -> None:
    if _SEARCH_PATH not in part.head:
        raise e.Refused(
            f"{file} was made by a pg_dump older than 10.3: its statements depend on search_path",
            hint="Restore it with pgkeep restore --backup=FILE --target-db=NAME, and back that up.",
        )


def _database_name(part: Part, options: IndexOptions, file: str) -> str:
    name = part.name or options.database or options.guess.database
    if name is None:
        raise e.Refused(
            f"{file} does not say which database it is of", hint="Name it: --database=NAME."
        )
    return name


def when(head: bytes, options: IndexOptions) -> Moment | None:
    """Return when a dump was made: as it says itself, as its name says, or as its file does."""
    started = _STARTED.search(head)
    if started is not None:
        time = datetime.fromisoformat(started["time"].decode())
        zone = started["zone"].decode("ascii", "replace")
        for one in (UTC, options.zone):
            # Abbreviations mean many things; only those that are certain are believed.
            if time.replace(tzinfo=one).tzname() == zone:
                return Moment(time.replace(tzinfo=one), "its own beginning")
    guess, modified = options.guess, options.modified
    if guess.time is not None:
        if guess.end is None:
            return Moment(guess.time, "its name")
        if modified is not None and guess.time <= modified < guess.end:
            return Moment(modified, "the file's time, which agrees with its name")
        return Moment(guess.time, "its name")
    return Moment(modified, "the file's time") if modified is not None else None


class _StatementEnds:
    """Find where statements end in the INSERTs of one table, which come in pieces."""

    def __init__(self) -> None:
        self._quote = b""

    def last(self, data: bytes) -> int:
        """Return where the last statement in these bytes ends; 0 if none does."""
        position = end = 0
        while position < len(data):
            if self._quote:
                found = data.find(self._quote, position)
                if found < 0:
                    break
                position, self._quote = found + 1, b""
            match = _QUOTE_OR_END.search(data, position)
            if match is None:
                break
            position = match.end()
            if match.group() == b";\n":
                end = position
            elif match.group() in (b"'", b'"'):
                self._quote = match.group()
        return end


class _Assembler(Assembler):
    """Put a foreign dump into members: what the catalog would know is read from the dump."""

    def __init__(self, header: bytes, part: Part, order: Order) -> None:
        super().__init__(header, part.codec, [], order)
        self._last: a.Object | None = None
        self._before: list[script.Piece] | None = []  # what comes before the first entry
        self._ends = _StatementEnds()
        self.rows = 0
        self.owners: set[str] = set()
        self.extensions: list[str] = []

    def add(self, piece: script.Piece) -> None:
        """Take the next piece of the dump."""
        if self._before is not None:
            if not isinstance(piece, script.Entry | script.Complete):
                self._before.append(piece)
                return
            before, self._before = self._before, None
            self._write_before(before)
        if isinstance(piece, script.CopyBegin):
            self._name_exactly(piece.data)
        elif isinstance(piece, script.Rows):
            self.rows += piece.data.count(b"\n")
        elif isinstance(piece, script.Text) and self._type == "TABLE DATA" and self._has_no_copy:
            # INSERT statements: after one of them the next may go into another member.
            end = self._ends.last(piece.data)
            super().add(script.Text(piece.data[:end]))
            if end:
                self._packer.cut(TEXT_SIZE)
            piece = script.Text(piece.data[end:])
        super().add(piece)

    @property
    def _has_no_copy(self) -> bool:
        return self._last is not None and self._last.rows is None

    def _object(self, entry: script.Entry) -> a.Object:
        one = self._last = super()._object(entry)
        if one.owner:
            self.owners.add(one.owner)
        if one.type == "EXTENSION":
            self.extensions.append(one.name)
        return one

    def _name_exactly(self, statement: bytes) -> None:
        """Take a table's name from its COPY: the announcement has spaces for line ends.

        Where rows go through the partitioned root, it names that one; they are the leaf's.
        """
        match = _COPY_TARGET.match(statement)
        if match is None or self._last is None:
            return
        exact = statements.name_of(match, self._codec)
        announced = (self._last.schema, self._last.name)
        if tuple(re.sub(r"[\r\n]", " ", one) for one in exact) == announced:
            self._last.schema, self._last.name = exact

    def _write_before(self, pieces: Sequence[script.Piece]) -> None:
        """Write the header; the DROP statements after it become an object, if they can run.

        With IF EXISTS they do nothing in a new database. Without, psql would stop at them; then
        only the schema `public`, which is there, is dropped: pg_dump before 15 creates it anew.
        """
        for piece in _joined(pieces):
            match = _DROPPING.search(piece.data) if isinstance(piece, script.Text) else None
            if match is None or not isinstance(piece, script.Text):
                super().add(piece)
                continue
            super().add(script.Text(piece.data[: match.start()]))
            drops = piece.data[match.start() :]
            if _UNCONDITIONAL.search(drops):
                public = _DROP_PUBLIC.search(drops)
                skipped = drops if public is None else drops[: public.start()]
                super().add(script.Text(skipped))
                drops = drops[len(skipped) :]
            if drops:
                one = a.Object(type=_DROPS, schema="", name="", owner="", member=0, start=0)
                self._packer.begin(one)
                super().add(script.Text(drops))


def _joined(pieces: Sequence[script.Piece]) -> Iterator[script.Piece]:
    """Yield pieces; texts that follow each other as one."""
    for text, group in itertools.groupby(pieces, lambda one: isinstance(one, script.Text)):
        if text:
            yield script.Text(b"".join(one.data for one in group if isinstance(one, script.Text)))
        else:
            yield from group


@dataclass(frozen=True, slots=True)
class _Index:
    """One artifact on its way from a dump that has been found whole."""

    source: Source
    store: Store
    options: IndexOptions
    progress: backup.Progress
    found: Survey
    number: int
    name: naming.BackupName
    moment: Moment
    copy: Store | None

    @property
    def part(self) -> Part:
        return self.found.parts[self.number]

    def make(self) -> m.Manifest:
        """Write all files, then give them their names."""
        name = self.name
        roles = backup.repeatable_roles(self.found.roles) if self.found.cluster else None
        files = [one for one in name.files if one != name.globals or roles is not None]
        with ExitStack() as stack:
            uploads = {file: stack.enter_context(self.store.create(file)) for file in files}
            artifact = uploads[name.artifact]
            writer = a.ArtifactWriter(artifact)
            contents = writer.finish(self._meta(self._write(writer)))
            artifact.seal()
            facts = None
            if roles is not None:
                facts = backup.put(uploads[name.globals], name.globals, a.compress(roles))
            digest = writer.sha256
            backup.put(
                uploads[name.checksum], name.checksum, f"{digest}  {name.artifact}\n".encode()
            )
            side = verify.SideFiles(sha256=digest, index_sha256=writer.index_sha256)
            backup.read_back(artifact, side, self.options.jobs, self.progress)
            manifest = m.Manifest(
                pgkeep=__version__,
                database=contents.meta.database,
                server=contents.meta.server,
                client_version=contents.meta.client_version,
                type=name.type,
                schema_only=name.schema_only,
                taken=name.taken,
                snapshot=self.moment.time.astimezone(UTC),
                finished=datetime.now(UTC),
                artifact=m.FileFacts(name.artifact, writer.size, digest),
                raw_bytes=contents.raw_bytes,
                index_sha256=writer.index_sha256,
                globals=facts,
                role_passwords=roles is not None and b" PASSWORD '" in roles,
                tables=contents.table_rows(),
                extensions=contents.meta.extensions,
                roles=contents.meta.roles,
                warnings=self._warnings(),
                verified=datetime.now(UTC),
                pending=[self.copy.url] if self.copy is not None else [],
            )
            backup.put(uploads[name.manifest], name.manifest, m.encode(manifest))
            with all_or_none(self.store, files):
                for file in files:
                    uploads[file].publish()
            return manifest

    def _write(self, writer: a.ArtifactWriter) -> _Assembler:
        self.progress.step("indexing")
        self.progress.total(self.source.size)
        scanner = script.Scanner(self.found.schemas)
        outline = script.Outline()
        order = Order(writer, Crew(), 0)
        assembler = _Assembler(self._header(), self.part, order)
        pieces = numbered(_checked(self.source, scanner, outline, self.progress.advance))
        for piece in chosen(pieces, self.number, cluster=self.found.cluster):
            assembler.add(piece)
        assembler.finish()
        seen = (outline.offset, outline.entries, assembler.rows)
        if seen != (self.found.raw_bytes, self.found.entries, self.part.rows):
            raise e.VerificationFailed(f"{self.source.name} has changed while it was read")
        return assembler

    def _header(self) -> bytes:
        name = re.sub(r"\s", " ", self.name.database.encode("ascii", "backslashreplace").decode())
        return f"""\
--
-- Backup of database {name} as it was at {self.name.taken:%Y-%m-%d %H:%M:%S} UTC
-- A plain dump, indexed by pgkeep {__version__}; the time is that of {self.moment.origin}
--
-- To restore it:          pgkeep restore --backup=FILE
-- Without pgkeep, when its roles are there, into a new and empty database:
--   sha256sum -c FILE.sha256
--   createdb -T template0 -E {self.part.encoding} NEWDB
--   zcat FILE | psql -X -v ON_ERROR_STOP=1 -d NEWDB && psql -c ANALYZE NEWDB
-- A whole file ends with the index of its contents, in comments such as this one.
--

""".encode()

    def _meta(self, written: _Assembler) -> a.Meta:
        part = self.part
        return a.Meta(
            pgkeep=__version__,
            database=database_facts(part, self.name.database),
            server=server_facts(part.head),
            client_version=_version(_DUMPED_BY, part.head),
            snapshot=self.moment.time.astimezone(UTC).isoformat(),
            schema_only=self.name.schema_only,
            extensions=[m.Extension(one, "") for one in written.extensions],
            roles=sorted(written.owners | part.grantees),
        )

    def _warnings(self) -> list[str]:
        part = self.part
        found = [f"made from {self.source.name}; the time is that of {self.moment.origin}"]
        if part.data and not part.tables:
            found.append("it holds rows only: restore it with --data-only")
        if part.inserts:
            found.append("its rows are INSERT statements, which are not counted")
        if self.found.cluster:
            others = [str(one.name) for one in self.found.parts if one is not part]
            found.append(f"left out, databases: {', '.join(others)}; the roles are in the globals")
        if part.left_out:
            found.append(
                f"left out, for they name the database itself: \\connect,"
                f" {', '.join(part.left_out)}"
            )
        drops = _DROPPING.search(part.head)
        if drops is not None and _UNCONDITIONAL.search(part.head, drops.start()):
            found.append(
                "its DROP statements fail where there is nothing to drop: pgkeep restore passes"
                " over them, psql with ON_ERROR_STOP stops"
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
                skipping = is_of_database(piece)
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


def database_facts(part: Part, name: str) -> m.DatabaseFacts:
    """Return what is known of the database; only -C says its locale and owner."""
    match = _CREATE_DATABASE.search(part.creation)
    if match is None:
        return m.DatabaseFacts(name, "", part.encoding, "", "")
    options: dict[bytes, bytes] = {}
    for one in _OPTION.finditer(match["options"]):
        options[one["name"] or one["plain"]] = (one["text"] or one["word"] or b"").replace(
            b"''", b"'"
        )
    text = {key.decode(): value.decode(part.codec, "replace") for key, value in options.items()}
    owner = _OWNER_TO.search(part.creation)
    both = text.get("LOCALE", "")
    return m.DatabaseFacts(
        name=name,
        owner=shared_text(_unquoted(owner["owner"]), part.codec) if owner else "",
        encoding=text.get("ENCODING", part.encoding),
        collate=text.get("LC_COLLATE", both),
        ctype=text.get("LC_CTYPE", both),
        provider=_PROVIDERS.get(options.get(b"LOCALE_PROVIDER", b"libc"), "c"),
        locale=text.get("ICU_LOCALE", text.get("BUILTIN_LOCALE")),
        icu_rules=text.get("ICU_RULES"),
    )


def server_facts(head: bytes) -> m.ServerFacts:
    """Return what a dump says of its server; 0 where it says nothing."""
    version = _version(_DUMPED_FROM, head)
    match = _VERSION.match(version)
    number = int(match["major"]) * 10000 + int(match["minor"] or 0) if match else 0
    return m.ServerFacts(version, number, UNKNOWN_CLUSTER)


def _version(pattern: re.Pattern[bytes], head: bytes) -> str:
    match = pattern.search(head)
    return match["version"].decode("ascii", "replace") if match else ""
