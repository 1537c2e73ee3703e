"""Read a plain dump of pg_dump or pg_dumpall to its end, and return what it contains."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .. import errors as e
from ..artifact import plain_reader
from ..model.manifest import UNKNOWN_CLUSTER, DatabaseFacts, ServerFacts
from ..progress import Advance
from ..sql import dialect, script, statements
from ..sql.encodings import codec, shared_text
from ..sql.outline import check_beginning
from ..stores.store import Source

HEAD = 64 << 10  # bytes before the first entry in which a dump speaks of itself
BEFORE_LIMIT = 64 << 20  # bytes of SQL before the first entry: the DROP statements of --clean
_DUMPED_FROM = re.compile(rb"^-- Dumped from database version (?P<version>\S+)", re.MULTILINE)
_DUMPED_BY = re.compile(rb"^-- Dumped by pg_dump version (?P<version>\S+)", re.MULTILINE)
_ENCODING = re.compile(rb"^SET client_encoding = '(\w+)';$", re.MULTILINE)
_LC_MONETARY = re.compile(rb"^SET lc_monetary = '([^']+)';$", re.MULTILINE)
_VERSION = re.compile(r"(?P<major>\d+)(?:\.(?P<minor>\d+))?")
_AUTHORIZATION = re.compile(rb"^SET SESSION AUTHORIZATION [^\n]*;\s*\Z", re.MULTILINE)
_CREATE_DATABASE = re.compile(
    rb"^CREATE DATABASE (?P<name>%b) WITH (?P<options>[^\n]*);$" % statements.IDENTIFIER,
    re.MULTILINE,
)
_OPTION = re.compile(rb"(?P<name>\w+) = '(?P<text>(?:[^']|'')*+)'|(?P<plain>\w+) = (?P<word>\w+)")
_OWNER_TO = re.compile(
    rb"^ALTER DATABASE %b OWNER TO (?P<owner>%b);$"
    % (statements.IDENTIFIER, statements.IDENTIFIER),
    re.MULTILINE,
)
_IS_TEMPLATE = re.compile(
    rb"^ALTER DATABASE %b IS_TEMPLATE = true;$" % statements.IDENTIFIER, re.MULTILINE
)
_GRANTEE = re.compile(
    rb"^(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) [^\n]* (?:TO|FROM) (?P<role>%b)"
    rb"(?: WITH GRANT OPTION)?;$" % statements.IDENTIFIER,
    re.MULTILINE,
)
_STATEMENT = re.compile(rb"^(?!--)\S", re.MULTILINE)
_ROLES = b"\n--\n-- Roles\n--\n"
_PRIVILEGES = frozenset({"ACL", "DEFAULT ACL"})
_OF_DATABASE = frozenset({"DATABASE", "DATABASE PROPERTIES"})
_PROVIDERS = {b"libc": "c", b"icu": "i", b"builtin": "b"}
_CLUSTER = -1  # the part of pg_dumpall's output that belongs to no database


@dataclass(slots=True)
class Part:
    """One database in a dump: a dump of pg_dump is one part, of pg_dumpall several."""

    name: str | None = None
    head: bytes = b""
    creation: bytes = b""
    encoding: str = "SQL_ASCII"
    properties: bytes = b""  # ALTER DATABASE
    entries: int = 0
    data: int = 0
    tables: int = 0
    rows: int = 0
    inserts: bool = False
    grantees: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    unknown: list[bytes] = field(default_factory=list)  # statements that pg_dump does not write

    @property
    def codec(self) -> str:
        """The Python codec of its SQL."""
        return codec(self.encoding)


class Survey(NamedTuple):
    """What a complete dump contains."""

    raw_bytes: int
    entries: int
    schemas: set[bytes]
    cluster: bool
    roles: bytes
    parts: list[Part]
    sha256: str  # of the file


def is_dump(source: Source) -> bool:
    """Tell whether a file begins like a plain dump, compressed or not; damaged ones may not."""
    try:
        check_beginning(next(plain_reader.plain_blocks(source), b""))
    except e.PgkeepError:
        return False
    return True


def survey(source: Source, progress: Advance = lambda _: None) -> Survey:
    """Read a dump to its end; return what it contains.

    Raises:
        VerificationFailed: it is damaged.

    """
    found = _Reading()
    # Even the few schemas that are known tell the others' entries from what they might look like.
    dump = plain_reader.PlainReading(source, progress, found.schemas)
    for number, piece in numbered(checked(source, dump)):
        try:
            found.add(number, piece)
        except e.PgkeepError as error:
            place = f"at byte {dump.outline.offset} of the SQL"
            raise type(error)(f"{source.name}: {error.message} {place}", hint=error.hint) from error
    return Survey(
        raw_bytes=dump.outline.offset,
        entries=dump.outline.entries,
        schemas=found.schemas,
        cluster=found.cluster,
        roles=_roles(bytes(found.roles)),
        parts=found.parts,
        sha256=dump.sha256,
    )


def _roles(cluster: bytes) -> bytes:
    """Return the roles of pg_dumpall's output, without the DROP statements of its --clean."""
    before, heading, after = cluster.partition(_ROLES)
    settings = b"".join(line + b"\n" for line in before.split(b"\n") if line.startswith(b"SET "))
    return settings + heading + after if heading else b""


def checked(source: Source, dump: plain_reader.PlainReading) -> Iterator[script.Piece]:
    """Yield the pieces of a dump; errors say how far it was read."""
    try:
        for piece in dump.pieces():
            if dump.ours:
                raise e.VerificationFailed(
                    "made by pgkeep, but without its end marker: truncated, or compressed again",
                )
            yield piece
    except e.NotPlainDump as error:
        raise e.NotPlainDump(f"{source.name}: {error.message}", hint=error.hint) from error
    except e.VerificationFailed as error:
        place = (
            f"byte {dump.outline.offset} of the SQL, byte {dump.done} of {source.size} of the file"
        )
        raise e.VerificationFailed(
            f"{source.name}: {error.message} (read up to {place})", hint=error.hint
        ) from error


