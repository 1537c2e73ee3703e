"""One database as it was, as an ordinary backup; a table comes home from it."""

import json
from pathlib import Path

import pytest

from pgkeep import errors as e
from pgkeep.pitr import dump
from pgkeep.postgres.connection import Endpoint
from tests.support import invoke, servers
from tests.support.wal_source import wal_source

DATABASE = 'Odd "name" ü'
TABLE = "odd.table's"
KEPT = ["backups", "staging"]
ROWS = "select md5(string_agg(t::text, ',' order by n)) from public.\"odd.table's\" t"


def test_a_dropped_table_comes_home() -> None:
    """A14: odd names, unlogged tables, segments of 64 MB, data checksums."""
    with wal_source(17, initdb=["--data-checksums"], megabytes=64) as source:
        source.connection.execute('create database "Odd ""name"" ü"')
        with servers.connect(source.server, DATABASE) as connection:
            connection.execute(f'create table "{TABLE}" (n int primary key, s text default 1)')
            connection.execute("create unlogged table quick as select 1")
            source.base()
            connection.execute(f'insert into "{TABLE}" select i, i from generate_series(1, 500) i')
            row = connection.execute(ROWS).fetchone()
            moment = connection.execute("select clock_timestamp()").fetchone()
            assert moment is not None
            connection.execute(f'drop table "{TABLE}"')
            source.ship()
        backups = Path(source.location.url)
        path = f"{source.programs}:{invoke.environment()['PATH']}"
        env = invoke.environment(source.server, DATABASE, BACKUP_DIR=str(backups), PATH=path)
        rescued = source.folder / "rescued"
        asked = ("pitr", "restore", f"--to={moment[0].isoformat()}", f"--database={DATABASE}")
        for inside in (backups, backups / "deep"):
            error = invoke.run(*asked, f"--as-dump={inside}", env=env, code=9)
            assert "is in the directory of the backups" in error
        plan = json.loads(invoke.run(*asked[:3], "--preview", "--json", env=env))
        assert list(plan) == [
            "cluster", "store", "target", "time", "timeline", "other_timelines", "bases",
            "segments", "bytes", "expected_seconds", "recovery_target", "commits", "next_commit",
        ]  # fmt: skip
        assert plan["time"] == moment[0].isoformat()
        assert plan["next_commit"]["xid"] == plan["commits"][-1]["xid"] + 1
        assert sorted(path.name for path in source.folder.iterdir()) == KEPT
        endpoint = Endpoint({**source.server.params, "dbname": DATABASE})
        with pytest.raises(e.Refused, match="had no table other at the point"):
            dump.check_tables(endpoint, ["quick", "other"])
        out = invoke.run(
            *asked, f'--table="{TABLE}"', f"--as-dump={rescued}", "--json", env=env
        )  # fmt: skip
        made = json.loads(out)
        tables = {name: count for _, name, count in made["tables"]}
        assert tables == {TABLE: 500}, "unlogged tables have no rows after a recovery"
        file = rescued / made["artifact"]["name"]
        invoke.run("restore", f"--backup={file}", f'--table=public."{TABLE}"', env=env)
        with servers.connect(source.server, DATABASE) as connection:
            assert connection.execute(ROWS).fetchone() == row
            connection.execute(f'insert into "{TABLE}" (n) values (0)')
        assert not list(backups.glob("*.sql.gz"))
        assert not [name for name in rescued.parent.iterdir() if "pgkeep" in name.name]
