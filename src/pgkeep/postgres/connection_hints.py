"""What to do when a connection fails, from the message of libpq or of the server."""

import re

_ENCRYPTION = r"(?:no encryption|SSL off)"
_HINTS: tuple[tuple[str, str], ...] = (
    # TLS first: a second attempt without it adds to the message
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
    # pg_hba.conf
    (
        rf"no pg_hba\.conf entry for .*SSL (?:encryption|on)\b.*{_ENCRYPTION}",
        (
            "Add a line for this host, user and database to pg_hba.conf on the server, and"
            " reload it with SELECT pg_reload_conf()."
        ),
    ),
    (
        rf"no pg_hba\.conf entry for .*{_ENCRYPTION}",
        (
            "The server has no line in pg_hba.conf that allows this without TLS. Set"
            " PGSSLMODE=require, or sslmode=require in DATABASE_URL, or add a line for this"
            " host, user and database."
        ),
    ),
    (
        r"no pg_hba\.conf entry for .*",
        (
            "Add a line for this host, user and database to pg_hba.conf on the server, and"
            " reload it with SELECT pg_reload_conf(). A line with hostnossl does not allow"
            " TLS."
        ),
    ),
    (
        r"pg_hba\.conf rejects",
        (
            "A line with the method reject applies in pg_hba.conf on the server. Put a line"
            " that allows this host, user and database before it, and reload it with SELECT"
            " pg_reload_conf()."
        ),
    ),
    # passwords and names
    (
        r"no password supplied|empty password",
        (
            "Set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, or add the server to the"
            " password file of libpq, ~/.pgpass."
        ),
    ),
    (
        r"(?:password|SCRAM|MD5) authentication failed",
        (
            "The password is wrong or has expired, or the role does not exist or has no"
            " password. Check POSTGRES_USER and POSTGRES_PASSWORD; the server's log has the"
            " exact reason."
        ),
    ),
    (
        r"(?:Peer|Ident) authentication failed",
        (
            "The server expects that the user of this machine has the name of the role. Run"
            " pgkeep as this user, or set POSTGRES_HOST to a host name to connect with a"
            " password."
        ),
    ),
    (
        r"local user with ID",  # no passwd entry, as on OpenShift (trap A7.5)
        "Set POSTGRES_USER or PGUSER: this user id has no user name for libpq.",
    ),
)
_OTHER = "Check POSTGRES_HOST, POSTGRES_PORT, POSTGRES_USER, POSTGRES_DB and the password."


def hint_for(message: str) -> str:
    """Return the hint for a connection that failed with this message."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, message)), _OTHER)
