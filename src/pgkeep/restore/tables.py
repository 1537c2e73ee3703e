"""Bring back tables, or rows of one, into a database that is there: in one transaction, or not.

Only the definitions and the rows of these tables are read from the artifact.
"""

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import psycopg
from psycopg import sql

from .. import errors as e
from .. import interrupts
from ..artifact.contents import Contents, Entry
from ..artifact.copy_statements import COPY, blocks_of, copies, scan
from ..artifact.file import Artifact, Object, is_artifact
from ..postgres import databases
from ..postgres.connection import Connection, Endpoint
from ..postgres.facts import server_facts
from ..postgres.messages import restore_error
from ..progress import Progress
from ..sql import selection, statements
from ..sql.statements import Name
from ..stores.store import Source
from . import search_path, where_condition
from .load.entries import PRIVILEGE_TYPES, without_owner
from .load.session import Session, Statement, describe, known_settings
from .search_path import SearchPath
from .target import (
    default_privileges,
    drop_blockers,
    extension_tables,
    missing_dependents,
    relations,
    triggers,
)

# What makes a table a part of another one, or of a publication: not for a copy beside it.
_TIES = frozenset({"TABLE ATTACH", "INDEX ATTACH", "PUBLICATION TABLE"})
# Of a trigger that a partition has from its parent, and a copy beside it has not.
_SWITCH = re.compile(
    rb"\A(?:--[^\n]*\n|\n)*ALTER TABLE (?:ONLY )?%b\.%b (?:ENABLE|DISABLE) (?:\w+ )?TRIGGER "
    % (statements.IDENTIFIER, statements.IDENTIFIER)
)
_GRANTEE = re.compile(rb"^GRANT .* TO (%b)(?: WITH GRANT OPTION)?;$" % statements.IDENTIFIER, re.M)
_PUBLICATION = re.compile(rb"^ALTER PUBLICATION (%b) " % statements.IDENTIFIER, re.MULTILINE)
ROWS = "pgkeep_rows"


class Conflict(StrEnum):
    """What becomes of a row that is there already."""

    SKIP = "skip"
    UPDATE = "update"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class TablesOptions:
    """Which tables to bring back, and how."""

    patterns: Sequence[str]
    target: str | None = None  # default: the database's own name
    new_name: str | None = None  # beside the one that is there
    replace: bool = False
    where: str | None = None  # only the rows for which this is true
    conflict: Conflict = Conflict.SKIP
    disable_triggers: bool = False  # with a condition; needs a superuser
    owner: bool = True
    privileges: bool = True
    analyze: bool = True
    search_path: SearchPath = SearchPath.EMPTY


class TableFacts(msgspec.Struct, frozen=True):
    """A table in the backup."""

    schema: str
    name: str
    rows: int
    bytes: int  # of the artifact that have to be read for its rows


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What would be done, and what stands in its way."""

    file: str
    source: str
    snapshot: str
    target: str
    tables: list[TableFacts]
    steps: list[str]
    problems: list[str] = []
    remedies: list[str] = []
    warnings: list[str] = []


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was done."""

    database: str
    tables: list[str]
    rows: int  # loaded; with a condition, those for which it is true
    written: int  # with a condition: inserted or updated; else the same
    seconds: float
    warnings: list[str] = []


Confirm = Callable[[int, int], bool]


