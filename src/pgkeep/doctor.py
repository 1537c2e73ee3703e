"""Look at everything that a backup needs, and tell all that is wrong with it."""

import os
import shutil
from pathlib import Path

import msgspec

from . import errors as e
from . import preflight, programs, snapshot
from .database import Endpoint, codec, database_facts, server_facts
from .preflight import Finding

# First minor releases without known holes through which a dump or a server takes over the client
# or the server: CVE-2025-8714 and CVE-2025-8715, CVE-2026-18408, CVE-2026-116314 (trap A1.8).
SAFE_MINOR = {14: 25, 15: 20, 16: 16, 17: 12, 18: 7}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at, and what was found."""

    database: str
    server: str
    tables: int
    client: str
    directory: str
    free: str
    findings: list[Finding]


def examine(endpoint: Endpoint, directory: Path, jobs: int) -> Report:
    """Connect, look, and report; nothing is changed.

    Raises:
        ConnectionFailed: there is nothing more to look at then.

    """
    with endpoint.connect() as connection:
        server = server_facts(connection)
        facts = database_facts(connection)
        tables = snapshot.tables(connection, codec(facts.encoding))
        findings = preflight.check(connection, server, tables, jobs + 1)
    try:
        client = programs.choose(server.major, programs.installations())
        findings += _client(client)
        said = str(client)
    except e.UsageError as error:
        findings.insert(0, Finding("error", error.message, error.hint))
        said = "none that fits"
    free, finding = _directory(directory)
    return Report(
        database=facts.name,
        server=server.version,
        tables=len(tables),
        client=said,
        directory=str(directory),
        free=free,
        findings=findings + finding,
    )


def _client(client: programs.Installation) -> list[Finding]:
    safe = SAFE_MINOR.get(client.major)
    if safe is None or client.version[1] >= safe:
        return []
    return [
        Finding(
            "warning",
            f"client programs {client} have known security holes",
            f"Update them to {client.major}.{safe} or newer.",
        )
    ]


def _directory(directory: Path) -> tuple[str, list[Finding]]:
    existing = directory.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    text = f"{free / 1e9:.1f} GB free"
    if not os.access(existing, os.W_OK | os.X_OK):
        return text, [Finding("error", f"directory {existing} is not writable")]
    return text, []
