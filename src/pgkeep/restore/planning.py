"""Plan a restore: read the file and the server's catalogs, decide, and change nothing."""

from collections.abc import Iterator

import psycopg

from .. import errors as e
from ..artifact import plain_reader
from ..artifact.contents import Contents
from ..artifact.file import Artifact, is_artifact
from ..artifact.verify import SideFiles
from ..postgres import collation_versions, database_names, databases, versions
from ..postgres.connection import Connection, Endpoint
from ..postgres.facts import server_facts
from ..sql.encodings import codec
from ..stores.store import Source
from . import database_name_use, maintenance, money, protected_databases, search_path
from .load.session import describe
from .object_selection import ObjectSelection, SelectionOptions, Selector
from .plan import Mode, Plan, PlanSummary, RestoreOptions, in_place_instead, mode_of, steps, tables
from .search_path import SearchPath
from .swap_plan import judge_early
from .target import (
    database,
    default_privileges,
    extension_tables,
    foreign_keys,
    not_valid_constraints,
    relations,
    role_creation,
    space,
    swap_findings,
    triggers,
)
from .target.swap_findings import Finding


def make_plan(
    endpoint: Endpoint, source: Source, options: RestoreOptions, side: SideFiles | None = None
) -> Plan:
    """Look at file and server; nothing is changed.

    Raises:
        UsageError: the file has not what the options ask for.
        VerificationFailed: the file is no dump at all, or its index is damaged.
        Refused: the target does not exist, and must.

    """
    return _Planner(endpoint, source, options, side).plan()


