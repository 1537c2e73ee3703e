"""Collect the objects that fail while a restore continues (--keep-going)."""

import threading

from .. import errors as e
from ..artifact.file import Object
from ..sql import statements
from ..sql.statements import Name

_NOUN = {True: "object", False: "objects"}


class FailedObjects:
    """What failed, in order, with the server's messages; filled by several threads."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._lock = threading.Lock()
        self._messages: list[str] = []
        self._tables: set[Name] = set()  # whose rows are missing

    def __bool__(self) -> bool:
        return bool(self._messages)

    def record(self, entry: Object, text: bytes, error: e.RestoreFailed) -> None:
        """Remember an object that the server refused."""
        with self._lock:
            self._messages.append(error.message)
            if entry.type in ("TABLE", "TABLE DATA"):
                # Of a line end in a name the comment has only a blank, the rows have the name.
                own = statements.own_name(entry.type, text, self._codec)
                self._tables.add(own or (entry.schema, entry.name))

    def note(self, error: e.RestoreFailed) -> None:
        """Remember what failed but is no object, such as a setting of the database."""
        with self._lock:
            self._messages.append(error.message)

    def lacks(self, table: Name) -> bool:
        """Tell whether a table could not be created, or its rows not loaded."""
        return table in self._tables

    def error(self, kept: str, command: str) -> e.RestoreFailed:
        """Return the error that ends the restore; the command puts the database in its place."""
        count = len(self._messages)
        return e.RestoreFailed(
            f"{count} {_NOUN[count == 1]} could not be restored, the database is kept as {kept}",
            hint=f"To use it as it is: {command}",
            details=self._messages,
        )
