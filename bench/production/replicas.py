"""A streaming standby and a logical subscriber of a temporary server."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from pgkeep.postgres.server import Server


class Standby(Server):
    """A server that streams from another one."""

    def __init__(self, primary: Server, bin_folder: Path) -> None:
        super().__init__(bin_folder)
        self._primary = primary
        self._program = bin_folder / "pg_basebackup"

    def _create(self) -> None:
        source = make_conninfo("", **self._primary.params, application_name="standby")
        command = [str(self._program), "-D", str(self._data), "-R", "-X", "stream", "-c", "fast"]
        subprocess.run([*command, "-d", source], check=True, timeout=300)
        self._account.own(self._data)


@contextlib.contextmanager
def subscriber(primary: Server, database: str, schema: str, bin_folder: Path) -> Iterator[Server]:
    """Run a server that subscribes to the publication of a database."""
    with Server(bin_folder) as server:
        target = make_conninfo("", **server.params, dbname="postgres")
        source = make_conninfo("", **primary.params, dbname=database)
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute(schema.encode())
            connection.execute("truncate accounts, transfers")
            connection.execute(
                f"create subscription subscriber connection '{source}'"
                " publication everything".encode()
            )
            try:
                yield server
            finally:
                connection.execute("alter subscription subscriber disable")
                connection.execute("drop subscription subscriber")
