"""Which objects of a backup a restore creates, in which form, and why it leaves out the others."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg

from .. import errors as e
from ..artifact.contents import Contents
from ..artifact.file import Artifact, Object
from ..postgres import databases
from ..postgres.connection import Connection
from ..sql import named_roles, statements
from ..sql.encodings import codec
from ..sql.statements import Name
from . import skipped_objects
from .load.entries import without_owner
from .load.session import describe
from .target import unsupported_objects

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
class ChoiceOptions:
    """What the caller wants to have, and not to have."""

    skip: Sequence[str] = ()  # TYPE:NAME
    owner: bool = True
    privileges: bool = True
    portable: bool = False
    create_roles: bool = False
    rows_only: bool = False


class Choice:
    """The choice for one backup and one server."""

    def __init__(self, artifact: Artifact, options: ChoiceOptions) -> None:
        self._artifact = artifact
        self._options = options
        self._codec = codec(artifact.index.meta.database.encoding)
        self._skipped = skipped_objects.select(artifact, options.skip)
        self._omitted: skipped_objects.Omitted | None = None  # where anything is left out
        self._refused: list[tuple[Object, str]] = []
        self._roleless: frozenset[str] = frozenset()  # missing roles of policies, user mappings
        self._strangers: set[str] = set()
        self._shared: set[str] = set()  # schemas of extensions, of which some are missing
        self._lock = threading.Lock()
        self.missing_roles: list[str] = []

    def look(self, connection: Connection, *, owns: bool) -> None:
        """Compare the backup with the server, and decide; `owns` the target database."""
        named = self._named_roles()
        if self._skipped:
            self._leave_out((one, "--skip") for one in self._skipped)
        self._look_for_roles(connection, {role for _, roles in named for role in roles})
        self._leave_out(
            (one, f"role {', '.join(sorted(set(roles) & self._roleless))} is missing")
            for one, roles in named
            if roles and self._roleless.issuperset(roles)
        )
        if self._options.rows_only:
            return
        target = databases.portability_of(connection)
        if self._options.create_roles:
            target = dataclasses.replace(target, roles=target.roles | set(self.missing_roles))
        if owns and target.version_num >= DATABASE_OWNER_SINCE:
            roles = target.roles | {"pg_database_owner"}  # whose member a database's owner is
            target = dataclasses.replace(target, roles=roles)
        found = unsupported_objects.find(connection, self._artifact, target)
        self._refused = [pair for pair in found if not self.leaves_out(pair[0])]
        if self._options.portable:
            self._leave_out(self._refused)
        if self._options.owner and not target.superuser:
            self._strangers = self._owners() - target.roles
        self._shared = unsupported_objects.shared_schemas(
            self._artifact, {one.name for one, _ in self._refused if one.type == "EXTENSION"}
        )

    def _leave_out(self, objects: Iterator[tuple[Object, str]] | list[tuple[Object, str]]) -> None:
        chosen = list(objects)
        if not chosen:
            return
        if self._omitted is None:
            self._omitted = skipped_objects.Omitted(Contents(self._artifact))
        self._omitted.add(chosen)

    def _named_roles(self) -> list[tuple[Object, list[str]]]:
        if not any(entry.type in named_roles.TYPES for entry in self._artifact.index.objects):
            return []
        return [
            (one, named_roles.named(one.type, text, self._codec))
            for one, text in unsupported_objects.definitions(self._artifact)
            if one.type in named_roles.TYPES
        ]

    def _look_for_roles(self, connection: Connection, named: set[str]) -> None:
        """Find out which of the roles that statements name are missing."""
        options = self._options
        needed = self._owners() if options.owner else set()
        if options.privileges:
            needed |= set(self._artifact.index.meta.roles)
        if options.privileges or options.create_roles:
            needed |= named
        self.missing_roles = databases.missing_roles(connection, sorted(needed))
        self._roleless = frozenset(
            databases.missing_roles(connection, sorted(named - set(self.missing_roles)))
        )

    def _owners(self) -> set[str]:
        owners = {
            entry.owner for entry in self._artifact.index.objects if not self.leaves_out(entry)
        }
        owners.add(self._artifact.index.meta.database.owner)
        return owners - {""}  # a plain dump does not name its own

    @property
    def strangers(self) -> frozenset[str]:
        """Owners that nothing can be given to, by --portable."""
        return frozenset(self._strangers) if self._options.portable else frozenset()

    @property
    def is_tolerant(self) -> bool:
        """Whether objects may turn out to need what was left out only while they are created."""
        return self._options.portable and bool(self._shared)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what the server or the role cannot have, each with a remedy."""
        if self.missing_roles and not self._options.create_roles:
            yield (
                f"roles are missing on the server: {', '.join(self.missing_roles)}",
                (
                    "Create them from the backup's NAME.globals.sql.gz (zcat FILE | psql -X -d"
                    " postgres) or, without login, by --create-roles; or leave them out with"
                    " --no-owner --no-privileges."
                ),
            )
        if self._options.portable:
            return
        refused = [
            f"{describe(one)} ({reason})"
            for one, reason in self._refused
            if one.type != "EXTENSION" or reason != unsupported_objects.NOT_INSTALLED
        ]
        refused += self._foreign_owners()
        if refused:
            more = " and more" if len(refused) > SHOWN else ""
            yield (
                f"the role or the server cannot have {'; '.join(refused[:SHOWN])}{more}",
                "Restore as a superuser, or leave them out with --portable."
                if any("superuser" in one or "not a member" in one for one in refused)
                else "Leave them out with --skip=TYPE:NAME, or all of them with --portable.",
            )
        extensions = [
            one.name for one, reason in self._refused if reason == unsupported_objects.NOT_INSTALLED
        ]
        if extensions:
            yield (
                f"extensions are not installed on the server: {', '.join(extensions)}",
                (
                    "Install their packages on the database server, or leave them out, with what"
                    " needs them, by --portable."
                ),
            )

    def _foreign_owners(self) -> list[str]:
        return [
            f"what belongs to {stranger} (not a member of it)"
            for stranger in sorted(self._strangers)
        ]

    def lines(self) -> list[str]:
        """Say what is left out, and why."""
        found = self._omitted.lines() if self._omitted is not None else []
        if self._options.portable:
            found += self._foreign_owners()
            found += [
                f"what turns out to need it: {one.name} is not the only extension in its schema"
                for one, _ in self._refused
                if one.type == "EXTENSION" and self._shared
            ]
        lines = [f"left out: {one}" for one in found]
        if self._roleless:
            roles = ", ".join(sorted(self._roleless))
            lines.append(f"policies and user mappings leave out missing roles: {roles}")
        return lines

    def leaves_out(self, entry: Object) -> bool:
        """Tell whether an object, or the rows of a table, are left out."""
        return self._omitted is not None and entry in self._omitted

    def leaves_out_rows(self, table: Name) -> bool:
        """Tell whether a table, or only its rows, are left out."""
        return self._omitted is not None and self._omitted.leaves_out_rows(table)

    def adapt(self, entry: Object, text: bytes) -> bytes | None:
        """Return the SQL to execute for an object, None if it is left out."""
        if self.leaves_out(entry):
            return None
        if self._roleless and entry.type in named_roles.TYPES:
            roles = named_roles.named(entry.type, text, self._codec)
            if self._roleless.intersection(roles):
                return named_roles.without(entry.type, text, self._roleless, self._codec)
        return without_owner(text) if entry.owner in self.strangers else text

    def tolerates(self, entry: Object, text: bytes, error: e.RestoreFailed) -> bool:
        """Tell whether an object failed only because --portable has left out an extension."""
        if not (self._options.portable and self._shared):
            return False
        with self._lock:
            if self.leaves_out(entry):
                return True  # by now: what it needs has failed
            if not (isinstance(error.__cause__, _ABSENT) and self._may_need(entry, text)):
                return False
            self._leave_out([(entry, error.message.partition(": ")[2])])
            return True

    def _may_need(self, entry: Object, text: bytes) -> bool:
        """Tell whether an object mentions the schema of an extension that was left out."""
        names = {(entry.schema, "")} if entry.type == "TABLE DATA" else set()
        names |= statements.mentioned(text, self._codec)
        return any(schema in self._shared for schema, _ in names)
