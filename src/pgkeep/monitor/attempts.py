"""The last backup runs, also failed ones, from their records: what manifests cannot show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import msgspec

from ..model.record import Record
from .metrics import Sample, Series
from .overview import Contents, Target, clusters

Attempts = Mapping[str, Sequence[Record]]  # by the store's URL, oldest first


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The last run of a database, which failed."""

    when: datetime
    exit_code: int
    error: str | None
    host: str


def with_tried(target: Target, attempts: Attempts) -> Target:
    """Return the target with the databases of its last run, by which patterns are known (F2).

    A manual run counts only if there is no other: it can be about one database.
    """
    found = [
        made
        for made in attempts.get(target.store.url, ())
        if made.results and made.target == target.name
    ]
    last = max(found, key=lambda made: (made.type != "manual", made.finished), default=None)
    tried = () if last is None else tuple(result.database for result in last.results)
    return replace(target, tried=tried)


def last_failure(
    target: Target, contents: Contents, attempts: Attempts, database: str
) -> Failure | None:
    """Return the last run of a database if it failed, and no later one has made a backup."""
    last = max(
        (made for made, _ in _of_target(target, attempts, database)),
        key=lambda made: made.finished,
        default=None,
    )
    result = None if last is None else last.of(database)
    if last is None or result is None or not result.exit_code:
        return None
    finished = [
        backup.manifest.finished
        for store in target.stores
        for backup in contents.get(store.url, ())
        if backup.manifest.database.name == database
    ]
    if any(moment > last.finished for moment in finished):
        return None
    return Failure(
        when=last.finished, exit_code=result.exit_code, error=result.error, host=last.host
    )


def samples(
    target: Target, contents: Contents, attempts: Attempts, wanted: Sequence[str]
) -> Iterator[Sample]:
    """Yield time and exit code of the last run of each database and requested type."""
    names = clusters(target, contents, wanted)
    for database in wanted:
        last: dict[str, Record] = {}
        for made, url in _of_target(target, attempts, database):
            if url == target.store.url:
                last[made.type or "manual"] = made
        for kind, made in last.items():
            result = made.of(database)
            series = Series(names.of(database), database, kind, target.store.url)
            yield series.backup("last_attempt_timestamp_seconds", made.finished.timestamp())
            yield series.backup("last_exit_code", 0 if result is None else result.exit_code)


def _of_target(target: Target, attempts: Attempts, database: str) -> Iterator[tuple[Record, str]]:
    """Yield the runs that concern a database, with the store of their record, oldest first.

    Targets can share a store: a run that failed before it had results concerns its own target.
    """
    for store in target.stores:
        for made in attempts.get(store.url, ()):
            if made.of(database) is None:
                continue
            if made.results or made.target == target.name:
                yield made, store.url
