"""pgkeep pitr enable."""

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from ..pitr import enable, location
from ..pitr.checks import Problem
from ..pitr.enable import Enabled, Enabling
from ..pitr.service_files import Manager, next_commands
from ..progress import duration, size
from . import output, service_setup
from .command import pgkeep_command
from .common import (
    complete_directories,
    connection_options,
    dir_option,
    jobs_option,
    json_option,
    load_config,
    print_json,
    target_option,
)


@pgkeep_command(
    "enable",
    examples=(
        "pgkeep pitr enable",
        "pgkeep pitr enable --service=none --unlimited-slot",
        "pgkeep pitr enable --service=compose --service-dir=/srv/app",
    ),
)
@click.option(
    "--unlimited-slot",
    "unlimited",
    is_flag=True,
    help="Accept that WAL which nobody receives can fill the disk of the server.",
)
@click.option(
    "--service",
    "manager",
    type=click.Choice([manager.value for manager in Manager]),
    help="Write the files of the service for this service manager. Default: systemd if it runs,"
    " else none.",
)
@click.option(
    "--service-dir",
    "folder",
    metavar="DIR",
    default=".",
    shell_complete=complete_directories,
    help="Write these files into DIR. Default: the current directory.",
)
@connection_options
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *,
    unlimited: bool,
    manager: str | None,
    folder: str,
    database: str | None,
    as_json: bool,
    **common: str | None,
) -> None:
    """Begin to store the WAL of a cluster, and take the first base backup.

    The server is checked first: each problem is printed with the line that fixes it. Then the
    replication slot is created, the WAL is received, and the base backup is taken, in this order,
    so that no second is missing. Afterwards pgkeep pitr stream must run all the time, and pgkeep
    pitr base every day. The files of these services are written. Nothing is started.
    """
    config = load_config(**common)
    encryption = config.encryption()
    out = output.current()

    def accepted(problem: Problem) -> bool:
        if unlimited or as_json or not sys.stdin.isatty():
            return unlimited
        output.note(problem.message, err=True)
        return output.ask("Accept it?")

    with config.endpoint(database).connect() as connection:
        endpoint = config.endpoint(database).pinned(connection)
        server = enable.check(config, endpoint, connection, accepted)
        with out.progress(silent=as_json) as bar:
            given = Enabling(
                config=config, endpoint=endpoint, connection=connection, encryption=encryption,
                progress=bar, tell=out.warning,
            )  # fmt: skip
            found = enable.enable(given, server)
    chosen = Manager(manager) if manager else service_setup.default_manager()
    directory = Path(folder).absolute()
    spool = location.spool_of(config, found.facts.system_identifier).parent
    facts = service_setup.service_facts(config, spool, directory)
    files = service_setup.write(chosen, facts, directory)
    for path, written in files.items():
        if written is None:
            out.warning(f"{path} exists with other contents, and was not replaced")
    for warning in () if found.made is None else found.made.warnings:
        out.warning(warning)
    commands = next_commands(chosen, facts)
    if as_json:
        print_json(_document(found, list(files), commands))
    else:
        _report(found, [path for path, written in files.items() if written], commands)
    out.done(f"any second since {_second(found.since)} can be restored", as_json=as_json)


def _second(time: datetime) -> str:
    """Return a time in the local zone, rounded up: the second must be restorable."""
    if time.microsecond:
        time = time.replace(microsecond=0) + timedelta(seconds=1)
    return time.astimezone().isoformat(" ")


def _report(found: Enabled, written: list[Path], commands: list[str]) -> None:
    if found.made is None:
        output.note("point-in-time recovery is enabled already")
    else:
        seconds = (found.made.stopped - found.made.started).total_seconds()
        total = size(found.made.size)
        output.note(f"base backup {found.made.name}: {total} in {duration(seconds)}")
    if found.limit == "-1":
        output.note("the server keeps WAL for the receiver without a limit")
    else:
        output.note(f"the server keeps up to {found.limit} of WAL while no receiver runs")
    for problem in found.advice:
        output.note(f"{problem.message}. To change this:")
        for line in problem.remedy:
            output.note(f"  {line}")
    for path in written:
        output.note(f"wrote {path}")
    if not found.receiving:
        output.note("the WAL is not being received. Start the service:")
        for line in commands:
            output.note(f"  {line}")


def _document(found: Enabled, files: list[Path], commands: list[str]) -> dict[str, Any]:
    return {
        "system_identifier": found.facts.system_identifier,
        "slot": found.slot,
        "max_slot_wal_keep_size": found.limit,
        "since": found.since.isoformat(),
        "base": None if found.made is None else found.made.name,
        "receiving": found.receiving,
        "advice": [
            {"message": problem.message, "remedy": problem.remedy} for problem in found.advice
        ],
        "files": [str(path) for path in files],
        "next": commands,
    }
