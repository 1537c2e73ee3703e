"""What runs did, also failed ones, from their records: what manifests cannot show."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

import msgspec

from ..model import naming
from ..model.record import DatabaseResult, Record
from .metrics import REMEMBERED, Sample, Series
from .overview import Contents, Target, clusters

BACKUP, DRILL, RESTORE, PRUNE = "backup", "drill", "restore", "prune"
KEY_CHECK = "key-check"
RESTORES = timedelta(days=7)  # for which a failed restore is shown: nobody has to repeat it
# Exit codes of what a user has mistyped, cancelled or ended: nothing is wrong with the backups.
_BY_THE_USER = {DRILL: {2}, RESTORE: {2, 9}, PRUNE: {2, 9}}
_SIGNAL = 128  # exit codes above it
_GAPS = ("removed", "gone", "failed")  # of a day, by precedence

Attempts = Mapping[str, Sequence[Record]]  # by the store's URL, oldest first


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """The last backup run of a database."""

    when: datetime
    exit_code: int
    error: str | None
    host: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The last failed run of a command for a database, or for a target."""

    command: str
    when: datetime
    exit_code: int
    error: str | None
    host: str
    since: datetime  # when the first run failed after the last success
    runs: int  # that have failed since then
    succeeded: datetime | None  # when a later run succeeded


class Runs:
    """The runs of a target by the databases that they concern; each record is read once.

    A record of a run of many databases is long, and so is the list of records.
    """

    def __init__(self, target: Target, attempts: Attempts, databases: Sequence[str]) -> None:
        self._found: dict[str, list[_Run]] = defaultdict(list)
        self._removed: dict[str, list[naming.BackupName]] = defaultdict(list)
        for made, url in _of_target(target, attempts):
            for database, result in _results(made, databases):
                self._found[database].append(_Run(made, result, url))
            for stem in made.removed:
                name = naming.parse(stem + naming.ARTIFACT)
                if name is not None:
                    self._removed[name.database].append(name)

    def all_of(self, database: str) -> "Sequence[_Run]":
        """Return all runs that concern a database, oldest first in each store."""
        return self._found.get(database, ())

    def of(self, database: str, command: str) -> list[tuple[Record, DatabaseResult]]:
        """Return the runs of a command, oldest first, without duplicates."""
        found = {
            (run.made.started, run.made.finished, run.made.host): (run.made, run.result)
            for run in self.all_of(database)  # from either store
            if run.made.command == command
        }
        return sorted(found.values(), key=lambda pair: pair[0].finished)

    def removed(self, database: str) -> Sequence[naming.BackupName]:
        """Return the backups of a database that runs have removed."""
        return self._removed.get(database, ())


class _Run(NamedTuple):
    made: Record
    result: DatabaseResult
    url: str  # of the store with this record


def with_tried(target: Target, attempts: Attempts) -> Target:
    """Return the target with the databases of its last run, by which patterns are known (F2).

    A manual run counts only if there is no other: it can be about one database.
    """
    found = [
        made
        for made in attempts.get(target.store.url, ())
        if made.command == BACKUP and made.results and made.target == target.name
    ]
    last = max(found, key=lambda made: (made.type != "manual", made.finished), default=None)
    tried = () if last is None else tuple(result.database for result in last.results)
    return replace(target, tried=tried)


def last_attempt(runs: Runs, database: str) -> Attempt | None:
    """Return the last backup run of a database."""
    found = runs.of(database, BACKUP)
    if not found:
        return None
    made, result = found[-1]
    return Attempt(
        when=made.finished, exit_code=result.exit_code, error=result.error, host=made.host
    )


def failures(
    target: Target, contents: Contents, runs: Runs, database: str, now: datetime
) -> list[Failure]:
    """Return the last failed run of each command that concerns a database, given its backups."""
    backups = [backup.manifest for store in target.stores for backup in contents.get(store.url, ())]
    drills = [drill.when for manifest in backups for drill in manifest.drills if drill.passed]
    backup_runs = runs.of(database, BACKUP)
    # A run whose retention failed has published a backup.
    of_failed = {result.backup for _, result in backup_runs if result.exit_code}
    made = [found.finished for found in backups if found.name.stem not in of_failed]
    restores = [
        (found, result)
        for found, result in runs.of(database, RESTORE)
        if found.finished > now - RESTORES
    ]
    found = [
        _last(BACKUP, backup_runs, made),
        _last(DRILL, runs.of(database, DRILL), drills),
        _last(RESTORE, restores, ()),
    ]
    return [failure for failure in found if failure is not None]


def failed_prune(target: Target, attempts: Attempts) -> Failure | None:
    """Return the last failed run of `pgkeep prune`; a backup that succeeds has pruned too."""
    runs = {made.finished: made for made, _ in _of_target(target, attempts)}  # from either store
    own = [made for _, made in sorted(runs.items()) if made.target == target.name]
    prunes = [
        (made, DatabaseResult(database="", exit_code=made.exit_code, error=made.error))
        for made in own
        if made.command == PRUNE
    ]
    backups = [made.finished for made in own if made.command == BACKUP and not made.exit_code]
    return _last(PRUNE, prunes, backups)