class _Planner:
    def __init__(
        self, endpoint: Endpoint, source: Source, options: RestoreOptions, side: SideFiles | None
    ) -> None:
        self._endpoint = endpoint
        self._source = source
        self._options = options
        self._side = side
        self._artifact = Artifact(source) if is_artifact(source) else None
        self._meta = self._artifact.index.meta if self._artifact else None
        if self._artifact is None:
            plain_reader.check_head(source)
            check_options_of_plain_dump(source.name, options)
        self._selector = self._make_selector()
        self._selection: ObjectSelection | None = None
        self._target = target_name(
            source.name, options, self._meta.database.name if self._meta else None
        )
        self._problems: list[tuple[str, str | None]] = []  # each with a remedy
        self._warnings: list[str] = []
        self._findings: list[Finding] = []
        self._free: int | None = None  # bytes on the server's disk

    def _make_selector(self) -> Selector | None:
        options = self._options
        if self._artifact is None:
            return None
        wanted = SelectionOptions(
            skip=options.skip, owner=options.owner, privileges=options.privileges,
            portable=options.portable, create_roles=options.create_roles,
            tablespaces=options.tablespaces,
            rows_only=options.data_only, creates=not (options.in_place or options.data_only),
        )  # fmt: skip
        return Selector(self._artifact, wanted)

    def plan(self) -> Plan:
        stays = self._options.in_place or self._options.data_only
        with maintenance.connection(self._endpoint, self._target, stays=stays) as connection:
            exists = database_names.exists(connection, self._target)
            if stays and not exists:
                raise e.Refused(f"database {self._target} does not exist")
            mode = mode_of(self._options, exists=exists)
            if mode == Mode.SWAP:
                protected_databases.check_replaced(self._target)
            if exists and mode == Mode.NEW:
                self._refuse(
                    f"database {self._target} exists",
                    "Restore under another name with --target-db=NAME, or replace it with"
                    " --drop-existing, which keeps the old one under a dated name.",
                )
            self._select(connection, mode)
            self._look_at_server(connection, mode)
            self._look_at_money(connection)
            self._look_at_space(connection)
            if mode == Mode.SWAP:
                self._look_at_swap(connection)
        if mode == Mode.DATA_ONLY:
            self._look_at_tables()
        else:
            self._warnings += self._ambiguous()
        name_dependence = self._look_at_name(mode)
        if mode == Mode.IN_PLACE:
            self._look_into_empty_database()
        return Plan(
            endpoint=self._endpoint,
            source=self._source,
            side=self._side,
            options=self._options,
            artifact=self._artifact,
            selection=self._selection,
            target=self._target,
            mode=mode,
            name_dependence=name_dependence,
            summary=self._summary(mode, at_once=name_dependence is not None),
        )

    def _summary(self, mode: Mode, *, at_once: bool) -> PlanSummary:
        index = self._artifact.index if self._artifact else None
        selection = self._selection
        restored = tables(self._artifact, selection.skips_rows) if selection else None
        return PlanSummary(
            file=self._source.name,
            kind="pgkeep" if index else "plain",
            source=self._meta.database.name if self._meta else None,
            snapshot=self._meta.snapshot if self._meta else None,
            target=self._target,
            mode=mode.value,
            steps=steps(
                self._options, mode, check=_check(self._source, self._artifact),
                target=self._target,
                at_once=at_once or self._options.at_once,
                missing_roles=selection.missing_roles if selection else (),
            ),
            problems=[problem for problem, _ in self._problems],
            remedies=[remedy for _, remedy in self._problems if remedy is not None],
            findings=self._findings,
            warnings=[*(selection.lines() if selection else ()), *self._warnings],
            raw_bytes=index.raw_bytes if index else None,
            database_size=self._database_size(),
            free_bytes=self._free,
            tables=len(restored) if restored is not None else None,
            rows=sum(table.rows for table in restored) if restored is not None else None,
        )  # fmt: skip

    def _refuse(self, problem: str, remedy: str | None = None) -> None:
        self._problems.append((problem, remedy))

    def _select(self, connection: Connection, mode: Mode) -> None:
        """Decide which objects are restored."""
        if self._selector is None:
            return
        owns = mode != Mode.IN_PLACE or database.may_rename(connection, self._target)
        self._selection = self._selector.select(connection, owns=owns)

    def _look_at_server(self, connection: Connection, mode: Mode) -> None:
        """Find what the server or the role lacks."""
        options = self._options
        server = server_facts(connection)
        newer = versions.problem(server.version, server.version_num)
        self._warnings += [newer] if newer is not None else []
        source = self._meta.server.major if self._meta is not None else 0
        if server.major < source and not options.portable:
            self._refuse(
                f"the server is PostgreSQL {server.major}, the backup comes from {source}",
                "Restore into a newer server, or try it with --portable.",
            )
        if self._meta is not None and mode != Mode.DATA_ONLY:
            warning = collation_versions.restore_warning(connection, self._meta.database)
            self._warnings += [warning] if warning is not None else []
        if self._selection is not None:
            self._problems += self._selection.problems()
            creates = options.create_roles and self._selection.missing_roles
            if creates and not role_creation.may_create(connection):
                self._refuse(
                    "the role is not allowed to create roles",
                    "ALTER ROLE ... CREATEROLE; or have a superuser create them.",
                )
        if mode.creates and not database.may_create(connection):
            self._refuse(
                "the role is not allowed to create databases",
                "ALTER ROLE ... CREATEDB; or restore into an empty database with --in-place.",
            )
        if mode == Mode.SWAP and not database.may_rename(connection, self._target):
            self._refuse(
                f"the role is not the owner of database {self._target}: it is not allowed to"
                " rename it",
                "Restore as its owner, as a member of its owner, or as a superuser; or under"
                " another name with --target-db.",
            )

    def _look_at_space(self, connection: Connection) -> None:
        self._free = space.free(connection)
        self._warnings += space.warnings(self._free, self._database_size())

    def _database_size(self) -> int | None:
        """Return the size with indexes when it was backed up; None if only rows or no rows come."""
        manifest = None if self._side is None else self._side.manifest
        if manifest is None or self._options.schema_only or self._options.data_only:
            return None
        return manifest.database_size

    def _look_at_money(self, connection: Connection) -> None:
        selection = self._selection
        if selection is None or self._meta is None or self._meta.lc_monetary is None:
            return
        contents = Contents(selection.artifact)
        entries = [entry for entry in contents.entries if not selection.skips(entry.one)]
        rows = not self._options.schema_only
        problem = money.problem(
            connection, contents, [] if self._options.data_only else entries,
            lambda table: rows and not selection.skips_rows(table),
        )  # fmt: skip
        if problem is not None:
            self._refuse(*problem)

    def _look_at_swap(self, connection: Connection) -> None:
        """Find what would prevent the swap: nobody should wait hours for that."""
        self._findings = [
            *swap_findings.in_use(connection, [self._target]),
            *swap_findings.replication(connection, self._target),
        ]
        problems, warnings = judge_early(
            self._findings, accept_loss=self._options.accept_replication_loss
        )
        self._problems += problems
        self._warnings += warnings

    def _look_at_name(self, mode: Mode) -> str | None:
        """Say what would be wrong, or fail, in a database that has a temporary name."""
        artifact, options = self._artifact, self._options
        if artifact is None or options.at_once or not mode.creates:
            return None
        entry = database_name_use.first(artifact)
        if entry is None:
            return None
        depends = f"{describe(entry)} depends on the name of the database"
        if mode == Mode.NEW:
            self._warnings.append(at_once_warning(depends))
            return depends
        self._refuse(
            f"{depends}, so it cannot be loaded next to {self._target}",
            in_place_instead(self._target),
        )
        return None

    def _look_into_empty_database(self) -> None:
        with self._endpoint.to(self._target).connect() as inside:
            found = databases.contents(inside)
            if found:
                self._refuse(
                    f"database {self._target} is not empty: it has {found}",
                    "Use --drop-existing, or another --target-db.",
                )
            if not self._options.privileges:
                self._warnings += default_privileges.warnings(inside, self._target)

    def _ambiguous(self) -> Iterator[str]:
        """Warn of what an empty search path would change (trap G4.1)."""
        if self._meta is not None and self._options.search_path == SearchPath.EMPTY:
            names = [resolution.object for resolution in self._meta.resolutions]
            if names:
                yield search_path.warning(names)

    def _look_at_tables(self) -> None:
        """Look at the existing tables that rows will be loaded into."""
        assert self._artifact is not None  # noqa: S101 - plain dumps are refused before
        assert self._selection is not None  # noqa: S101
        restored = tables(self._artifact, self._selection.skips_rows)
        keys = [(table.schema, table.name) for table in restored]
        encoding = codec(self._artifact.index.meta.database.encoding)
        with self._endpoint.to(self._target).connect() as inside:
            existing = foreign_keys.tables(inside, encoding)
            conditions = extension_tables.conditions(inside)
            for key in keys:
                problem = _table_problem(inside, key, existing.get(key), conditions)
                if problem is not None:
                    self._refuse(problem)
            filled = {
                existing.get((table.schema, table.name), 0) for table in restored if table.rows
            }
            fired = triggers.firing(
                inside, filled, triggers.Event.INSERT, replica=self._options.disable_triggers
            )
            if fired:  # trap G4.4
                self._warnings.append(
                    f"triggers fire, and may change rows: {triggers.listed(fired)}"
                )
            if not self._options.privileges:
                self._warnings += default_privileges.warnings(inside, self._target)
            oids = [existing[key] for key in keys if key in existing]
            self._warnings += not_valid_constraints.warnings(
                not_valid_constraints.find(inside, oids)
            )


