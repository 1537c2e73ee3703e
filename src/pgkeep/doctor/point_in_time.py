"""What would end point in time, or fill a disk; nothing is reported where it was never enabled."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import psycopg

from .. import errors as e
from ..backup.findings import Finding
from ..config import Config
from ..pitr import checks, location, overview, slot
from ..pitr.base import ServerState
from ..pitr.checks import Problem
from ..pitr.location import ClusterFacts
from ..pitr.stream_state import FRESH
from ..postgres.connection import Connection, Endpoint
from ..progress import size
from ..restore.target.space import data_directory
from ..stores.store import Store
from . import lifecycle


def examine(config: Config, endpoint: Endpoint, stores: Sequence[Store]) -> list[Finding]:
    """Check the clusters in the stores, and the server of the connection."""
    found: list[Finding] = []
    known: dict[str, ClusterFacts] = {}
    for place in location.places(config):
        try:
            for cluster in location.clusters_in(config, place):
                if cluster.facts.ended is None:
                    known[cluster.facts.system_identifier] = cluster.facts
        except e.VerificationFailed as error:
            found.append(Finding("warning", error.message))
        except e.StoreError:  # which is reported already
            continue
    if known:
        found += [finding for store in stores for finding in _bucket(config, store)]
    with suppress(e.ConnectionFailed, psycopg.Error), endpoint.connect() as connection:
        found += _slots(connection)
        identifier = ServerState(connection).system_identifier
        if identifier in known:
            found += _server(config, connection, identifier)
    return found


def _bucket(config: Config, store: Store) -> Iterator[Finding]:
    if not store.remote:
        return
    from ..stores.s3 import bucket_rules  # noqa: PLC0415 - an optional dependency
    from ..stores.s3.store import S3Store  # noqa: PLC0415

    if not isinstance(store, S3Store):
        return
    folder = f"{store.settings.prefix}pitr/"
    rules = bucket_rules.lifecycle_rules(store.bucket)
    yield from lifecycle.findings(rules, store.url, folder, config.settings.window)
    kept = bucket_rules.default_retention(store.bucket)
    if kept is not None and config.settings.wal_max_lag:
        yield Finding(
            "warning",
            f"Object Lock of {store.url} keeps each state of an unfinished segment for {kept}, and"
            f" one is stored every {config.settings.wal_max_lag:g} seconds while the server writes",
            "Use a longer BACKUP_WAL_MAX_LAG, or 0 together with archive_timeout on the server;"
            " or store WAL in a bucket without a default retention.",
        )


def _slots(connection: Connection) -> Iterator[Finding]:
    """Yield slots of pgkeep for which nobody receives: the server keeps WAL for them."""
    rows: list[Any] = connection.execute(
        "SELECT slot_name, coalesce(pg_catalog.pg_wal_lsn_diff(CASE"
        " WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
        " ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn), 0)::pg_catalog.int8"
        " FROM pg_catalog.pg_replication_slots"
        " WHERE slot_type = 'physical' AND NOT active AND slot_name ~ '^pgkeep_[0-9]+$'"
    ).fetchall()
    for name, kept in rows:
        yield Finding(
            "warning",
            f"replication slot {name} has no receiver, and the server keeps {size(max(0, kept))} of"
            " WAL for it",
            "Start pgkeep pitr stream. To end point in time: pgkeep pitr disable.",
        )


def _server(config: Config, connection: Connection, identifier: str) -> Iterator[Finding]:
    facts = checks.read(connection)
    name = slot.slot_name(identifier)
    state = slot.state(connection, name)
    if state is None or state.lost:
        yield Finding(
            "warning",
            f"replication slot {name} {'does not exist' if state is None else 'is lost'}: WAL is"
            " missing from then on",
            "A running receiver begins a new window. Otherwise run pgkeep pitr enable.",
        )
    unlimited = checks.unlimited_slot(facts)
    problems = [*checks.server_problems(facts, state), *checks.advice(facts)]
    yield from map(_finding, [*problems, *([] if unlimited is None else [unlimited])])
    yield from _host(config, connection, facts, identifier)


def _host(
    config: Config, connection: Connection, facts: checks.ServerFacts, identifier: str
) -> Iterator[Finding]:
    """Check the host of the receiver, if that is this one."""
    try:
        stream = overview.receiver_state(config, identifier)
    except (e.StoreError, e.VerificationFailed) as error:
        yield Finding("warning", error.message)
        return
    if stream is None:
        return
    spool = location.spool_of(config, identifier)
    if (datetime.now(UTC) - stream.written_at).total_seconds() > FRESH:
        yield Finding("warning", "the receiver does not run on this host", "pgkeep pitr stream")
    yield from map(_finding, checks.host_problems(facts, spool))
    directory = data_directory(connection)
    with suppress(OSError):
        if directory is not None and directory.stat().st_dev == spool.stat().st_dev:
            yield Finding(
                "warning",
                f"{spool} is on the file system of the server's data: both are lost together, and"
                " received WAL takes space from the server",
                "Set BACKUP_SPOOL_DIR to another disk, or run the receiver on another host.",
            )


def _finding(problem: Problem) -> Finding:
    return Finding("warning", problem.message, "\n".join(problem.remedy))
