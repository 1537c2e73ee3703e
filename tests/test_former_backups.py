"""Backups that earlier versions of pgkeep made are listed, verified, restored as ever."""

import secrets
import shutil
from pathlib import Path

import pytest

from pgkeep.model import manifest
from pgkeep.postgres.server import Server
from tests.support import invoke, servers
from tests.support.compare import assert_same_database

FORMER = Path(__file__).parent / "fixtures" / "backups"


@pytest.mark.parametrize(
    "artifact", sorted(FORMER.glob("*[0-9]Z.sql.gz")), ids=lambda path: path.stem
)
def test_a_former_backup_is_restored(pg17: Server, tmp_path: Path, artifact: Path) -> None:
    shutil.copytree(FORMER, tmp_path / "store")
    file = tmp_path / "store" / artifact.name
    invoke.run("verify", str(file), env=invoke.environment())
    target, by_hand = (f"{kind}_{secrets.token_hex(4)}" for kind in ("former", "by_hand"))
    try:
        invoke.restore(pg17, file, target)
        servers.sql(pg17, "postgres", f"create database {by_hand}")
        invoke.restore_by_hand(pg17, file, by_hand)
        assert servers.sql(pg17, target, "select count(*) from app.customers") == [(50,)]
        assert_same_database(pg17, by_hand, pg17, target)
    finally:
        for name in (target, by_hand):
            servers.drop(pg17, name)


@pytest.mark.parametrize("path", sorted(FORMER.glob("*.manifest.json")), ids=lambda path: path.stem)
def test_a_former_manifest_is_read(path: Path) -> None:
    """The result of a drill was called green."""
    read = manifest.decode(path.read_bytes(), path.name)
    assert [(drill.passed, drill.findings) for drill in read.drills] == [(True, 0)]
    assert read.database.name == "shop"
