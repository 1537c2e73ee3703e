"""Bring a backup back: plan first, act after, and leave an existing database as it was.

The default is a new database. It is loaded under a temporary name and renamed when it is complete,
so that a failure, or a kill -9, never leaves half a database under the name that people use.
"""

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import psycopg
from psycopg import sql

from .. import errors as e
from .. import interrupts
from ..artifact import plain_reader, verify
from ..artifact.file import Artifact, Object, is_artifact
from ..model.manifest import DatabaseFacts, TableRows
from ..postgres import databases
from ..postgres.connection import Connection, Endpoint
from ..postgres.facts import server_facts
from ..postgres.messages import restore_error
from ..progress import Progress
from ..sql.encodings import codec
from ..sql.statements import Name
from ..stores.store import Source
from . import database_name_use, failed_objects, object_selection, search_path
from .load import load, plain
from .load.options import Loaded, LoadOptions
from .load.session import Session, Statement, describe
from .search_path import SearchPath
from .target import (
    default_privileges,
    extension_tables,
    foreign_keys,
    not_valid_constraints,
    relations,
    role_creation,
    triggers,
)

_ENCODING = re.compile(rb"^SET client_encoding = '(\w+)';$", re.MULTILINE)

# Of a setting or a comment: it may be a secret, or long.
_VALUE = re.compile(r"( SET \S+) TO .*| IS .*", re.DOTALL)


class Mode(StrEnum):
    """Where the restored data goes."""

    NEW = "new database"
    SWAP = "beside the existing database, then swapped"
    IN_PLACE = "into the existing, empty database"
    DATA_ONLY = "rows into the existing, empty tables"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """What to restore, and where to."""

    jobs: int
    target: str | None = None  # default: the database's own name
    drop_existing: bool = False
    discard_old: bool = False
    in_place: bool = False
    schema_only: bool = False
    data_only: bool = False
    disable_triggers: bool = False
    owner: bool = True
    privileges: bool = True
    analyze: bool = True
    portable: bool = False  # leave out what the target or the role cannot have
    skip: Sequence[str] = ()  # objects to leave out, as TYPE:NAME
    keep_going: bool = False  # report all objects that fail at the end
    create_roles: bool = False  # those that are missing, without login
    at_once: bool = False  # a new database gets its name before it is loaded
    closed: bool = False  # and stays closed to PUBLIC and to all others
    session: Callable[[Endpoint, Sequence[Statement]], Session] | None = None
    allow_statements: bool = False  # in a plain dump, also those that pg_dump does not write
    search_path: SearchPath = SearchPath.EMPTY


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore would do, and what stands in its way."""

    file: str
    kind: str  # pgkeep or plain
    source: str | None  # the database that was backed up
    snapshot: str | None
    target: str
    mode: str
    steps: list[str]
    problems: list[str] = []
    remedies: list[str] = []
    warnings: list[str] = []
    raw_bytes: int | None = None
    tables: int | None = None
    rows: int | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore has done."""

    database: str
    rows: int | None
    tables: int | None
    seconds: float
    old_database: str | None = None  # where the former one is kept
    warnings: list[str] = []


class _NotRenamed(e.RestoreFailed):
    """The new database is complete, and has not got its name."""


