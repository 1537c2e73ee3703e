"""python objects.py put|get BUCKET KEY: a stream to an object or back, as `aws s3 cp -` does it.

Parts of 8 MiB, at most ten at a time. aws itself is not required to run the benchmark.
"""

import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import botocore.config
import botocore.session

PART = 8 << 20
AT_ONCE = 10


def main() -> None:
    """Upload standard input, or print an object."""
    action, bucket, key = sys.argv[1:]
    session = botocore.session.get_session()
    config = botocore.config.Config(s3={"addressing_style": "path"}, max_pool_connections=AT_ONCE)
    client = session.create_client(
        "s3", endpoint_url=os.environ["BACKUP_S3_ENDPOINT"], region_name="us-east-1", config=config
    )
    with ThreadPoolExecutor(AT_ONCE) as pool:
        {"put": put, "get": get}[action](pool, client, {"Bucket": bucket, "Key": key})


def put(pool: ThreadPoolExecutor, client: Any, where: dict[str, str]) -> None:
    """Upload standard input."""
    upload = client.create_multipart_upload(**where)["UploadId"]

    def send(number: int, data: bytes) -> dict[str, Any]:
        answer = client.upload_part(**where, UploadId=upload, PartNumber=number, Body=data)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def started() -> Iterator[Future[dict[str, Any]]]:
        number = 0
        while data := sys.stdin.buffer.read(PART):
            number += 1
            yield pool.submit(send, number, data)

    parts = list(_in_order(started()))
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})


def get(pool: ThreadPoolExecutor, client: Any, where: dict[str, str]) -> None:
    """Print an object."""
    size = client.head_object(**where)["ContentLength"]

    def read(start: int) -> bytes:
        part = client.get_object(**where, Range=f"bytes={start}-{start + PART - 1}")
        return bytes(part["Body"].read())

    for data in _in_order(pool.submit(read, start) for start in range(0, size, PART)):
        sys.stdout.buffer.write(data)


def _in_order(started: Iterator[Future[Any]]) -> Iterator[Any]:
    """Yield results in the order of their start, with at most AT_ONCE unfinished."""
    running: deque[Future[Any]] = deque()
    for future in started:
        running.append(future)
        if len(running) == AT_ONCE:
            yield running.popleft().result()
    yield from (future.result() for future in running)


if __name__ == "__main__":
    main()
