"""pgkeep pitr restore."""

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from .. import errors as e
from ..config import Config
from ..drill import pitr_result
from ..model.wal import Lsn
from ..pitr import dump, location, moment
from ..pitr import restore as pitr_restore
from ..pitr.plan import RecoveryPlan, make_plan
from ..pitr.restore import RestoreOptions
from ..pitr.target import Target, TargetKind
from . import output
from . import pitr_restore_text as text
from .command import pgkeep_command
from .common import (
    complete_directories,
    dir_option,
    identity_option,
    jobs_option,
    json_option,
    load_config,
    print_json,
    target_option,
)
from .rules import AtMostOne, Requires


@pgkeep_command(
    "restore",
    examples=(
        "pgkeep pitr restore --to='2026-11-22 14:07:12+01:00' --preview",
        "pgkeep pitr restore --to='5 minutes ago' --target-dir=/var/lib/postgresql/17/restored",
        "pgkeep pitr restore --latest --target-dir=/srv/restored --promote",
        "pgkeep pitr restore --to='1 hour ago' --database=app --as-dump=/srv/before",
        "pgkeep pitr restore --to='1 hour ago' --database=app --table=orders --as-dump=/srv/before",
    ),
    rules=(
        AtMostOne(("--to", "--to-lsn", "--to-xid", "--to-name", "--latest")),
        AtMostOne(("--target-dir", "--as-dump", "--preview")),
        Requires("--as-dump", ("--database",)),
        Requires("--database", ("--as-dump",)),
        Requires("--table", ("--as-dump",)),
        Requires("--promote", ("--target-dir",)),
        Requires("--owner", ("--target-dir",)),
        Requires("--tablespace-mapping", ("--target-dir",)),
    ),
)
@click.option(
    "--to", "time", metavar="TIME", help="Time with an offset, or such as '5 minutes ago'."
)
@click.option("--to-lsn", "lsn", metavar="LSN", help="Position in the WAL.")
@click.option("--to-xid", "xid", metavar="XID", type=click.IntRange(3), help="Transaction.")
@click.option("--to-name", "name", metavar="NAME", help="Restore point.")
@click.option("--latest", is_flag=True, help="The newest archived commit.")
@click.option(
    "--timeline",
    metavar="N",
    type=click.IntRange(1),
    help="Restore along this timeline. Default: the newest one.",
)
@click.option(
    "--target-dir",
    "target_directory",
    metavar="DIR",
    shell_complete=complete_directories,
    help="New data directory.",
)
@click.option(
    "--tablespace-mapping",
    "mappings",
    metavar="OLD=NEW",
    multiple=True,
    help="New directory of the tablespace at OLD. Without it, its files are in the data directory.",
)
@click.option("--owner", metavar="USER", help="As root: the user who will start the server.")
@click.option("--superuser", metavar="NAME", help="The role that initdb made, if it was renamed.")
@click.option("--database", metavar="NAME", help="With --as-dump: the database that is backed up.")
@click.option(
    "--table",
    "tables",
    metavar="NAME",
    multiple=True,
    help="With --as-dump: fail if the database had no such table then; can be repeated.",
)
@click.option(
    "--as-dump",
    "as_dump",
    metavar="DIR",
    shell_complete=complete_directories,
    help="Write a backup of one database, as it was at that point, into this directory instead.",
)
@click.option("--preview", is_flag=True, help="Print the plan and the commits around the target.")
@click.option("--promote", is_flag=True, help="End recovery: the cluster becomes a primary.")
@click.option("--cluster", metavar="IDENTIFIER", help="The cluster with this system identifier.")
@identity_option
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *,
    time: str | None,
    lsn: str | None,
    xid: int | None,
    name: str | None,
    latest: bool,
    timeline: int | None,
    target_directory: str | None,
    mappings: tuple[str, ...],
    owner: str | None,
    superuser: str | None,
    database: str | None,
    tables: tuple[str, ...],
    as_dump: str | None,
    preview: bool,
    promote: bool,
    cluster: str | None,
    as_json: bool,
    **common: str | None,
) -> None:
    """Restore a cluster to a point in time, into a new data directory.

    The base backup before the point and the WAL after it are fetched and checked. A server on a
    private socket recovers, and the point that it reached is compared with the one that was asked
    for. With --promote it becomes a primary on a new timeline. It never archives, and has no slot.
    """
    config = load_config(**common)
    wanted = _target(time, lsn, xid, name, latest=latest)
    if not preview and target_directory is None and as_dump is None:
        raise click.UsageError("one of --target-dir, --as-dump and --preview is required")
    options = RestoreOptions(
        owner=owner, superuser=superuser, tablespaces=dict(map(_mapping, mappings))
    )
    if as_dump is not None:
        dump.check_folder(Path(as_dump), location.places(config))
    place = location.only(list(location.known(config)), cluster)[0]
    plan = make_plan(place, wanted, config.encryption(), timeline)
    if preview:
        _preview(config, plan, as_json=as_json)
    elif as_dump is not None:
        folder = Path(as_dump).absolute()
        asked = dump.Asked(str(database), tables, folder, config.settings.compression)
        _dump(config, plan, asked, options, as_json=as_json)
    else:
        directory = Path(str(target_directory)).absolute()
        _restore(config, plan, directory, options, promote=promote, as_json=as_json)