class Restore:
    """One restore: make the plan, look at it, then execute it."""

    def __init__(
        self,
        endpoint: Endpoint,
        source: Source,
        options: RestoreOptions,
        side: verify.SideFiles | None = None,
    ) -> None:
        self._source = source
        self._side = side
        self._options = options
        self._artifact = Artifact(source) if is_artifact(source) else None
        self._meta = self._artifact.index.meta if self._artifact else None
        if self._meta is None and (options.schema_only or options.data_only or options.in_place):
            raise e.UsageError(
                f"{source.name} is a plain dump without an index: it can only be restored whole,"
                " into a new database"
            )
        if self._meta is None and (options.skip or options.keep_going or options.create_roles):
            raise e.UsageError(
                f"{source.name} is a plain dump without an index: --skip, --keep-going and"
                " --create-roles need one",
                hint="Make one of it with pgkeep index.",
            )
        if self._meta is None and not (options.owner and options.privileges):
            raise e.UsageError(
                f"{source.name} is a plain dump without an index: owners and privileges cannot be"
                " told from the rest"
            )
        if self._meta is None and options.search_path != SearchPath.EMPTY:
            raise e.UsageError(
                f"{source.name} is a plain dump without an index: it sets search_path by itself"
            )
        self._endpoint = endpoint
        self._choice = self._choose()
        self._failures = failed_objects.Failures() if options.keep_going else None
        self._warnings: list[str] = []
        self._at_once = options.at_once
        self._checked: str | None = None  # the SHA-256 of a plain dump that was read to its end
        self._plain_rows: int | None = None
        self.target = self._target()

    def _target(self) -> str:
        if self._options.target:
            size = len(self._options.target.encode())
            if size > databases.NAME_LIMIT:
                raise e.UsageError(
                    f"the name of the target is {size} bytes long, PostgreSQL allows"
                    f" {databases.NAME_LIMIT}"
                )
            return self._options.target
        if self._meta is not None:
            return self._meta.database.name
        raise e.UsageError(
            f"{self._source.name} does not say which database it is of",
            hint="Name the database to restore into: --target-db=NAME.",
        )

    def _choose(self) -> object_selection.Choice | None:
        options = self._options
        if self._artifact is None:
            return None
        wanted = object_selection.ChoiceOptions(
            skip=options.skip, owner=options.owner, privileges=options.privileges,
            portable=options.portable, create_roles=options.create_roles,
            rows_only=options.data_only,
        )  # fmt: skip
        return object_selection.Choice(self._artifact, wanted)

    def plan(self) -> Plan:
        """Look at file and server; nothing is changed."""
        warnings: list[str] = []
        with self._maintenance() as connection:
            exists = databases.exists(connection, self.target)
            mode = self._mode(exists=exists)
            if self._choice is not None:
                owns = mode != Mode.IN_PLACE or _may_rename(connection, self.target)
                self._choice.look(connection, owns=owns)
            problems, remedies = self._obstacles(connection, mode)
            if exists and mode == Mode.NEW:
                problems.insert(0, f"database {self.target} exists")
                remedies.insert(
                    0,
                    "Restore under another name with --target-db=NAME, or replace it with"
                    " --drop-existing, which keeps the old one under a dated name.",
                )
            if mode == Mode.SWAP:
                warnings += _sessions_in_the_way(connection, self.target)
            warnings += self._firing() if mode == Mode.DATA_ONLY else self._ambiguous()
        depends = self._depends_on_name(mode)
        if depends is not None and mode == Mode.NEW:
            self._at_once = True
            self._warnings.append(f"loaded under its own name at once: {depends}")
            warnings += self._warnings
        elif depends is not None:
            problems.append(f"{depends}, so that it cannot be loaded beside {self.target}")
            remedies.append(self._in_place_instead())
        if mode in (Mode.IN_PLACE, Mode.DATA_ONLY) and not self._options.privileges:
            with self._endpoint.to(self.target).connect() as inside:
                warnings += default_privileges.warnings(inside, self.target)
        if mode == Mode.DATA_ONLY:
            warnings += self._unvalidated()
        index = self._artifact.index if self._artifact else None
        tables = self._tables() if index else None
        return Plan(
            file=self._source.name,
            kind="pgkeep" if index else "plain",
            source=self._meta.database.name if self._meta else None,
            snapshot=self._meta.snapshot if self._meta else None,
            target=self.target,
            mode=mode.value,
            steps=self._steps(mode),
            problems=problems,
            remedies=remedies,
            warnings=[*self._left_out(), *warnings],
            raw_bytes=index.raw_bytes if index else None,
            tables=len(tables) if tables is not None else None,
            rows=sum(table.rows for table in tables) if tables is not None else None,
        )

    def execute(self, plan: Plan, progress: Progress) -> Result:
        """Do what the plan says.

        Raises:
            Refused: the plan has problems.
            VerificationFailed: the file is damaged; the server was not touched.
            RestoreFailed: the target is as it was before.

        """
        if plan.problems:
            raise e.Refused("; ".join(plan.problems), hint="\n".join(plan.remedies) or None)
        started = time.monotonic()
        progress.step("checking the file")
        self._check_file(progress)
        with self._created_roles():
            loaded, old = self._restore(Mode(plan.mode), progress)
        return Result(
            database=self.target,
            rows=sum(loaded.rows.values()) if loaded is not None else self._plain_rows,
            tables=len(loaded.rows) if loaded is not None else None,
            warnings=[
                *self._left_out(),
                *self._warnings,
                *(loaded.warnings if loaded is not None else []),
            ],
            seconds=round(time.monotonic() - started, 3),
            old_database=old,
        )

    def _restore(self, mode: Mode, progress: Progress) -> tuple[Loaded | None, str | None]:
        """Restore; return what was loaded, and the name of the database that was replaced."""
        if mode in (Mode.NEW, Mode.SWAP):
            loaded, other = self._into_new(mode, progress)
            if self._failures and other is not None:
                raise self._failures.error(other, self._renamings(mode, other))
            return loaded, other
        loaded = self._load(self._endpoint.to(self.target), progress, one_transaction=True)
        if mode == Mode.IN_PLACE and self._meta is not None:
            self._apply_in_place(self._meta.database)
        return loaded, None

    def _renamings(self, mode: Mode, kept: str) -> list[str]:
        """Return the statements that put an incomplete database in its place."""
        with self._maintenance() as connection:
            renamings = [databases.renaming(kept, self.target)]
            if mode == Mode.SWAP:
                old = databases.free_name(connection, self.target)
                renamings.insert(0, databases.renaming(self.target, old))
            return [f"{renaming.as_string(connection)};" for renaming in renamings]

    @contextlib.contextmanager
    def _created_roles(self) -> Iterator[None]:
        """Create the roles that are missing, if that was asked for; drop them after a failure."""
        missing = self._choice.missing_roles if self._choice is not None else []
        if not (missing and self._options.create_roles):
            yield
            return
        with self._maintenance() as connection:
            role_creation.create(connection, missing)
        try:
            yield
        except BaseException:
            with contextlib.suppress(e.PgkeepError), self._maintenance() as connection:
                role_creation.drop(connection, missing)
            raise

    @contextlib.contextmanager
    def _maintenance(self) -> Iterator[Connection]:
        """Connect to a database that is not the target: that one may be missing or renamed.

        Only where the target is there and stays, it will do too.
        """
        stays = self._options.in_place or self._options.data_only
        ways = [self._endpoint.to("postgres"), self._endpoint.to("template1"), self._endpoint]
        failure: e.PgkeepError = e.Refused(f"no database to connect to but {self.target} itself")
        for way in [*ways, self._endpoint.to(self.target)] if stays else ways:
            try:
                connection = way.connect()
            except e.ConnectionFailed as error:
                if "FATAL" not in error.message:
                    raise  # no server answers; another database's name would not help
                failure = error
                continue
            if stays or connection.info.dbname != self.target:
                break
            connection.close()
        else:
            raise failure
        with connection:
            yield connection

    def _mode(self, *, exists: bool) -> Mode:
        options = self._options
        if options.data_only or options.in_place:
            if not exists:
                raise e.Refused(f"database {self.target} does not exist")
            return Mode.DATA_ONLY if options.data_only else Mode.IN_PLACE
        if not exists:
            return Mode.NEW
        return Mode.SWAP if options.drop_existing else Mode.NEW

    def _obstacles(self, connection: Connection, mode: Mode) -> tuple[list[str], list[str]]:
        problems: list[str] = []
        remedies: list[str] = []
        if self._meta is not None:
            server = server_facts(connection)
            if server.major < self._meta.server.major and not self._options.portable:
                problems.append(
                    f"the server is PostgreSQL {server.major}, the backup comes from"
                    f" {self._meta.server.major}"
                )
                remedies.append("Restore into a newer server, or try it with --portable.")
        for problem, remedy in self._choice.problems() if self._choice is not None else ():
            problems.append(problem)
            remedies.append(remedy)
        if (
            self._options.create_roles
            and self._choice is not None
            and self._choice.missing_roles
            and not role_creation.may_create(connection)
        ):
            problems.append("the role may not create roles")
            remedies.append("ALTER ROLE ... CREATEROLE; or have a superuser create them.")
        if mode in (Mode.NEW, Mode.SWAP) and not _may_create(connection):
            problems.append("the role may not create databases")
            remedies.append("ALTER ROLE ... CREATEDB; or restore into an empty one by --in-place.")
        if mode == Mode.SWAP and not _may_rename(connection, self.target):
            problems.append(
                f"the role is not the owner of database {self.target}: it may not rename it"
            )
            remedies.append(
                "Restore as its owner, as a member of its owner, or as a superuser; or under"
                " another name with --target-db."
            )
        if mode == Mode.IN_PLACE:
            with self._endpoint.to(self.target).connect() as inside:
                found = _contents(inside)
            if found:
                problems.append(f"database {self.target} is not empty: it has {found}")
                remedies.append("Use --drop-existing, or another --target-db.")
        if mode == Mode.DATA_ONLY:
            problems += self._data_obstacles()
        return problems, remedies

    def _left_out(self) -> list[str]:
        return self._choice.lines() if self._choice is not None else []

    def _tables(self) -> list[TableRows]:
        """Return the tables whose rows are restored."""
        rows = self._artifact.index.table_rows() if self._artifact is not None else []
        return [row for row in rows if not self._leaves_out_rows((row.schema, row.name))]

    def _depends_on_name(self, mode: Mode) -> str | None:
        """Say what would be wrong, or fail, in a database that has a temporary name."""
        if self._artifact is None or self._at_once or mode not in (Mode.NEW, Mode.SWAP):
            return None
        one = database_name_use.dependent(self._artifact)
        return None if one is None else f"{describe(one)} depends on the name of the database"

    def _in_place_instead(self) -> str:
        return (
            f"Rename database {self.target}, create an empty one of that name, and restore with"
            " --in-place."
        )

    def _ambiguous(self) -> Iterator[str]:
        """Warn of what an empty search path would change (trap G4.1)."""
        if self._meta is not None and self._options.search_path == SearchPath.EMPTY:
            names = [resolution.object for resolution in self._meta.resolutions]
            if names:
                yield search_path.warning(names)

    def _firing(self) -> Iterator[str]:
        """Warn of triggers that fire while rows are loaded (trap G4.4)."""
        with self._endpoint.to(self.target).connect() as inside:
            found = self._triggers(inside)
        if found:
            yield f"triggers fire, and may change rows: {triggers.listed(found)}"

    def _triggers(self, connection: Connection) -> dict[str, list[str]]:
        """Return the triggers that fire where the rows go; a partition's with those of its root."""
        assert self._artifact is not None  # noqa: S101 - plain dumps are refused before
        index = self._artifact.index
        there = foreign_keys.tables(connection, codec(index.meta.database.encoding))
        oids = {there.get((table.schema, table.name), 0) for table in self._tables() if table.rows}
        return triggers.firing(
            connection, oids, triggers.Event.INSERT, replica=self._options.disable_triggers
        )

    def _check_counts(self, connection: Connection) -> None:
        """Compare the tables with the backup before the commit; COPY counts only its own rows."""
        assert self._artifact is not None  # noqa: S101 - plain dumps are refused before
        rows = {(table.schema, table.name): table.rows for table in self._tables()}
        with search_path.empty(connection):
            if self._triggers(connection):
                triggers.compare(connection, rows)

    def _leaves_out_rows(self, table: Name) -> bool:
        if self._choice is not None and self._choice.leaves_out_rows(table):
            return True
        return self._failures is not None and self._failures.lacks(table)

    def _tolerates(self, entry: Object, text: bytes, error: e.RestoreFailed) -> bool:
        if self._choice is not None and self._choice.tolerates(entry, text, error):
            return True
        if self._failures is not None:
            self._failures.record(entry, error)
        return self._failures is not None

    def _unvalidated(self) -> list[str]:
        """Name the constraints that rows of the backup may violate."""
        assert self._meta is not None  # noqa: S101 - plain dumps are refused before
        with self._endpoint.to(self.target).connect() as inside:
            there = foreign_keys.tables(inside, codec(self._meta.database.encoding))
            keys = [(table.schema, table.name) for table in self._tables()]
            oids = [there[key] for key in keys if key in there]
            return not_valid_constraints.warnings(not_valid_constraints.find(inside, oids))

    def _data_obstacles(self) -> list[str]:
        assert self._artifact is not None  # noqa: S101 - plain dumps are refused before
        problems = []
        encoding = codec(self._artifact.index.meta.database.encoding)
        with self._endpoint.to(self.target).connect() as inside:
            there = foreign_keys.tables(inside, encoding)
            conditions = extension_tables.conditions(inside)
            for table in self._tables():
                key = (table.schema, table.name)
                if key not in there:
                    problems.append(
                        f"{table.schema}.{table.name} is not a table"
                        if relations.relation(inside, key) is not None
                        else f"table {table.schema}.{table.name} does not exist"
                    )
                    continue
                try:
                    filled = extension_tables.has_rows(inside, key, conditions.get(there[key], b""))
                except psycopg.errors.InsufficientPrivilege:
                    problems.append(f"the role may not read table {table.schema}.{table.name}")
                    continue
                if filled:
                    problems.append(f"table {table.schema}.{table.name} is not empty")
        return problems

    def _steps(self, mode: Mode) -> list[str]:
        steps = [f"check {self._source.name} to its end"]
        missing = self._choice.missing_roles if self._choice is not None else []
        if missing and self._options.create_roles:
            steps.append(f"create roles without login: {', '.join(missing)}")
        what = "schema" if self._options.schema_only else "schema and rows"
        match mode:
            case Mode.DATA_ONLY:
                steps.append(f"load rows into {self.target} in one transaction")
            case Mode.IN_PLACE:
                steps.append(f"load {what} into {self.target} in one transaction")
            case Mode.NEW | Mode.SWAP:
                steps.append(
                    f"create database {self.target}"
                    if self._at_once
                    else "create a database under a temporary name"
                )
                steps.append(f"load {what} by {self._options.jobs} connections, build indexes")
                steps.append("compare the number of rows of every table with the backup")
                if self._failures is not None:
                    steps.append("if objects have failed, list them and keep it under another name")
                if mode == Mode.SWAP:
                    steps.append(f"end the sessions of {self.target} and rename it out of the way")
                if not self._at_once:
                    steps.append(f"rename the new database to {self.target}")
                if mode == Mode.SWAP and self._options.discard_old:
                    steps.append("drop the old database")
        return steps

    def _check_file(self, progress: Progress) -> None:
        """Read the file to its end before the server is touched.

        From a bucket it would be fetched twice. There the end marker, the index and the length are
        checked, and every member when it is loaded: into a database that gets its name, or in a
        transaction that is committed, only after all of them were whole.
        """
        if self._side is not None and (self._artifact or not self._options.allow_statements):
            # It may be whole, and yet another one than its side files speak of.
            verify.check_digest(self._source, self._artifact, self._side)
        if self._artifact is not None:
            verify.check_names(self._artifact, self._side.manifest if self._side else None)
        if self._source.remote and self._artifact is not None:
            return
        progress.total(self._source.size)
        if self._artifact is not None:
            self._artifact.check_hashes(progress.advance)
            return
        self._check_plain(progress)

    def _check_plain(self, progress: Progress) -> None:
        report = verify.verify_source(
            self._source,
            jobs=self._options.jobs,
            progress=progress.advance,
            accept_edited=self._options.allow_statements,
        )
        if report.connects:
            # Made by pg_dump -C or pg_dumpall (trap A3.7).
            raise e.Refused(
                f"{self._source.name} holds \\connect or the cluster's roles: it would write into"
                f" more than {self.target}",
                hint="Make a backup of it, without what reaches beyond a database: pgkeep index"
                " FILE.",
            )
        if not self._options.allow_statements and report.statements:
            raise e.Refused(
                f"{self._source.name} holds statements that pg_dump does not write: "
                + "; ".join(report.statements[:5]),
                hint="pgkeep verify FILE lists them. Read them; --allow-statements executes them.",
            )
        self._checked = report.sha256

    def _into_new(self, mode: Mode, progress: Progress) -> tuple[Loaded | None, str | None]:
        if self._at_once:
            loaded = self._load_at_once(progress)
            return loaded, self._keep_incomplete(self.target) if self._failures else None
        with self._maintenance() as connection:
            temporary = databases.claim(connection, self.target)
            try:
                with self._created(temporary):
                    loaded = self._load_into(temporary, progress)
                    if self._failures:
                        return loaded, self._keep_incomplete(temporary)
                    old = self._put(temporary, mode)
            except e.RestoreFailed as error:
                if not error.message.startswith("extension "):
                    raise
                return self._load_after(error, mode, progress), None
        if old is not None and self._options.discard_old and self._discard(old):
            old = None
        return loaded, old

    def _keep_incomplete(self, name: str) -> str:
        """Give a database, of which objects failed, a name that no later restore drops."""
        with self._maintenance() as connection:
            return databases.keep_incomplete(connection, name, self.target)

    def _load_after(self, error: e.RestoreFailed, mode: Mode, progress: Progress) -> Loaded | None:
        """Load under the own name after an extension's script has failed under another one.

        Such as pg_cron, which can be created in one database only. The server's hint would name
        the temporary one.
        """
        if mode == Mode.SWAP:
            raise e.RestoreFailed(
                error.message,
                hint="If the extension depends on the name of its database: "
                + self._in_place_instead(),
            ) from error
        try:
            loaded = self._load_at_once(progress)
        except e.RestoreFailed as again:
            if again.message != error.message:
                raise
            raise e.RestoreFailed(
                error.message,
                hint=f"It cannot be created in database {self.target} on this server: see its"
                " settings, or restore under another name with --target-db.",
            ) from again
        self._warnings.append(
            f"loaded under its own name at once: under a temporary one, {error.message}"
        )
        return loaded

    def _load_at_once(self, progress: Progress) -> Loaded | None:
        with self._created(self.target):
            return self._load_into(self.target, progress)

    @contextlib.contextmanager
    def _created(self, name: str) -> Iterator[None]:
        """Create a database; a failure leaves nothing of it, but if all is in it."""
        ours = name != self.target  # nobody else makes a database of a temporary name
        try:
            with self._maintenance() as connection:
                facts = self._meta.database if self._meta else None
                databases.create(connection, name, facts, self._encoding())
            ours = True
            yield
        except _NotRenamed:
            raise
        except BaseException:
            if not ours:
                raise
            # By a new session: the failure may be that of the other one.
            with interrupts.held():
                databases.drop_subscriptions(self._endpoint.to(name))
                with (
                    contextlib.suppress(psycopg.Error, e.PgkeepError),
                    self._maintenance() as connection,
                ):
                    databases.drop_unfinished(connection, name)
            raise

    def _load_into(self, name: str, progress: Progress) -> Loaded | None:
        loaded = self._load(self._endpoint.to(name), progress)
        progress.step("finishing")
        # Connected anew: a session that was idle for hours may have been cut off.
        with self._maintenance() as connection:
            self._finish(connection, name)
        return loaded

    def _finish(self, connection: Connection, name: str) -> None:
        """Let others into the new database as far as the backup says."""
        facts = self._meta.database if self._meta is not None else None
        if facts is not None and self._options.closed:
            facts = msgspec.structs.replace(facts, grants=None, is_template=False)
        if facts is not None:
            self._apply_facts(connection, name, facts)
        if self._options.closed:
            return
        if facts is None or facts.grants is None or not self._options.privileges:
            try:
                connection.execute(databases.opening(name))
            except psycopg.Error as error:
                raise restore_error(error, "privileges of the database") from error

    def _discard(self, old: str) -> bool:
        """Drop the database that was replaced; the restore has succeeded whatever comes of it."""
        for subscription, slot in databases.drop_subscriptions(self._endpoint.to(old)):
            if slot is not None:
                self._warnings.append(
                    f"subscription {subscription} of the old database is dropped, its replication"
                    f" slot {slot} stays on the publisher"
                )
        try:
            with self._maintenance() as connection:
                databases.drop(connection, old)
        except (psycopg.Error, e.PgkeepError) as error:
            said = str(error).partition("\n")[0]
            self._warnings.append(f"could not drop the old database: {said}")
            return False
        return True

    def _encoding(self) -> str | None:
        """Return the encoding that a plain dump says it is in."""
        if self._meta is not None:
            return self._meta.database.encoding
        match = _ENCODING.search(next(plain_reader.plain_blocks(self._source), b""))
        return match[1].decode() if match else None

    def _load(
        self, endpoint: Endpoint, progress: Progress, *, one_transaction: bool = False
    ) -> Loaded | None:
        if self._artifact is None or self._choice is None:
            self._plain_rows = self._load_plain(endpoint, progress)
            return None
        tolerant = self._failures is not None or self._choice.is_tolerant
        options = LoadOptions(
            jobs=self._options.jobs,
            schema=not self._options.data_only,
            data=not self._options.schema_only,
            owner=self._options.owner,
            privileges=self._options.privileges,
            one_transaction=one_transaction,
            disable_triggers=self._options.disable_triggers,
            analyze=self._options.analyze and not self._options.schema_only,
            adapt=self._choice.adapt,
            skips_rows=lambda one: self._leaves_out_rows((one.schema, one.name)),
            tolerates=self._tolerates if tolerant else None,
            settings=self._path(),
            check=self._check_counts if self._options.data_only else lambda _: None,
        )
        if self._options.session is not None:
            options = dataclasses.replace(options, session=self._options.session)
        loaded = load.load(endpoint, self._artifact, options, progress)
        if not self._options.schema_only:
            self._compare(loaded.rows)
        return loaded

    def _path(self) -> list[Statement]:
        """Return what sets the search path, where that of the dump does not fit."""
        if self._options.data_only:
            # No definition is read; triggers and checks run as in any session (trap G4.3).
            return [b"RESET search_path"]
        if self._meta is None or self._options.search_path == SearchPath.EMPTY:
            return []
        return [search_path.loading(self._meta)]

    def _compare(self, loaded: dict[tuple[str, str], int]) -> None:
        assert self._artifact is not None  # noqa: S101 - called for artifacts only
        for table in self._tables():
            found = loaded.get((table.schema, table.name), 0)
            if found != table.rows:
                raise e.RestoreFailed(
                    f"{table.schema}.{table.name}: {found} rows loaded, the backup has {table.rows}"
                )

    def _load_plain(self, endpoint: Endpoint, progress: Progress) -> int:
        return plain.load(
            endpoint,
            self._source,
            self._encoding() or "SQL_ASCII",
            progress,
            sha256=self._checked,
            allow=self._options.allow_statements,
        )

    def _apply_facts(self, connection: Connection, name: str, facts: DatabaseFacts) -> None:
        """Give the new database what the old one had as a database (trap A3.6)."""
        database = sql.Identifier(name)
        strangers = self._choice.strangers if self._choice is not None else frozenset()
        owner = self._options.owner and facts.owner not in strangers
        for statement in databases.facts_statements(
            database, facts, owner=owner, privileges=self._options.privileges
        ):
            try:
                connection.execute(statement)
            except psycopg.Error as error:
                self._fact_refused(error)

    def _fact_refused(self, error: psycopg.Error) -> None:
        privileged = isinstance(error, psycopg.errors.InsufficientPrivilege)
        if privileged and self._options.portable:
            self._warnings.append(f"left out: a setting ({error.diag.message_primary})")
            return
        failure = restore_error(error, "settings of the database")
        if privileged:
            failure.hint = "Restore as a superuser, or leave them out with --portable."
        if self._failures is None:
            raise failure from error
        self._failures.note(failure)

    def _apply_in_place(self, facts: DatabaseFacts) -> None:
        """Give an existing database all that but its owner; what it has got stays in any case."""
        refused = f"the role is not the owner of database {self.target}"
        try:
            with self._endpoint.to(self.target).connect() as connection:
                owns = _may_rename(connection, self.target)
                for statement in databases.facts_statements(
                    sql.Identifier(self.target), facts, owner=False,
                    privileges=self._options.privileges,
                ):  # fmt: skip
                    try:
                        if owns:
                            connection.execute(statement)
                            continue
                    except psycopg.Error as error:
                        refused = error.diag.message_primary or str(error).strip()
                    what = _VALUE.sub(r"\1", statement.as_string(connection))
                    self._warnings.append(f"left out: {what} ({refused})")
        except e.ConnectionFailed as error:
            self._warnings.append(f"left out: settings of the database ({error.message})")

    def _put(self, temporary: str, mode: Mode) -> str | None:
        """Put the new database in its place, and return the new name of the old one.

        Both renamings or none. If they fail, what was loaded stays (trap G3.6).
        """
        old = None

        def swapped() -> None:
            kept = f", the former one is kept as {old}" if old is not None else ""
            interrupts.completed(f"database {self.target} is restored{kept}")

        try:
            with self._maintenance() as connection, self._maintenance() as helper:
                if mode == Mode.SWAP:
                    old = databases.free_name(connection, self.target)
                databases.swap(connection, helper, self.target, old, temporary, swapped)
        except (e.PgkeepError, psycopg.Error) as error:
            raise self._kept(temporary, old, error) from error
        return old

    def _kept(
        self, temporary: str, old: str | None, error: e.PgkeepError | psycopg.Error
    ) -> "_NotRenamed":
        """Return the error that says how to complete the restore by hand."""
        with contextlib.suppress(psycopg.Error, e.PgkeepError), self._maintenance() as connection:
            databases.keep(connection, temporary, self.target)
        renamings = [(self.target, old)] if old is not None else []
        statements = "; ".join(
            databases.renaming(*pair).as_string(None)
            for pair in (*renamings, (temporary, self.target))
        )
        said = error.message if isinstance(error, e.PgkeepError) else str(error).strip()
        reason = f" {error.hint}" if isinstance(error, e.PgkeepError) and error.hint else ""
        return _NotRenamed(
            f"database {temporary} is complete, but could not be renamed to {self.target}: {said}",
            hint=f"Rename it by hand, no session may be in it: {statements};{reason}",
        )


