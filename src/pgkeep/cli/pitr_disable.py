"""pgkeep pitr disable."""

import contextlib

from .. import errors as e
from ..config import Config
from ..pitr import enable
from ..postgres.connection import Connection
from . import output
from .command import pgkeep_command
from .common import (
    connection_options,
    dir_option,
    json_option,
    load_config,
    print_json,
    target_option,
)


@pgkeep_command("disable", examples=("pgkeep pitr disable", "pgkeep pitr disable --json"))
@connection_options
@target_option
@dir_option
@json_option
def command(*, database: str | None, as_json: bool, **common: str | None) -> None:
    """Drop the replication slot, so that the server no longer keeps WAL for pgkeep.

    What is stored stays, and can be restored. Stop pgkeep pitr stream first.
    """
    config = load_config(**common)
    with _connected(config, database) as connection:
        found = enable.disable(config, connection, config.encryption())
    if as_json:
        print_json(
            {
                "system_identifier": found.facts.system_identifier,
                "slot": found.slot,
                "dropped": found.dropped,
                "kept": [
                    {"store": url, "bases": count, "since": since and since.isoformat()}
                    for url, (count, since) in found.kept.items()
                ],
            }
        )
    else:
        for url, (count, since) in found.kept.items():
            begin = f", since {since.astimezone():%Y-%m-%d %H:%M:%S%z}" if since else ""
            output.note(f"{url} keeps {count} base backup{'s' * (count != 1)}{begin}")
    what = "was dropped" if found.dropped else "did not exist"
    output.current().done(f"replication slot {found.slot} {what}", as_json=as_json)


def _connected(config: Config, database: str | None) -> Connection:
    """Connect; a server that does not answer may still keep WAL.

    Raises:
        ConnectionFailed: with the statement that drops the slot there.

    """
    try:
        return config.endpoint(database).connect()
    except e.ConnectionFailed as error:
        with contextlib.suppress(e.PgkeepError):
            error.details = (
                *error.details,
                "If the server runs again, it keeps WAL until the slot is dropped there:",
                *(
                    f"SELECT pg_drop_replication_slot('{name}');"
                    for name in enable.slots_of(config)
                ),
            )
        raise
