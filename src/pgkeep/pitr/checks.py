"""What a server needs for point in time: every problem with the line that fixes it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo

from .. import errors as e
from ..postgres import connection_failure, versions
from ..postgres.connection import Connection, Endpoint, first_row
from ..progress import size
from . import installation
from .choice import INCREMENTAL_SINCE
from .slot import SlotState

SENDERS = 3  # the receiver, and two of pg_basebackup
_SETTINGS = (
    "wal_level", "max_wal_senders", "max_replication_slots", "max_slot_wal_keep_size",
    "summarize_wal", "hba_file", "password_encryption",
)  # fmt: skip
_NO_LINE = "28000"  # SQLSTATE: pg_hba.conf has no line, or one that rejects
_NO_ROLE = "42501"  # the role has no REPLICATION, which is reported by itself
_NO_SENDER = "53300"  # asked for before pg_hba.conf is read


class Problem(NamedTuple):
    """Something that prevents point in time, and the lines that fix it."""

    message: str
    remedy: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What the server says about itself, the role and the connection."""

    version: str
    version_num: int
    standby: bool
    role: str
    quoted_role: str
    may_replicate: bool
    settings: dict[str, str]
    fixed: frozenset[str]  # settings of the command line, which ALTER SYSTEM does not change
    senders: int  # in use
    slots: int  # in use
    client: str | None  # its address as the server sees it, with its prefix length; None: a socket
    method: str  # how the role was authenticated, as pg_hba.conf names it
    bytes: int  # of the databases that the role can measure

    @property
    def major(self) -> int:
        """The major version, such as 17."""
        return self.version_num // 10000