def _last(
    command: str, runs: Sequence[tuple[Record, DatabaseResult]], succeeded: Iterable[datetime]
) -> Failure | None:
    failed = [(made, result) for made, result in runs if _counts(command, result.exit_code)]
    if not failed:
        return None
    last, result = failed[-1]
    good = {made.finished for made, result in runs if not result.exit_code} | {*succeeded}
    before = max((when for when in good if when <= last.finished), default=None)
    row = [made for made, _ in failed if before is None or made.finished > before] or [last]
    return Failure(
        command=command,
        when=last.finished,
        exit_code=result.exit_code,
        error=result.error,
        host=last.host,
        since=row[0].finished,
        runs=len(row),
        succeeded=min((when for when in good if when > last.finished), default=None),
    )


def _counts(command: str, exit_code: int) -> bool:
    if command == BACKUP:
        return exit_code != 0
    return 0 < exit_code < _SIGNAL and exit_code not in _BY_THE_USER[command]


def recent(target: Target, attempts: Attempts, database: str, count: int) -> list[Record]:
    """Return the last runs that concern a database, newest first, each with its own result."""
    runs = Runs(target, attempts, [database])
    found = [
        msgspec.structs.replace(made, exit_code=result.exit_code, error=result.error)
        for command in (BACKUP, DRILL, RESTORE)
        for made, result in runs.of(database, command)
    ]
    return sorted(found, key=lambda made: made.finished, reverse=True)[:count]


def gaps(
    target: Target, contents: Contents, runs: Runs, database: str, zone: tzinfo
) -> dict[str, str]:
    """Return what happened on days without a backup: `removed`, `gone` or `failed`.

    Removed are backups that retention has removed; gone are those that no record removes. The
    contents of the stores are only the backups of this database.
    """
    here = {
        backup.manifest.name.stem
        for store in target.stores
        for backup in contents.get(store.url, ())
        if not backup.missing
    }
    all_read = all(store.url in contents for store in target.stores)
    backup_runs = runs.of(database, BACKUP)
    made = [
        naming.parse(f"{result.backup}{naming.ARTIFACT}")
        for _, result in (backup_runs if all_read else ())
        if result.backup is not None
    ]
    found = [(run.started, "failed") for run, result in backup_runs if result.backup is None]
    found += [
        (name.taken, state)
        for state, names in (("gone", made), ("removed", runs.removed(database)))
        for name in names
        if name is not None and name.stem not in here
        if name.database == database and not name.schema_only
    ]
    days: dict[str, str] = {}
    for when, state in found:
        day = when.astimezone(zone).date().isoformat()
        days[day] = min(state, days.get(day, _GAPS[-1]), key=_GAPS.index)
    return dict(sorted(days.items()))


def key_checks(
    target: Target, contents: Contents, attempts: Attempts, wanted: Sequence[str]
) -> Iterator[Sample]:
    """Yield when the encrypted backups of each database were last decrypted by a key check."""
    names = clusters(target, contents, wanted)
    encrypted = {
        backup.manifest.database.name
        for store in target.stores
        for backup in contents.get(store.url, ())
        if backup.manifest.encryption
    }
    if not encrypted:
        return
    runs = Runs(target, attempts, wanted)
    for database in wanted:
        if database not in encrypted:
            continue
        checks = runs.of(database, KEY_CHECK)
        passed = [made.finished.timestamp() for made, result in checks if not result.exit_code]
        name = "pgkeep_key_check_last_success_timestamp_seconds"
        series = Series(names.of(database), database, "", target.store.url)
        yield series.sample(name, max(passed, default=0))


def samples(
    target: Target, contents: Contents, attempts: Attempts, wanted: Sequence[str], now: datetime
) -> Iterator[Sample]:
    """Yield time and exit code of the last run of each database and requested type."""
    names = clusters(target, contents, wanted)
    runs = Runs(target, attempts, wanted)
    for database in wanted:
        last: dict[str, _Run] = {}
        for run in runs.all_of(database):
            if run.url != target.store.url or run.made.command != BACKUP:
                continue
            if run.made.finished > now - REMEMBERED:
                last[run.made.type or "manual"] = run
        for kind, run in last.items():
            series = Series(names.of(database), database, kind, target.store.url)
            finished = run.made.finished.timestamp()
            yield series.backup("last_attempt_timestamp_seconds", finished)
            yield series.backup("last_exit_code", run.result.exit_code)


def _results(made: Record, databases: Sequence[str]) -> Iterator[tuple[str, DatabaseResult]]:
    """Yield the outcome for each database; a restore or a drill uses a backup of one."""
    if made.command in (BACKUP, KEY_CHECK) and not made.results:
        everybody = ((database, made.of(database)) for database in databases)
        yield from ((database, result) for database, result in everybody if result is not None)
        return
    first: dict[str, DatabaseResult] = {}
    for result in made.results:
        name = result.database
        if made.command not in (BACKUP, KEY_CHECK):
            parsed = naming.parse(f"{result.backup}{naming.ARTIFACT}")
            if parsed is None:
                continue
            name = parsed.database
        first.setdefault(name, result)
    yield from first.items()


def _of_target(target: Target, attempts: Attempts) -> Iterator[tuple[Record, str]]:
    """Yield the runs that concern a target, with the store of their record, oldest first.

    Targets can share a store: a run that failed before it had results concerns its own target.
    """
    for store in target.stores:
        for made in attempts.get(store.url, ()):
            if made.results or made.target == target.name:
                yield made, store.url
