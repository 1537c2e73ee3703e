"""A full disk is foreseen: before the dump begins, and before a restore begins."""

import json
import os
import re
from pathlib import Path

import pytest

from pgkeep.backup.space import forecast
from pgkeep.model.manifest import NOT_RECOVERY, decode, encode
from pgkeep.postgres.server import Server
from pgkeep.restore.target import space
from tests.support import invoke, servers
from tests.support.disposable import Disposables
from tests.support.invoke import run_python

FREE = "import pgkeep.stores.local as l; l.LocalStore.free = lambda self: {}"


def test_a_backup_that_does_not_fit(pg17: Server, app: str, tmp_path: Path) -> None:
    """A6.12: forecast by the last backup and by how the database has grown since."""
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path))
    first = run_python(FREE.format(2_000_000), "backup", env=env)
    assert first.returncode == 0
    assert "0.0 GB free, this is the first backup of the database, and this one" in first.stderr
    (path,) = tmp_path.glob("*.manifest.json")
    manifest = decode(path.read_bytes(), path.name)
    ((size,),) = servers.sql(pg17, "postgres", "select pg_database_size(%(app)s)", app=app)
    assert manifest.database_size is not None
    assert abs(manifest.database_size - size) < 1_000_000

    needed = manifest.artifact.size
    assert forecast(manifest, 3 * manifest.database_size).likely == pytest.approx(3 * needed)
    fits = run_python(FREE.format(int(needed * 1.2)), "backup", env=env)
    assert (fits.returncode, "GB free" in fits.stderr) == (0, False)
    tight = run_python(FREE.format(needed), "backup", env=env)
    assert (tight.returncode, "the last backup of database" in tight.stderr) == (0, True)
    before = invoke.left_over(tmp_path)
    full = run_python(FREE.format(needed // 3), "backup", env=env)
    assert full.returncode == 6
    assert "GB free, the backup needs about 0.0 GB: the last backup of database" in full.stderr
    assert invoke.left_over(tmp_path) == before
    # Of an older pgkeep, which did not record the size.
    old = json.loads(path.read_bytes())
    del old["database_size"], old["manifest_sha256"]
    assert forecast(decode(json.dumps(old).encode(), path.name), 10**12).likely == needed
    assert decode(encode(manifest), path.name) == manifest


def test_files_of_a_server_are_not_believed(tmp_path: Path) -> None:
    """G1.7: a server names its data directory itself; a pipe or an endless file is not read."""
    pid = tmp_path / "postmaster.pid"
    os.mkfifo(pid)
    assert space.start_time(tmp_path) is None
    pid.unlink()
    pid.symlink_to("/dev/zero")
    assert space.start_time(tmp_path) is None
    pid.unlink()
    pid.write_text("1\n/data\n1795716899\n5432\n")
    assert space.start_time(tmp_path) == 1795716899


def test_a_restore_says_what_it_needs(
    pg17: Server, app: str, disposables: Disposables, tmp_path: Path
) -> None:
    """E12: the size with its indexes, and the server's disk where it is ours to see."""
    artifact = invoke.backup(pg17, app, tmp_path)
    args = ("restore", f"--backup={artifact}", "--target-db=never", "--dry-run")
    env = invoke.environment(pg17)
    shown = invoke.run(*args, env=env)
    assert "space    the database had " in shown
    assert "the server's disk has " in shown
    plan = json.loads(invoke.run(*args, "--json", env=env))
    assert plan["database_size"] > plan["raw_bytes"]
    assert plan["free_bytes"] > 0
    assert plan["estimate"] is None
    assert "time     not known: no drill of this database has passed" in shown
    invoke.run("drill", f"--backup={artifact}", env=env)
    (drill,) = json.loads(next(tmp_path.glob("*.manifest.json")).read_text())["drills"]
    took = sum(drill["seconds"][phase] for phase in drill["seconds"].keys() - NOT_RECOVERY)
    plan = json.loads(invoke.run(*args, "--json", env=env))
    assert plan["estimate"]["seconds"] == pytest.approx(took, abs=0.1)
    assert plan["estimate"]["drill_bytes"] == plan["raw_bytes"]
    assert re.search(r"^time     about \d+\.\d s: the drill of ", invoke.run(*args, env=env), re.M)
    full = run_python(
        "import pgkeep.restore.target.space as s; s.free = lambda connection: 1000", *args, env=env
    )
    assert "warning: the server's disk has 0.0 GB free, the database had 0.0 GB" in full.stdout
    role = disposables.role(pg17)
    servers.sql(pg17, "postgres", f"alter role {role} createdb")
    unknown = invoke.run(*args, "--no-owner", env=invoke.environment(pg17, PGUSER=role))
    assert "free space on the server is not known from here" in unknown
