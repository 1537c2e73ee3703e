"""pgkeep hold."""

from datetime import UTC, datetime

import click

from ..catalog import holds
from ..model.manifest import Hold
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


@pgkeep_command(
    "hold",
    examples=(
        'pgkeep hold app_daily_20261122T020000Z --reason="audit of 2026"',
        'pgkeep hold "$(pgkeep list --names | tail -n 1)" --reason="before the migration"',
    ),
    recorded=True,
)
@click.argument("name", shell_complete=complete_files)
@click.option("--reason", metavar="TEXT", required=True, help="Why the backup is held.")
@target_option
@dir_option
@json_option
def command(
    *, name: str, reason: str, target: str | None, directory: str | None, as_json: bool
) -> None:
    """Hold a backup: retention never removes it until pgkeep release.

    The hold is recorded in the manifest, in the directory and in the bucket. A held backup does not
    count for BACKUP_MIN_KEEP, so it does not take the place of another one.
    """
    config = load_config(target=target, directory=directory)
    parsed = backup_name(name)
    hold = Hold(reason=reason, by=user_and_host(), since=datetime.now(UTC).replace(microsecond=0))
    changed = list(holds.change(stores(config), parsed, holds.held(hold)))
    run_log.current().used(config, parsed.database, [parsed.stem])
    if as_json:
        print_json(changed[0])
    output.current().done(f"{parsed.stem} is held", as_json=as_json)
