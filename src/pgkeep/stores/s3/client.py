"""How to reach a bucket, and the client that does it."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.config
import botocore.loaders
import botocore.session

from .deadline import install

CONNECT_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """How to reach a bucket; credentials come from botocore's own chain."""

    bucket: str
    prefix: str = "backups/"
    endpoint: str | None = None
    region: str | None = None
    max_parts: int = 10_000
    part_size: int | None = None  # bytes of each part; None: parts grow
    timeout: float = 60.0  # seconds without an answer
    limit: float = 21_600.0  # seconds that an upload may lag behind the bytes that are written
    attempts: int = 3  # of each call
    cache: Path | None = None  # folder for copies of small objects

    @property
    def url(self) -> str:
        """The location for people and for --backup."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def create_client(settings: S3Settings) -> Any:
    """Return a client of botocore; it may be shared between threads."""
    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    custom = (
        settings.endpoint
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    config = botocore.config.Config(
        connect_timeout=min(CONNECT_SECONDS, settings.timeout),
        read_timeout=settings.timeout,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=32,
        s3={"addressing_style": "path" if custom else "auto"},
        # Many servers that are not Amazon's refuse newer checksums (trap C1).
        request_checksum_calculation="when_required" if custom else "when_supported",
        response_checksum_validation="when_required",
    )
    client = session.create_client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region or session.get_config_variable("region") or "us-east-1",
        verify=os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or None,
        config=config,
    )
    install(client)
    return client


@functools.cache
def _loader() -> Any:
    """Return the reader of the service's description: one for all, because it is long."""
    return botocore.loaders.create_loader()
