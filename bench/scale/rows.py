"""A large database whose rows are generated on the server."""

import dataclasses

from .schemas import BACKUP, DRILL, RESTORE, VERIFY
from .subject import Stage, Subject

_BYTES = 1000  # of a row, about
_TABLES = 4


def _rows(stage: Stage, gigabytes: int) -> None:
    rows = gigabytes * 10**9 // _BYTES // _TABLES
    stage.create("")
    for number in range(_TABLES):
        # In the transaction that creates it, rows of a table are not written to the WAL.
        stage.lab.psql("app", f"""
            BEGIN;
            CREATE TABLE rows_{number} (id bigint, body text);
            ALTER TABLE rows_{number} ALTER body SET STORAGE EXTERNAL;
            INSERT INTO rows_{number}
                SELECT i, repeat(md5(i::text) || ' text of a row ', 20)
                FROM generate_series(1, {rows}) AS i;
            COMMIT""")  # fmt: skip


_FLAT = tuple(dataclasses.replace(command, flat=True) for command in (BACKUP, VERIFY, RESTORE))
ROWS = Subject(
    title="Gigabytes of rows",
    text=f"{_TABLES} tables of rows of about {_BYTES} bytes.",
    sizes=(5, 10, 20),
    build=_rows,
    commands=(*_FLAT, DRILL),
    sums=" UNION ALL ".join(
        f"SELECT count(*), sum(id), sum(length(body)) FROM rows_{number}"
        for number in range(_TABLES)
    ),
    settings={"max_wal_size": "2GB"},
    needs=60 << 30,
)