class TablesRestore:
    """One restore of tables: make the plan, look at it, then execute it."""

    def __init__(self, endpoint: Endpoint, source: Source, options: TablesOptions) -> None:
        if not is_artifact(source):
            raise e.UsageError(
                f"{source.name} is a plain dump without an index: no table can be found in it",
                hint="Make one of it with pgkeep index.",
            )
        self._artifact = Artifact(source)
        self._meta = self._artifact.index.meta
        self._options = options
        self._contents = Contents(self._artifact)
        patterns = [selection.pattern(text) for text in options.patterns]
        self._tables = self._contents.matching(patterns)
        self._check_selection(patterns)
        self.target = options.target or self._meta.database.name
        self._endpoint = endpoint.to(self.target)
        self._warnings: list[str] = []

    def _check_selection(self, patterns: Sequence[selection.Pattern]) -> None:
        options = self._options
        for pattern in patterns:
            if not any(pattern.matches(*name) for name in self._tables):
                raise e.Refused(
                    f"no table of {self._artifact.source.name} is {pattern.text}",
                    hint="pgkeep show lists its tables; names in capitals need double quotes.",
                )
        parents = self._contents.parents
        roots = [name for name in self._tables if parents.get(name) not in self._tables]
        if options.new_name and self._configuration:
            raise e.UsageError(
                f"{_list(self._configuration)} belongs to an extension: the backup has only its"
                " rows, and --as needs its definition"
            )
        if (options.new_name or options.where) and len(roots) > 1:
            raise e.UsageError(
                f"--as and --where are for one table, {len(roots)} are meant: {_list(roots)}"
            )
        if options.new_name and len(self._tables) > 1:
            below = len(self._tables) - 1
            noun = "partition" if below == 1 else "partitions"
            raise e.UsageError(
                f"{_dotted(roots[0])} has {below} {noun}: --as takes one of them, or restore"
                " into another database with --target-db"
            )
        if self._meta.schema_only:
            raise e.Refused(f"{self._artifact.source.name} holds definitions only")
        if inserted := self._contents.inserted(self._tables):
            raise e.Refused(
                f"the rows of {_list(inserted)} are INSERT statements: no table can be brought back"
                " alone",
                hint="Restore the whole database under another name with --target-db, and take the"
                " table from there.",
            )

    @property
    def _configuration(self) -> list[Name]:
        """Return the configuration tables of extensions: of these only rows are restored."""
        return [name for name in self._tables if name in self._contents.without_definition]

    @property
    def _created(self) -> list[Name]:
        return [name for name in self._tables if name not in self._contents.without_definition]

    @property
    def replaces(self) -> bool:
        """Tell whether something that is there would be dropped."""
        return self._options.replace

    @property
    def _new_name(self) -> Name:
        """Return where the copy of the table goes."""
        ((schema, _),) = self._tables
        *qualifier, name = selection.names(self._options.new_name or "")
        return (qualifier[0] if qualifier else schema), name

    def _entries(self) -> list[Entry]:
        """Return what is executed, the rows apart."""
        options = self._options
        found = []
        for entry in self._contents.of(self._created):
            kind, text = entry.one.type, entry.text
            if kind in PRIVILEGE_TYPES and not options.privileges:
                continue
            if options.new_name and (kind in _TIES or _SWITCH.search(text)):
                continue
            if not options.owner:
                text = without_owner(text)
            found.append(Entry(entry.one, text, entry.table))
        return found

    # -- the plan --

    def plan(self) -> Plan:
        """Look at file and server; nothing is changed."""
        problems: list[str] = []
        remedies: list[str] = []
        with self._endpoint.connect() as connection:
            if server_facts(connection).major < self._meta.server.major:
                problems.append(
                    f"the server is PostgreSQL {server_facts(connection).major}, the backup comes"
                    f" from {self._meta.server.major}"
                )
            if self._options.where is not None:
                problems += self._rows_obstacles(connection)
            else:
                problems += self._obstacles(connection, remedies)
                if not self._options.privileges:
                    self._warnings += default_privileges.warnings(connection, self.target, "rS")
        return Plan(
            file=self._artifact.source.name,
            source=self._meta.database.name,
            snapshot=self._meta.snapshot,
            target=self.target,
            tables=[self._facts(name) for name in self._tables],
            steps=list(self._steps()),
            problems=problems,
            remedies=remedies,
            warnings=list(self._warnings),
        )

    def _facts(self, name: Name) -> TableFacts:
        parts = self._contents.rows(name)
        members = self._artifact.index.members
        size = sum(members[number].length for number in {part.member for part in parts})
        return TableFacts(*name, sum(part.rows or 0 for part in parts), size)

    def _steps(self) -> Iterator[str]:
        names = _list(self._tables)
        if self._options.where is not None:
            yield f"load {names} into a temporary table"
            yield f"insert the rows where {self._options.where}"
            yield {
                Conflict.SKIP: "leave rows alone that are there",
                Conflict.UPDATE: "update rows that are there, by their primary key",
                Conflict.FAIL: "undo everything if one of them is there",
            }[self._options.conflict]
            return
        if self._configuration:
            rows = _list(self._configuration)
            if self._options.replace:
                yield f"delete the rows of {rows} that are not the extension's own"
            yield f"load the rows of {rows}, which belongs to an extension"
        if not self._created:
            yield "compare the number of rows with the backup, and commit"
            return
        names = _list(self._created)
        if self._options.replace:
            yield f"drop {names}"
        to = f" as {_dotted(self._new_name)}" if self._options.new_name else ""
        yield f"create {names}{to}, load its rows, then indexes, constraints and triggers"
        yield "compare the number of rows with the backup, and commit"

    def _obstacles(self, connection: Connection, remedies: list[str]) -> list[str]:
        entries = self._entries()
        problems: list[str] = []
        wanted = [self._new_name] if self._options.new_name else self._created
        problems += self._configuration_obstacles(connection, remedies)
        there = [name for name in wanted if relations.relation(connection, name) is not None]
        if there and not self._options.replace:
            problems.append(f"{_list(there)} {'is' if len(there) == 1 else 'are'} there already")
            remedies.append(
                "Take another name with --as, another database with --target-db, replace it with"
                " --drop-existing, or bring single rows back with --where."
            )
        if self._options.replace:
            problems += [
                f"{dependent} depends on a table that would be dropped"
                for dependent in drop_blockers.find(connection, relations.oids(connection, there))
            ]
            problems += [
                f"{_dotted(child)} is a part of a table that would be dropped"
                for child in sorted(relations.children(connection, there) - set(self._tables))
            ]
        missing = self._missing(connection, entries)
        if missing:
            problems.append(f"the database lacks what the table needs: {', '.join(missing)}")
            remedies.append(
                "Create it first: pgkeep cat FILE --schema-only prints the definitions."
            )
        if not self._options.new_name:
            self._warn_of_dependents(connection)
        self._warn_of_search_path()
        roles = databases.missing_roles(connection, sorted(self._roles(entries)))
        if roles:
            problems.append(f"roles are missing on the server: {', '.join(roles)}")
            remedies.append("Create them, or leave them out with --no-owner --no-privileges.")
        return problems

    def _configuration_obstacles(
        self, connection: Connection, remedies: list[str]
    ) -> Iterator[str]:
        conditions = extension_tables.conditions(connection)
        for name in self._configuration:
            oid = relations.relation(connection, name)
            if oid is None:
                yield f"table {_dotted(name)} does not exist, and belongs to an extension"
                remedies.append("Create the extension first.")
            elif not self._options.replace and extension_tables.has_rows(
                connection, name, conditions.get(oid, b"")
            ):
                yield f"table {_dotted(name)} has rows that are not the extension's own"
                remedies.append("Replace them with --drop-existing, or add rows with --where.")

    def _warn_of_dependents(self, connection: Connection) -> None:
        if gone := missing_dependents.find(connection, self._contents, self._tables):
            self._warnings.append(
                f"missing too, and not brought back with {_list(self._tables)}:"
                f" {', '.join(gone)} (pgkeep cat FILE --schema-only has the definitions)"
            )

    def _warn_of_search_path(self) -> None:
        """Name what an empty search path would change (trap G4.1)."""
        if self._options.search_path != SearchPath.EMPTY:
            return
        names = {
            _dotted(relation)
            for table in self._tables
            for relation in self._contents.relations(table)
        }
        found = [
            resolution.object
            for resolution in self._meta.resolutions
            if search_path.concerns(resolution, names)
        ]
        if found:
            self._warnings.append(search_path.warning(found))

    def _missing(self, connection: Connection, entries: Sequence[Entry]) -> list[str]:
        """Return what the statements mention, the backup defines, and the database has not."""
        own = {relation for table in self._tables for relation in self._contents.relations(table)}
        named = {
            name
            for entry in entries
            for name in statements.mentioned(entry.text, self._contents.codec)
        }
        found = []
        for name in sorted(named - own):
            kind = self._contents.kinds.get(name)
            if kind is not None and not relations.is_there(connection, kind, name):
                found.append(f"{kind.lower()} {_dotted(name)}")
        return found

    def _roles(self, entries: Sequence[Entry]) -> set[str]:
        codec = self._contents.codec
        found = set()
        for entry in entries:
            if self._options.owner and entry.one.owner:
                found.add(entry.one.owner)
            if entry.one.type == "ACL":
                names = {statements.unquoted(name, codec) for name in _GRANTEE.findall(entry.text)}
                found |= names - {"PUBLIC"}
        return found

    def _rows_obstacles(self, connection: Connection) -> list[str]:
        root = self._root
        oid = relations.relation(connection, root)
        if oid is None:
            return [
                f"{_dotted(root)} is not there: without --where the whole table is brought back"
            ]
        events = triggers.Event.INSERT
        if self._options.conflict == Conflict.UPDATE:
            events |= triggers.Event.UPDATE
        fired = triggers.firing(
            connection, [oid], events, replica=self._options.disable_triggers
        ).values()
        if names := dict.fromkeys(name for of_table in fired for name in of_table):
            self._warnings.append(
                f"triggers of {_dotted(root)} fire, and may change rows: {', '.join(names)}"
            )
        problems = []
        columns = self._columns()
        if not columns:
            problems.append(f"{_dotted(root)} has no columns that can be filled")
        lacking = set(columns) - set(relations.columns(connection, oid))
        if lacking:
            problems.append(
                f"{_dotted(root)} has no column {', '.join(sorted(lacking))}, the backup has"
            )
        if not problems and self._options.where is not None:
            self._check_condition(connection, self._options.where)
        if self._options.conflict == Conflict.UPDATE:
            if not relations.primary_key(connection, oid):
                problems.append(
                    f"{_dotted(root)} has no primary key: --on-conflict=update needs one"
                )
            elif relations.is_deferrable(connection, oid):
                problems.append(
                    f"the primary key of {_dotted(root)} is deferrable: --on-conflict=update needs"
                    " one that is not"
                )
        return problems

    def _check_condition(self, connection: Connection, where: str) -> None:
        """Have the condition parsed as it will be: on the columns of the backup alone."""
        columns = sql.SQL(", ").join(map(sql.Identifier, self._columns()))
        root = sql.Identifier(*self._root)
        subquery = sql.SQL("(SELECT {} FROM {}) AS {}")
        where_condition.check(
            connection, subquery.format(columns, root, sql.Identifier(self._root[1])), where
        )

    @property
    def _root(self) -> Name:
        parents = self._contents.parents
        return next(name for name in self._tables if parents.get(name) not in self._tables)

    def _columns(self) -> list[str]:
        for table in self._tables:
            for row in self._contents.rows(table):
                match = COPY.fullmatch(self._header(row))
                if match is not None and match["columns"] is not None:
                    names = re.findall(statements.IDENTIFIER, match["columns"])
                    return [statements.unquoted(name, self._contents.codec) for name in names]
        return []

    def _header(self, entry: Object) -> bytes:
        return next((header for header, _ in self._copies(entry)), b"")

    def _copies(self, entry: Object) -> Iterator[tuple[bytes, Iterator[bytes]]]:
        return copies(scan(blocks_of(self._artifact, entry)))

    # -- what is done --

    def execute(self, plan: Plan, progress: Progress, confirm: Confirm) -> Result:
        """Do what the plan says; `confirm` is asked with the rows that match and were written.

        Raises:
            Refused: the plan has problems, or `confirm` says no.
            VerificationFailed: the file is damaged.
            RestoreFailed: the database is as it was before.

        """
        if plan.problems:
            raise e.Refused("; ".join(plan.problems), hint="\n".join(plan.remedies) or None)
        started = time.monotonic()
        progress.total(sum(self._raw(name) for name in self._tables))
        with self._endpoint.connect() as connection:
            session = Session(connection, self._header_statements(connection))
            connection.execute("SET synchronous_commit = on")
            try:
                connection.execute("BEGIN")
                if self._options.where is not None:
                    rows, written = self._bring_rows(session, progress, confirm)
                else:
                    rows = written = self._bring_tables(session, progress)
                progress.step("committing")
                with interrupts.held():
                    connection.execute("COMMIT")
                    interrupts.completed(f"{_list(self._tables)} committed")
                if self._options.analyze and self._options.where is None:
                    self._analyze(connection)
            except psycopg.Error as error:
                raise restore_error(error, f"restoring {_list(self._tables)}") from error
        return Result(
            database=self.target,
            tables=[_dotted(name) for name in self._restored()],
            rows=rows,
            written=written,
            seconds=round(time.monotonic() - started, 3),
            warnings=self._warnings,
        )

    def _header_statements(self, connection: Connection) -> list[Statement]:
        header: list[Statement] = [*known_settings(connection, self._artifact)]
        if self._options.search_path != SearchPath.EMPTY:
            header.append(search_path.existing(self._meta))
        return header

    def _restored(self) -> list[Name]:
        return [self._new_name] if self._options.new_name else self._tables

    def _raw(self, table: Name) -> int:
        return sum(row.length for row in self._contents.rows(table))

    def _bring_tables(self, session: Session, progress: Progress) -> int:
        connection = session.connection
        schemas: dict[Name, str] = {}
        scratch = None
        if self._options.new_name:
            scratch = f"pgkeep_{secrets.token_hex(4)}"
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(scratch)))
            # For those who have granted something; nobody else sees it before it is gone.
            usage = sql.SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC")
            connection.execute(usage.format(sql.Identifier(scratch)))
            schemas = dict.fromkeys(self._contents.relations(self._tables[0]), scratch)
        keys = self._drop(connection) if self._options.replace else []
        self._create_schemas(connection)
        entries = [entry for entry in self._entries() if self._is_wanted(connection, entry)]
        members = self._artifact.index.members
        before = [
            entry
            for entry in entries
            if members[entry.one.member].section == "pre" and entry.one.type != "TABLE ATTACH"
        ]
        # Attached to a parent that has its indexes, a partition would get new ones: first its own.
        places = {"INDEX": 0, "CONSTRAINT": 0, "TABLE ATTACH": 1}
        after = sorted(
            (entry for entry in entries if entry not in before),
            key=lambda entry: places.get(entry.one.type, 2),
        )
        progress.step("creating tables")
        for entry in before:
            self._execute(session, entry, schemas)
        if self._options.privileges:
            self._take_default_privileges(connection, schemas)
        progress.step("loading rows")
        rows = sum(self._load(session, table, schemas, progress) for table in self._tables)
        self._set_sequences(session)
        progress.step("building indexes")
        for entry in after:
            self._execute(session, entry, schemas)
        for add in keys:
            connection.execute(add)
        if scratch is not None:
            self._move_out(connection, scratch)
        return rows

    def _take_default_privileges(self, connection: Connection, schemas: Mapping[Name, str]) -> None:
        """Take what ALTER DEFAULT PRIVILEGES gives to new tables: the backup's grants follow."""
        made = {relation for table in self._created for relation in self._contents.relations(table)}
        names = [(schemas.get(name, name[0]), name[1]) for name in made]
        for statement in relations.privileges_taken(connection, names):
            connection.execute(statement.encode())

    def _set_sequences(self, session: Session) -> None:
        """Set the sequences of configuration tables, which the backup does not define either."""
        for name in self._configuration:
            oid = relations.relation(session.connection, name)
            owned = extension_tables.sequences(session.connection, oid or 0)
            for entry in self._contents.entries:
                own = statements.own_name(entry.one.type, entry.text, self._contents.codec)
                if entry.one.type == "SEQUENCE SET" and own in owned:
                    session.execute_one(entry.one, entry.text)

    def _execute(self, session: Session, entry: Entry, schemas: dict[Name, str]) -> None:
        text = statements.moved(entry.text, schemas, self._contents.codec)
        if entry.one.type != "FK CONSTRAINT" or not schemas:
            session.execute_one(entry.one, text)
            return
        # A copy of old rows may refer to what is gone by now.
        try:
            with session.connection.transaction():
                session.execute_one(entry.one, text)
        except e.RestoreFailed as error:
            if not isinstance(error.__cause__, psycopg.errors.ForeignKeyViolation):
                raise
            session.execute_one(entry.one, text.rstrip().removesuffix(b";") + b" NOT VALID;\n")
            self._warnings.append(
                f"{describe(entry.one)} is NOT VALID: rows refer to others that are gone"
            )

    def _is_wanted(self, connection: Connection, entry: Entry) -> bool:
        """Whether what an entry adds the table to is there."""
        if entry.one.type != "PUBLICATION TABLE":
            return True
        match = _PUBLICATION.search(entry.text)
        name = statements.unquoted(match[1], self._contents.codec) if match else ""
        query = "SELECT FROM pg_catalog.pg_publication WHERE pubname = %s"
        if connection.execute(query, [name]).fetchone() is None:
            self._warnings.append(f"publication {name} is not there")
            return False
        return True

    def _create_schemas(self, connection: Connection) -> None:
        made = [self._new_name] if self._options.new_name else self._created
        for schema in dict.fromkeys(schema for schema, _ in made):
            create = sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema))
            query = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s"
            if connection.execute(query, [schema]).fetchone() is None:
                suspended = default_privileges.suspend(connection, kinds="n")
                connection.execute(create)
                default_privileges.resume(connection, suspended)

    def _drop(self, connection: Connection) -> list[str]:
        """Drop the tables that are there; return what makes the foreign keys of others again."""
        there = [name for name in self._tables if relations.relation(connection, name) is not None]
        keys = relations.foreign_keys_from_elsewhere(connection, there)
        for drop, _ in keys:
            connection.execute(drop.encode())
        conditions = extension_tables.conditions(connection)
        for name in reversed(self._configuration):  # pg_dump writes what is referred to first
            oid = relations.relation(connection, name)
            extension_tables.delete_rows(connection, name, conditions.get(oid or 0, b""))
        there = [name for name in there if name in self._created]
        if there:
            names = sql.SQL(", ").join(sql.Identifier(*name) for name in there)
            connection.execute(sql.SQL("DROP TABLE {}").format(names))
        return [add for _, add in keys]

    def _load(
        self, session: Session, table: Name, schemas: dict[Name, str], progress: Progress
    ) -> int:
        """Load a table's rows by its own name: its partitioned root may not be there."""
        target = sql.Identifier(schemas.get(table, table[0]), table[1]).as_bytes(session.connection)
        total = 0
        for row in self._contents.rows(table):
            total += self._copy(session, row, target, progress)
        return total

    def _copy(self, session: Session, entry: Object, target: bytes, progress: Progress) -> int:
        loaded = 0
        for header, rows in self._copies(entry):
            match = COPY.fullmatch(header)
            if match is None:
                raise e.VerificationFailed(f"unexpected {header[:60]!r}")
            columns = match["columns"]  # none of a table without any
            listed = b"" if columns is None else b"(%b) " % columns
            loaded += session.copy(entry, b"COPY %b %bFROM stdin" % (target, listed), rows)
        if loaded != entry.rows:
            raise e.RestoreFailed(
                f"{entry.schema}.{entry.name}: the server took {loaded} rows of {entry.rows}"
            )
        progress.advance(entry.length)
        return loaded

    def _move_out(self, connection: Connection, scratch: str) -> None:
        """Give the table and what hangs on it free names, and move all of it to its schema."""
        ((_, old),) = self._tables
        schema, new = self._new_name
        for kind, name in relations.in_schema(connection, scratch):
            fresh = name.replace(old, new, 1) if old in name else f"{new}_{name}"
            free = relations.free_name(connection, schema, fresh)
            connection.execute(
                sql.SQL("ALTER {} {} RENAME TO {}").format(
                    sql.SQL(kind), sql.Identifier(scratch, name), sql.Identifier(free)
                )
            )
            if kind == "STATISTICS":
                move = sql.SQL("ALTER STATISTICS {} SET SCHEMA {}")
                connection.execute(
                    move.format(sql.Identifier(scratch, free), sql.Identifier(schema))
                )
        connection.execute(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(
                sql.Identifier(scratch, old), sql.Identifier(new)
            )
        )
        connection.execute(
            sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
                sql.Identifier(scratch, new), sql.Identifier(schema)
            )
        )
        connection.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(scratch)))

    def _bring_rows(
        self, session: Session, progress: Progress, confirm: Confirm
    ) -> tuple[int, int]:
        """Load all rows into a temporary table, and write those that are wanted and missing."""
        connection = session.connection
        root = sql.Identifier(*self._root)
        oid = relations.relation(connection, self._root)
        assert oid is not None  # noqa: S101 - the plan has seen it
        columns = self._columns()
        listed = sql.SQL(", ").join(map(sql.Identifier, columns))
        alias = sql.Identifier(self._root[1])
        on_conflict = self._on_conflict(connection, oid, columns, root, alias)
        if self._options.disable_triggers:
            connection.execute("SET LOCAL session_replication_role = replica")
        # From here on as in any session of the database: the condition, triggers and checks may
        # use operators and names of its own (trap G4.3).
        connection.execute("RESET search_path")
        progress.step("loading rows")
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA")
            .format(sql.Identifier(ROWS), listed, root)
        )  # fmt: skip
        scratch = sql.Identifier("pg_temp", ROWS)
        if self._options.where is not None:
            aliased = sql.SQL("{} AS {}").format(scratch, alias)
            where_condition.check(connection, aliased, self._options.where)
        target = scratch.as_bytes(connection)
        for table in self._tables:
            for row in self._contents.rows(table):
                self._copy(session, row, target, progress)
        chosen = sql.SQL("FROM pg_temp.{} AS {} WHERE {}").format(
            sql.Identifier(ROWS), alias, where_condition.embedded(self._options.where)
        )
        progress.step("inserting rows")
        query = sql.SQL("SELECT pg_catalog.count(*) {}").format(chosen)
        count = connection.execute(query).fetchone()
        assert count is not None  # noqa: S101 - count gives a row
        insert = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} {} {}").format(
            root, listed, listed, chosen, on_conflict
        )
        written = connection.execute(insert).rowcount
        if not confirm(count[0], written):
            connection.execute("ROLLBACK")
            raise e.Refused("cancelled: nothing was changed")
        return count[0], written

    def _on_conflict(
        self, connection: Connection, oid: int, columns: Sequence[str], root: sql.Identifier,
        alias: sql.Identifier,
    ) -> sql.Composable:  # fmt: skip
        key = relations.primary_key(connection, oid)
        match self._options.conflict:
            case Conflict.FAIL:
                return sql.SQL("")
            case Conflict.SKIP if relations.tells_conflicts(connection, oid):
                return sql.SQL("ON CONFLICT DO NOTHING")
            case Conflict.SKIP:
                # Without a key nothing tells rows apart but all of their columns; as text, for not
                # every type can be compared. That is a hash join, and one column list for both.
                row = sql.SQL("ROW({})::pg_catalog.text")
                mine, theirs = (
                    row.format(
                        sql.SQL(", ").join(
                            sql.SQL("{}.{}").format(of, sql.Identifier(one))
                            for one in key or columns
                        )
                    )
                    for of in (alias, sql.Identifier("pgkeep_live"))
                )
                return sql.SQL(
                    "AND NOT EXISTS (SELECT FROM {} {} AS pgkeep_live"
                    " WHERE {} OPERATOR(pg_catalog.=) {})"
                ).format(sql.SQL("" if len(self._tables) > 1 else "ONLY"), root, mine, theirs)
            case _:
                sets = [
                    sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(column))
                    for column in columns
                    if column not in key
                ]
                names = sql.SQL(", ").join(map(sql.Identifier, key))
                if not sets:
                    return sql.SQL("ON CONFLICT ({}) DO NOTHING").format(names)
                return sql.SQL("ON CONFLICT ({}) DO UPDATE SET {}").format(
                    names, sql.SQL(", ").join(sets)
                )

    def _analyze(self, connection: Connection) -> None:
        with contextlib.suppress(psycopg.Error):  # statistics are no reason to fail
            for name in self._restored():
                connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(*name)))


def _dotted(name: Name) -> str:
    return ".".join(name)


def _list(names: Sequence[Name]) -> str:
    shown = ", ".join(_dotted(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
