"""Backups as if taken in the past: manifests of any date, with placeholder files."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from pgkeep.model.manifest import (
    DatabaseFacts,
    Drill,
    FileFacts,
    Manifest,
    ServerFacts,
    decode,
    encode,
)
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


def another(
    directory: Path, kind: str, as_kind: str, *, days: float, cluster: str | None = None
) -> str:
    """Copy the newest backup of a type, as if it were older; return its name."""
    path = max(directory.glob(f"*_{kind}_*Z.manifest.json"))
    one = decode(path.read_bytes(), path.name)
    server = one.server
    if cluster is not None:
        server = msgspec.structs.replace(server, system_identifier=cluster)
    made = msgspec.structs.replace(
        one, type=BackupType(as_kind), server=server,
        **{name: getattr(one, name) - timedelta(days=days)
           for name in ("taken", "snapshot", "finished")},
    )  # fmt: skip
    assert one.globals is not None
    name = replace(made.name, cipher=one.name.cipher)
    made = msgspec.structs.replace(
        made,
        artifact=msgspec.structs.replace(one.artifact, name=name.artifact),
        globals=msgspec.structs.replace(one.globals, name=name.globals),
    )
    for old, new in zip(one.name.files[:-1], made.name.files[:-1], strict=True):
        data = (directory / old).read_bytes()
        if new == made.name.checksum:
            data = data.replace(one.name.artifact.encode(), made.name.artifact.encode())
        (directory / new).write_bytes(data)
    (directory / made.name.manifest).write_bytes(encode(made))
    return made.name.stem


def drill(directory: Path, kind: str, *, seconds: float) -> None:
    """Record a passed drill of the newest backup of a type."""
    path = max(directory.glob(f"*_{kind}_*Z.manifest.json"))
    one = decode(path.read_bytes(), path.name)
    passed = Drill(datetime.now(UTC), passed=True, seconds={"rows": seconds}, findings=0)
    path.write_bytes(encode(msgspec.structs.replace(one, drills=[passed])))


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
