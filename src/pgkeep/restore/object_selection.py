"""Decide which objects of a backup a restore creates, in which form, and why it skips the others.

The selection is made for one server and one role, before anything is changed.
"""

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from .. import errors as e
from ..artifact.contents import Contents
from ..artifact.file import Artifact, Object
from ..postgres import databases
from ..postgres.connection import Connection
from ..sql import named_roles, portability, statements
from ..sql.encodings import codec
from ..sql.statements import Name
from . import skipped_objects
from .load.entries import without_owner
from .load.session import EntryText, describe
from .skipped_objects import SkippedObjects
from .target import access_methods, tablespaces, unsupported_objects

SHOWN = 7  # in one message
DATABASE_OWNER_SINCE = 140000
# The server says these of what only a missing extension has.
_ABSENT = (
    psycopg.errors.UndefinedObject,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionOptions:
    """What the caller wants to be restored, and to be skipped."""

    skip: Sequence[str] = ()  # TYPE:NAME
    owner: bool = True
    privileges: bool = True
    portable: bool = False
    create_roles: bool = False
    tablespaces: bool = True
    rows_only: bool = False
    creates: bool = True  # the database is created, so its own tablespace is needed


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSelection:
    """The selection for one backup, one server and one role."""

    artifact: Artifact
    options: SelectionOptions
    skipped: SkippedObjects | None = None  # where anything is skipped
    unsupported: Sequence[tuple[Object, str]] = ()  # by the server or the role, with the reason
    missing_roles: Sequence[str] = ()  # that the backup needs
    unnamed_roles: frozenset[str] = frozenset()  # missing roles that statements do without
    # Owners that the role cannot give objects to, with the reason.
    other_owners: Mapping[str, str] = field(default_factory=dict)
    shared_schemas: frozenset[str] = frozenset()  # of extensions, of which some are missing
    access_methods: frozenset[str] = frozenset()  # of tables, that are skipped
    missing_tablespaces: frozenset[str] = frozenset()

    def skips(self, entry: Object) -> bool:
        """Tell whether an object, or the rows of a table, are skipped."""
        return self.skipped is not None and entry in self.skipped

    def skips_rows(self, table: Name) -> bool:
        """Tell whether a table, or only its rows, are skipped."""
        return self.skipped is not None and self.skipped.skips_rows(table)

    @property
    def keeps_owners_out(self) -> frozenset[str]:
        """Return the owners that --portable gives nothing to."""
        return frozenset(self.other_owners) if self.options.portable else frozenset()

    @property
    def is_tolerant(self) -> bool:
        """Whether an object may turn out to need a skipped extension only when it is created."""
        return self.options.portable and bool(self.shared_schemas)

    @property
    def _codec(self) -> str:
        return codec(self.artifact.index.meta.database.encoding)

    def adapt(self, entry: Object, text: bytes) -> EntryText | None:
        """Return an object with the SQL to execute for it, None if it is skipped."""
        if self.skips(entry):
            return None
        if self.unnamed_roles and entry.type in named_roles.TYPES:
            roles = named_roles.named(entry.type, text, self._codec)
            if self.unnamed_roles.intersection(roles):
                left = named_roles.without(entry.type, text, self.unnamed_roles, self._codec)
                return None if left is None else (entry, left)
        if not self.options.tablespaces:
            entry = tablespaces.without(entry, None)
        elif self.options.portable and self.missing_tablespaces:
            entry = tablespaces.without(entry, self.missing_tablespaces)
        if entry.owner in self.keeps_owners_out:
            text = without_owner(text)
        if self.access_methods:
            return access_methods.without(entry, text, self.access_methods, self._codec)
        return entry, text

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what the server or the role does not support, each with a remedy."""
        if self.missing_roles and not self.options.create_roles:
            yield (
                f"roles are missing on the server: {', '.join(self.missing_roles)}",
                (
                    "Create them from the backup's NAME.globals.sql.gz (zcat FILE | psql -X -d"
                    " postgres) or, without login, with --create-roles; or skip them with"
                    " --no-owner --no-privileges."
                ),
            )
        if self.options.portable:
            return
        if self.missing_tablespaces and self.options.tablespaces:
            names = ", ".join(sorted(self.missing_tablespaces))
            yield f"tablespaces are missing on the server: {names}", tablespaces.REMEDY
        refused = [
            f"{describe(entry)} ({reason})"
            for entry, reason in self.unsupported
            if entry.type != "EXTENSION" or reason != unsupported_objects.NOT_INSTALLED
        ]
        refused += self._owners_out()
        if refused:
            more = " and more" if len(refused) > SHOWN else ""
            yield (
                f"the server or the role does not support {'; '.join(refused[:SHOWN])}{more}",
                self._remedy(refused),
            )
        extensions = [
            entry.name
            for entry, reason in self.unsupported
            if reason == unsupported_objects.NOT_INSTALLED
        ]
        if extensions:
            yield (
                f"extensions are not installed on the server: {', '.join(extensions)}",
                (
                    "Install their packages on the database server, or skip them, and what needs"
                    " them, with --portable."
                ),
            )

    def _remedy(self, refused: Sequence[str]) -> str:
        if self.other_owners:
            return (
                f"Run GRANT {', '.join(map(statements.quoted, sorted(self.other_owners)))} TO the"
                " role (since PostgreSQL 16: WITH INHERIT TRUE, SET TRUE), restore as a superuser,"
                " or skip them with --portable."
            )
        if any("superuser" in text or "not a member" in text for text in refused):
            return "Restore as a superuser, or skip them with --portable."
        return "Skip them with --skip=TYPE:NAME, or all of them with --portable."

    def _owners_out(self) -> list[str]:
        return [
            f"what belongs to {owner} ({reason})"
            for owner, reason in sorted(self.other_owners.items())
        ]

    def lines(self) -> list[str]:
        """Say what is skipped, and why."""
        found = self.skipped.lines() if self.skipped is not None else []
        if self.options.portable:
            found += self._owners_out()
            found += [
                f"what turns out to need it: {entry.name} is not the only extension in its schema"
                for entry, _ in self.unsupported
                if entry.type == "EXTENSION" and self.shared_schemas
            ]
        lines = [f"skipped: {text}" for text in found]
        if self.unnamed_roles:
            roles = ", ".join(sorted(self.unnamed_roles))
            lines.append(f"policies and user mappings are restored without missing roles: {roles}")
        if self.options.portable and self.options.tablespaces and self.missing_tablespaces:
            names = ", ".join(sorted(self.missing_tablespaces))
            lines.append(f"restored into the default tablespace instead of {names}")
        lines += [
            f"tables of access method {name} are created with {access_methods.BUILT_IN}"
            for name in sorted(self.access_methods)
        ]
        return lines


class Selector:
    """Make the selection for one backup and one server."""

    def __init__(self, artifact: Artifact, options: SelectionOptions) -> None:
        """Find the objects of --skip; the server is not asked yet.

        Raises:
            UsageError: the backup has no such object.

        """
        self._artifact = artifact
        self._options = options
        self._codec = codec(artifact.index.meta.database.encoding)
        self._unwanted = skipped_objects.select(artifact, options.skip)
        self._skipped: SkippedObjects | None = None

    def select(self, connection: Connection, *, owns: bool) -> ObjectSelection:
        """Compare the backup with the server, and decide.

        `owns` tells whether the role owns the target database.
        """
        named = self._named_roles()
        self._skip((entry, "--skip") for entry in self._unwanted)
        missing, unnamed = self._missing_roles(
            connection, {role for _, roles in named for role in roles}
        )
        self._skip(
            (entry, f"role {', '.join(sorted(set(roles) & unnamed))} is missing")
            for entry, roles in named
            if roles and unnamed.issuperset(roles)
        )
        selection = ObjectSelection(
            artifact=self._artifact, options=self._options, skipped=self._skipped,
            missing_roles=tuple(missing), unnamed_roles=unnamed,
        )  # fmt: skip
        if self._options.rows_only:
            return selection
        target = self._target(connection, missing, owns=owns)
        found = unsupported_objects.find(connection, self._artifact, target)
        unsupported = [pair for pair in found if not selection.skips(pair[0])]
        if self._options.portable:
            self._skip(unsupported)
        others: dict[str, str] = {}
        if self._options.owner and not target.superuser:
            others = {
                owner: "a member of it, but without INHERIT and SET"
                if owner in target.memberships
                else "not a member of it"
                for owner in self._owners() - target.roles
            }
        gone = {entry.name for entry, _ in unsupported if entry.type == "EXTENSION"}
        return dataclasses.replace(
            selection, skipped=self._skipped, unsupported=tuple(unsupported), other_owners=others,
            shared_schemas=frozenset(unsupported_objects.shared_schemas(self._artifact, gone)),
            access_methods=self._access_methods(),
            missing_tablespaces=frozenset(tablespaces.missing(connection, self._tablespaces())),
        )  # fmt: skip

    def _skip(self, objects: Iterable[tuple[Object, str]]) -> None:
        chosen = list(objects)
        if not chosen:
            return
        if self._skipped is None:
            self._skipped = SkippedObjects(Contents(self._artifact))
        self._skipped.add(chosen)

    def _target(
        self, connection: Connection, missing: Iterable[str], *, owns: bool
    ) -> portability.TargetServer:
        """Return what the server and the role support."""
        target = databases.portability_of(connection)
        added = set(missing) if self._options.create_roles else set()
        if owns and target.version_num >= DATABASE_OWNER_SINCE:
            added.add("pg_database_owner")  # whose member a database's owner is
        return dataclasses.replace(
            target, roles=target.roles | added, privileges=target.privileges | added
        )

    def _access_methods(self) -> frozenset[str]:
        """Return the access methods that are skipped."""
        return frozenset(
            entry.name
            for entry in self._artifact.index.objects
            if entry.type == "ACCESS METHOD" and self._skips(entry)
        )

    def _tablespaces(self) -> set[str]:
        index = self._artifact.index
        own = {index.meta.database.tablespace} if self._options.creates else set()
        named = tablespaces.named(entry for entry in index.objects if not self._skips(entry))
        return named | own

    def _skips(self, entry: Object) -> bool:
        return self._skipped is not None and entry in self._skipped

    def _named_roles(self) -> list[tuple[Object, list[str]]]:
        if not any(entry.type in named_roles.TYPES for entry in self._artifact.index.objects):
            return []
        return [
            (entry, named_roles.named(entry.type, text, self._codec))
            for entry, text in unsupported_objects.definitions(self._artifact)
            if entry.type in named_roles.TYPES
        ]

    def _missing_roles(
        self, connection: Connection, named: set[str]
    ) -> tuple[list[str], frozenset[str]]:
        """Return the missing roles that are needed, and those that statements can do without."""
        options = self._options
        needed = self._owners() if options.owner else set()
        if options.privileges:
            needed |= set(self._artifact.index.meta.roles)
        if options.privileges or options.create_roles:
            needed |= named
        missing = databases.missing_roles(connection, sorted(needed))
        others = databases.missing_roles(connection, sorted(named - set(missing)))
        return missing, frozenset(others)

    def _owners(self) -> set[str]:
        owners = {entry.owner for entry in self._artifact.index.objects if not self._skips(entry)}
        owners.add(self._artifact.index.meta.database.owner)
        return owners - {""}  # a plain dump does not name its own


@dataclass(slots=True)
class SelectionWhileLoading:
    """The selection of a plan, and what an object's failure adds to it with --portable."""

    selection: ObjectSelection
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Leave the plan's own selection as it is."""
        if self.selection.skipped is not None:
            copy = self.selection.skipped.copy()
            self.selection = dataclasses.replace(self.selection, skipped=copy)

    def tolerates(self, entry: Object, text: bytes, error: e.RestoreFailed) -> bool:
        """Tell whether an object failed only because --portable has skipped an extension."""
        skipped = self.selection.skipped
        if skipped is None or not self.selection.is_tolerant:
            return False
        with self._lock:
            if entry in skipped:
                return True  # by now: what it needs has failed
            if not (isinstance(error.__cause__, _ABSENT) and self._may_need(entry, text)):
                return False
            skipped.add([(entry, error.message.partition(": ")[2])])
            return True

    def _may_need(self, entry: Object, text: bytes) -> bool:
        """Tell whether an object mentions the schema of an extension that was skipped."""
        names = {(entry.schema, "")} if entry.type == "TABLE DATA" else set()
        encoding = codec(self.selection.artifact.index.meta.database.encoding)
        names |= statements.mentioned(text, encoding)
        return any(schema in self.selection.shared_schemas for schema, _ in names)
