"""The result of a drill, for people, for JSON and for the manifest."""

from datetime import datetime

import msgspec

from .checks import DrillCheck


class DrillResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a drill has shown."""

    passed: bool
    backup: str
    database: str | None
    taken: datetime | None
    began: datetime
    server: str | None  # version of the one that it was restored into
    temporary: bool  # whether that was one of our own
    pgkeep: str
    seconds: dict[str, float]  # by phase, in their order
    size: int  # bytes of the artifact
    downloaded: int  # bytes
    raw_bytes: int  # of SQL
    tables: int
    rows: int
    checks: list[DrillCheck]
    findings: list[str]
    damaged: bool = False  # the file or its side files are, so that its copy may be good
    unproved: list[str] = []  # what only a superuser could restore
    isolation: list[str] = []  # of a server of our own: "user", "namespaces"
    warnings: list[str] = []


ISOLATION = {
    "user": "its own user",
    "namespaces": "only its own files, no network",
}


def isolation_of(result: DrillResult) -> str:
    """Describe how the temporary server was isolated."""
    return ", ".join(ISOLATION[kind] for kind in result.isolation) or "none"
