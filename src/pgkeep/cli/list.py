"""pgkeep list."""

from datetime import UTC, datetime

import click

from .. import catalog, progress
from ..stores.local import LocalStore
from . import output
from .common import dir_option, json_option, load_config, print_json, printable, target_option


@click.command(
    "list",
    epilog="""\b
Examples:
  pgkeep list
  pgkeep list --database=app --json
""",
)
@click.option("--database", metavar="NAME", help="Only backups of this database.")
@target_option
@dir_option
@json_option
def command(
    *, database: str | None, target: str | None, directory: str | None, as_json: bool
) -> None:
    """Show the backups that there are, oldest first.

    A backup is what has a manifest. One whose file is gone or has another length is marked
    "missing".
    """
    config = load_config(target=target, directory=directory)
    found = catalog.Catalog(LocalStore(config.directory))
    backups = [one for one in found.backups() if database in (None, one.manifest.database.name)]
    for problem in found.unreadable:
        output.current().warning(problem)
    if as_json:
        print_json([{"missing": one.missing, "manifest": one.manifest} for one in backups])
        return
    if not backups:
        click.echo(f"no backups in {config.directory}")
        return
    now = datetime.now(UTC)
    lines = [f"{'TAKEN (UTC)':19}{'AGE':>7} {'TYPE':7}{'SIZE':>9}{'ROWS':>15}  STATE"]
    before = None
    for one in sorted(backups, key=lambda one: one.manifest.database.name):
        manifest = one.manifest
        if manifest.database.name != before:
            before = manifest.database.name
            lines.append(f"database {printable(before)}")
        lines.append(
            f"{manifest.taken:%Y-%m-%d %H:%M:%S}{age((now - manifest.taken).total_seconds()):>7}"
            f" {manifest.type:7}{progress.size(manifest.artifact.size):>9}{manifest.rows:>15,}"
            f"  {_state(one)}"
        )
    click.echo("\n".join(lines))  # at once: each call writes through


def age(seconds: float) -> str:
    """Return an age in one unit: 5 min, 3 h, 12 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return "now"


def _state(one: catalog.Backup) -> str:
    state = "verified" if one.manifest.verified else "not verified"
    if one.missing:
        state = "missing"
    return f"schema, {state}" if one.manifest.schema_only else state
