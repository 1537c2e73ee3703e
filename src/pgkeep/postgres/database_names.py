"""Names of databases that wait for a swap or were replaced, and to which database each belongs.

`app__restored_20261122T020000Z` waits for a swap with `app`, and `app__old_20261122T020000Z` was
replaced by one. The server truncates names at 63 bytes, so a long name is not complete in its dated
one. A comment on the database then contains it, in front of the database's own comment.
"""

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from psycopg import sql

from .connection import Connection
from .facts import shared_rows

NAME_LIMIT = 63  # bytes; the server truncates longer names (manual, section 4.1.1)
COMPLETE = "pgkeep: complete restore"  # a comment that begins like this: no restore drops it
REPLACED = "pgkeep: replaced"

_DATED = re.compile(r"__(restored|old)_[0-9]{8}T[0-9]{6}Z$")
_MARK = re.compile(
    rf"(?P<state>{COMPLETE} of|{REPLACED}) (?P<name>\"(?:[^\"\\]|\\.)*+\")(?:\n(?P<own>.*))?",
    re.DOTALL,
)
_FORMER_MARK = re.compile(rf"{COMPLETE} of (.*), which could not be renamed", re.DOTALL)


class State(StrEnum):
    """In which state a database belongs to another one; the word in its dated name."""

    RESTORED = "restored"  # complete, waits for a swap
    OLD = "old"  # was replaced


@dataclass(frozen=True, slots=True)
class Mark:
    """What a comment of pgkeep says about a database."""

    state: State
    of: str  # the complete name of the database that it belongs to
    own: str | None  # the database's own comment

    def text(self) -> str:
        """Return the comment."""
        start = f"{COMPLETE} of" if self.state == State.RESTORED else REPLACED
        # Characters of any language in ASCII: the connection's database can have any encoding.
        return f"{start} {json.dumps(self.of)}" + (f"\n{self.own}" if self.own is not None else "")


def parse_mark(comment: str | None) -> Mark | None:
    """Return what a comment says, if pgkeep has written it."""
    if (match := _MARK.fullmatch(comment or "")) is not None:
        state = State.OLD if match["state"] == REPLACED else State.RESTORED
        with suppress(ValueError):  # only similar to ours: any owner can write a comment
            return Mark(state, json.loads(match["name"]), match["own"])
    if (match := _FORMER_MARK.fullmatch(comment or "")) is not None:
        return Mark(State.RESTORED, match[1], None)
    return None


def state_of(name: str, comment: str | None, target: str) -> State | None:
    """Return in which state a database belongs to a target; None if it does not."""
    if (mark := parse_mark(comment)) is not None:
        return mark.state if mark.of == target else None
    match = _DATED.search(name)
    if match is None or name != target + match[0]:
        return None
    return State(match[1])


def time_of(name: str) -> str:
    """Return the time in a dated name; names without one come before all others."""
    match = _DATED.search(name)
    return match[0].rpartition("_")[2] if match is not None else ""


def dated(name: str) -> tuple[State, datetime] | None:
    """Return state and time in a dated name, None for any other name."""
    match = _DATED.search(name)
    if match is None:
        return None
    try:
        return State(match[1]), datetime.fromisoformat(time_of(name))
    except ValueError:
        return None


def derived(name: str, suffix: str) -> str:
    """Return a name with a suffix, short enough not to be truncated by the server."""
    room = NAME_LIMIT - len(suffix)
    return name.encode()[:room].decode("utf-8", "ignore") + suffix


def free_name(connection: Connection, name: str, state: State) -> str:
    """Return a dated name that no database has, with a resolution of one second."""
    while True:
        dated = derived(name, f"__{state}_{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        if not exists(connection, dated):
            return dated
        time.sleep(0.1)


def exists(connection: Connection, name: str) -> bool:
    """Return whether the server has a database with this name."""
    query = "SELECT FROM pg_catalog.pg_database WHERE datname = %s"
    return connection.execute(query, [name]).fetchone() is not None


def comment_of(connection: Connection, name: str) -> str | None:
    """Return the comment on a database."""
    query = (
        "SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database"
        " WHERE datname = %s"
    )
    rows = shared_rows(connection, query, name)
    return rows[0][0] if rows else None


def own_comment(comment: str | None) -> str | None:
    """Return a comment without what pgkeep has written into it."""
    mark = parse_mark(comment)
    return comment if mark is None else mark.own


def commented(name: str, comment: str | None) -> sql.Composed:
    """Return the statement that sets the comment on a database."""
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), comment)


def renaming(name: str, new: str) -> sql.Composed:
    """Return the statement that renames a database."""
    return sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
        sql.Identifier(name), sql.Identifier(new)
    )


def naming(
    name: str, new: str, comment: str | None, belongs: tuple[State, str] | None
) -> list[sql.Composed]:
    """Return the statements that rename a database and change its comment where that is necessary.

    `belongs` is the state of the database and the database that it belongs to, if the new name is
    to contain both.
    """
    own = own_comment(comment)
    wanted = own
    if belongs is not None and state_of(new, None, belongs[1]) != belongs[0]:
        wanted = Mark(*belongs, own).text()
    return [renaming(name, new), *([commented(new, wanted)] if wanted != comment else [])]
