"""The roles of a cluster as SQL: dumped with each backup, and repeatable on another server."""

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from .. import errors as e
from .. import processes
from ..task_group import TaskGroup
from . import programs
from .connection import ChildAccess, Endpoint
from .repeatable_roles import repeatable_roles
from .role_names import missing

_GLOBALS_END = b"\n-- PostgreSQL database cluster dump complete\n--"


class RolesDump(msgspec.Struct, frozen=True):
    """The cluster's roles and tablespaces as SQL."""

    sql: bytes
    passwords: bool
    warnings: list[str]


class Roles:
    """The dump of the cluster's roles, made once in a run."""

    def __init__(self) -> None:
        self._dump: RolesDump | None = None

    def dump(
        self,
        endpoint: Endpoint,
        client: programs.Installation,
        settings: Mapping[str, str],
        encoding: str,
        needed: Iterable[str],
    ) -> RolesDump:
        """Return the dump; make it when first requested, and again if a role was created since."""
        roles = list(needed)
        if self._dump is None or missing(roles, self._dump.sql):
            self._dump = _dump_roles(endpoint, client, settings, encoding)
        dropped = missing(roles, self._dump.sql)
        if not dropped:
            return self._dump
        warning = (
            f"roles were dropped during the backup and are not in its globals: {', '.join(dropped)}"
        )
        return msgspec.structs.replace(self._dump, warnings=[*self._dump.warnings, warning])


def _dump_roles(
    endpoint: Endpoint,
    client: programs.Installation,
    settings: Mapping[str, str],
    encoding: str,
) -> RolesDump:
    """Dump roles and tablespaces, through the database itself or through `postgres`.

    The database itself is tried because `postgres` can be inaccessible (trap A3.3). However,
    databases of all encodings share the names of roles: a UTF-8 name can be invalid text in this
    database, or consist of other characters (trap A3.14).
    """
    databases = [endpoint.params["dbname"]]
    if encoding != "UTF8":
        databases.insert(0, "postgres")
    for database in databases:
        try:
            return _dump_roles_through(database, endpoint, client, settings)
        except e.ProgramFailed as error:
            failed = error
    raise e.DumpFailed(f"could not dump the roles: {failed.message}") from failed


def _dump_roles_through(
    database: str,
    endpoint: Endpoint,
    client: programs.Installation,
    settings: Mapping[str, str],
) -> RolesDump:
    """Dump roles and tablespaces; without password hashes if these cannot be read.

    Only superusers can read pg_authid, and no one on managed services (trap A3.2).
    """
    with endpoint.child(**settings) as access:
        for passwords in (True, False):
            command = [
                client.program("pg_dumpall"), "--globals-only", "--no-password",
                "--database", "dbname=" + _conninfo_value(database), *access.arguments,
            ]  # fmt: skip
            if not passwords:
                command.append("--no-role-passwords")
            try:
                data = _output(command, access)
            except e.ProgramFailed as error:
                if passwords and "pg_authid" in str(error):
                    continue
                raise
            if _GLOBALS_END not in data:
                raise e.DumpFailed("could not dump the roles: truncated output of pg_dumpall")
            warnings = [] if passwords else ["the globals hold no passwords: no right to read them"]
            return RolesDump(repeatable_roles(data), passwords, warnings)
    raise AssertionError("unreachable")


def _output(command: Sequence[str], access: ChildAccess) -> bytes:
    """Run a program and return its output.

    It runs in a thread: a signal interrupts the main thread, possibly after the program was started
    and before it was recorded.
    """
    output: list[bytes] = []

    def run() -> None:
        with processes.Child(command, access.environment, access.descriptors) as child:
            threads.on_stop(child.kill)
            data = b"".join(iter(child.read, b""))
            child.finish()
            output.append(data)

    with TaskGroup() as threads:
        threads.start(run, command[0])
        threads.wait()
    return output[0]


def _conninfo_value(value: str) -> str:
    return "'" + re.sub(r"([\\'])", r"\\\1", value) + "'"
