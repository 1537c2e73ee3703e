"""Which roles of a server pg_dumpall has written.

pg_dumpall makes a new connection, and cannot be asked where it arrived: a host name can lead to
several servers.
"""

import re
from collections.abc import Iterable

from ..sql.statements import quoted
from .connection import Connection
from .facts import shared_rows

_CREATED = re.compile(rb'CREATE ROLE ("(?:[^"]|"")++"|[^";\s]+);')


def names(connection: Connection) -> set[str]:
    """Return the roles of the server that pg_dumpall writes in a certain form.

    Names with other than ASCII characters have none (trap A3.14). Those of another encoding are
    read with a backslash.
    """
    query = "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_'"
    found = {row[0] for row in shared_rows(connection, query)}
    return {name for name in found if name.isascii() and "\\" not in name}


def missing(roles: Iterable[str], script: bytes) -> list[str]:
    """Return the roles that a script does not create, without those of every server."""
    created = set(_CREATED.findall(script))
    return [
        role
        for role in roles
        if not role.startswith("pg_") and created.isdisjoint((role.encode(), quoted(role).encode()))
    ]