def _table_problem(
    connection: Connection, table: tuple[str, str], oid: int | None, conditions: dict[int, bytes]
) -> str | None:
    """Say what prevents rows from being loaded into a table."""
    name = ".".join(table)
    if oid is None:
        if relations.relation(connection, table) is not None:
            return f"{name} is not a table"
        return f"table {name} does not exist"
    try:
        filled = extension_tables.has_rows(connection, table, conditions.get(oid, b""))
    except psycopg.errors.InsufficientPrivilege:
        return f"the role may not read table {name}"
    return f"table {name} is not empty" if filled else None


def at_once_warning(reason: str) -> str:
    """Say why a database was not loaded under a temporary name."""
    return f"loaded under its own name at once: {reason}"


def target_name(file: str, options: RestoreOptions, own: str | None) -> str:
    """Return the name of the target database.

    Raises:
        UsageError: the name is too long, or there is none.
        Refused: it is a template of the server.

    """
    name = options.target or own
    if name is None:
        raise e.UsageError(
            f"{file} does not contain the name of its database",
            hint="Name the database to restore into: --target-db=NAME.",
        )
    if options.target:
        size = len(options.target.encode())
        if size > database_names.NAME_LIMIT:
            raise e.UsageError(
                f"the name of the target is {size} bytes long, PostgreSQL allows"
                f" {database_names.NAME_LIMIT}"
            )
    protected_databases.check_target(name)
    return name


def _check(source: Source, artifact: Artifact | None) -> str:
    if artifact is not None and source.remote:
        return f"check end marker and index of {source.name}, members as they are loaded"
    return f"check {source.name} to its end"


def check_options_of_plain_dump(file: str, options: RestoreOptions) -> None:
    """Refuse what needs an index.

    Raises:
        UsageError: names the options.

    """
    if options.schema_only or options.data_only or options.in_place:
        raise e.UsageError(
            f"{file} is a plain dump without an index: only all of it can be restored, into a new"
            " database"
        )
    if options.skip or options.keep_going or options.create_roles:
        raise e.UsageError(
            f"{file} is a plain dump without an index: --skip, --keep-going and --create-roles"
            " require one",
            hint="Make a backup of it with pgkeep index.",
        )
    if not (options.owner and options.privileges):
        raise e.UsageError(
            f"{file} is a plain dump without an index: owners and privileges cannot be skipped"
        )
    if options.search_path != SearchPath.EMPTY:
        raise e.UsageError(f"{file} is a plain dump without an index: its own search_path is used")
