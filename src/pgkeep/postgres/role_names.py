"""Compare a dump of the cluster's roles with the server that a backup has locked.

pg_dumpall makes a new connection, and cannot be asked where it arrived. A host name can lead to
several servers.
"""

import re
from collections.abc import Iterable

from ..sql.statements import quoted
from .connection import Connection
from .facts import shared_rows

_CREATED = re.compile(rb'CREATE ROLE ("(?:[^"]|"")+"|[^";\s]+);')


def names(connection: Connection) -> set[str]:
    """Return the roles of the server that pg_dumpall writes."""
    query = "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_'"
    return {row[0] for row in shared_rows(connection, query)}


def missing(existing: Iterable[str], script: bytes) -> set[str]:
    """Return the roles that a script does not create.

    Names with other than ASCII characters have no certain form in the script (trap A3.14). Those
    of another encoding are read with a backslash.
    """
    created = set(_CREATED.findall(script))
    return {
        role
        for role in existing
        if role.isascii()
        and "\\" not in role
        and created.isdisjoint((role.encode("ascii"), quoted(role).encode("ascii")))
    }