def read(connection: Connection) -> ServerFacts:
    """Ask the server; a role needs no privileges for it."""
    found = connection.execute(
        "SELECT name, setting, source FROM pg_catalog.pg_settings WHERE name = ANY (%s)",
        [list(_SETTINGS)],
    ).fetchall()
    settings = {name: setting for name, setting, _ in found}
    facts = first_row(
        connection,
        "SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(),"
        " rolname, pg_catalog.quote_ident(rolname), rolreplication OR rolsuper,"
        " (SELECT count(*) FROM pg_catalog.pg_stat_replication),"
        " (SELECT count(*) FROM pg_catalog.pg_replication_slots),"
        " pg_catalog.host(pg_catalog.inet_client_addr()),"
        " (SELECT coalesce(sum(pg_catalog.pg_database_size(oid)), 0)::pg_catalog.int8"
        "  FROM pg_catalog.pg_database WHERE pg_catalog.has_database_privilege(oid, 'CONNECT'))"
        " FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    version, standby, role, quoted, may, senders, slots, address, total = facts
    return ServerFacts(
        version=version.split(" ")[0],
        version_num=connection.info.server_version,
        standby=standby,
        role=role,
        quoted_role=quoted if quoted.startswith('"') else f'"{quoted}"',
        may_replicate=may,
        settings=settings,
        fixed=frozenset(name for name, _, source in found if source == "command line"),
        senders=senders,
        slots=slots,
        client=address and f"{address}/{128 if ':' in address else 32}",
        method=_method(connection, settings, local=address is None),
        bytes=total,
    )


def _method(connection: Connection, settings: dict[str, str], *, local: bool) -> str:
    """Return the authentication method of this connection, which fits another one too."""
    if connection.info.server_version >= 160000:
        (user,) = first_row(connection, "SELECT system_user")
        return "trust" if user is None else str(user).partition(":")[0]
    if connection.pgconn.used_password:
        return settings["password_encryption"]
    return "peer" if local else "scram-sha-256"


def server_problems(facts: ServerFacts, slot: SlotState | None) -> list[Problem]:
    """Return what prevents receiving WAL and taking base backups; without I/O."""
    if facts.major < versions.OLDEST_FOR_POINT_IN_TIME:
        return [
            Problem(
                f"the server is PostgreSQL {facts.version}, expected"
                f" {versions.OLDEST_FOR_POINT_IN_TIME} or newer",
                ("Upgrade the server, or run pgkeep backup every hour.",),
            )
        ]
    if facts.standby:
        remedy = "Connect to the primary: a failover does not move a standby's slot."
        return [Problem("the server is a standby", (remedy,))]
    found: list[Problem] = []
    settings = facts.settings
    if settings["wal_level"] == "minimal":
        found.append(
            Problem("wal_level is minimal, expected replica", _set(facts, "wal_level", "replica"))
        )
    senders = int(settings["max_wal_senders"])
    needed = SENDERS - (slot is not None and slot.active)
    if senders - facts.senders < needed:
        found.append(
            Problem(
                f"max_wal_senders is {senders}, and {facts.senders} are in use: expected {needed}"
                " free ones",
                _set(facts, "max_wal_senders", str(max(10, facts.senders + 2 * needed))),
            )
        )
    slots = int(settings["max_replication_slots"])
    wanted = 1 + (slot is None)  # pg_basebackup has a temporary one
    if slots - facts.slots < wanted:
        found.append(
            Problem(
                f"max_replication_slots is {slots}, and {facts.slots} are in use: expected"
                f" {wanted} free ones",
                _set(facts, "max_replication_slots", str(max(10, facts.slots + 5))),
            )
        )
    if not facts.may_replicate:
        found.append(
            Problem(
                f"role {facts.role} does not have REPLICATION",
                (f"ALTER ROLE {facts.quoted_role} REPLICATION;",),
            )
        )
    return found


def _set(facts: ServerFacts, name: str, value: str) -> tuple[str, ...]:
    """Return how a setting is changed that takes effect when the server starts."""
    if name in facts.fixed:
        return (
            f"The command line of the server sets it. Change it there: -c {name}={value}",
            "(Compose: command, Kubernetes: args), and restart the server.",
        )
    return (f"ALTER SYSTEM SET {name} = '{value}';", "-- then restart the server")


def unlimited_slot(facts: ServerFacts) -> Problem | None:
    """Return the problem that a slot can fill the disk of the server, if it has no limit."""
    if facts.settings["max_slot_wal_keep_size"] != "-1":
        return None
    return Problem(
        "max_slot_wal_keep_size has no limit: if nobody receives the WAL, it fills the disk of the"
        " server",
        (
            "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB';",
            "SELECT pg_reload_conf();",
            "-- less than the free space of the disk with pg_wal; or accept it: --unlimited-slot",
        ),
    )


def replication_problem(endpoint: Endpoint, facts: ServerFacts) -> Problem | None:
    """Return why a replication connection is refused: pg_hba.conf needs a line of its own."""
    params = {**endpoint.params, "replication": "true", "dbname": "replication"}
    conninfo = make_conninfo("", **{"connect_timeout": "10", **params})
    try:
        psycopg.connect(conninfo, autocommit=True).close()
    except psycopg.OperationalError as error:
        failure = connection_failure.examine(error, conninfo, params, None)
        if failure.state == _NO_ROLE:
            return None
        if failure.state == _NO_SENDER:
            text = "no free sender: whether pg_hba.conf allows a replication connection is unknown"
            return Problem(text, hba_lines(facts))
        message = f"a replication connection is refused: {failure.message}"
        if failure.state != _NO_LINE:
            return Problem(message, ("Correct it, then run pgkeep pitr enable again.",))
        return Problem(message, hba_lines(facts))
    return None


def hba_lines(facts: ServerFacts) -> tuple[str, ...]:
    """Return the line of pg_hba.conf that allows replication connections from here."""
    file = facts.settings.get("hba_file", "pg_hba.conf (its path: SHOW hba_file; as a superuser)")
    where = "local" if facts.client is None else "host"
    address = "" if facts.client is None else f" {facts.client}"
    return (
        f"Add this line to {file}, above other lines with replication:",
        f"{where} replication {facts.quoted_role}{address} {facts.method}",
        "SELECT pg_reload_conf();",
    )


def host_problems(facts: ServerFacts, spool: Path) -> list[Problem]:
    """Return what prevents it on this host: missing programs, too little free space."""
    found: list[Problem] = []
    for names in (installation.FOR_STREAM, installation.FOR_BASE):
        try:
            installation.folder_of(facts.major, names)
        except e.UsageError as error:
            problem = Problem(error.message, tuple((error.hint or "").splitlines()))
            if problem not in found:
                found.append(problem)
    existing = next(path for path in (spool, *spool.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < facts.bytes:
        found.append(
            Problem(
                f"{existing} has {size(free)} free, and a base backup needs {size(facts.bytes)}"
                " there before it is stored",
                ("BACKUP_SPOOL_DIR=DIR  # a directory with more free space",),
            )
        )
    return found


def advice(facts: ServerFacts) -> list[Problem]:
    """Return what prevents nothing, but costs time and space."""
    if facts.major < INCREMENTAL_SINCE or facts.settings.get("summarize_wal") == "on":
        return []
    return [
        Problem(
            "summarize_wal is off: every base backup is a full one",
            ("ALTER SYSTEM SET summarize_wal = on;", "SELECT pg_reload_conf();"),
        )
    ]


def summarizes_wal(connection: Connection) -> bool:
    """Whether the server records which blocks change, for incremental base backups."""
    row: Any = connection.execute(
        "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'summarize_wal'"
    ).fetchone()
    return row is not None and row[0] == "on"


def timeline(connection: Connection) -> int:
    """Return the current timeline of a primary."""
    (name,) = first_row(
        connection, "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())"
    )
    return int(str(name)[:8], 16)


def checksums(connection: Connection) -> bool:
    """Whether the cluster has data checksums."""
    (value,) = first_row(connection, "SHOW data_checksums")
    return bool(value == "on")
