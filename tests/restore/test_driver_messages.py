"""What is printed of a failed restore: our own message, one line for each object."""

import json
import re
from pathlib import Path

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers

# Since 16 a column cannot be generated in a child table alone.
PARENT = "create table p (a int, b int)"
CHILD = "create table {} (a int, b int generated always as (a * 2) stored) inherits (p)"
REFUSED = 'child column "b" specifies generation expression'


def test_a_failed_restore_prints_its_error_and_nothing_of_the_driver(
    pg15: Server, pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.14: psycopg logs an aborted pipeline; without a handler Python prints that."""
    source = database(pg15)
    servers.sql(pg15, source, f"{PARENT}; {CHILD.format('c')}")
    artifact = invoke.backup(pg15, source, tmp_path)
    env = invoke.environment(pg17)
    said = invoke.run("restore", f"--backup={artifact}", "--target-db=not_made", env=env, code=8)
    assert f"error: table public.c: {REFUSED}" in said
    assert "psycopg" not in said
    assert "pipeline" not in said


def test_every_object_that_failed_has_a_line_of_its_own(
    pg15: Server, pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G6.15: one object a line, and a name that holds a line end begins no other."""
    source = database(pg15)
    children = [CHILD.format(name) for name in ('"a\nerror: b"', "c")]
    servers.sql(pg15, source, "; ".join([PARENT, *children]))
    artifact = invoke.backup(pg15, source, tmp_path)
    env = invoke.environment(pg17)
    command = ["restore", f"--backup={artifact}", "--target-db=not_made", "--keep-going"]
    lines = invoke.run(*command, env=env, code=8).splitlines()
    (number,) = (number for number, one in enumerate(lines) if one.startswith("error: "))
    kept = re.fullmatch(r"error: 2 objects .* kept as (\S+)", lines[number])
    assert kept is not None, lines[number:]
    servers.drop(pg17, kept[1])
    # Its rows fail too, which is the same object.
    assert lines[number + 1].startswith("    table public.a")
    assert lines[number + 2] == f"    table public.c: {REFUSED}"
    assert lines[number + 3].startswith("hint: To use it as it is: pgkeep swap --from=")
    assert len(lines) == number + 4
    report = json.loads(invoke.complete(*command, "--json", env=env)[1])
    servers.drop(pg17, report["error"].rpartition(" ")[2])
    assert len(report["details"]) == 2
    assert report["details"][1] == f"table public.c: {REFUSED}"
