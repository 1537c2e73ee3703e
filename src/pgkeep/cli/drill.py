"""pgkeep drill."""

import contextlib
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from .. import errors as e
from .. import progress
from ..config import Config
from ..model import naming
from ..postgres.connection import Endpoint
from ..restore.search_path import SearchPath
from ..stores.store import Store
from ..terminal import printable
from . import drill_cluster, other_copy, output, output_file, run_log
from .command import pgkeep_command
from .common import (
    check_extra,
    complete_files,
    dir_option,
    identity_option,
    jobs_option,
    json_option,
    keys,
    latest,
    load_config,
    locate,
    plural,
    print_json,
    target_option,
)
from .notifier import RunNotifier
from .rules import AtMostOne, Requires, each_with

if TYPE_CHECKING:
    from ..drill.result import DrillResult

_OF_BACKUPS = ("--backup", "--server", "--setting", "--search-path")
SHOWN = 10  # findings of one kind; --json and the report have all


@pgkeep_command(
    "drill",
    examples=(
        "pgkeep drill",
        "pgkeep drill --check=asserts.sql --report=drill.html",
        "pgkeep drill --backup=backups/app_daily_20261122T020000Z.sql.gz --json",
        "pgkeep drill --server=postgresql://drill@staging/postgres",
        "pgkeep drill --pitr --database=app --check=asserts.sql",
        "pgkeep drill --pgbackrest=main --report=drill.html",
    ),
    rules=(
        AtMostOne(("--backup", "--database")),
        AtMostOne(("--server", "--setting")),
        AtMostOne(("--pitr", "--pgbackrest")),
        *each_with("--pitr", _OF_BACKUPS),
        *each_with("--pgbackrest", _OF_BACKUPS),
        Requires("--cluster", ("--pitr",)),
        Requires("--seed", ("--pitr", "--pgbackrest")),
    ),
    recorded=True,
)
@click.option(
    "--backup",
    "file",
    metavar="FILE",
    shell_complete=complete_files,
    help="Use this backup (id, name or file) instead of the newest verified one.",
)
@click.option("--database", metavar="NAME", help="Use the newest verified backup of this database.")
@click.option(
    "--pitr",
    is_flag=True,
    help="Recover each cluster from its base backups and WAL instead: to the newest point, and to a"
    " random second. With --database: where the queries of --check run.",
)
@click.option(
    "--pgbackrest",
    "stanza",
    metavar="STANZA",
    help="Do the same with the backups and the archive of pgBackRest, in this stanza.",
)
@click.option("--cluster", metavar="IDENTIFIER", help="With --pitr: only this system identifier.")
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0),
    help="Choose the same random second again. Each of these drills prints its seed.",
)
@click.option(
    "--server",
    metavar="DSN",
    help="Restore into a scratch database on this server instead of a temporary server. Do not put"
    " a password here: every user of this machine can see the arguments of a process.",
)
@click.option(
    "--setting",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="A setting of the temporary server, such as shared_preload_libraries.",
)
@click.option(
    "--search-path",
    type=click.Choice([path.value for path in SearchPath]),
    default=SearchPath.EMPTY.value,
    show_default=True,
    help="As in pgkeep restore.",
)
@click.option(
    "--check",
    "checks",
    metavar="FILE.sql",
    multiple=True,
    type=click.Path(path_type=Path),
    help="SQL file of queries that must return true. Can be repeated.",
)
@click.option(
    "--check-timeout",
    "timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.001, 86400 * 7),
    default=60,
    show_default=True,
    help="Time limit for each of these queries.",
)
@click.option(
    "--report",
    metavar="FILE.html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a report as a web page, and the same as FILE.json.",
)
@identity_option
@target_option
@dir_option
@jobs_option
@json_option
def command(
    *,
    file: str | None,
    database: str | None,
    pitr: bool,
    stanza: str | None,
    cluster: str | None,
    seed: int | None,
    server: str | None,
    settings: tuple[str, ...],
    search_path: str,
    checks: tuple[Path, ...],
    timeout: float,
    report: Path | None,
    identity: str | None,
    target: str | None,
    directory: str | None,
    jobs: str | None,
    as_json: bool,
) -> None:
    """Restore a backup into a temporary server, compare every row, and measure the time.

    The temporary PostgreSQL server has no network, and event triggers and jobs do not run. The rows
    of every table are compared with the backup. Constraints, indexes, sequences, materialized
    views, extensions and roles are compared with the definitions in the dump. Exit code 5 if
    anything differs. The result is recorded in the manifest of the backup.
    """
    if pitr or stanza is not None:
        config = load_config(target=target, directory=directory, jobs=jobs, identity=identity)
        _check_report(report)
        wanted = drill_cluster.wanted(config, database, checks, timeout)
        asked = drill_cluster.ClusterDrill(wanted=wanted, seed=seed, report=report, as_json=as_json)
        drill_cluster.run(config, drill_cluster.sources(config, stanza, cluster), asked)
        return
    check_extra("drill", "numpy", "jinja2")
    from ..drill import assertions, drill  # noqa: PLC0415 - after the check that numpy is installed

    queries = assertions.read(checks)
    _check_report(report)
    config = load_config(target=target, directory=directory, jobs=jobs, identity=identity)
    store, name = _chosen(config, file, database)
    options = drill.DrillOptions(
        jobs=config.settings.jobs,
        server=Endpoint.from_dsn(server) if server is not None else None,
        assertions=queries,
        timeout=timeout,
        settings=dict(map(_setting, settings)),
        search_path=SearchPath(search_path),
        keys=keys(config),
    )
    with _hint_of_copy(store, name, config), output.current().progress(silent=as_json) as bar:
        outcome = drill.run(store, name, options, bar)
    RunNotifier([config], "drill", output.current(), partial=True).update_metrics()
    if report is not None:
        _write_report(report, outcome)
    with _hint_of_copy(store, name, config) if outcome.damaged else contextlib.nullcontext():
        _conclude(outcome, report, as_json=as_json)


