"""Encrypted backups for reading; each worker makes them once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.support import invoke, servers
from tests.support.private_keys import AgeKey, GpgKey


@dataclass(frozen=True, slots=True)
class Encrypted:
    """Backups of one database in a folder each: not encrypted, with age, with GPG."""

    database: str
    plain: Path
    age: Path
    gpg: Path


# Several chunks of age and several members, and what a table that is restored alone refers to.
CONTENTS = """
create schema app;
create table app.customers (id int primary key, name text not null);
insert into app.customers select n, 'customer ' || n from generate_series(1, 50) n;
create table app.large as
    select n as id, md5(n::text) || md5((-n)::text) as v from generate_series(1, 3000) n;
create table app.larger as
    select n as id, md5(n::text || 'x') || md5((-n)::text) as v from generate_series(1, 3000) n;
analyze;
"""


@pytest.fixture(scope="session")
def encrypted(
    pg17: Server, age_key: AgeKey, gpg_key: GpgKey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Encrypted]:
    """Backups for reading; tests that change files copy the folder."""
    name = "encrypted"
    servers.sql(pg17, "postgres", f"create database {name} template template0")
    servers.psql(pg17, name, input=CONTENTS)
    made = [
        invoke.backup(
            pg17, name, tmp_path_factory.mktemp(cipher), "--type=daily", BACKUP_JOBS="2", **to
        )
        for cipher, to in {
            "plain": {},
            "age": {"BACKUP_ENCRYPT_TO": age_key.recipient},
            "gpg": {"BACKUP_ENCRYPT_TO": str(gpg_key.public)},
        }.items()
    ]
    yield Encrypted(name, *made)
    servers.drop(pg17, name)
