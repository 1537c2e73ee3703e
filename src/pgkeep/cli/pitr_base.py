"""pgkeep pitr base."""

import click

from .. import errors as e
from .. import progress
from ..pitr import service
from . import output
from .command import pgkeep_command
from .common import (
    connection_options,
    dir_option,
    identity_option,
    jobs_option,
    json_option,
    load_config,
    print_json,
    target_option,
)
from .rules import AtMostOne


@pgkeep_command(
    "base",
    examples=("pgkeep pitr base", "pgkeep pitr base --full --json"),
    rules=(AtMostOne(("--full", "--incremental")),),
)
@click.option("--full", is_flag=True, help="Copy all blocks.")
@click.option("--incremental", is_flag=True, help="Fail if only a full one is possible.")
@connection_options
@identity_option
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *, full: bool, incremental: bool, database: str | None, as_json: bool, **common: str | None
) -> None:
    """Take a base backup of the cluster: incremental if possible, otherwise full.

    pg_basebackup copies the cluster into the spool directory, pg_verifybackup checks it, and it is
    stored compressed, and encrypted if BACKUP_ENCRYPT_TO is set.
    """
    config = load_config(**common)
    encryption = config.encryption()
    endpoint = config.endpoint(database)
    kind = "full" if full else "incremental" if incremental else None
    with endpoint.connect() as connection, output.current().progress(silent=as_json) as bar:
        made, reason = service.take_base(
            config, endpoint, connection, encryption, bar, kind=kind
        )  # fmt: skip
        try:
            removed = service.expire(config, service.facts_of(connection, config), encryption)
        except e.AlreadyRunning:  # that run removes what is before the window
            removed = []
    for warning in made.warnings:
        output.current().warning(warning)
    for found in removed:
        for message in found.messages:
            output.current().info(message)
    if as_json:
        print_json(made)
    output.current().done(
        f"base backup {made.name}: {progress.size(made.size)}, {made.kind} ({reason})",
        as_json=as_json,
    )
