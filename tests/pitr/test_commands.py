"""Point in time by the command line: from enabling to a proved restore on a blank host."""

import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.support import invoke, private_keys, servers
from tests.support.buckets import Buckets


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the user of the server can enter."""
    with tempfile.TemporaryDirectory(prefix="pitr-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def pg_wal() -> Iterator[Server]:
    settings = {"max_slot_wal_keep_size": "1GB"}
    with Server(servers.bin_folder(17), settings=settings, initdb=["--wal-segsize=1"]) as server:
        yield server


@pytest.mark.parametrize("major", [15, 18])
def test_from_enable_to_restore(major: int, open_folder: Path, buckets: Buckets) -> None:
    """A12: only the bucket and the private key are left, and the second before the mistake."""
    key = private_keys.age_key(open_folder)
    bucket = buckets.environment(buckets.bucket())
    settings = {"max_slot_wal_keep_size": "1GB"}
    if major >= 17:
        settings["summarize_wal"] = "on"
    programs = servers.bin_folder(major)
    with Server(programs, settings=settings, initdb=["--wal-segsize=1"]) as server:
        path = f"{programs}:{invoke.environment()['PATH']}"
        env = invoke.environment(server, "postgres", BACKUP_DIR=str(open_folder / "backups"),
                                 BACKUP_ENCRYPT_TO=key.recipient, BACKUP_WAL_MAX_LAG="1s",
                                 PATH=path, **bucket)  # fmt: skip
        (open_folder / "backups").mkdir()
        out, err = invoke.outputs("pitr", "enable", "--service=none", env=env)
        assert "can be restored" in err + out
        with servers.connect(server, "postgres") as connection:
            connection.execute("create table ledger (n int)")
            receiver = invoke.start("pitr", "stream", env=env)
            try:
                moments = []
                for number in range(20):
                    connection.execute("insert into ledger values (%s)", [number])
                    row = connection.execute("select clock_timestamp()").fetchone()
                    assert row is not None
                    moments.append(row[0])
                    time.sleep(0.01)
                    if number == 10:
                        made = json.loads(invoke.run("pitr", "base", "--json", env=env))
                        assert made["kind"] == ("incremental" if major >= 17 else "full")
                connection.execute("select pg_create_restore_point('the mark')")
                connection.execute("drop table ledger; create table after_the_mistake ()")
                row = connection.execute("select pg_current_wal_lsn()::text").fetchone()
                assert row is not None
                wanted, deadline = moments[15].isoformat(), time.monotonic() + 60
                blank = {**bucket, "BACKUP_DIR": str(open_folder / "none"), "PATH": path}
                host = invoke.environment() | {"BACKUP_IDENTITY_FILE": str(key.file), **blank}
                host["BACKUP_DIR"] = f"s3://{bucket['BACKUP_S3_BUCKET']}/backups"
                del host["BACKUP_S3_BUCKET"]
                target = str(open_folder / "restored")
                while True:
                    status, out, err = invoke.complete(
                        "pitr", "restore", f"--to={wanted}", f"--target-dir={target}",
                        "--promote", "--json", "--owner=nobody", "--superuser=postgres", env=host,
                    )  # fmt: skip
                    if status == 0 or time.monotonic() > deadline:
                        break
                    assert "not in the archived WAL" in err, err
                    time.sleep(0.5)
                assert status == 0, err
                dumped = json.loads(
                    invoke.run(
                        "pitr",
                        "restore",
                        f"--to={wanted}",
                        "--database=postgres",
                        f"--as-dump={open_folder / 'dumped'}",
                        "--json",
                        env=host,
                    )
                )
                commit = json.loads(out)["commits"][-1]
                for option in (
                    f"--to-lsn={commit['lsn']}", f"--to-xid={commit['xid']}", "--to-name=the mark"
                ):  # fmt: skip
                    given = (option, "--timeline=1", f"--cluster={json.loads(out)['cluster']}")
                    shown = invoke.run("pitr", "restore", *given, "--preview", "--json", env=host)
                    xids = [found["xid"] for found in json.loads(shown)["commits"]]
                    assert (commit["xid"] == xids[-1]) == ("name" not in option), option
                    assert commit["xid"] in xids
                err = invoke.run("pitr", "restore", "--to-lsn=x", "--preview", env=host, code=2)
                assert "--to-lsn: found 'x', expected a position" in err
                rows = [table for table in dumped["tables"] if table[1] == "ledger"]
                assert rows == [["public", "ledger", 16]], "it is as before it was dropped"
                here = json.loads(invoke.run("pitr", "windows", "--json", env=env))
                current = [found["windows"][-1] for found in here]
                assert [found["complete"] for found in current] == [True, True]
                assert all(found["until"] > moments[-1].isoformat() for found in current)
            finally:
                receiver.terminate()
                receiver.communicate()
        plan = json.loads(out)
        assert plan["next_commit"] is not None
        assert (plan["promoted"], plan["directory"]) == (True, target)
        assert plan["reached"]["last_commit"] == plan["commits"][-1]["time"]
        windows = json.loads(invoke.run("pitr", "windows", "--json", env=host))
        assert windows[0]["windows"][0]["bases"]
        assert "was dropped" in "".join(invoke.outputs("pitr", "disable", env=env))
    assert (Path(target) / "PG_VERSION").read_text().strip() == str(major)
    assert not (Path(target) / "recovery.signal").exists()


def test_what_is_before_the_window_goes(pg_wal: Server, open_folder: Path) -> None:
    """A16, C10: a base backup that ended before the window replaces the earlier ones."""
    programs = servers.bin_folder(17)
    path = f"{programs}:{invoke.environment()['PATH']}"
    settings = {"BACKUP_DIR": str(open_folder / "b"), "BACKUP_WINDOW": "1s", "PATH": path}
    env = invoke.environment(pg_wal, "postgres") | settings
    (open_folder / "b").mkdir()
    space, moved = open_folder / "space", open_folder / "moved"
    space.mkdir()
    pg_wal._account.own(space)
    servers.sql(pg_wal, "postgres", f"create tablespace s location '{space}'")
    servers.sql(pg_wal, "postgres", "create table elsewhere tablespace s as select 1 as i")
    invoke.run("pitr", "enable", "--service=none", env=env)
    err = invoke.run("pitr", "base", "--incremental", env=env, code=9)
    assert "an incremental base backup is not possible: summarize_wal is off" in err
    time.sleep(1.5)
    for _ in range(2):
        with servers.connect(pg_wal, "postgres") as connection:
            connection.execute("select pg_switch_wal()")
            connection.execute("create table if not exists t (); checkpoint")
            row = connection.execute("select pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        invoke.run("pitr", "stream", f"--until={row[0]}", env=env)
        invoke.run("pitr", "base", "--full", env=env)
        time.sleep(1.5)
    out = json.loads(invoke.run("pitr", "base", "--full", "--json", env=env))
    (found,) = json.loads(invoke.run("pitr", "windows", "--json", env=env))
    bases = [name for window in found["windows"] for name in window["bases"]]
    assert len(bases) == 1, "the WAL of the last two is not stored yet"
    folder = open_folder / "b" / "pitr" / out["system_identifier"]
    kept = sorted(path.name for path in (folder / "base").glob("*.base.json"))
    assert len(kept) == 3, "the first one was removed: the second one began before the window"
    assert kept[0].startswith(bases[0])
    with servers.connect(pg_wal, "postgres") as connection:
        for _ in range(4):
            connection.execute("create table if not exists u (); drop table u")
            row = connection.execute("select pg_switch_wal()::text").fetchone()
    assert row is not None
    invoke.run("pitr", "stream", f"--until={row[0]}", env=env)
    planned = invoke.run("prune", "--dry-run", env=env)
    assert re.search(rf"{bases[0]} +\S+ \S+ REMOVE  before the window", planned)
    assert re.search(r"\d+ files? of WAL before [0-9A-F]{16} REMOVE", planned)
    assert planned.count("keep    in the window") + planned.count("the window begins") == 2
    decided = json.loads(invoke.run("prune", "--json", env=env))
    assert [entry["backup"] for entry in decided if not entry["keep"]] == [bases[0], "wal"]
    assert len(list((folder / "base").glob("*.base.json"))) == 2
    target = open_folder / "restored"
    code, shown = invoke.on_terminal(
        "pitr", "restore", "--latest", f"--target-dir={target}", "--owner=nobody",
        f"--tablespace-mapping={space}={moved}", env=env, answers={"Promote it?": "y"},
    )  # fmt: skip
    assert (code, f"done: {target}: promoted, and stopped" in shown) == (0, True), shown
    assert [path.name for path in moved.glob("PG_*")] != []
    assert "ok: cluster" in invoke.run("pitr", "verify", f"--cluster={folder.name}", env=env)
    invoke.run("pitr", "verify", "--cluster=9", env=env, code=9)
    # Complete ones: whether the state of an unfinished one is stored too depends on the time.
    segments = sorted((folder / "wal").glob(f"{'[0-9A-F]' * 24}-*.gz"))
    segments[0].write_bytes(segments[0].read_bytes()[:-1])
    segments[-2].unlink()
    # Of the newer one: the older one needs the segment that is missing.
    part = max((folder / "base").glob("*.part*"))
    part.unlink()
    out, err = invoke.outputs("pitr", "verify", env=env, code=5)
    assert f"failed: {segments[0]}: truncated gzip data" in out
    assert f"{part.name} is missing or incomplete" in out
    assert f"missing: WAL from {segments[-2].name[:24]}" in out
    assert "2 files damaged, WAL missing in 1 place" in err
    invoke.run("pitr", "disable", env=env)
