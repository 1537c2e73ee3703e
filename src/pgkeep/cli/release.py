"""pgkeep release."""

from typing import Any

from ..catalog import holds
from .command import pgkeep_command
from .hold import change, hold_options


@pgkeep_command("release", examples=("pgkeep release app_daily_20261122T020000Z",), recorded=True)
@hold_options
def command(**backup: Any) -> None:
    """Release a backup that pgkeep hold holds: retention applies to it again."""
    change(holds.released, "is no longer held", **backup)
