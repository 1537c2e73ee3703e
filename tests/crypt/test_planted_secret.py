"""What is in a database is in no file, no argument and no environment outside of it."""

import secrets
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from pgkeep.postgres.server import Server
from tests.support import invoke, leaks, servers
from tests.support.buckets import Buckets, keys
from tests.support.disposable import Disposables
from tests.support.private_keys import AgeKey, GpgKey
from tests.support.servers import quoted, sql

PLANT = """
create table rows as select i, '{secret} ' || md5(i::text) as text from generate_series(1, 20000) i;
create table blobs as select i, decode('{secret}', 'hex') as binary from generate_series(1, 10) i;
create materialized view computed as select i, text from rows where i < 10;
comment on table rows is '{secret}';
comment on database {database} is '{secret}';
alter database {database} set my.token = '{secret}';
create function code() returns text language sql as $$ select '{secret}' $$;
select lo_from_bytea(0, '{secret}');
"""


class Planted(NamedTuple):
    """A database with secrets, and all that must not be found outside of it."""

    database: str
    secrets: list[bytes]


@pytest.fixture
def planted(pg17: Server, disposables: Disposables) -> Planted:
    name, secret = disposables.database(pg17), secrets.token_hex(16)
    role = disposables.role(pg17, password=secret)
    servers.psql(pg17, name, input=PLANT.format(secret=secret, database=quoted(name)))
    sql(pg17, name, f"alter table rows owner to {role}")
    query = f"select rolpassword from pg_authid where rolname = '{role}'"
    hashed = str(sql(pg17, name, query)[0][0])
    return Planted(name, [secret.encode(), hashed.rpartition(":")[2].encode()])


class Way(NamedTuple):
    """Settings of the host that backs up, and those of the one that has the private key."""

    public: dict[str, str]
    private: dict[str, str]
    key: bytes


@pytest.fixture(params=["age", "gpg"])
def way(request: pytest.FixtureRequest, age_key: AgeKey, gpg_key: GpgKey) -> Way:
    if request.param == "age":
        secret = age_key.file.read_bytes().splitlines()[-1]
        to = {"BACKUP_ENCRYPT_TO": age_key.recipient}
        return Way(to, {"BACKUP_IDENTITY_FILE": str(age_key.file)}, secret)
    return Way(
        {"BACKUP_ENCRYPT_TO": str(gpg_key.public)}, dict(gpg_key.environment), b"not a file of ours"
    )


def test_a_secret_stays_in_the_database(
    pg17: Server, planted: Planted, way: Way, tmp_path: Path, buckets: Buckets,
    other_age_key: AgeKey,
) -> None:  # fmt: skip
    """pg_back and Barman 3.14 write plain text to a disk before they encrypt it."""
    bucket, temporary = buckets.bucket(), tmp_path / "tmp"
    temporary.mkdir()
    settings = {"TMPDIR": str(temporary), "HOME": str(tmp_path), **buckets.environment(bucket)}
    env = invoke.environment(pg17, planted.database, **settings)
    env |= {"BACKUP_DIR": str(tmp_path / "b"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    looked_for = [*planted.secrets, way.key]

    def run(*args: str, **extra: str) -> leaks.Reader:
        reader = leaks.watched(*args, env=env | extra, folders=[tmp_path], secrets=looked_for)
        assert reader.leaks == set(), args
        assert reader.rounds > 3
        return reader

    only_bucket = {"BACKUP_DIR": f"s3://{bucket}/only", "BACKUP_S3_BUCKET": ""}
    run("backup", "--type=daily", **way.public)
    assert run("backup", "--verify", **way.public, **only_bucket).unnamed  # its spool
    client = buckets.client()

    def look_into_bucket(expected: int) -> None:
        objects = keys(client, bucket)
        assert len(objects) == expected
        for key in objects:
            with closing(client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
                assert leaks.found(body.read(), looked_for) is None, key

    look_into_bucket(8)
    target = f"{planted.database}_restored"
    try:
        run("restore", "--latest", f"--target-db={target}", **way.private, **only_bucket)
    finally:
        servers.drop(pg17, target)
    run("drill", **way.public, **way.private)
    run("rekey", BACKUP_ENCRYPT_TO=other_age_key.recipient, **way.private)
    assert all("_key2" in path.name for path in (tmp_path / "b").glob("*.age"))
    look_into_bucket(8)


def test_the_reader_finds_a_secret(pg17: Server, planted: Planted, tmp_path: Path) -> None:
    """Of a backup that is not encrypted, it is in the file of rows, and in that of roles."""
    env = invoke.environment(pg17, planted.database, BACKUP_DIR=str(tmp_path))
    reader = leaks.watched("backup", env=env, folders=[tmp_path], secrets=planted.secrets)
    found = {leak.rpartition(": ")[2].encode() for leak in reader.leaks if ".sql.gz" in leak}
    assert found == {*planted.secrets}
