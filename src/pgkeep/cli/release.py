"""pgkeep release."""

import click

from ..catalog import holds
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


@pgkeep_command("release", examples=("pgkeep release app_daily_20261122T020000Z",), recorded=True)
@click.argument("name", shell_complete=complete_files)
@target_option
@dir_option
@json_option
def command(*, name: str, target: str | None, directory: str | None, as_json: bool) -> None:
    """Release a backup that pgkeep hold holds: retention applies to it again."""
    config = load_config(target=target, directory=directory)
    parsed = backup_name(name)
    changed = list(holds.change(stores(config), parsed, holds.released))
    run_log.current().used(config, parsed.database, [parsed.stem])
    if as_json:
        print_json(changed[0])
    output.current().done(f"{parsed.stem} is no longer held", as_json=as_json)
