"""pgkeep pitr windows."""

import click
import msgspec

from ..model import wal
from ..pitr import location, windows
from ..pitr import restore as pitr_restore
from ..pitr.archive import histories
from . import output
from .command import pgkeep_command
from .common import dir_option, identity_option, json_option, load_config, print_json, target_option


class _Found(msgspec.Struct, kw_only=True):
    """The windows of a cluster in one place."""

    system_identifier: str
    place: str
    windows: list[windows.Window]
    gaps: list[tuple[str, str]]  # the first and the last missing segment of each
    unreadable: list[str]


@pgkeep_command("windows", examples=("pgkeep pitr windows", "pgkeep pitr windows --json"))
@click.option("--cluster", metavar="IDENTIFIER", help="Only this system identifier.")
@identity_option
@target_option
@dir_option
@json_option
def command(*, cluster: str | None, as_json: bool, **common: str | None) -> None:
    """List the intervals in which every second can be restored.

    An interval begins at the end of a base backup, and ends where the first WAL segment after it is
    missing. Only names and manifests are read.
    """
    config = load_config(**common)
    encryption = config.encryption()
    found: list[_Found] = []
    for place in location.only(list(location.known(config)), cluster):
        archive = place.archive(encryption)
        path = windows.newest_path(histories(archive), archive.segments())
        size = archive.origin.segment_size
        runs = [] if path is None else wal.extents(path, archive.segments(), size)
        catalog = place.bases()
        catalog.read()
        found.append(
            _Found(
                system_identifier=place.facts.system_identifier,
                place=place.url,
                windows=pitr_restore.current_windows(place, encryption),
                gaps=[] if path is None else windows.gaps(path, runs, size),
                unreadable=catalog.unreadable,
            )
        )
    if as_json:
        print_json(found)
        return
    for entry in found:
        output.show(_lines(entry))


def _lines(found: _Found) -> list[str]:
    lines = [f"cluster {found.system_identifier} in {found.place}"]
    for window in found.windows:
        lines.append(
            f"  since {window.since:%Y-%m-%d %H:%M:%S} UTC, up to LSN {window.end}"
            f" on timeline {window.timeline}"
        )
        lines.append(f"    {len(window.bases)} base backups, the newest {window.bases[-1]}")
    if not found.windows:
        lines.append("  nothing can be restored: there is no base backup with the WAL after it")
    lines += [f"  missing: {first} to {last}" for first, last in found.gaps]
    return lines + [f"  {text}" for text in found.unreadable]