def _may_create(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
    ).fetchone()
    return bool(row and row[0])


def _may_rename(connection: Connection, name: str) -> bool:
    row = connection.execute(
        "SELECT pg_catalog.pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database"
        " WHERE datname = %s",
        [name],
    ).fetchone()
    return row is None or bool(row[0])  # dropped by now: there is nothing to rename


def _sessions_in_the_way(connection: Connection, name: str) -> Iterator[str]:
    """Warn of sessions that the role may not end (manual, table "Server Signaling Functions")."""
    row = connection.execute(
        """
        SELECT count(*) FROM pg_catalog.pg_stat_activity a
        JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
        JOIN pg_catalog.pg_roles me ON me.rolname = current_user
        WHERE a.datname = %s AND NOT me.rolsuper
          AND (r.rolsuper OR NOT (pg_catalog.pg_has_role(r.oid, 'USAGE')
                                  OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')))
        """,
        [name],
    ).fetchone()
    if row is not None and row[0]:
        noun = "session" if row[0] == 1 else "sessions"
        yield (
            f"the role may not end {row[0]} {noun} of database {name}: GRANT pg_signal_backend to"
            " it (sessions of superusers need a superuser), or end them yourself"
        )


def _contents(connection: Connection) -> str | None:
    """Say what an allegedly empty database holds; extensions apart from plpgsql count too."""
    row = connection.execute(
        """
        SELECT (SELECT count(*) FROM pg_catalog.pg_class c WHERE c.oid >= 16384
                AND c.relnamespace IN (SELECT oid FROM pg_catalog.pg_namespace
                    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')),
               (SELECT count(*) FROM pg_catalog.pg_proc WHERE oid >= 16384),
               (SELECT count(*) FROM pg_catalog.pg_type WHERE oid >= 16384),
               (SELECT count(*) FROM pg_catalog.pg_namespace
                WHERE oid >= 16384 AND nspname !~ '^pg_'),
               (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata)
        """
    ).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM gives a row
    names = ("relations", "functions", "types", "schemas", "large objects")
    found = [f"{count} {name}" for count, name in zip(row, names, strict=True) if count]
    return ", ".join(found) or None
