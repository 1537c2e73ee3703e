"""The catalogs of a restored database; text is returned as the backup file has it.

Names are bytes of the database's encoding, decoded as those of the file are.
"""

from typing import Any

from ..postgres.connection import Connection
from ..sql.encodings import codec


class RestoredDatabase:
    """The restored database's catalogs; text is given back as the artifact has it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.version = connection.info.server_version
        encoding = connection.info.parameter_status("server_encoding") or "UTF8"
        self.codec = codec(encoding)
        # Names are fetched as bytes, and go back as they are.
        connection.execute(f"SET client_encoding = '{encoding}'".encode())

    def ask(self, query: str, kinds: str) -> list[tuple[Any, ...]]:
        """Run a query; of its columns some are (n)ames, some (s)ql as bytes, some (v)alues."""
        names = [f"c{number}" for number in range(len(kinds))]
        columns = [
            name if kind == "v" else f"pg_catalog.convert_to({name}::pg_catalog.text, e.name)"
            for name, kind in zip(names, kinds, strict=True)
        ]
        rows = self.connection.execute(
            f"SELECT {', '.join(columns)} FROM ({query}) AS q({', '.join(names)}),"
            " pg_catalog.getdatabaseencoding() AS e(name)".encode()
        )
        return [
            tuple(
                value.decode(self.codec, "backslashreplace") if kind == "n" and value else value
                for value, kind in zip(row, kinds, strict=True)
            )
            for row in rows
        ]

    def row(self, query: bytes) -> tuple[Any, ...]:
        """Run a query of bytes that gives one row."""
        row = self.connection.execute(query).fetchone()
        assert row is not None  # noqa: S101 - an aggregate, or a sequence, gives a row
        return row
