"""Roles and databases that a test or pgkeep creates and that are dropped after the test."""

import itertools
import os
from typing import Self

from psycopg import sql

from pgkeep.postgres.server import Server
from tests.support import servers

_numbers = itertools.count()


class Disposables:
    """Choose names; drop what has them at the end, databases before roles."""

    def __init__(self) -> None:
        self._databases: list[tuple[Server, str]] = []
        self._roles: list[tuple[Server, str]] = []

    def name(self, server: Server, name: str | None = None) -> str:
        """Return the name of a database that pgkeep will create."""
        chosen = name or f"temp_{os.getpid()}_{next(_numbers)}"
        self._databases.append((server, chosen))
        return chosen

    def database(self, server: Server, options: str = "", *, name: str | None = None) -> str:
        """Create an empty database."""
        chosen = self.name(server, name)
        servers.create(server, chosen, options)
        return chosen

    def role(
        self,
        server: Server,
        options: str = "",
        *,
        name: str | None = None,
        password: str | None = None,
    ) -> str:
        """Create a role that may connect."""
        chosen = name or f"temp_{os.getpid()}_{next(_numbers)}"
        query = sql.SQL("create role {} login {}").format(
            sql.Identifier(chosen),
            sql.SQL(options),
        )
        if password is not None:
            query += sql.SQL(" password {}").format(password)
        with servers.connect(server, "postgres") as connection:
            connection.execute(query)
        self.made_role(server, chosen)
        return chosen

    def made_role(self, server: Server, name: str) -> None:
        """Drop a role at the end that something else creates."""
        self._roles.append((server, name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server, name in self._databases:
            servers.drop(server, name)
        for server, name in self._roles:
            role = servers.quoted(name)
            exists = "select 1 from pg_roles where rolname = %(name)s"
            with servers.connect(server, "postgres") as connection:
                if connection.execute(exists, {"name": name}).fetchall():
                    # Memberships that it has granted; the globals contain roles of other tests.
                    connection.execute(f"drop owned by {role}; drop role {role}")
