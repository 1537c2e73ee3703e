"""The settings of every session that loads: values and meaning do not follow the target's own.

What ALTER DATABASE, ALTER ROLE or the server's configuration set there is meant for applications.
`postgres/connection.py` fixes what also a dump fixes (DateStyle, IntervalStyle and others).
"""

from collections.abc import Iterator

import psycopg
from psycopg import sql

from ...artifact.file import Artifact, Meta
from ...postgres.connection import Connection
from ...sql import statements
from .session import Statement

# pg_dump writes some of these into its header, but not every dump has one.
_PINNED = {
    "array_nulls": "on",  # off reads NULL in an array as a string of this name
    "check_function_bodies": "off",
    "default_transaction_isolation": "read committed",
    "escape_string_warning": "off",
    "restrict_nonsystem_relation_kind": "",  # a materialized view reads views
    "session_replication_role": "origin",  # replica checks no foreign key and fires no trigger
    "xmloption": "content",
}
# What the user chooses in PGOPTIONS, PGTZ or the connection string is meant.
_CHOSEN = frozenset({"lc_monetary", "session_replication_role", "TimeZone"})


def header(
    connection: Connection, artifact: Artifact | None, *, definitions: bool = True
) -> list[Statement]:
    """Return the statements with which a session begins to load.

    `definitions` says that objects are created, and values are computed for them. Otherwise rows go
    into existing tables, whose triggers and checks know the time zone of their own database.
    """
    meta = artifact.index.meta if artifact is not None else None
    found: list[Statement] = [*_pinned(connection, meta, definitions=definitions)]
    if artifact is not None:
        found += _known_settings(connection, artifact)
    return found


def is_available(connection: Connection, name: str, value: str) -> bool:
    """Tell whether the server knows a locale or a time zone; nothing is set outside."""
    try:
        connection.execute("SELECT pg_catalog.set_config(%s, %s, true)", [name, value])
    except psycopg.errors.InvalidParameterValue:
        return False
    return True


def is_chosen(connection: Connection, name: str) -> bool:
    """Tell whether the user has set it for the connection."""
    query = "SELECT source OPERATOR(pg_catalog.=) 'client' FROM pg_catalog.pg_settings"
    row = connection.execute(f"{query} WHERE name = %s".encode(), [name]).fetchone()
    return row is not None and bool(row[0])


def _pinned(
    connection: Connection, meta: Meta | None, *, definitions: bool
) -> Iterator[sql.Composed]:
    recorded: dict[str, str | None] = {}
    if meta is not None:
        recorded["lc_monetary"] = meta.lc_monetary
        recorded["TimeZone"] = meta.timezone if definitions else None
    # The plan has refused a locale of money that is missing, unless nothing is written in it.
    wanted = _PINNED | {
        name: value
        for name, value in recorded.items()
        if value is not None and is_available(connection, name, value)
    }
    rows = connection.execute(
        "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY (%s)", [list(wanted)]
    ).fetchall()
    for name, setting in rows:
        chosen = name in _CHOSEN and is_chosen(connection, name)
        if setting != wanted[name] and not chosen:
            yield sql.SQL("SELECT pg_catalog.set_config({}, {}, false)").format(name, wanted[name])


def _known_settings(connection: Connection, artifact: Artifact) -> list[bytes]:
    """Return the header's SET statements that the target server knows (traps A1.2, A1.3)."""
    if not artifact.index.members:
        return []
    objects = artifact.index.objects_by_member()[0]
    text = artifact.read(0)[: objects[0].start if objects else None]
    names = {row[0] for row in connection.execute("SELECT name FROM pg_catalog.pg_settings")}
    names.remove("lc_monetary")  # the index has it too
    return [
        match.group()
        for match in statements.SETTING.finditer(text)
        if match["name"] is None or match["name"].decode() in names
    ]
