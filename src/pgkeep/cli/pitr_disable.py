"""pgkeep pitr disable."""

from ..pitr import slot
from ..pitr.base import ServerState
from . import output
from .command import pgkeep_command
from .common import connection_options, dir_option, load_config, target_option


@pgkeep_command("disable", examples=("pgkeep pitr disable",))
@connection_options
@target_option
@dir_option
def command(*, database: str | None, **common: str | None) -> None:
    """Drop the replication slot, so that the server no longer keeps WAL for pgkeep.

    What is stored stays, and can be restored. Stop pgkeep pitr stream first.
    """
    config = load_config(**common)
    with config.endpoint(database).connect() as connection:
        name = slot.slot_name(ServerState(connection).system_identifier)
        dropped = slot.drop(connection, name)
    what = "is dropped" if dropped else "did not exist"
    output.current().done(f"replication slot {name} {what}")
