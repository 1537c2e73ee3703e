"""The maintenance database and the templates keep their names and their contents."""

from pathlib import Path

from pgkeep.postgres.server import Server
from tests.support import invoke, servers

OIDS = "select array_agg(oid order by oid) from pg_database where datname ~ '^template|^postgres$'"


def test_databases_that_are_not_replaced(pg17: Server, app: str, tmp_path: Path) -> None:
    """E16, E17: of every way to fill a template, and to rename the database that all connect to."""
    invoke.backup(pg17, app, tmp_path)
    env = invoke.environment(pg17, "postgres", BACKUP_DIR=str(tmp_path))
    before = servers.sql(pg17, "postgres", OIDS)

    def said(*args: str, code: int = 9) -> str:
        return invoke.run(*args, env=env, code=code)

    latest = ("restore", "--latest", f"--database={app}", "--yes")
    for template in ("template0", "template1"):
        for way in ((), ("--in-place",), ("--drop-existing",), ("--no-swap",), ("--table=t",)):
            found = said(*latest, f"--target-db={template}", *way)
            assert f"database {template} is a template of the server" in found
            assert "--target-db=NAME" in found
    assert "is not replaced" in said(*latest, "--target-db=postgres", "--drop-existing")
    for command in ("swap", "undo"):
        for name in ("postgres", "template1"):
            assert f"database {name} is not replaced" in said(command, name, "--yes")
    assert "database postgres is not replaced" in said("swap", app, "--from=postgres", "--yes")
    assert servers.sql(pg17, "postgres", OIDS) == before

    env["BACKUP_DATABASES"] = "template0"
    assert "template0 is the server's own template" in said("backup", code=3)
    env = invoke.environment(pg17, "template0", BACKUP_DIR=str(tmp_path))
    assert "It is the server's own template" in said("backup", code=3)
