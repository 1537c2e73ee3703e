"""A restore of one table reads and decrypts little of an encrypted file."""

import os
import subprocess

from pgkeep.crypt import age_format, age_identities, age_source
from pgkeep.crypt.age_format import CHUNK, SEALED
from pgkeep.crypt.age_source import AgeSource
from pgkeep.crypt.opening import Keys
from pgkeep.postgres.server import Server
from pgkeep.stores.memory import MemorySource
from tests.conftest import DatabaseFactory
from tests.crypt.conftest import Encrypted
from tests.support import invoke, servers
from tests.support.buckets import Buckets, uploaded
from tests.support.private_keys import AgeKey
from tests.support.proxy import proxy


class Counting(MemorySource):
    """Counts what is read."""

    reads: list[tuple[int, int]]

    def read(self, start: int, length: int) -> bytes:
        self.reads.append((start, length))
        return super().read(start, length)


def test_ranges(age_key: AgeKey) -> None:
    """Opening takes two reads; each range takes one, of the chunks that it lies in."""
    plain = os.urandom(40 * CHUNK + 1234)
    data = subprocess.run(
        ["age", "-r", age_key.recipient], input=plain, capture_output=True, check=True
    ).stdout
    source = Counting("FILE", data)
    source.reads = []
    keys = Keys([age_key.file])

    def file_key(header: age_format.Header) -> bytes:
        key = age_identities.file_key(header, keys.identities)
        assert key is not None
        return key

    opened = AgeSource(source, file_key)
    assert opened.size == len(plain)
    assert [length for _, length in source.reads] == [age_source.HEAD, 1234 + SEALED - CHUNK]
    for start, length, chunks in (
        (0, 1, 1), (CHUNK - 1, 2, 2), (CHUNK, CHUNK, 1), (5 * CHUNK + 7, 3 * CHUNK, 4),
        (39 * CHUNK + 1, CHUNK, 2), (40 * CHUNK, 1234, 0), (len(plain) - 1, 1, 0), (17, 0, 0),
    ):  # fmt: skip
        source.reads.clear()
        assert opened.read(start, length) == plain[start : start + length]
        assert len(source.reads) == (chunks > 0)
        assert sum(length for _, length in source.reads) <= chunks * SEALED


def test_requests(
    pg17: Server, encrypted: Encrypted, age_key: AgeKey, buckets: Buckets, database: DatabaseFactory
) -> None:
    """An encrypted file takes no more requests to a bucket than one that is not encrypted."""
    found = {}
    for backup in (encrypted.plain, encrypted.age):
        bucket = uploaded(buckets, backup.parent)
        url = f"s3://{bucket}/backups/daily/{backup.name}"
        target = database(pg17)
        servers.sql(pg17, target, "create schema app")
        restore = (f"--backup={url}", "--table=app.customers", f"--target-db={target}", "--yes")
        with proxy(buckets.port) as counted:
            env = buckets.environment(
                bucket, BACKUP_S3_ENDPOINT=counted.endpoint, BACKUP_IDENTITY_FILE=str(age_key.file)
            )
            for command in (("show", url), ("restore", *restore)):
                before = len(counted.requests)
                invoke.run(*command, env=invoke.environment(pg17, **env))
                found[command[0], backup] = len(counted.requests) - before
        assert servers.sql(pg17, target, "select count(*) from app.customers") == [(50,)]
    assert found["show", encrypted.age] <= found["show", encrypted.plain]
    assert found["restore", encrypted.age] <= found["restore", encrypted.plain]
