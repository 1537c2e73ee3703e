"""Choose the search path for the SQL of a dump, where an empty one does not work.

pg_dump's SQL qualifies every name, so another path changes only what it cannot qualify. Names of
pg_catalog it leaves unqualified: pg_catalog stays first, in any search path of the database.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum

from psycopg import sql

from ..artifact.file import Meta
from ..model.manifest import Resolution
from ..postgres.connection import Connection

NAMED = 7  # objects in one message


class SearchPath(StrEnum):
    """With which search path the objects of a backup are created."""

    EMPTY = "empty"
    DATABASE = "database"


def loading(meta: Meta) -> sql.Composed:
    """Return the statement for a database that is made of a backup: the backup's own setting."""
    prefix = "search_path="
    own = [
        setting.value.removeprefix(prefix)
        for setting in meta.database.settings
        if setting.role is None and setting.value.startswith(prefix)
    ]
    return _statement(sql.Literal(own[0]) if own else None, _schemas(meta))


def existing(meta: Meta) -> sql.Composed:
    """Return the statement for an existing database: the search path of its sessions."""
    return _statement(None, _schemas(meta))


def warning(objects: Sequence[str]) -> str:
    """Say what an empty search path does to some objects, the first ones of many."""
    more = f" and {len(objects) - NAMED} more" if len(objects) > NAMED else ""
    return (
        f"{', '.join(objects[:NAMED])}{more} may fail, or give other results than in the source:"
        " use --search-path=database"
    )


def concerns(resolution: Resolution, relations: Collection[str]) -> bool:
    """Whether an object is a part of one of these relations, named without quotes."""
    name = resolution.object.replace('"', "")
    own = name.partition(" ")[2]
    return (
        own in relations
        or own.rpartition(" of ")[2] in relations
        or (name.startswith("column ") and own.rpartition(".")[0] in relations)
    )


@contextlib.contextmanager
def empty(connection: Connection) -> Iterator[None]:
    """Let our own queries in a transaction see pg_catalog first; afterwards all is as before."""
    with connection.transaction(force_rollback=True):
        connection.execute("SELECT pg_catalog.set_config('search_path', '', true)")
        yield


def _schemas(meta: Meta) -> list[str]:
    """Return the schemas of the operators that SQL cannot name."""
    return sorted({
        schema
        for resolution in meta.resolutions
        for use in resolution.uses
        for schema in use.schemas
    } - {"pg_catalog"})  # fmt: skip


def _statement(own: sql.Composable | None, schemas: Sequence[str]) -> sql.Composed:
    default = sql.SQL(
        "(SELECT reset_val FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=)"
        " 'search_path')"
    )
    last = sql.SQL(", ").join(map(sql.Identifier, schemas)).as_string(None)
    return sql.SQL(
        "SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', 'pg_catalog',"
        " NULLIF({}, ''), NULLIF({}, '')), false)"
    ).format(own or default, last)
