"""Backups as if taken in the past: manifests of any date, with placeholder files."""

import os
from datetime import datetime
from pathlib import Path

import msgspec

from pgkeep.model.manifest import DatabaseFacts, FileFacts, Manifest, ServerFacts, encode
from pgkeep.model.naming import BackupType
from pgkeep.model.retention import Policy
from pgkeep.postgres.server import Server
from tests.support import servers


def manifest(
    taken: datetime,
    kind: str = "daily",
    *,
    database: str = "app",
    cluster: str = "1",
    verified: bool = True,
    schema: bool = False,
    policy: Policy | None = None,
) -> Manifest:
    one = Manifest(
        pgkeep="0",
        database=DatabaseFacts(database, "o", "UTF8", "C", "C"),
        server=ServerFacts("17.2", 170002, cluster),
        client_version="17.2",
        type=BackupType(kind),
        schema_only=schema,
        taken=taken,
        snapshot=taken,
        finished=taken,
        artifact=FileFacts("", 1, "0"),
        raw_bytes=1,
        verified=taken if verified else None,
        policy=None if policy is None else str(policy),
    )
    return msgspec.structs.replace(one, artifact=FileFacts(one.name.artifact, 1, "0"))


def plant(directory: Path, one: Manifest) -> Manifest:
    """Write a backup's files; all but the manifest are placeholders."""
    directory.mkdir(exist_ok=True)
    for name in one.name.files:
        (directory / name).write_bytes(b"x")
    (directory / one.name.manifest).write_bytes(encode(one))
    return one


def cluster_of(server: Server) -> str:
    """Return the system identifier, by which backups of different servers are told apart."""
    ((identifier,),) = servers.sql(
        server, "postgres", "select system_identifier::text from pg_control_system()"
    )
    return str(identifier)


def touch_all(directory: Path) -> None:
    """Give all files the same time, as a copy to another disk may do."""
    for path in directory.iterdir():
        os.utime(path, (0, 0))
