"""What to do when a connection fails: by the SQLSTATE of the server, or by libpq's message."""

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .connection_failure import TOO_MANY_CONNECTIONS, UNKNOWN_DATABASE, Failure, nearest

_ENCRYPTION = r"(?:no encryption|SSL off)"
_PG_HBA = "for this host, user and database"
_RELOAD = "reload it with SELECT pg_reload_conf()."
Hint = str | Callable[[Failure], str]

_OTHER = "Check POSTGRES_HOST, POSTGRES_PORT, POSTGRES_USER, POSTGRES_DB and the password."


def hint_for(failure: Failure) -> str:
    """Return the hint for a connection that failed."""
    hint = _BY_STATE.get(failure.state or "")
    if hint is None:
        hint = _matching(_HINTS, failure.message) or _OTHER
    return hint if isinstance(hint, str) else hint(failure)


def _matching(hints: Iterable[tuple[str, Hint]], message: str) -> Hint | None:
    return next((hint for pattern, hint in hints if re.search(pattern, message)), None)


# The reasons of 28000, the code that the server uses for most rejections, in English; the last
# ones in any language.
_REJECTIONS = (
    # a second attempt without TLS adds to the message
    (
        rf"no pg_hba\.conf entry for .*SSL (?:encryption|on)\b.*{_ENCRYPTION}",
        f"Add a line {_PG_HBA} to pg_hba.conf on the server, and {_RELOAD}",
    ),
    (
        rf"no pg_hba\.conf entry for .*{_ENCRYPTION}",
        (
            "The server has no line in pg_hba.conf that allows this without TLS. Set"
            f" PGSSLMODE=require, or sslmode=require in DATABASE_URL, or add a line {_PG_HBA}."
        ),
    ),
    (
        r"pg_hba\.conf rejects",
        (
            "A line with the method reject applies in pg_hba.conf on the server. Put a line"
            f" that allows this host, user and database before it, and {_RELOAD}"
        ),
    ),
    (
        r"pg_hba\.conf",
        (
            f"Add a line {_PG_HBA} to pg_hba.conf on the server, and {_RELOAD} A line with"
            " hostnossl does not allow TLS, and one with hostssl requires it (PGSSLMODE=require)."
        ),
    ),
    (
        r"valid client certificate|certificate authentication failed",
        (
            "The server asks for a certificate of the client that it accepts. Set PGSSLCERT"
            " and PGSSLKEY to the files of the certificate and its key."
        ),
    ),
    (
        r"\b(?:[Pp]eer|[Ii]dent)\b",
        (
            "The server expects that the user of this machine has the name of the role. Run"
            " pgkeep as this user, or set POSTGRES_HOST to a host name, such as localhost, to"
            " connect over TCP with a password."
        ),
    ),
)


def _rejected(failure: Failure) -> str:
    for pattern, hint in _REJECTIONS:
        if re.search(pattern, failure.message):
            return hint
    if "user" not in failure.given:
        return (
            "No role is set, so libpq takes the name of this machine's user. Set POSTGRES_USER to"
            " a role that exists."
        )
    return (
        "Check POSTGRES_USER. psql's \\du lists the roles. CREATE ROLE ... LOGIN creates"
        " one, and ALTER ROLE ... LOGIN allows an existing one to connect."
    )


def _unknown_database(failure: Failure) -> str:
    name = failure.given.get("dbname")
    if name is None:
        advice = "No database is set, so libpq takes the name of the role. Set POSTGRES_DB."
    else:
        advice = "Check POSTGRES_DB, or the database in DATABASE_URL."
    if not failure.databases:
        return advice
    names = nearest(name or "", failure.databases)
    rest = len(failure.databases) - len(names)
    more = f" and {rest} more" if rest else ""
    return f"{advice} The server has {', '.join(names)}{more}."


def _wrong_password(failure: Failure) -> str:
    source = failure.password_from
    tried = "The password" if source is None else f"The password from {source}"
    return (
        f"{tried} is wrong or has expired, or the role does not exist or has no password. Check"
        " POSTGRES_USER too; the server's log has the exact reason."
    )


def _no_password(failure: Failure) -> str:
    set_it = "et POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE"
    path, named = passfile(failure.given)
    if path is None or not path.exists():
        missing = f"{path} does not exist. " if named else ""
        return f"{missing}S{set_it}, or add the server to the password file of libpq, ~/.pgpass."
    if not named and stat.S_IMODE(path.stat().st_mode) & 0o077:
        return f"libpq ignores {path} because others can access it: chmod 600 {path}. Or s{set_it}."
    return f"{path} has no line for this host, port, database and role. Add it, or s{set_it}."


def _socket(failure: Failure) -> str:
    folder = os.path.dirname(failure.socket or "")  # noqa: PTH120 - an abstract one begins with @
    if "Permission denied" in failure.message:
        return (
            f"This user may not enter {folder} or use the socket. Set POSTGRES_HOST to a host name,"
            " such as localhost, to connect over TCP."
        )
    looked = (
        f"POSTGRES_HOST is a directory, so libpq looks for a socket in {folder}."
        if "host" in failure.given
        else f"No host is set, so libpq looks for a socket in {folder}."
    )
    return (
        f"{looked} Set POSTGRES_HOST to a host name, such as localhost, to connect over TCP, or to"
        " the directory of the socket, which the server's SHOW unix_socket_directories prints. Is"
        " the server running, with this port?"
    )


