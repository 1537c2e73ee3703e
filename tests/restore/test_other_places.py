"""A1.9, D16: another server has other tablespaces, and puts rows into other partitions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.support import invoke, servers
from tests.support.disposable import Disposables

# A hash function that depends on the server, as one of a collation or an enum does.
TABLES = """
create function h(int, int8) returns int8 immutable language sql as
    $$ select hashint4extended($1, $2) # coalesce(current_setting('app.seed', true), '0')::int8 $$;
create operator class seeded for type int using hash as operator 1 =, function 2 h(int, int8);
create table parts (id int, note text) partition by hash (id seeded);
create table part_0 partition of parts for values with (modulus 2, remainder 0);
create table part_1 partition of parts for values with (modulus 2, remainder 1);
insert into parts select i, 'note ' || i from generate_series(1, 100) i;
create table spaced (id int primary key using index tablespace "{space}", note text)
    tablespace "{space}";
insert into spaced select i, repeat('x', 100) from generate_series(1, 1000) i;
alter table part_0 set (autovacuum_enabled = off);
alter table part_1 set (autovacuum_enabled = off);
alter table spaced set (autovacuum_enabled = off);
"""


@pytest.fixture
def tablespace(pg17: Server) -> Iterator[str]:
    name = 'no "such" space'
    with servers.connect(pg17, "postgres") as connection:
        connection.execute("set allow_in_place_tablespaces = on")
        connection.execute(f"create tablespace {servers.quoted(name)} location ''".encode())
        yield name
        connection.execute(f"drop tablespace {servers.quoted(name)}".encode())


def test_another_server(pg17: Server, pg18: Server, tablespace: str, tmp_path: Path) -> None:
    """A missing tablespace is in the plan; rows go through the root; all rows are visible.

    Also while an older transaction of another database runs.
    """
    with Disposables() as made:
        source, target, live = made.database(pg17), made.name(pg18), made.database(pg18)
        space = tablespace.replace('"', '""')
        servers.psql(pg17, source, input=TABLES.format(space=space))
        whole = made.database(pg17, f'tablespace "{space}"')
        alone = invoke.backup(pg17, whole, tmp_path / "whole")
        artifact = invoke.backup(pg17, source, tmp_path)
        env = invoke.environment(pg18, PGOPTIONS="-c app.seed=5")
        restore = ["restore", f"--backup={artifact}"]
        said = invoke.run(*restore, f"--target-db={target}", env=env, code=9)
        assert f"tablespaces are missing on the server: {tablespace}" in said
        assert "restore into the default tablespace with --no-tablespaces" in said
        command = ["restore", f"--backup={alone}", f"--target-db={target}"]
        said = invoke.run(*command, "--dry-run", env=env, code=9)
        assert f"tablespaces are missing on the server: {tablespace}" in said
        invoke.run(*command, "--no-tablespaces", env=env)
        servers.drop(pg18, target)
        table = [*restore, "--table=spaced", f"--target-db={live}"]
        assert "tablespaces are missing" in invoke.run(*table, "--dry-run", env=env, code=9)
        invoke.run(*table, "--no-tablespaces", env=env)
        assert servers.sql(pg18, live, "select count(*) from spaced") == [(1000,)]
        portable = invoke.run(*restore, f"--target-db={target}", "--portable", "--dry-run", env=env)
        assert f"restored into the default tablespace instead of {tablespace}" in portable
        with servers.connect(pg18, "postgres") as older:
            older.execute("begin; select pg_current_xact_id()")
            invoke.run(*restore, f"--target-db={target}", "--no-tablespaces", "--vacuum", env=env)
        rows = "select * from parts order by id"
        assert servers.sql(pg18, target, rows) == servers.sql(pg17, source, rows)
        moved = "select count(*) from part_0 where h(id, 8816678312871386365) % 2 <> 0"
        assert servers.sql(pg18, target, moved) != servers.sql(pg17, source, moved)
        visible = "select relname from pg_class where relname in ('part_0', 'part_1', 'spaced')"
        visible += " and (relallvisible < relpages or relpages = 0)"
        assert servers.sql(pg18, target, visible) == []
