"""The plan of a restore: everything that `execute` needs, decided before anything is changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from ..artifact.file import Artifact, Meta
from ..artifact.verify import SideFiles
from ..model.manifest import TableRows
from ..model.restore_estimate import RestoreEstimate
from ..postgres.connection import Endpoint
from ..sql.statements import Name
from ..stores.store import Source
from .load.session import Session, Statement
from .object_selection import ObjectSelection
from .search_path import SearchPath
from .swap_plan import MAX_OUTAGE
from .target.swap_findings import Finding


class Mode(StrEnum):
    """Where the restored data goes."""

    NEW = "new database"
    SWAP = "beside the existing database, then swapped"
    ASIDE = "under a dated name, for a later swap"
    IN_PLACE = "into the existing, empty database"
    DATA_ONLY = "rows into the existing, empty tables"

    @property
    def creates(self) -> bool:
        """Whether a database is created."""
        return self not in (Mode.IN_PLACE, Mode.DATA_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """What to restore, and where to."""

    jobs: int
    target: str | None = None  # default: the database's own name
    drop_existing: bool = False
    discard_old: bool = False
    no_swap: bool = False  # keep the new database under a dated name
    accept_replication_loss: bool = False
    max_outage: float = MAX_OUTAGE
    in_place: bool = False
    schema_only: bool = False
    data_only: bool = False
    disable_triggers: bool = False
    owner: bool = True
    privileges: bool = True
    analyze: bool = True
    portable: bool = False  # skip what the server or the role does not support
    skip: Sequence[str] = ()  # objects, as TYPE:NAME
    keep_going: bool = False  # report all objects that fail at the end
    create_roles: bool = False  # those that are missing, without login
    tablespaces: bool = True  # else all objects are in the default one
    vacuum: bool = False  # and freeze, when everything is loaded
    at_once: bool = False  # a new database gets its name before it is loaded
    closed: bool = False  # and stays closed to PUBLIC and to all others
    session: Callable[[Endpoint, Sequence[Statement]], Session] | None = None
    allow_statements: bool = False  # in a plain dump, also those that pg_dump does not write
    search_path: SearchPath = SearchPath.EMPTY


class PlanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore would do, and what prevents it; for people and for JSON."""

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
    findings: list[Finding] = []  # what the swap has to respect
    raw_bytes: int | None = None
    database_size: int | None = None  # bytes on the disk of the server that was backed up
    free_bytes: int | None = None  # on the disk of the server; None: not known from here
    tables: int | None = None
    rows: int | None = None
    estimate: RestoreEstimate | None = None  # None: no drill has passed, or not computed
    checked: list[str] = []  # what --dry-run has checked of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One restore that can be executed."""

    endpoint: Endpoint
    source: Source
    side: SideFiles | None
    options: RestoreOptions
    artifact: Artifact | None  # None: a plain dump
    selection: ObjectSelection | None  # of an artifact
    target: str
    mode: Mode
    name_dependence: str | None = None  # why the database gets its name before it is loaded
    summary: PlanSummary

    @property
    def meta(self) -> Meta | None:
        """What the artifact says of its database."""
        return self.artifact.index.meta if self.artifact is not None else None

    @property
    def at_once(self) -> bool:
        """Whether a new database gets its name before it is loaded."""
        return self.options.at_once or self.name_dependence is not None

    @property
    def missing_roles(self) -> Sequence[str]:
        """The roles that the backup needs and the server does not have."""
        return self.selection.missing_roles if self.selection is not None else ()


def tables(artifact: Artifact | None, skips_rows: Callable[[Name], bool]) -> list[TableRows]:
    """Return the tables whose rows are restored."""
    rows = artifact.index.table_rows() if artifact is not None else []
    return [table for table in rows if not skips_rows((table.schema, table.name))]


def steps(
    options: RestoreOptions, mode: Mode, *, check: str, target: str, at_once: bool,
    missing_roles: Sequence[str],
) -> list[str]:  # fmt: skip
    """Say in their order what a restore will do."""
    found = [check]
    if missing_roles and options.create_roles:
        found.append(f"create roles without login: {', '.join(missing_roles)}")
    what = "schema" if options.schema_only else "schema and rows"
    if mode == Mode.DATA_ONLY:
        return [*found, f"load rows into {target} in one transaction"]
    if mode == Mode.IN_PLACE:
        return [*found, f"load {what} into {target} in one transaction"]
    found += [
        f"create database {target}" if at_once else "create a database under a temporary name",
        f"load {what} by {options.jobs} connections, build indexes",
        "compare the number of rows of every table with the backup",
    ]
    if options.keep_going:
        found.append("if objects have failed, list them and keep it under another name")
    if mode == Mode.SWAP:
        found.append(f"end the sessions of {target} and rename it out of the way")
    if mode == Mode.ASIDE:
        return [*found, f"keep the new database as {target}__restored_TIME, for pgkeep swap"]
    if not at_once:
        found.append(f"rename the new database to {target}")
    if mode == Mode.SWAP and options.discard_old:
        found.append("drop the old database")
    return found


def mode_of(options: RestoreOptions, *, exists: bool) -> Mode:
    """Return where the data goes; an existing target that is not to be changed is a problem."""
    if options.data_only:
        return Mode.DATA_ONLY
    if options.in_place:
        return Mode.IN_PLACE
    if options.no_swap:
        return Mode.ASIDE
    return Mode.SWAP if exists and options.drop_existing else Mode.NEW


def in_place_instead(target: str) -> str:
    """Say how to restore what depends on the name of its database."""
    return (
        f"Rename database {target}, create an empty one of that name, and restore with --in-place."
    )
