"""Readers of names and answers: names of files, pgkeep.toml, what a bucket answers."""

import io
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from botocore.awsrequest import AWSResponse

from pgkeep import config
from pgkeep import errors as e
from pgkeep.foreign import names as foreign_names
from pgkeep.model import cluster, naming, record
from pgkeep.stores.s3 import deadline
from pgkeep.stores.s3.bucket import Bucket, marked
from pgkeep.stores.s3.client import S3Settings
from pgkeep.stores.store import Item

from .checks import Broken, text_of

_BUCKET = S3Settings(
    bucket="b", prefix="backups/", endpoint="http://127.0.0.1:9", region="us-east-1", attempts=1
)


def read_file_name(data: bytes) -> None:
    """The name of any file in a store."""
    name = text_of(data)
    found = naming.parse(name)
    if found is not None:
        if name not in found.files:
            raise Broken(f"{name!r} is none of {found.files}")
        if any("/" in file or "\0" in file for file in found.files):
            raise Broken(f"a backup has the files {found.files}")
        assert found.of_file(name).cipher == found.cipher
    side = naming.side_names(name)
    if side is not None and naming.is_artifact(name) and any("/" in file for file in side):
        raise Broken(f"side files {side}")
    naming.is_whole_id(name)
    record.parse(name)
    cluster.described([name])
    cluster.short_form(name)
    marked(name)


def guess_name(data: bytes) -> None:
    """The name of another tool's dump."""
    folder, _, name = text_of(data).partition("/")
    for place in (folder, "last", "daily", "weekly", "monthly"):
        foreign_names.guess(name, place, UTC)


def read_config(data: bytes) -> None:
    """pgkeep.toml; names of files in it lead nowhere."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "pgkeep.toml"
        path.write_bytes(data)
        for found in config.load({config.CONFIG_FILE: str(path)}):
            str((found.target, found.settings, found.policy, found.connection, found.encrypts))


class _Raw(io.BytesIO):
    """The body of an answer, as urllib3 has it."""

    def stream(self, **_: object) -> Iterator[bytes]:
        yield self.read()

    def release_conn(self) -> None:
        pass


class _Answer:
    """What the bucket answers next."""

    status = 200
    headers: Mapping[str, str] = MappingProxyType({})
    body = b""

    def send(self, request: Any, **_: object) -> AWSResponse:
        """Count the attempts, as a connection does: some answers redirect again and again."""
        limit = getattr(deadline._local, "deadline", None)
        if limit is not None:
            limit.begin(None)
        return AWSResponse(request.url, self.status, self.headers, _Raw(self.body))


ANSWER = _Answer()


@cache
def answered_bucket() -> Bucket:
    """Return a bucket whose requests are answered here, before they are sent."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    bucket = Bucket(_BUCKET)
    bucket.client.meta.events.register("before-send.s3", ANSWER.send)
    return bucket


def read_answer(data: bytes) -> None:
    """Status, header and body of an answer to each kind of request."""
    status, headers, body = ([*data.split(b"\n\n", 2), b"", b""])[:3]
    ANSWER.status = int(status) if status.isdigit() and len(status) == 3 else 200
    lines = [line.partition(": ") for line in headers.decode("latin-1").split("\n")]
    ANSWER.headers = {name: value for name, _, value in lines if name}
    ANSWER.body = body
    bucket = answered_bucket()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dateutil warns of unknown time zones
        for request in _REQUESTS:
            with suppress(e.StoreError):
                request(bucket)


def _list(bucket: Bucket) -> None:
    for number, item in enumerate(bucket.objects()):
        if bucket.key(item.name) != f"backups/{item.name}" and "/" in item.name:
            raise Broken(f"an object {item.name!r}")
        if number > 100:
            return


_REQUESTS = (
    _list,
    lambda bucket: bucket.size("x"),
    lambda bucket: bucket.load(Item("x", 10), 1000),
    lambda bucket: bucket.read("x", 0, 5),
    lambda bucket: bucket.delete("x"),
    lambda bucket: bucket.retained_until("x"),
    lambda bucket: bucket.start_upload("x"),
    lambda bucket: bucket.uploads(),
    lambda bucket: bucket.named("x"),
)


READERS = (read_file_name, guess_name, read_config, read_answer)
