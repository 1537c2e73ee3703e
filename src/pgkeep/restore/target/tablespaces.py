"""Find the tablespaces that a backup names, and restore without them."""

import re
from collections.abc import Collection, Iterable

import msgspec

from ...artifact.file import Object
from ...postgres.connection import Connection
from ...postgres.facts import shared_rows
from ...sql import statements

REMEDY = "Create them, or restore into the default tablespace with --no-tablespaces."
_SETTING = re.compile(
    r"""^SET default_tablespace = (?P<name>"(?:[^"]|"")++"|[^'"\s;]+);$""", re.MULTILINE
)


def named(objects: Iterable[Object]) -> set[str]:
    """Return the tablespaces of objects."""
    return {
        statements.unquoted(match["name"].encode())
        for entry in objects
        for match in _SETTING.finditer(entry.settings)
    }


def missing(connection: Connection, names: Collection[str]) -> list[str]:
    """Return the tablespaces that the server does not have."""
    if not names:
        return []
    rows = shared_rows(connection, "SELECT spcname FROM pg_catalog.pg_tablespace")
    return sorted(set(names) - {row[0] for row in rows})


def without(entry: Object, skipped: Collection[str] | None) -> Object:
    """Return an object in the default tablespace instead of these; None are all."""
    settings = _SETTING.sub(
        lambda match: (
            "SET default_tablespace = '';"
            if skipped is None or statements.unquoted(match["name"].encode()) in skipped
            else match[0]
        ),
        entry.settings,
    )
    return (
        entry if settings == entry.settings else msgspec.structs.replace(entry, settings=settings)
    )
