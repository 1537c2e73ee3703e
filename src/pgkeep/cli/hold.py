"""pgkeep hold, and what pgkeep release shares with it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from ..catalog import holds
from ..model.manifest import Hold, Manifest
from . import output, run_log
from .command import pgkeep_command
from .common import (
    backup_name,
    complete_files,
    dir_option,
    json_option,
    load_config,
    print_json,
    stores,
    target_option,
)
from .user import user_and_host

Function = Callable[..., Any]


def hold_options(function: Function) -> Function:
    """Add the argument and the options that name a backup and its stores."""
    for option in (json_option, dir_option, target_option):
        function = option(function)
    return click.argument("name", shell_complete=complete_files)(function)


@pgkeep_command(
    "hold",
    examples=(
        'pgkeep hold 3fa01b2c --reason="audit of 2026"',
        'pgkeep hold app_daily_20261122T020000Z --reason="audit of 2026"',
        'pgkeep hold "$(pgkeep list --names | tail -n 1)" --reason="before the migration"',
    ),
    recorded=True,
)
@hold_options
@click.option("--reason", metavar="TEXT", required=True, help="Why the backup is held.")
def command(*, reason: str, **backup: Any) -> None:
    """Hold a backup: retention never removes it until pgkeep release.

    The hold is recorded in the manifest, in the directory and in the bucket. A held backup does not
    count for BACKUP_MIN_KEEP, so it does not take the place of another one.
    """
    hold = Hold(reason=reason, by=user_and_host(), since=datetime.now(UTC).replace(microsecond=0))
    change(holds.held(hold), "is held", **backup)


def change(
    changed: Callable[[Manifest], Manifest],
    state: str,
    *,
    name: str,
    target: str | None,
    directory: str | None,
    as_json: bool,
) -> None:
    """Change the manifest of a backup in all stores."""
    config = load_config(target=target, directory=directory)
    parsed = backup_name(name, config)
    manifests = list(holds.change(stores(config), parsed, changed))
    run_log.current().used(config, parsed.database, [parsed.stem])
    if as_json:
        print_json(manifests[0])
    output.current().done(f"{parsed.id} ({parsed.stem}) {state}", as_json=as_json)
