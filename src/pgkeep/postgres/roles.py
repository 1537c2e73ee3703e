"""The roles of a cluster as SQL: dumped with each backup, and repeatable on another server."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from .. import errors as e
from ..sql.statements import quoted
from ..task_group import TaskGroup
from . import programs
from .connection import ChildAccess, Endpoint

_GLOBALS_END = b"\n-- PostgreSQL database cluster dump complete\n--"
_NAME = rb'(?:"(?:[^"]|"")*"|[^";\s]+)'
_REST = rb"(?:[^\n';]|'[^']*')*;"
# Quoted names and comments on roles can contain similar text, which is skipped.
_STATEMENT = re.compile(
    rb"^(?:(?P<create>CREATE ROLE (?P<role>%(name)b);"
    rb"(?:\nALTER ROLE (?P=role) WITH %(rest)b)?)"
    rb"|(?:ALTER|COMMENT ON) ROLE (?P<about>%(name)b) (?:SET|IS) %(rest)b"
    rb"|GRANT (?P<group>%(name)b) TO (?P<member>%(name)b)(?:[^\n;'\"]|%(name)b)*;)$"
    rb"""|--[^\n]*|'[^']*'|"[^"]*\"""" % {b"name": _NAME, b"rest": _REST},
    re.MULTILINE,
)


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
        if self._dump is None or not all(_is_in(role, self._dump.sql) for role in needed):
            self._dump = _dump_roles(endpoint, client, settings, encoding)
        return self._dump


def _is_in(role: str, script: bytes) -> bool:
    created = (b"CREATE ROLE %b;" % name.encode() for name in (role, quoted(role)))
    return role.startswith("pg_") or any(statement in script for statement in created)


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
        with programs.Child(command, access.environment, access.descriptors) as child:
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


def repeatable_roles(script: bytes) -> bytes:
    """Return pg_dumpall's SQL for roles in a form that tolerates existing roles (trap A3.4).

    Existing roles keep their attributes, passwords, settings and comments, which can have been
    changed since. Existing roles are not made members of each other.
    """
    return _STATEMENT.sub(_only_if_missing, script)


def _only_if_missing(match: re.Match[bytes]) -> bytes:
    if match["create"] is not None:
        body = b"%b PERFORM pg_catalog.set_config('%b', 'made', false);" % (
            match.group(), _mark(match["role"]),
        )  # fmt: skip
        return _block(b"%b EXCEPTION WHEN duplicate_object THEN NULL;" % body)
    names = [match[group] for group in ("about", "group", "member") if match[group] is not None]
    if not names:
        return match.group()
    made = b", ".join(b"pg_catalog.current_setting('%b', true)" % _mark(name) for name in names)
    return _block(b"IF 'made' IN (%b) THEN\n%b\nEND IF;" % (made, match.group()))


def _mark(role: bytes) -> bytes:
    """Return the setting that records, until the session ends, that it created the role."""
    return b"pgkeep.role_" + hashlib.sha256(role).hexdigest()[:16].encode()


def _block(body: bytes) -> bytes:
    tag = b"$pgkeep$"
    while tag in body:
        tag = tag[:-1] + b"_$"
    return b"DO %b BEGIN %b END %b;" % (tag, body, tag)
