"""A real S3 server: SeaweedFS, started by the tests, with identities of different rights."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import botocore.config
import botocore.exceptions
import botocore.session
import pytest

from pgkeep.catalog.small_files import SUMMARY
from pgkeep.stores.s3.client import S3Settings
from pgkeep.stores.s3.store import S3Store

WEED = Path(sys.executable).parent / "weed"
# Name: what it may do.
IDENTITIES = {
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "writer": ["Write"],
    "reader": ["Read", "List"],
}


def secret(identity: str) -> str:
    return f"{identity}-secret-of-the-tests"


class Buckets:
    """The server; every test makes a bucket of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._clients: dict[str, Any] = {}
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, or once more where somebody has taken a port meanwhile."""
        if self.port:
            self._start()
            return
        for left in (2, 1, 0):
            self._ports = free_ports(4)
            self.port = self._ports[3]
            try:
                self._start()
            except AssertionError:
                self.stop()
                if not left:
                    raise
            else:
                return

    def _start(self) -> None:
        config = self._folder / "s3.json"
        config.write_text(
            json.dumps({"identities": [_identity(*one) for one in IDENTITIES.items()]})
        )
        # Each bucket has volumes of its own; by default seven at once, which takes time.
        (self._folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        master, volume, filer, s3 = self._ports
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
            [
                WEED, f"-logdir={self._folder}",
                "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
                "-filer", "-s3", f"-s3.port={s3}", f"-s3.config={config}",
                f"-filer.localSocket={self._folder}/filer", f"-s3.localSocket={self._folder}/s3",
                "-s3.port.iceberg=0", "-s3.port.lance=0",
                "-master.volumeSizeLimitMB=64", "-volume.max=1000",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            cwd=self._folder,
        )  # fmt: skip
        self._wait()

    @property
    def pid(self) -> int | None:
        """The leader of its process group, while it runs."""
        return None if self._process is None else self._process.pid

    def stop(self, number: int = signal.SIGKILL) -> None:
        while self._clients:
            self._clients.popitem()[1].close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            self._process.wait()
            self._process = None

    def client(self, identity: str = "admin") -> Any:
        """Return a client, made once: that takes a tenth of a second of processor time."""
        if identity not in self._clients:
            self._clients[identity] = self._new_client(identity)
        return self._clients[identity]

    def _new_client(self, identity: str) -> Any:
        return botocore.session.get_session().create_client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=identity, aws_secret_access_key=secret(identity),
            config=botocore.config.Config(
                s3={"addressing_style": "path"}, request_checksum_calculation="when_required"
            ),
        )  # fmt: skip

    def bucket(self) -> str:
        """Make a bucket."""
        self._count += 1
        name = f"bucket-{os.getpid()}-{self._count}"
        self.client().create_bucket(Bucket=name)
        return name

    def fill(self, bucket: str, keys: Iterable[str]) -> None:
        """Put many small objects: the file server below takes them without signatures."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._ports[2])) as filer:
            for key in keys:
                filer.request("PUT", f"/buckets/{bucket}/{key}", b"x")
                answer = filer.getresponse()
                answer.read()
                assert answer.status == 201, answer.status

    def environment(self, bucket: str, identity: str = "admin", **extra: str) -> dict[str, str]:
        """Return the variables with which pgkeep uses the bucket."""
        return {
            "BACKUP_S3_BUCKET": bucket,
            "BACKUP_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": identity,
            "AWS_SECRET_ACCESS_KEY": secret(identity),
            "AWS_EC2_METADATA_DISABLED": "true",
            **extra,
        }

    def _wait(self) -> None:
        """Wait until somebody can write, which is later than that the port is open."""
        deadline = time.monotonic() + 60
        bucket = f"probe-{os.getpid()}"
        while True:
            assert self._process is not None
            assert self._process.poll() is None, (self._folder / "log").read_text()[-4000:]
            client = self.client()
            try:
                if bucket not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket=bucket)
                client.put_object(Bucket=bucket, Key="probe", Body=b"x" * 2000)
                return
            except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)


def _identity(name: str, actions: list[str]) -> dict[str, Any]:
    key = {"accessKey": name, "secretKey": secret(name)}
    return {"name": name, "credentials": [key], "actions": actions}


def free_ports(count: int) -> list[int]:
    """Return ports that are free, and so are those 10,000 above, which SeaweedFS takes too.

    All lie below those that the system gives to clients, and none is 10,000 above another one.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, 20_000)  # noqa: S311 - another worker chooses others
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            if port not in found:
                found.append(port)
    return found


def unfinished(client: Any, bucket: str) -> list[str]:
    """Return the keys of the uploads that were begun and not ended."""
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
    return [one["Key"] for page in pages for one in page.get("Uploads", ())]


def keys(client: Any, bucket: str) -> list[str]:
    """Return the keys of the files of backups: without records of runs and the summary."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = [one["Key"] for page in pages for one in page.get("Contents", ())]
    return [key for key in found if "/records/" not in key and not key.endswith(SUMMARY)]


def uploaded(buckets: Buckets, folder: Path) -> str:
    """Put the files of a daily backup into a new bucket; return its name."""
    bucket = buckets.bucket()
    for file in folder.iterdir():
        if file.is_file() and file.suffix != ".lock":
            key = f"backups/daily/{file.name}"
            buckets.client().put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
    return bucket


def bucket_store(
    buckets: Buckets, monkeypatch: pytest.MonkeyPatch, identity: str = "admin", **more: object
) -> S3Store:
    bucket = str(more.pop("bucket", "")) or buckets.bucket()
    for name, value in buckets.environment(bucket, identity).items():
        monkeypatch.setenv(name, value)
    settings = {"endpoint": buckets.endpoint, "part_size": 5 << 20, **more}
    return S3Store(S3Settings(bucket=bucket, **settings))  # type: ignore[arg-type]