def passfile(given: Mapping[str, str]) -> tuple[Path | None, bool]:
    """Return the path of libpq's password file, and whether a setting names it."""
    named = given.get("passfile")
    if named:
        return Path(named), True
    try:
        return Path.home() / ".pgpass", False
    except RuntimeError:
        return None, False


def password_source(
    given: Mapping[str, str], service: Mapping[str, str], environment: Mapping[str, str]
) -> str | None:
    """Return where libpq takes the password from, if no parameter has it."""
    if "password" in service:
        return "the service file"
    if "password" in environment:
        return "PGPASSWORD"
    path, _ = passfile(given)
    return str(path) if path is not None and path.exists() else None


_HINTS: tuple[tuple[str, Hint], ...] = (
    (
        r'root certificate file "[^"]*" does not exist',
        (
            "Set PGSSLROOTCERT, or sslrootcert in DATABASE_URL, to the file with the"
            " certificate of the authority that signed the server's, or to system if a public"
            " one did."
        ),
    ),
    (
        r"certificate verify failed",
        (
            "The authority that signed the server's certificate is not in the file that"
            " sslrootcert names, or the certificate has expired. Set PGSSLROOTCERT to the file"
            " of that authority."
        ),
    ),
    (
        r"server certificate for .* does not match host name",
        (
            "Connect by a name that is in the server's certificate: set POSTGRES_HOST to it."
            " With sslmode=verify-ca the name is not compared."
        ),
    ),
    (
        r"server does not support SSL, but SSL was required",
        (
            "Set ssl = on and a certificate on the server. sslmode=prefer connects without"
            " TLS if the server has none; everybody on the way can then read the data."
        ),
    ),
    (
        r"valid client certificate|certificate authentication failed|tlsv1[23]? alert",
        (
            "The server asks for a certificate of the client that it accepts. Set PGSSLCERT"
            " and PGSSLKEY to the files of the certificate and its key."
        ),
    ),
    (
        r"unsupported protocol|wrong version number|no protocols available",
        (
            "Server and client have no version of TLS in common. Compare"
            " ssl_min_protocol_version of the server with PGSSLMINPROTOCOLVERSION."
        ),
    ),
    # what libpq itself reports
    (
        r"no password supplied|empty password",
        _no_password,
    ),
    (
        r"could not (?:translate|resolve) host|failed to resolve host",
        (
            "No address is known for this name. Check POSTGRES_HOST, and the name server of this"
            " machine. The name of a service of Docker Compose or Kubernetes is known only inside"
            " its network."
        ),
    ),
    (
        r"on socket .*(?:No such file|Connection refused|Permission denied)",
        _socket,
    ),
    (
        r"Connection refused",
        (
            "No server accepts connections there. Check POSTGRES_HOST and POSTGRES_PORT, that the"
            " server is running, and its settings listen_addresses and port. In a container,"
            " localhost is the container itself."
        ),
    ),
    (
        r"time(?:d )?out|No route to host|(?:Network|Host) is (?:unreachable|down)",
        (
            "Nothing answers at this address. Check POSTGRES_HOST and POSTGRES_PORT, and the"
            " firewalls and network policies between. PGCONNECT_TIMEOUT is the limit in seconds."
        ),
    ),
    (
        r"session is (?:not )?read-only|server is (?:not )?in hot standby mode",
        (
            "target_session_attrs (PGTARGETSESSIONATTRS) excludes this server. A backup can be made"
            " of a standby, a restore requires the primary."
        ),
    ),
    (
        r"definition of service|service file",
        (
            "Check the name in PGSERVICE, or service in DATABASE_URL, and the file that"
            " PGSERVICEFILE names; by default it is ~/.pg_service.conf."
        ),
    ),
    (
        r"invalid response to SSL negotiation|expected authentication request|closed the|protocol",
        (
            "No PostgreSQL server answered, or it ended the connection. Check that POSTGRES_PORT is"
            " the port of PostgreSQL, and the server's log."
        ),
    ),
    (
        r"local user with ID",  # no passwd entry, as on OpenShift (trap A7.5)
        "Set POSTGRES_USER or PGUSER: this user id has no user name for libpq.",
    ),
)
_BY_STATE: Mapping[str, Hint] = {
    "28P01": _wrong_password,
    "28000": _rejected,
    UNKNOWN_DATABASE: _unknown_database,
    "42501": (
        "GRANT CONNECT ON DATABASE ... TO ... allows the role to connect to the database; its owner"
        " or a superuser can execute it."
    ),
    "55000": lambda failure: (
        "It is the server's own template and has nothing to back up. Set POSTGRES_DB to another"
        " database."
        if failure.given.get("dbname") == "template0"
        else "The database does not accept connections: it is a template, a restore or swap has"
        " stopped half-way, or it is invalid. ALTER DATABASE ... ALLOW_CONNECTIONS true allows"
        " them, unless it is invalid."
    ),
    TOO_MANY_CONNECTIONS: (
        "Use --jobs=1, or increase max_connections or the connection limit of the role or the"
        " database."
    ),
    "57P03": (
        "The server is starting, shutting down or recovering. Try again, and see its log. A standby"
        " accepts connections with hot_standby = on."
    ),
    "57P01": "The server was shut down, or an administrator ended the session. Try again.",
    "57P02": "Another session of the server has crashed. Try again, and see the server's log.",
}
