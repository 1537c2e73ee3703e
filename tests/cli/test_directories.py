"""A directory of backups that does not exist: mistyped, or on a file system that is not mounted."""

from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.support import invoke
from tests.support.buckets import Buckets

READERS = {
    "list": (), "prune": (), "restore": ("--latest", "--yes"), "verify": ("0123abcd",),
    "show": ("0123abcd",), "cat": ("--latest",), "drill": (), "status": (),
    "serve": (), "history": (), "hold": ("0123abcd", "--reason=r"), "sync": (),
}  # fmt: skip


@pytest.mark.parametrize("command", READERS)
def test_a_mistyped_directory_has_no_backups(command: str, tmp_path: Path) -> None:
    """It is an error, and nobody creates it."""
    mistyped = tmp_path / "bakcups"
    args = (command, *READERS[command], f"--dir={mistyped}")
    said = invoke.run(*args, env=invoke.environment(), code=2)
    assert f"BACKUP_DIR, from the command line: directory {mistyped} does not exist" in said
    assert "that its file system is mounted" in said
    assert not mistyped.exists()


def test_the_default_directory_appears_with_the_first_backup(
    pg17: Server, app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it, there are no backups; a given directory is created with a line in the log."""
    monkeypatch.chdir(tmp_path)
    env = invoke.environment(pg17, app)
    assert "no backups in " in invoke.run("list", env=env)
    missing = tmp_path / "disk" / "backups"
    said = invoke.run("backup", f"--dir={missing}", env=env, code=2)
    assert f"the command line: directory {missing.parent} does not exist" in said
    assert not missing.parent.exists()
    missing.parent.mkdir()
    _, said = invoke.outputs("backup", f"--dir={missing}", env=env)
    assert f"created directory {missing}" in said
    _, said = invoke.outputs("backup", f"--dir={missing}", env=env)
    assert "created" not in said
    backup = next(missing.glob("*.sql.gz"))
    env["BACKUP_DIR"] = str(tmp_path / "other")  # a file needs no directory
    assert "ok" in invoke.run("verify", str(backup), env=env)
    invoke.run("list", f"--dir={backup}", env=env, code=6)


def test_a_lost_machine_reads_the_copies(
    pg17: Server, app: str, buckets: Buckets, tmp_path: Path
) -> None:
    """E14: its directory is gone with it; that is a warning."""
    env = buckets.environment(buckets.bucket()) | {"BACKUP_DIR": str(tmp_path / "one")}
    invoke.run("backup", env=invoke.environment(pg17, app, **env))
    env["BACKUP_DIR"] = str(tmp_path / "two")
    out, err = invoke.outputs("list", env=invoke.environment(pg17, app, **env))
    assert f"database {app}" in out
    assert err.count(f"directory {tmp_path}/two does not exist") == 1
    assert not (tmp_path / "two").exists()
