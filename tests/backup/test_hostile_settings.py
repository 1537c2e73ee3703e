"""What ALTER DATABASE and ALTER ROLE ... SET choose does not choose for pgkeep (G2)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import concurrency, invoke, servers

SETTINGS = {
    "role": "{owner}",
    "local_preload_libraries": "'nothing of this name'",
    "search_path": "{owner}",
    "quote_all_identifiers": "on",
    "constraint_exclusion": "on",
    "client_min_messages": "debug5",
    "restrict_nonsystem_relation_kind": "''",
    "default_transaction_isolation": "serializable",
}


@pytest.fixture
def owner(server: Server, database: DatabaseFactory) -> Iterator[tuple[str, str]]:
    """A role and its database, in which another role has a table with row security."""
    role = f"owner_{os.getpid()}"
    servers.sql(server, "postgres", f"create role {role} login")
    db = database(server, f"owner {role}")
    servers.sql(
        server,
        db,
        f"create table public.secret as select generate_series(1, 10) a;"
        f" alter table public.secret enable row level security;"
        f" create table public.mine as select 1 b; alter table public.mine owner to {role}",
    )
    yield role, db
    servers.drop(server, db)
    servers.sql(server, "postgres", f"drop role {role}")


@pytest.mark.parametrize("server", [12, 15, 18], ids="pg{}".format, indirect=True)
@pytest.mark.parametrize("of", ["database", "role in database"])
def test_settings_of_the_database(
    server: Server, owner: tuple[str, str], tmp_path: Path, of: str
) -> None:
    """G2.4: a database whose owner chooses everybody's role is backed up by ours."""
    role, db = owner
    subject = f"database {db}" if of == "database" else f"role postgres in database {db}"
    for name, value in SETTINGS.items():
        servers.sql(server, "postgres", f"alter {subject} set {name} = {value.format(owner=role)}")
    env = invoke.environment(server, db)
    said = invoke.run("doctor", f"--dir={tmp_path}", env=env)
    assert "BYPASSRLS" not in said
    path = invoke.backup(server, db, tmp_path, "--verify")
    invoke.restore(server, path, f"{db}_new")
    try:
        servers.sql(server, "postgres", f"alter {subject}_new reset all")
        assert servers.sql(server, f"{db}_new", "select count(*) from public.secret") == [(10,)]
        rows = servers.sql(server, f"{db}_new", "select * from public.mine")
        assert rows == [(1,)]
    finally:
        servers.drop(server, f"{db}_new")


@pytest.mark.parametrize("server", [12, 18], ids="pg{}".format, indirect=True)
@pytest.mark.parametrize("how", ["PGOPTIONS", "dsn", "service"])
def test_a_role_that_the_user_chooses(
    server: Server, owner: tuple[str, str], tmp_path: Path, how: str
) -> None:
    """G2.4: a role in the user's own options is meant, and stronger than the database's."""
    role, db = owner
    servers.sql(server, "postgres", f"alter database {db} set role = postgres")
    options = f"-c role={role}"
    env = invoke.environment(server, db)
    arguments = []
    if how == "PGOPTIONS":
        env |= {"PGOPTIONS": options}
    elif how == "dsn":
        arguments = [f"--dsn=dbname={db} options='{options}'"]
    else:
        file = tmp_path / "services"
        file.write_text(f"[mine]\ndbname={db}\noptions={options}\n")
        env |= {"PGSERVICEFILE": str(file)}
        arguments = ["--dsn=service=mine"]
    said = invoke.run("backup", f"--dir={tmp_path}", *arguments, env=env, code=4)
    assert f"role {role} is not allowed to read public.secret" in said
    servers.sql(server, db, f"grant select on public.secret to {role}")
    servers.sql(server, db, "alter table public.secret disable row level security")
    invoke.run("backup", f"--dir={tmp_path}", *arguments, env=env)


def test_settings_of_every_session_that_reads(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """G2.2, G2.4: of the one that holds the snapshot, of pg_dump, of psql and of pg_dumpall."""
    db = database(pg17)
    servers.psql(
        pg17,
        db,
        input=f"create table t (i int, p text) {concurrency.SPARSE}; insert into t"
        " select g, repeat('x', 100) from generate_series(1, 40000) g",
    )
    folder = tmp_path / "log"
    folder.mkdir()
    for program in ("pg_dump", "psql", "pg_dumpall"):
        installed = servers.programs_for(17)
        script = "#!/bin/sh\n"
        if program != "psql":
            script += (
                f'[ "$1" = --version ] || {installed.program("psql")} -X -At -c "select'
                " current_setting('restrict_nonsystem_relation_kind'), current_setting('role'),"
                " current_setting('constraint_exclusion')\""
                f" > {folder}/{program}\n"
            )
        script += f'exec {installed.program(program)} "$@"\n'
        (folder / f"{program}.sh").write_text(script)
    path = tmp_path / "bin"
    path.mkdir()
    for program in ("pg_dump", "psql", "pg_dumpall"):
        (path / program).write_text((folder / f"{program}.sh").read_text())
        (path / program).chmod(0o755)
    invoke.backup(
        pg17, db, tmp_path / "b", "--jobs=2", PATH=f"{path}{os.pathsep}{os.environ['PATH']}"
    )
    for program in ("pg_dump", "pg_dumpall"):
        assert (folder / program).read_text() == "view, foreign-table|none|off\n"


def test_settings_of_our_own_sessions(pg17: Server, database: DatabaseFactory) -> None:
    """A4.1, G4.1: those of the database, whose owner sets them, have a lower priority."""
    db = database(pg17)
    for setting in ("search_path = public, pg_catalog", "row_security = on"):
        servers.sql(pg17, "postgres", f"alter database {db} set {setting}")
    query = "select current_setting('search_path'), current_setting('row_security')"
    with Endpoint({**pg17.params, "dbname": db}).connect() as connection:
        assert connection.execute(query).fetchall() == [("", "off")]
