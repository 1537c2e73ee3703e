"""pgkeep undo."""

from typing import Any

from .command import pgkeep_command
from .swap import run, swap_options


@pgkeep_command(
    "undo",
    examples=("pgkeep undo app --dry-run", "pgkeep undo app --yes"),
    recorded=True,
)
@swap_options
def command(**given: Any) -> None:
    """Swap DATABASE back with the database that it has replaced last.

    That database must still exist, as DATABASE__old_TIME. The present one is kept as
    DATABASE__restored_TIME, and pgkeep swap swaps it in again. Rows that were written since the
    swap are only in the present one.
    """
    run(undo=True, **given)
