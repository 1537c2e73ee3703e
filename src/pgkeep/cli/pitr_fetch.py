"""pgkeep pitr fetch: its help; `cli.main` runs it without importing this."""

import click

from ..pitr import archive_client
from .command import pgkeep_command
from .pitr_archive import socket_option, timeout_option


@pgkeep_command(
    "fetch",
    examples=("pgkeep pitr fetch %f %p    # as restore_command in postgresql.conf",),
)
@click.argument("name")
@click.argument("file")
@socket_option("Where pgkeep pitr stream --no-receive listens")
@timeout_option("everything")
@click.option(
    "--end-code",
    metavar="CODE",
    default="1",
    show_default=True,
    help="Exit code at the end of the archive.",
)
def command(*, name: str, file: str, socket: str | None, timeout: str, end_code: str) -> None:
    """Get a WAL file from the archive, as PostgreSQL's restore_command.

    The exit code is 0 after the file was checked and is complete, 1 if the archive ends before it,
    and 255 for everything else: PostgreSQL then stops instead of promoting the server early.
    """
    options = [f"--timeout={timeout}", f"--end-code={end_code}"]
    if socket is not None:
        options.append(f"--socket={socket}")
    archive_client.run("fetch", [*options, name, file])
