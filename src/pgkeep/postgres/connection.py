"""Connections to a PostgreSQL server, and the parameters with which its programs connect.

libpq reads its own environment, passfile and service file; pgkeep adds libpq keywords. A password
never appears in an argument list: children read it from a passfile that only they can open.
"""

import contextlib
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo, PGconn

from .. import errors as e
from .. import processes
from ..run_id import run_id
from .connection_failure import TOO_MANY_CONNECTIONS, Failure, examine
from .connection_hints import hint_for, password_source

_log = logging.getLogger(__name__)

# The driver logs warnings with unescaped names. Without a handler, Python prints them to standard
# error, next to the error that pgkeep reports (trap G6.14).
logging.getLogger("psycopg").addHandler(logging.NullHandler())

# The same session settings as pg_dump (pg_dump.c, setup_connection), so that values have the same
# text regardless of settings of the role or database (trap A5.25). No timeout may end a connection
# that only holds a snapshot (trap A6.1).
SESSION = {
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "synchronize_seqscans": "off",
    "row_security": "off",
    "standard_conforming_strings": "on",
    "default_transaction_read_only": "off",
    "exit_on_error": "off",
    "search_path": "",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
# Newer settings, with the version that introduced each. The query of a killed client ends by itself
# instead of holding its locks (trap A6.9).
LATER_SETTINGS = {
    "idle_session_timeout": ("0", 140000),
    "client_connection_check_interval": ("2000", 140000),
    "transaction_timeout": ("0", 170000),
}
# With these, a query for some pages of a table reads only these pages. Without a TID range scan, or
# with other costs or a parallel plan, each slice would read the complete table (trap D11).
SLICES = {
    "enable_tidscan": "on",
    "seq_page_cost": "1",
    "random_page_cost": "4",
    "max_parallel_workers_per_gather": "0",
}
# Settings only of sessions that read for a dump, if the server has them. A table's owner can
# replace the table: reading a view or planning a query can run the owner's code (trap G2.2). The
# other settings, which the database's owner can set, change the output.
READING = {
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "constraint_exclusion": "off",
    **SLICES,
    "quote_all_identifiers": "off",
    "client_min_messages": "warning",
}
Connection = psycopg.Connection[tuple[Any, ...]]
SEVERAL_SERVERS = (
    "The host name leads to several servers, for example through a load balancer, or the server was"
    " restarted. Set the host and the port of one server."
)

# Applied at session start, before the settings of the role and of the database, which have lower
# priority. A database's owner can set the role and the loaded libraries of everyone who connects.
# The user's own options come later and have higher priority (trap G2.4). A timeout of some
# milliseconds would end the first statement (trap A6.1).
_STARTUP = "-c role=none -c local_preload_libraries= -c statement_timeout=0"
# A network that drops packets without a word must not keep a snapshot and its locks: after 60 s of
# silence (30 s, then three probes 10 s apart) the system ends a connection that waits for the
# server (trap A6.9). The user's own values have priority.
_PATIENCE = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
# The same for a request that the server has not received. Only for sessions that send little: the
# kernel also ends a connection whose server is alive and reads nothing for so long, such as that of
# a restore whose rows wait for a trigger, a lock or a disk (Linux since 5.11, zero window).
_PATIENCE_OF_READERS = {"tcp_user_timeout": "60000"}  # ms
# The server counts a session for a moment after its client closed it. If few connections are free,
# the next one can be rejected (trap A6.10).
CROWDED = 3.0  # seconds


def application_name() -> str:
    """Return the application name of this process's sessions, with the id of the run."""
    return f"pgkeep {run_id()}"


def session_settings(version: int) -> dict[str, str]:
    """Return the settings of a session on a server of this version."""
    later = {name: value for name, (value, since) in LATER_SETTINGS.items() if version >= since}
    return {**SESSION, **later}


def reading_settings(connection: Connection) -> dict[str, str]:
    """Return the settings of a session that reads for a dump, as supported by the server."""
    rows = connection.execute(
        "SELECT name FROM pg_catalog.pg_settings WHERE name = ANY (%s)", [list(READING)]
    )
    known = {row[0] for row in rows}
    return session_settings(connection.info.server_version) | {
        name: value for name, value in READING.items() if name in known
    }


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to connect to a server: libpq keywords, in addition to libpq's environment."""

    params: Mapping[str, str]
    # Called with each new connection, before its first statement.
    opened: Callable[["Connection"], object] | None = field(default=None, compare=False)
    server: str | None = None  # which every connection must reach, by its time of start
    # The setting with the password in `params`, for messages.
    password_from: str | None = field(default=None, compare=False)

    @classmethod
    def from_dsn(cls, dsn: str) -> "Endpoint":
        """Read a connection string or URI by libpq's own rules (trap A7.1)."""
        invalid = e.UsageError(
            "the connection string is not valid",
            hint="Write postgresql://user:password@host:port/database with special characters"
            " percent-encoded, or set POSTGRES_HOST, POSTGRES_USER, POSTGRES_PASSWORD instead.",
        )
        if "://" in dsn and dsn.partition("?")[0].count("@") > 1:
            # Part of the password would be taken for a host or a database, and be printed.
            raise invalid
        scheme = re.match(r"([a-z][a-z0-9+.:-]*)://", dsn, re.IGNORECASE)
        if scheme is not None and scheme[1] not in ("postgres", "postgresql"):
            raise e.UsageError(
                f"the connection string has the scheme {scheme[1]}, expected postgresql",
                hint="pgkeep backs up PostgreSQL. Write postgresql://user@host:port/database.",
            )
        try:
            return cls({key: str(value) for key, value in conninfo_to_dict(dsn).items()})
        except psycopg.ProgrammingError as error:
            # libpq's message can quote the string, including the password.
            raise invalid from error.with_traceback(None)

    def to(self, database: str) -> "Endpoint":
        """Return the endpoint of another database of the same server."""
        return replace(self, params={**self.params, "dbname": database})

    def reading(self) -> "Endpoint":
        """Return the endpoint for sessions that send nothing but statements."""
        own = self._from_service()
        return replace(
            self,
            params={
                **{key: val for key, val in _PATIENCE_OF_READERS.items() if key not in own},
                **self.params,
            },
        )

    def connect(self, patience: float = CROWDED, /, **settings: str) -> Connection:
        """Connect in autocommit mode, with the settings of a dump unless others are given.

        `patience` is the time in seconds to wait for a free connection slot on the server.

        Raises:
            ConnectionFailed: the connection failed for any reason.

        """
        with self._passfile() as passfile:
            keywords: dict[str, Any] = {
                **self._patience(),
                "application_name": application_name(),
                **self.params,
                "client_encoding": "UTF8",
                "options": self._options(),
            }
            if passfile is not None and "password" not in self.params:
                keywords["passfile"] = passfile.path  # PGPASSWORD would have priority
            connection = self._open(make_conninfo("", **keywords), patience)
        if self.opened is not None:
            self.opened(connection)
        try:
            _refuse_pooler(connection)
            # First and separately: a timeout of some milliseconds could end the next statements.
            connection.execute("SET statement_timeout = 0")
            apply(connection, {**session_settings(connection.info.server_version), **settings})
            if self.server is not None and _started(connection) != self.server:
                raise e.OtherServer(
                    "a connection reached a different server than the first one",
                    hint=SEVERAL_SERVERS,
                )
        except psycopg.Error as error:
            connection.close()
            raise _connection_failed(self._examined(error, "")) from error
        except e.PgkeepError:
            connection.close()
            raise
        info = connection.info
        _log.debug(
            "connected to %s:%s, database %s, role %s, server process %d",
            info.host, info.port, info.dbname, info.user, info.backend_pid,
        )  # fmt: skip
        return connection

    def _options(self) -> str:
        """Return the options of a session: pgkeep's, then the user's, which have priority."""
        options = self.params.get("options", self._from_service().get("options"))
        if options is None:
            options = os.environ.get("PGOPTIONS", "")
        return options if options.startswith(_STARTUP) else f"{_STARTUP} {options}".strip()

    def _patience(self) -> dict[str, str]:
        """Return our defaults for keywords that neither environment nor service file has."""
        own = self._from_service()
        if "PGCONNECT_TIMEOUT" in os.environ:
            own = {**own, "connect_timeout": ""}
        return {key: value for key, value in _PATIENCE.items() if key not in own}

    def _from_service(self) -> Mapping[str, str]:
        if "service" in self.params or "PGSERVICE" in os.environ:
            return _service_settings(self.params.get("service"))
        return {}

    def _open(self, conninfo: str, patience: float) -> Connection:
        deadline = time.monotonic() + patience
        while True:
            try:
                return psycopg.connect(conninfo, autocommit=True)
            except psycopg.Error as error:
                failure = self._examined(error, conninfo)
                if failure.state != TOO_MANY_CONNECTIONS or time.monotonic() > deadline:
                    raise _connection_failed(failure) from error
            time.sleep(0.1)

    def _examined(self, error: psycopg.Error, conninfo: str) -> Failure:
        service = self._from_service()
        environment = {
            keyword: value
            for keyword, variable in _VARIABLES.items()
            if (value := os.environ.get(variable))
        }
        given = {**environment, **service, **self.params}
        source = password_source(given, service, environment)
        if "password" in self.params:
            source = self.password_from
        return examine(error, conninfo, given, source)

    def pinned(self, connection: Connection) -> "Endpoint":
        """Return the endpoint of exactly the server that a connection has reached.

        A list of hosts, or a name with several addresses, could lead a child to another server. A
        service file has priority over the environment and could lead it to another database.
        Therefore the settings that libpq has read are fixed here.
        """
        info = connection.info
        known = {
            option.keyword.decode(): option.val.decode()
            for option in connection.pgconn.info
            if option.val is not None and option.val != option.compiled
        }
        params = {**known, **self.params}
        for keyword in ("service", "servicefile", "client_encoding"):
            params.pop(keyword, None)
        if "passfile" not in self.params:
            params.pop("passfile", None)  # the default in the home directory, which can be missing
        params |= {"host": info.host, "port": str(info.port), "user": info.user}
        if info.hostaddr and not info.host.startswith("/"):
            params["hostaddr"] = info.hostaddr
        if info.password:
            params["password"] = info.password
        return replace(self, params={**params, "dbname": info.dbname}, server=_started(connection))

    @contextlib.contextmanager
    def child(self, **settings: str) -> Iterator["ChildAccess"]:
        """Yield what a child process needs to connect, without secrets in arguments or environment.

        Only for a pinned endpoint: a service is not looked up again.
        """
        secrets = {name: value for name, value in self.params.items() if name in _OTHER_SECRETS}
        with self._passfile() as passfile, _service(secrets) as service:
            variables = {
                name: value
                for name, value in os.environ.items()
                if name.startswith("PG") and name not in _NOT_FOR_CHILDREN
            }
            extra: dict[str, str] = {}
            for keyword, value in self.params.items():
                if keyword in ("password", "passfile") or keyword in secrets:
                    continue
                variable = _VARIABLES.get(keyword)
                if variable:
                    variables[variable] = value
                else:
                    extra[keyword] = value
            if service is not None:
                variables |= {"PGSERVICEFILE": service.path, "PGSERVICE": "pgkeep"}
            variables.setdefault("PGCONNECT_TIMEOUT", "10")
            variables["PGAPPNAME"] = application_name()
            options = [self._options()]
            options += [f"-c {name}={_escape_option(value)}" for name, value in settings.items()]
            variables["PGOPTIONS"] = " ".join(filter(None, options))
            if passfile is not None:
                variables["PGPASSFILE"] = passfile.path
            elif "passfile" in self.params:
                variables["PGPASSFILE"] = self.params["passfile"]
            yield ChildAccess(
                environment=processes.environment(variables),
                arguments=["--dbname", make_conninfo("", **extra)] if extra else [],
                descriptors=tuple(
                    file.fd for file in (passfile, service) if file is not None and file.fd
                ),
            )

    @contextlib.contextmanager
    def _passfile(self) -> Iterator["_PrivateFile | None"]:
        """Give a passfile that libpq accepts, if a password or another passfile is set."""
        password = self.params.get("password") or os.environ.get("PGPASSWORD")
        named = self.params.get("passfile") or os.environ.get("PGPASSFILE")
        if password:
            if "\n" in password:
                raise e.UsageError(
                    "the password contains a newline, which passfiles do not support"
                )
            quoted = re.sub(r"([\\:])", r"\\\1", password)
            contents = os.fsencode(f"*:*:*:*:{quoted}\n")
        elif named and _is_open_to_others(named):
            # Mounted secrets often have mode 0644; libpq only warns and ignores them (trap A7.4).
            try:
                with open(named, "rb") as file:  # noqa: PTH123 - a name from outside
                    contents = file.read()
            except OSError as error:
                raise e.UsageError(
                    f"could not read the passfile {named}: {error.strerror}"
                ) from error
        else:
            yield None
            return
        with _private_file(contents) as passfile:
            yield passfile


@dataclass(frozen=True, slots=True)
class ChildAccess:
    """Environment, arguments and inherited descriptors for one of PostgreSQL's programs."""

    environment: dict[str, str]
    arguments: list[str]
    descriptors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _PrivateFile:
    path: str
    fd: int | None


# libpq's keywords and their environment variables, as reported by libpq.
_VARIABLES = {
    option.keyword.decode(): option.envvar.decode()
    for option in Conninfo.get_defaults()
    if option.envvar
}
# Secrets that neither a passfile nor a variable can pass, such as sslpassword.
_OTHER_SECRETS = frozenset(
    option.keyword.decode()
    for option in Conninfo.get_defaults()
    if option.dispchar == b"*" and not option.envvar
)
# The password is in a file and the service is resolved. A child's own PGDATESTYLE would have
# priority over our DateStyle (trap A5.25).
_NOT_FOR_CHILDREN = frozenset({"PGPASSWORD", "PGSERVICE", "PGSERVICEFILE", "PGDATESTYLE"})


@contextlib.contextmanager
def _service(settings: Mapping[str, str]) -> Iterator[_PrivateFile | None]:
    """Yield a service file for settings that must stay secret, if any exist."""
    if not settings:
        yield None
        return
    if any("\n" in value for value in settings.values()):
        raise e.UsageError(f"newline in {', '.join(sorted(settings))}")
    lines = "".join(f"{keyword}={value}\n" for keyword, value in settings.items())
    with _private_file(os.fsencode(f"[pgkeep]\n{lines}")) as file:
        yield file


@contextlib.contextmanager
def _private_file(contents: bytes) -> Iterator[_PrivateFile]:
    """Hold a secret in anonymous memory if possible, so that kill -9 leaves no file behind."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("pgkeep")
        try:
            os.fchmod(fd, 0o600)
            os.write(fd, contents)
            yield _PrivateFile(f"/proc/self/fd/{fd}", fd)
        finally:
            os.close(fd)
    else:
        with tempfile.NamedTemporaryFile(prefix="pgkeep-") as file:
            file.write(contents)
            file.flush()
            yield _PrivateFile(file.name, None)


def _is_open_to_others(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO))  # noqa: PTH116
    except OSError:
        return False


def _service_settings(service: str | None) -> dict[str, str]:
    """Return the settings of libpq's service file, which only libpq can locate."""
    named = {} if service is None else {"service": service}
    # The address is not reachable; a connection that failed still knows its keywords.
    nowhere = make_conninfo("", **named, host="/dev/null", hostaddr="")
    attempt = PGconn.connect_start(nowhere.encode())
    try:
        return {
            option.keyword.decode(): option.val.decode()
            for option in attempt.info
            if option.val and option.val != option.compiled
        }
    finally:
        attempt.finish()


def _refuse_pooler(connection: Connection) -> None:
    """Raise ConnectionFailed behind a pooler, before any setting is changed (trap G2.3).

    A pooler can run each statement in another server session, and pass our settings on to another
    client. It can be recognized because it sends the client a process id that is not the server's.
    """
    pids = {connection.info.backend_pid}
    for _ in range(2):
        row = connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
        pids.add(row[0] if row is not None else 0)
    if len(pids) > 1:
        raise _behind_a_pooler()


def _started(connection: Connection) -> str:
    """Return when the server started, in microseconds: another server has another time."""
    # As an integer: before PostgreSQL 14, the text of the number depends on extra_float_digits.
    row = connection.execute(
        "SELECT (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)"
        "::pg_catalog.int8"
    ).fetchone()
    return "" if row is None else str(row[0])


def _behind_a_pooler() -> e.ConnectionFailed:
    return e.ConnectionFailed(
        "the connection goes through a pooler such as PgBouncer",
        hint="Connect to PostgreSQL itself: set its own host and port.",
    )


def _escape_option(value: str) -> str:
    """Escape a value in PGOPTIONS (manual, section 19.1.4, "Parameter Interaction")."""
    return re.sub(r"([\\ ])", r"\\\1", value)


def first_row(connection: Connection, query: str) -> tuple[Any, ...]:
    """Return the row of a query that always returns one."""
    row = connection.execute(query.encode()).fetchone()
    assert row is not None  # noqa: S101
    return row


def apply(connection: Connection, settings: Mapping[str, str]) -> None:
    """Apply the settings to the session."""
    call = sql.SQL("SELECT ") + sql.SQL(", ").join(
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(name, value)
        for name, value in settings.items()
    )
    connection.execute(call)


def _connection_failed(failure: Failure) -> e.ConnectionFailed:
    if "unsupported startup parameter" in failure.message:  # of PgBouncer, which knows few
        return _behind_a_pooler()
    if failure.state == TOO_MANY_CONNECTIONS:
        return e.Crowded(f"could not connect: {failure.message}", hint=hint_for(failure))
    return e.ConnectionFailed(f"could not connect: {failure.message}", hint=hint_for(failure))
