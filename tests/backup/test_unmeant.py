"""Databases and places that were probably not meant, and what is easily lost of a database (G2)."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from pgkeep.backup import backup
from pgkeep.model import naming
from pgkeep.model.manifest import Manifest, decode, encode
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, planted, servers


def said(command: str, env: dict[str, str]) -> str:
    return "".join(invoke.outputs(command, env=env))


def test_an_empty_default_database(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """G2.7: nobody has named a database, libpq takes the one called like the role."""
    role = f"lonely_{os.getpid()}"
    servers.sql(pg17, "postgres", f"create role {role} login superuser")
    try:
        db, full = database(pg17, name=role), database(pg17)
        servers.sql(pg17, full, "create table t as select 1 a")
        env = invoke.environment(pg17, PGUSER=role, BACKUP_DIR=str(tmp_path))
        warning = f"database {role} is empty, and "
        for command in ("doctor", "backup"):
            assert warning in said(command, env)
            for meant in ({"POSTGRES_DB": db}, {"BACKUP_DATABASES": db}, {"PGDATABASE": full}):
                assert warning not in said(command, env | meant)
        doctor = said("doctor", env | {"PGDATABASE": "postgres"})
        assert "warning: database postgres is empty" in doctor
        servers.sql(pg17, db, "create table t as select 1 a")
        assert warning not in said("doctor", env)
    finally:
        servers.drop(pg17, role)
        servers.sql(pg17, "postgres", f"drop role {role}")


def test_less_space_than_the_last_backup_took(pg17: Server, app: str, tmp_path: Path) -> None:
    """G2.8: the next one will not fit either; told before the disk is full."""
    path = invoke.backup(pg17, app, tmp_path)
    name = naming.parse(path.name)
    assert name is not None
    manifest = path.with_name(name.manifest)
    facts = decode(manifest.read_bytes(), name.manifest)
    warning = "GB free, the last backup of database"
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path))
    assert warning not in said("doctor", env)
    # A sparse file is as large as one likes.
    large = msgspec.structs.replace(facts.artifact, size=shutil.disk_usage(tmp_path).total + 1)
    with path.open("r+b") as file:
        file.truncate(large.size)
    manifest.write_bytes(encode(msgspec.structs.replace(facts, artifact=large)))
    assert warning in said("doctor", env)
    assert warning in said("backup", env)


@pytest.mark.parametrize("server", [12, 18], ids="pg{}".format, indirect=True)
def test_templates_stay_templates(
    server: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G2.9: of a backup, and of a dump of others made with --create."""
    db = database(server, "is_template true")
    servers.sql(server, db, "create table t as select 1 a")
    path = invoke.backup(server, db, tmp_path)
    (tmp_path / "others.sql").write_bytes(servers.dump(server, db, "--create"))
    env = invoke.environment(server, BACKUP_DIR=str(tmp_path / "indexed"))
    invoke.run("index", str(tmp_path / "others.sql"), env=env)
    (indexed,) = (tmp_path / "indexed").glob("*.sql.gz")
    query = "select datistemplate from pg_database where datname = %(name)s"
    try:
        for artifact in (path, indexed):
            invoke.restore(server, artifact, f"{db}_new")
            assert servers.sql(server, "postgres", query, name=f"{db}_new") == [(True,)]
            # Swapped in twice: neither the new one nor the old one loses it.
            invoke.restore(server, artifact, f"{db}_new", "--drop-existing", "--yes")
            assert servers.sql(server, "postgres", query, name=f"{db}_new") == [(True,)]
            names = servers.sql(server, "postgres", "select datname from pg_database")
            for (name,) in names:
                if name.startswith(f"{db}_new"):
                    servers.sql(server, "postgres", f'alter database "{name}" is_template false')
                    servers.drop(server, name)
    finally:
        servers.sql(server, "postgres", f"alter database {db} is_template false")


def test_a_dump_in_another_encoding(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G2.10: pg_dump -E converts, and its CREATE DATABASE names the encoding of before."""
    db = database(pg17, "encoding utf8")
    servers.sql(pg17, db, "create table t as select 'Å'::text a")
    reports = {}
    for name, options in (("same", []), ("other", ["-E", "LATIN1"])):
        file = tmp_path / f"{name}.sql"
        file.write_bytes(servers.dump(pg17, db, "--create", *options))
        env = invoke.environment(pg17, BACKUP_DIR=str(tmp_path / name))
        invoke.run("index", str(file), env=env)
        (manifest,) = (tmp_path / name).glob("*.json")
        reports[name] = " ".join(json.loads(manifest.read_text())["warnings"])
    assert "its text is in LATIN1, its database was in UTF8" in reports["other"]
    assert "its text is in" not in reports["same"]


class Compared(Manifest, frozen=True):
    """A manifest that counts how often it is compared."""

    counts: ClassVar[list[str]] = []

    def __eq__(self, other: object) -> bool:
        self.counts.append(self.artifact.name)
        return super().__eq__(other)

    __hash__ = Manifest.__hash__


def test_backups_of_clusters_are_not_compared_with_each_other() -> None:
    """C26: 4,000 backups in the store took ten seconds of each backup, 8,000 forty."""
    now = datetime(2026, 3, 10, tzinfo=UTC)
    existing = [
        Compared(**msgspec.structs.asdict(planted.manifest(now, cluster=cluster)))
        for cluster in ("1", "2", "1")
    ]
    own, others = backup._by_cluster(existing, "1")
    assert ([id(each) for each in own], [id(each) for each in others]) == (
        [id(existing[0]), id(existing[2])], [id(existing[1])],
    )  # fmt: skip
    assert Compared.counts == []
