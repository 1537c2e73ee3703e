"""From every major version into newer ones: the commonest real restore."""

import gzip
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from pgkeep.postgres import versions
from pgkeep.postgres.server import Server
from pgkeep.sql import script
from tests.conftest import DatabaseFactory
from tests.support import compare, invoke
from tests.support.invoke import run_python
from tests.support.servers import SHOP, Servers, drop, dump, psql, psql_bytes

SOURCES = versions.SUPPORTED[:-1]


@pytest.mark.parametrize("source", SOURCES, ids=lambda major: f"from pg{major}")
def test_into_newer_majors(
    source: int, servers: Servers, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A1.2, A1.3, A4.8, E18: the rows, and the definitions as psql makes them of pg_dump's.

    Of a database that every build can have; the one with everything needs ICU and lz4. Into the
    next version and the newest one; `make versions` tests all others.
    """
    shop = database(servers(source))
    psql(servers(source), shop, input=SHOP)
    artifact = invoke.backup(servers(source), shop, tmp_path)
    definitions = dump(servers(source), shop, "--schema-only")
    expected = compare.facts(servers(source), shop, database=False)
    dsn = make_conninfo("", **servers(source).params, dbname="postgres")
    invoke.run("drill", f"--backup={artifact}", f"--server={dsn}", env=invoke.environment())
    for major in sorted({source + 1, versions.NEWEST}):
        server = servers(major)
        by_hand = database(server)
        psql_bytes(server, by_hand, script=definitions)
        target = f"from {source} into {major}"
        try:
            invoke.restore(server, artifact, target)
            assert compare.facts(server, target, database=False) == expected
            assert compare.schema(server, target, major) == compare.schema(server, by_hand, major)
        finally:
            drop(server, target)


MARKED = b"""CREATE TABLE public.t (
    "a ""b" integer
);
ALTER TABLE ONLY public.t ALTER COLUMN "a ""b" SET (pg_attver=26496088);
ALTER TABLE ONLY public.t ALTER COLUMN c SET (n_distinct=5, pg_attver=26496088);
ALTER TABLE ONLY public.t ALTER COLUMN d SET (n_distinct=5);
ALTER TABLE ONLY public.t ALTER COLUMN e SET DEFAULT 'pg_attver=';
"""
UNMARKED = b"""CREATE TABLE public.t (
    "a ""b" integer
);
ALTER TABLE ONLY public.t ALTER COLUMN c SET (n_distinct=5);
ALTER TABLE ONLY public.t ALTER COLUMN d SET (n_distinct=5);
ALTER TABLE ONLY public.t ALTER COLUMN e SET DEFAULT 'pg_attver=';
"""


def test_by_programs_that_are_older_than_the_server(
    pg15: Server, pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A1.3: what they do not know to be the server's own is no part of a dump."""
    assert script.without_marks(MARKED) == UNMARKED
    shop = database(pg15)
    psql(pg15, shop, input=SHOP)
    env = invoke.environment(pg15, shop, BACKUP_DIR=str(tmp_path), PATH="/proc/nowhere")
    done = run_python("import pgkeep.postgres.programs as p; p.FOLDERS = ()", "backup", env=env)
    assert done.returncode == 0, done.stderr
    artifact = next(path for path in tmp_path.glob("*.sql.gz") if "globals" not in path.name)
    sql = gzip.decompress(artifact.read_bytes())
    assert b"-- Dumped by pg_dump version 17" in sql
    assert b"pg_attver" not in sql
    invoke.restore(pg17, artifact, target := f"{shop}_17")
    try:
        facts = [compare.facts(*one, database=False) for one in ((pg15, shop), (pg17, target))]
        assert facts[0] == facts[1]
    finally:
        drop(pg17, target)
