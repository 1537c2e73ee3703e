"""pgkeep pitr push: its help; `cli.main` runs it without importing this."""

import click

from ..pitr import archive_client
from .command import pgkeep_command
from .pitr_archive import socket_option, timeout_option


@pgkeep_command(
    "push",
    examples=("pgkeep pitr push %p    # as archive_command in postgresql.conf",),
)
@click.argument("file")
@socket_option("Where pgkeep pitr stream --no-receive listens")
@timeout_option("everything")
def command(*, file: str, socket: str | None, timeout: str) -> None:
    """Archive a WAL file, as PostgreSQL's archive_command.

    pgkeep pitr stream --no-receive stores it. The exit code is 0 after every required store has
    it durably. The same file again is no error; another file of this name is never stored.
    """
    options = [f"--timeout={timeout}", *([] if socket is None else [f"--socket={socket}"])]
    archive_client.run("push", [*options, file])
