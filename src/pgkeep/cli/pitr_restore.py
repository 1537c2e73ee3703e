"""pgkeep pitr restore."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from .. import errors as e
from ..model.wal import Lsn
from ..pitr import dump, location, moment
from ..pitr import restore as pitr_restore
from ..pitr.restore import RecoveryPlan
from ..pitr.target import Point, Target, TargetKind
from ..pitr.waldump import Commit
from ..progress import size
from . import output
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
    ),
    rules=(
        AtMostOne(("--to", "--to-lsn", "--to-xid", "--to-name", "--latest")),
        AtMostOne(("--target-dir", "--as-dump", "--preview")),
        Requires("--as-dump", ("--database",)),
        Requires("--database", ("--as-dump",)),
        Requires("--promote", ("--target-dir",)),
    ),
)
@click.option(
    "--to", "time", metavar="TIME", help="Time with an offset, or such as '5 minutes ago'."
)
@click.option("--to-lsn", "lsn", metavar="LSN", help="Position in the WAL.")
@click.option("--to-xid", "xid", metavar="XID", type=click.IntRange(3), help="Transaction.")
@click.option("--to-name", "name", metavar="NAME", help="Restore point.")
@click.option("--latest", is_flag=True, help="The newest archived commit.")
@click.option("--timeline", metavar="N", type=click.IntRange(1), help="Not the newest timeline.")
@click.option(
    "--target-dir",
    "directory_of_target",
    metavar="DIR",
    shell_complete=complete_directories,
    help="New data directory.",
)
@click.option("--database", metavar="NAME", help="With --as-dump: the database that is backed up.")
@click.option(
    "--as-dump",
    "as_dump",
    metavar="DIR",
    shell_complete=complete_directories,
    help="Not a cluster, but a backup of one database as it was then, in this directory.",
)
@click.option("--preview", is_flag=True, help="Print the plan and the commits around the target.")
@click.option("--promote", is_flag=True, help="End recovery: make it a primary.")
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
    directory_of_target: str | None,
    database: str | None,
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
    if not preview and directory_of_target is None and as_dump is None:
        raise click.UsageError("one of --target-dir, --as-dump and --preview is required")
    encryption = config.encryption()
    place = location.only(list(location.known(config)), cluster)[0]
    plan = pitr_restore.make_plan(place, wanted, encryption, timeline)
    jobs = config.settings.jobs
    if preview:
        with output.current().progress(silent=as_json) as bar:
            point, _ = pitr_restore.preview(plan, encryption, jobs, bar)
        print_json(_document(plan, point)) if as_json else output.show(_lines(plan, point))
        return
    if as_dump is not None:
        folder = Path(as_dump).absolute()
        with output.current().progress(silent=as_json) as bar:
            made = dump.dump(plan, str(database), folder, encryption, jobs, bar)
        print_json(made) if as_json else output.note(str(folder / made.artifact.name))
        output.current().done(
            f"database {made.database.name} as it was at {wanted}", as_json=as_json
        )
        return
    directory = Path(str(directory_of_target)).absolute()
    with (
        output.current().progress(silent=as_json) as bar,
        pitr_restore.recovered(plan, directory, encryption, jobs, bar) as found,
    ):
        bar.stop() if hasattr(bar, "stop") else None
        if as_json:
            print_json(_document(plan, found.point))
        else:
            output.show(_lines(plan, found.point))
            output.note(f"proved: {found.proof.stopped}")
        if promote or (sys.stdin.isatty() and not as_json and output.ask("Promote it?")):
            found.server.promote()
            promote = True
    state = "promoted, and stopped" if promote else "at the point, in recovery, and stopped"
    output.current().done(f"{directory}: {state}", as_json=as_json)


def _target(
    time: str | None, lsn: str | None, xid: int | None, name: str | None, *, latest: bool
) -> Target:
    try:
        if time is not None:
            return Target(TargetKind.TIME, time=moment.parse(time, datetime.now(UTC)))
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


def _document(plan: RecoveryPlan, point: Point) -> dict[str, Any]:
    commits = [{"xid": c.xid, "time": c.time.isoformat(), "lsn": str(c.lsn)} for c in point.before]
    after = point.after
    return {
        "cluster": plan.location.facts.system_identifier,
        "target": str(plan.target),
        "timeline": plan.path.timeline,
        "bases": [base.name for base in plan.chain],
        "bytes": plan.base_bytes + plan.wal_bytes,
        "recovery_target": dict([point.setting]),
        "commits": commits,
        "next_commit": None
        if after is None
        else {"xid": after.xid, "time": after.time.isoformat()},
    }


def _commit(found: Commit) -> dict[str, Any]:
    return {"xid": found.xid, "time": found.time.isoformat(), "lsn": str(found.lsn)}


def _lines(plan: RecoveryPlan, point: Point) -> list[str]:
    lines = [
        f"restore  cluster {plan.location.facts.system_identifier} from {plan.location.url}",
        f"to       {plan.target}, timeline {plan.path.timeline}",
        f"base     {' + '.join(base.name for base in plan.chain)}, {size(plan.base_bytes)}",
        f"WAL      at most {len(plan.segments)} segments, {size(plan.wal_bytes)}",
        f"stops    {point.setting[0]} = {point.setting[1]}",
    ]
    around = [("commit", found) for found in point.before]
    if point.after is not None:
        around.append(("not", point.after))
    lines += [
        f"  {word:6} {found.xid:>10} {found.time.astimezone():%Y-%m-%d %H:%M:%S.%f%z}"
        for word, found in around
    ]
    return lines
