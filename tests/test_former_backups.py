"""Backups that earlier versions of pgkeep made are listed, verified, restored as ever."""

import json
import re
import secrets
import shutil
from pathlib import Path

import pytest

from pgkeep.artifact import file
from pgkeep.catalog import small_files
from pgkeep.catalog.catalog import Catalog
from pgkeep.model import manifest, record
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore
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


def test_former_records_are_read() -> None:
    names = Catalog(LocalStore(FORMER)).list_records()
    assert [(name.command, name.exit_code) for name in names] == [
        ("backup", 0), ("drill", 0), ("hold", 0),
    ]  # fmt: skip
    for name in names:
        read = record.decode((FORMER / name.file).read_bytes(), name.file)
        assert (read.command, read.exit_code) == (name.command, name.exit_code)
        assert [result.database for result in read.results] == ["shop"]
        assert read.finished.replace(microsecond=0) == name.finished


def test_each_form_is_documented_and_has_an_example() -> None:
    """A format that is written is in the table of what every release reads."""
    written = {
        "backup file": file.FORMAT, "manifest": manifest.FORMAT, "record": record.FORMAT,
        "summary": small_files.FORMAT,
    }  # fmt: skip
    text = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    table = text.partition("## Compatibility")[2]
    rows = re.findall(r"^\| ([a-z ]+) \| (\d+) \| (before|[\d.]+)", table, re.MULTILINE)
    assert {(kind, number) for kind, number, _ in rows} >= {
        (kind, str(number)) for kind, number in written.items()
    }
    fields = [json.loads(path.read_text()) for path in FORMER.glob("*.manifest.json")]
    assert {"green" in json.dumps(each) for each in fields} == {True, False}
    assert {each.get("hold", {}).get("reason") for each in fields} == {
        None, "a fixture of this format",
    }  # fmt: skip