def _expected(config: Config, plan: RecoveryPlan) -> float | None:
    """Return the recovery time of the last drill, if it is known."""
    for store in location.drill_stores(config, plan.location.facts.system_identifier):
        # A restore never fails because of it.
        with contextlib.suppress(e.StoreError, e.VerificationFailed):
            found = pitr_result.last(store)
            if found is not None and found.recovery_seconds is not None:
                return found.recovery_seconds
    return None


def _preview(config: Config, plan: RecoveryPlan, *, as_json: bool) -> None:
    with output.current().progress(silent=as_json) as bar:
        plan, point = pitr_restore.preview(plan, config.encryption(), config.settings.jobs, bar)
    if as_json:
        print_json(text.document(plan, point, _expected(config, plan)))
    else:
        output.show(text.lines(plan, point, _expected(config, plan)))


def _dump(
    config: Config, plan: RecoveryPlan, asked: dump.Asked, options: RestoreOptions, *, as_json: bool
) -> None:
    with output.current().progress(silent=as_json) as bar:
        made, warnings = dump.dump(
            plan, asked, config.encryption(), config.settings.jobs, bar, options
        )
    for warning in warnings:
        output.current().warning(warning)
    file = asked.folder / made.artifact.name
    if as_json:
        print_json(made)
    else:
        output.note(str(file))
        chosen = " ".join(f"--table={table}" for table in asked.tables) or "--table=NAME"
        output.note(f"to restore tables: pgkeep restore --backup={file} {chosen}")
    output.current().done(
        f"database {made.database.name} as it was at {plan.target}", as_json=as_json
    )


def _restore(
    config: Config, plan: RecoveryPlan, directory: Path, options: RestoreOptions, *, promote: bool,
    as_json: bool,
) -> None:  # fmt: skip
    out = output.current()
    with (
        out.progress(silent=as_json) as bar,
        pitr_restore.recovered(
            plan, directory, config.encryption(), config.settings.jobs, bar, options
        ) as found,
    ):
        plan, proof = found.plan, found.proof
        with bar.paused():
            for warning in found.warnings:
                out.warning(warning)
            if not as_json:
                output.show(text.lines(plan, found.point, None))
                output.note(f"proved: {proof.stopped}")
            if not promote and not proof.promoted and sys.stdin.isatty() and not as_json:
                promote = output.ask("Promote it?")
        if promote and not proof.promoted:
            found.server.promote()
    promoted = promote or proof.promoted
    if as_json:
        shown = text.document(plan, found.point, None)
        print_json(shown | text.proof_document(proof, directory, found.owner, promoted=promoted))
    else:
        output.show(text.next_steps(plan, directory, found.owner, promoted=promoted))
    state = "promoted, and stopped" if promoted else "at the point, in recovery, and stopped"
    out.done(f"{directory}: {state}", as_json=as_json)


def _mapping(text: str) -> tuple[str, Path]:
    old, found, new = text.rpartition("=")
    if not (found and old.startswith("/") and new.startswith("/")):
        raise e.UsageError(
            f"--tablespace-mapping: found {text!r}, expected two absolute paths as OLD=NEW"
        )
    return old, Path(new)


def _target(
    time: str | None, lsn: str | None, xid: int | None, name: str | None, *, latest: bool
) -> Target:
    try:
        if time is not None:
            return Target(TargetKind.TIME, time=moment.past(time, datetime.now(UTC)))
        if lsn is not None:
            return Target(TargetKind.LSN, lsn=Lsn.parse(lsn))
    except ValueError as error:
        raise e.UsageError(f"{'--to' if time else '--to-lsn'}: {error}") from error
    if xid is not None:
        return Target(TargetKind.XID, xid=xid)
    if name is not None:
        return Target(TargetKind.NAME, name=name)
    if latest:
        return Target(TargetKind.LATEST)
    raise click.UsageError("one of --to, --to-lsn, --to-xid, --to-name and --latest is required")
