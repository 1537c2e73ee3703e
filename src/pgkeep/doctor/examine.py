"""Check everything that a backup requires, and report all problems with their fixes."""

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .. import errors as e
from ..backup import preflight, space
from ..backup.choice import choose
from ..backup.findings import Finding
from ..catalog.catalog import Catalog
from ..drill import scratch
from ..model.database_patterns import CONNECTED, DatabaseSelection, Excluded
from ..model.manifest import ServerFacts
from ..postgres import programs, snapshot
from ..postgres.connection import Endpoint
from ..postgres.facts import database_facts, server_facts
from ..sql.encodings import codec
from ..stores.local import LocalStore
from ..stores.store import Store, chunks
from . import kept_databases, schedules

PROBE = (8 << 20) + 1  # bytes: one more than the first part of an upload

# First minor releases without known holes through which a dump or a server takes over the client
# or the server: CVE-2025-8714 and CVE-2025-8715, CVE-2026-18408, CVE-2026-116314 (trap A1.8).
SAFE_MINOR = {14: 25, 15: 20, 16: 16, 17: 12, 18: 7}


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked, and the problems that were found."""

    databases: dict[str, int]  # with the number of their tables
    server: str
    address: str  # host or socket directory, and port
    role: str
    client: str
    stores: dict[str, str]  # by URL: what was found
    encryption: str | None = None  # of new backups: cipher, programs and recipients
    excluded: list[Excluded]  # databases that a pattern of BACKUP_DATABASES does not include
    findings: list[Finding]


def examine(
    endpoint: Endpoint,
    stores: Sequence[Store],
    jobs: int,
    wanted: DatabaseSelection = CONNECTED,
    *,
    chosen: bool = False,
    named: bool = False,
) -> Diagnosis:
    """Connect, check, and report; nothing is changed.

    `wanted` are the databases of a run. Without them the database of the connection is checked,
    which can be chosen or named as for a backup.

    Raises:
        ConnectionFailed, UsageError: nothing more can be checked.

    """
    with endpoint.connect() as connection:
        server = server_facts(connection)
        info = connection.info
        address, role = f"{info.host}:{info.port}", info.user
        left = [_left_over(name) for name in scratch.left_over(connection)]
        left += kept_databases.examine(connection, datetime.now(UTC))
        run = choose(endpoint, connection, wanted) if wanted else None
        names = [info.dbname] if run is None else run.choice.chosen
    unavailable = {} if run is None else run.unavailable
    chosen |= bool(wanted)
    databases = {
        name: _database(endpoint.to(name), jobs, chosen=chosen, named=named)
        for name in names
        if name not in unavailable
    }
    findings = _merged({name: found for name, (_, found) in databases.items()})
    findings += left
    findings += [Finding("error", error.message, error.hint) for error in unavailable.values()]
    unmatched = [] if run is None else run.choice.unmatched
    findings += [Finding("warning", f"no database matches {pattern}") for pattern in unmatched]
    try:
        client = programs.choose(server.major, programs.installations())
        findings += client_findings(client, server.major)
        programs_found = str(client)
    except e.UsageError as error:
        findings.insert(0, Finding("error", error.message, error.hint))
        programs_found = "none of a suitable version"
    findings += schedules.examine(Path("/"), datetime.now(UTC).date())
    states = {}
    for store in stores:
        states[store.url], found = _store(store, server, names)
        findings += found
    return Diagnosis(
        databases={name: tables for name, (tables, _) in databases.items()},
        server=server.version,
        address=address,
        role=role,
        client=programs_found,
        stores=states,
        excluded=[] if run is None else run.choice.excluded,
        findings=findings,
    )


def _store(store: Store, server: ServerFacts, names: Sequence[str]) -> tuple[str, list[Finding]]:
    """Return the state of a store, and what would make a backup into it fail."""
    state, found = _directory(store) if isinstance(store, LocalStore) else probe(store)
    return state, found + [Finding("warning", warning) for warning in _space(store, server, names)]


def _space(store: Store, server: ServerFacts, names: Sequence[str]) -> list[str]:
    if not isinstance(store, LocalStore):
        return []
    try:
        catalog = Catalog(store)
        backups = [catalog.of(server.system_identifier, name) for name in names]
    except e.StoreError:  # reported already
        return []
    return space.warnings(store, [found[-1] for found in backups if found])


def _database(
    endpoint: Endpoint, jobs: int, *, chosen: bool, named: bool
) -> tuple[int, list[Finding]]:
    """Return the number of tables of a database, and what would make its backup fail."""
    try:
        with endpoint.connect() as connection:
            tables = snapshot.tables(connection, codec(database_facts(connection).encoding))
            server = server_facts(connection)
            found = preflight.check(connection, server, tables, jobs + 1)
            found += preflight.emptiness(connection, tables, chosen=chosen, named=named)
            return len(tables), found
    except e.ConnectionFailed as error:
        return 0, [Finding("error", error.message, error.hint)]


def _left_over(name: str) -> Finding:
    return Finding(
        "warning",
        f"database {name} was left behind by a drill that was killed",
        f"DROP DATABASE {name}; or run pgkeep drill with this server, which drops it.",
    )


def _merged(found: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """Return each finding once, with the names of its databases if not all have it."""
    owners: dict[Finding, list[str]] = {}
    for name, findings in found.items():
        for finding in findings:
            owners.setdefault(finding, []).append(name)
    return [
        finding
        if len(names) == len(found)
        else finding._replace(message=f"{', '.join(names)}: {finding.message}")
        for finding, names in owners.items()
    ]


def client_findings(client: programs.Installation, server: int) -> list[Finding]:
    """Return what is known about client programs that read a server of this major version."""
    found = []
    if client.version[1] < SAFE_MINOR.get(client.major, 0):
        found.append(
            Finding(
                "warning",
                f"client programs {client} have known security holes",
                f"Update them to {client.major}.{SAFE_MINOR[client.major]} or newer.",
            )
        )
    if client.major > server:
        # For example NOT NULL of an inherited column, which pg_dump 18 writes as a constraint.
        found.append(
            Finding(
                "note",
                f"client programs {client} are newer than the server: PostgreSQL {server} can"
                " reject definitions that they write, newer servers accept them",
                f"Install the client programs of PostgreSQL {server}.",
            )
        )
    return found


def _directory(store: LocalStore) -> tuple[str, list[Finding]]:
    text = f"{store.free() / 1e9:.1f} GB free"
    existing = store.existing()
    if not os.access(existing, os.W_OK | os.X_OK):
        return text, [Finding("error", f"directory {existing} is not writable")]
    return text, []


def probe(store: Store) -> tuple[str, list[Finding]]:
    """Write a file that is large enough for two parts, read it, remove it.

    In the same way as a backup: a small object can be allowed where a large one is not (trap C28).
    """
    name = f".pgkeep-doctor-{secrets.token_hex(8)}"
    data = secrets.token_bytes(PROBE)
    findings = []
    allowed = ["write"]
    try:
        with store.create(name) as upload:
            upload.write(data)
            upload.seal()
            upload.publish()
    except e.StoreError as error:
        return "out of reach", [Finding("error", error.message, error.hint)]
    for right, act in (
        ("read", lambda: _check_reading(store, name, data)),
        ("list", lambda: list(store.items())),
        ("remove", lambda: store.delete(name)),
    ):
        try:
            act()
            allowed.append(right)
        except e.AccessDenied:
            pass  # reported below, by what is not in `allowed`
        except e.StoreError as error:
            findings.append(Finding("error", error.message, error.hint))
    if "read" not in allowed:
        findings.append(
            Finding("warning", f"{store.url} cannot be read: restores require another identity")
        )
    if "remove" not in allowed:
        left = store.url_of(name)
        findings.append(
            Finding("warning", f"{store.url} cannot be pruned by this identity ({left} stays)")
        )
    return f"can {', '.join(allowed)}", findings


def _check_reading(store: Store, name: str, data: bytes) -> None:
    with contextlib.closing(store.open(name)) as source:
        if b"".join(chunks(source)) != data:
            raise e.StoreError(f"{source.name} contains other bytes than were written")
