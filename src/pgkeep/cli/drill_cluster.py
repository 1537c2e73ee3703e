"""pgkeep drill --pitr and --pgbackrest: drills of clusters."""

import contextlib
import secrets
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .. import errors as e
from .. import progress
from ..config import Config
from ..terminal import printable
from . import output, run_log
from .common import plural, print_json

if TYPE_CHECKING:
    from ..drill.pitr_result import PitrDrillResult, PointResult
    from ..drill.points import PointSource
    from ..drill.recovered_checks import Wanted

SHOWN = 10  # findings; --json and the report have all
SEEDS = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterDrill:
    """What was asked for."""

    wanted: "Wanted"
    seed: int | None
    report: Path | None
    as_json: bool


def wanted(
    config: Config, database: str | None, checks: Sequence[Path], timeout: float
) -> "Wanted":
    """Return what is checked in a recovered cluster.

    Raises:
        UsageError: a file cannot be read, or the database of the queries is not given.

    """
    from ..drill import assertions  # noqa: PLC0415 - few commands need it
    from ..drill.recovered_checks import Wanted  # noqa: PLC0415

    if bool(checks) != (database is not None):
        raise e.UsageError(
            "--check and --database are required together in a drill of a cluster",
            hint="The queries run in one database of the recovered cluster. Name it.",
        )
    return Wanted(
        database=database,
        assertions=assertions.read(checks),
        timeout=timeout,
        jobs=config.settings.jobs,
    )


def sources(config: Config, stanza: str | None, cluster: str | None) -> Sequence["PointSource"]:
    """Return a stanza of pgBackRest, or the clusters with base backups and WAL in the first store.

    Raises:
        UsageError: pgBackRest is not installed, or cannot read the repository.
        Refused: the repository does not have the stanza, or the store no cluster.

    """
    from ..drill import pgbackrest_source  # noqa: PLC0415 - only this command needs it
    from ..drill.archive_source import ArchiveSource  # noqa: PLC0415
    from ..pitr import location  # noqa: PLC0415

    if stanza is not None:
        return [pgbackrest_source.source_of(stanza)]
    encryption = config.encryption()
    found = list(location.known(config))
    if not found or cluster is not None:
        found = location.only(found, cluster)
    first = {place.facts.system_identifier: place for place in reversed(found)}
    return [ArchiveSource(first[name], encryption) for name in sorted(first)]


def run(config: Config, sources: Sequence["PointSource"], asked: ClusterDrill) -> None:
    """Drill each source, record and print the results.

    A source that cannot be drilled does not prevent the others.

    Raises:
        PgkeepError: the first drill that failed, or was not possible.

    """
    run_log.current().used(config, "")  # it is the drill of no database
    results: list[PitrDrillResult] = []
    errors: list[e.PgkeepError] = []
    for source in sources:
        try:
            results.append(_drill(config, source, asked))
        except e.PgkeepError as error:
            if len(sources) == 1:
                raise
            facts = source.facts
            output.current().warning(f"{facts.name or facts.system_identifier}: {error.message}")
            errors.append(error)
    if asked.as_json:
        print_json(results)
    if asked.report is not None and results:
        _write_report(asked.report, results)
    failed = [result for result in results if not result.passed]
    if failed:
        count = sum(len(result.findings) for result in failed)
        raise e.VerificationFailed(
            f"the drill of {_title(failed[0])} failed: {plural(count, 'finding')},"
            f" the first: {printable(failed[0].findings[0])}"
        )
    if errors:
        raise errors[0]
    for result in results:
        output.current().done(f"drill of {_title(result)}: passed", as_json=asked.as_json)


def _drill(config: Config, source: "PointSource", asked: ClusterDrill) -> "PitrDrillResult":
    from ..drill import pitr_result, points  # noqa: PLC0415
    from ..pitr import location  # noqa: PLC0415

    options = points.PointOptions(
        wanted=asked.wanted,
        seed=secrets.randbelow(SEEDS) if asked.seed is None else asked.seed,
        complete_until=_complete_until(config, source.facts.system_identifier),
    )
    with output.current().progress(silent=asked.as_json) as bar:
        result = points.run(source, options, bar)
    stores = location.drill_stores(config, result.system_identifier)
    for problem in pitr_result.record(stores, result):
        output.current().warning(problem)
    for warning in result.warnings:
        output.current().warning(printable(warning))
    if not asked.as_json:
        output.show(_lines(result))
    return result


def _complete_until(config: Config, system_identifier: str) -> datetime | None:
    """Return until when everything is stored, if the receiver has run on this host."""
    from ..pitr import location, stream_state  # noqa: PLC0415

    with contextlib.suppress(e.UsageError, e.VerificationFailed, e.StoreError):
        spool = location.spool_of(config, system_identifier)
        state = stream_state.read(stream_state.path_in(spool))
        return None if state is None else state.complete_until
    return None


def _title(result: "PitrDrillResult") -> str:
    name = f" ({result.name})" if result.name else ""
    return f"cluster {result.system_identifier}{name}"


def _lines(result: "PitrDrillResult") -> Iterator[str]:
    from ..drill.result import ISOLATION  # noqa: PLC0415

    version = "" if result.server is None else f", PostgreSQL {result.server}"
    yield f"{_title(result)}, from {result.place}{version}"
    isolation = ", ".join(ISOLATION.get(kind, kind) for kind in result.isolation) or "none"
    yield f"    isolation: {isolation}; seed of the random second: {result.seed}"
    for point in result.points:
        yield from _point_lines(point)
    for check in result.checks:
        word = "FAIL" if check.findings else "ok  "
        yield f"    {word}  {check.name:20} {check.checked:>12,}"
    for finding in result.findings[:SHOWN]:
        yield from _wrapped(f"FAIL  {finding}")
    if len(result.findings) > SHOWN:
        yield f"    and {len(result.findings) - SHOWN} more findings"
    for reason in result.unproved[:SHOWN]:
        yield from _wrapped(f"--    not proved: {reason}")
    if result.recovery_seconds is not None:
        yield f"    recovery time (RTO): {progress.duration(result.recovery_seconds)}"
    if result.lost_seconds is not None:
        yield f"    newest change that can be restored (RPO): {_ago(result.lost_seconds)}"


def _point_lines(point: "PointResult") -> Iterator[str]:
    times = ", ".join(f"{name} {progress.duration(took)}" for name, took in point.seconds.items())
    yield f"    {point.target}"
    if point.lsn is not None:
        reached = "no commit since the base backup"
        if point.reached is not None:
            reached = f"last commit {point.reached:%Y-%m-%d %H:%M:%S.%f} UTC"
        yield f"         reached {point.lsn}, timeline {point.timeline}, {reached}"
    yield f"         {times}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        printable(text), 76, initial_indent="    ", subsequent_indent=" " * 10,
        break_on_hyphens=False,
    )  # fmt: skip


def _ago(seconds: float) -> str:
    return f"{progress.duration(seconds)} ago"


def _write_report(path: Path, results: Sequence["PitrDrillResult"]) -> None:
    import msgspec  # noqa: PLC0415

    from ..monitor import report  # noqa: PLC0415 - few ask for it
    from . import output_file  # noqa: PLC0415

    data = msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n"
    output_file.write(path.with_suffix(".json"), data)
    output_file.write(path, report.cluster_page(results))