def numbered(pieces: Iterator[script.Piece]) -> Iterator[tuple[int, script.Piece]]:
    """Yield each piece with the number of its database, _CLUSTER for what belongs to none."""
    before: list[script.Piece] = []
    number, last, cluster = _CLUSTER, -1, False
    for piece in pieces:
        if isinstance(piece, script.Begin):
            if b" cluster " in piece.data:
                cluster = True
            else:
                number = last = last + 1
            yield from ((number, piece) for piece in before)
            before.clear()
        elif not cluster and last < 0:
            before.append(piece)
            continue
        yield number, piece
        if cluster and isinstance(piece, script.Complete):
            number = _CLUSTER
    yield from ((_CLUSTER, piece) for piece in before)


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
        self._statements = dialect.Statements(HEAD)
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
        statement = self._statements.add(piece)
        if statement is not None and statement.text:
            self._statement(part, statement)
        match piece:
            case script.Entry():
                self._begin(part, piece)
            case script.Meta() if piece.data.startswith(b"\\connect") and not self._may_connect:
                raise e.VerificationFailed("\\connect among the objects of a database")
            case script.CopyBegin() if self._entry is None or self._entry.type != "TABLE DATA":
                raise e.VerificationFailed("rows that no comment of pg_dump announces")
            case script.CopyBegin():
                self._copied = True
            case script.Rows():
                part.rows += piece.data.count(b"\n")
            case script.Text():
                self._text(part, piece.data)

    def _statement(self, part: Part, statement: dialect.Statement) -> None:
        if not self._is_expected(statement):
            part.unknown.append(statement.text)
        entry = self._entry
        if entry is not None and entry.type in _PRIVILEGES and not is_of_database(entry):
            roles = {match["role"] for match in _GRANTEE.finditer(statement.text)} - {b"PUBLIC"}
            part.grantees |= {shared_text(_unquoted(role), part.codec) for role in roles}

    @property
    def _may_connect(self) -> bool:
        """Whether pg_dump -C goes to the database that it has created."""
        return self._entry is not None and is_of_database(self._entry)

    def _is_expected(self, statement: dialect.Statement) -> bool:
        """Whether pg_dump writes such a statement where it stands."""
        if not statement.whole:
            return dialect.begins(statement)
        if self._entry is None:  # a database that --create drops is left out
            return dialect.is_setting(statement.text, cleaning=True) or dialect.is_of_cluster(
                statement.text
            )
        return is_of_database(self._entry) or dialect.is_known(statement.text)

    def _cluster(self, piece: script.Piece) -> None:
        if isinstance(piece, script.Begin):
            self.cluster = True
        if isinstance(piece, script.Meta) and piece.data.startswith(b"\\connect"):
            self._connected = piece.data
        elif not self.parts and not isinstance(piece, script.Meta | script.Entry):
            self.roles += piece.data
            if len(self.roles) > BEFORE_LIMIT:
                raise e.VerificationFailed(f"more than {BEFORE_LIMIT} bytes of roles")

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
        elif self._entry.type == "DATABASE PROPERTIES":
            part.properties = (part.properties + data)[:HEAD]


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
    """Return the number of the named database, or of the only one with contents.

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


def database_facts(part: Part, name: str) -> DatabaseFacts:
    """Return what is known of the database; only -C says its locale and owner."""
    match = _CREATE_DATABASE.search(part.creation)
    if match is None:
        return DatabaseFacts(name, "", part.encoding, "", "")
    options: dict[bytes, bytes] = {}
    for option in _OPTION.finditer(match["options"]):
        options[option["name"] or option["plain"]] = (
            option["text"] or option["word"] or b""
        ).replace(b"''", b"'")
    text = {key.decode(): value.decode(part.codec, "replace") for key, value in options.items()}
    owner = _OWNER_TO.search(part.creation)
    both = text.get("LOCALE", "")
    return DatabaseFacts(
        name=name,
        owner=shared_text(_unquoted(owner["owner"]), part.codec) if owner else "",
        encoding=text.get("ENCODING", part.encoding),
        collate=text.get("LC_COLLATE", both),
        ctype=text.get("LC_CTYPE", both),
        provider=_PROVIDERS.get(options.get(b"LOCALE_PROVIDER", b"libc"), "c"),
        locale=text.get("ICU_LOCALE", text.get("BUILTIN_LOCALE")),
        icu_rules=text.get("ICU_RULES"),
        is_template=_IS_TEMPLATE.search(part.properties) is not None,
    )


def server_facts(head: bytes) -> ServerFacts:
    """Return what a dump says of its server; 0 where it says nothing."""
    version = _version(_DUMPED_FROM, head)
    match = _VERSION.match(version)
    number = int(match["major"]) * 10000 + int(match["minor"] or 0) if match else 0
    return ServerFacts(version, number, UNKNOWN_CLUSTER)


def client_version(head: bytes) -> str:
    """Return which pg_dump says that it has made a dump, empty where none does."""
    return _version(_DUMPED_BY, head)


def lc_monetary(head: bytes) -> str | None:
    """Return the locale of money, which only pgkeep writes into a dump."""
    match = _LC_MONETARY.search(head)
    return match[1].decode("ascii", "replace") if match else None


def _version(pattern: re.Pattern[bytes], head: bytes) -> str:
    match = pattern.search(head)
    return match["version"].decode("ascii", "replace") if match else ""