def _chosen(config: Config, file: str | None, database: str | None) -> tuple[Store, str]:
    """Return the file of a backup, noted before it is used: a drill that fails names it."""
    if file is not None:
        store, name = locate(file, config)
    else:
        store, manifest = latest(config, database, verified=True)
        name = manifest.artifact.name
    parsed = naming.parse(name)
    of = "" if parsed is None else parsed.database
    run_log.current().used(config, of, [name if parsed is None else parsed.stem])
    return store, name


@contextlib.contextmanager
def _hint_of_copy(store: Store, name: str, config: Config) -> Iterator[None]:
    """Name the command that drills another copy; a drill that passes must not hide the damage."""
    try:
        yield
    except e.VerificationFailed as error:
        other_copy.add_hint(error, store, name, config, "drill --backup=")
        raise


def _conclude(outcome: "DrillResult", report: Path | None, *, as_json: bool) -> None:
    """Print the outcome.

    Raises:
        VerificationFailed: the drill failed.

    """
    if as_json:
        print_json(outcome)
    else:
        _print(outcome, report)
    for warning in outcome.warnings:
        output.current().warning(printable(warning))
    if outcome.findings:
        raise e.VerificationFailed(
            f"the drill of {outcome.backup} failed: {plural(len(outcome.findings), 'finding')},"
            f" the first: {printable(outcome.findings[0])}"
        )
    output.current().done(
        f"drill of {outcome.backup}: passed, {progress.duration(sum(outcome.seconds.values()))}",
        as_json=as_json,
    )


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and re.fullmatch(r"\w+(?:\.\w+)*", name)) or "\n" in value:
        raise e.UsageError(f"--setting={text!r} is not NAME=VALUE")
    return name, value


def _check_report(path: Path | None) -> None:
    """Refuse a report that could not be written, before an hour is spent."""
    if path is None:
        return
    check_extra("drill", "jinja2")
    if path.suffix == ".json":
        raise e.UsageError(f"{path} would be overwritten by the JSON", hint="Use FILE.html.")
    if not path.parent.is_dir():
        raise e.UsageError(f"directory {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise e.UsageError(f"directory {path.parent} is not writable")


def _write_report(path: Path, outcome: "DrillResult") -> None:
    from ..monitor import report  # noqa: PLC0415 - few ask for it

    page = report.page(outcome)
    data = msgspec.json.format(msgspec.json.encode(outcome), indent=2) + b"\n"
    output_file.write(path.with_suffix(".json"), data)
    output_file.write(path, page)


def _print(outcome: "DrillResult", report: Path | None) -> None:
    from ..drill.result import isolation_of  # noqa: PLC0415

    output.note(printable(outcome.backup))
    if outcome.server is not None:
        where = "a temporary server" if outcome.temporary else "the given server"
        output.note(
            f"    {plural(outcome.tables, 'table')}, {plural(outcome.rows, 'row')},"
            f" {progress.size(outcome.raw_bytes)} of SQL, PostgreSQL {outcome.server} ({where})"
        )
    if outcome.temporary:
        output.note(f"    isolation: {isolation_of(outcome)}")
    for check in outcome.checks:
        count = f"{check.checked:,}"
        output.note(f"    {'ok  ' if not check.findings else 'FAIL'}  {check.name:20} {count:>12}")
        for finding in check.findings[:SHOWN]:
            output.note(f"         {printable(finding)}")
        if len(check.findings) > SHOWN:
            output.note(f"         and {len(check.findings) - SHOWN} more")
    if outcome.unproved:
        output.note(f"    --    {'not proved':20} {len(outcome.unproved):>12,}")
        for reason in outcome.unproved[:SHOWN]:
            for line in textwrap.wrap(printable(reason), 70, subsequent_indent="  "):
                output.note(f"         {line}")
        if len(outcome.unproved) > SHOWN:
            output.note(f"         and {len(outcome.unproved) - SHOWN} more")
    times = [f"{phase} {progress.duration(value)}" for phase, value in outcome.seconds.items()]
    for line in textwrap.wrap(", ".join(times), 74, break_on_hyphens=False):
        output.note(f"    {line}")
    if report is not None:
        output.note(f"    report: {report}")
