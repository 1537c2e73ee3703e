"""Short ids of backups: the same in every store, known from the name, never ambiguous unnoticed."""

import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgkeep.model.manifest import Manifest
from tests.support import invoke, planted
from tests.support.buckets import Buckets
from tests.support.proxy import proxy

FORMER = Path(__file__).parents[1] / "fixtures" / "backups"
SHOP = "shop_daily_20261126T130700Z"


def pair() -> tuple[Manifest, Manifest]:
    """Return two backups whose ids begin with the same four digits."""
    seen: dict[str, Manifest] = {}
    first = datetime(2026, 1, 1, 2, tzinfo=UTC)
    for days in range(10_000):
        made = planted.manifest(first - timedelta(hours=days))
        other = seen.setdefault(made.name.id[:4], made)
        if other is not made:
            return other, made
    raise AssertionError


def test_an_id_names_a_backup_in_every_command(tmp_path: Path) -> None:
    """B29: the id is the hash of the file name, so nothing else can change it."""
    store = tmp_path / "store"
    shutil.copytree(FORMER, store)
    env = invoke.environment(BACKUP_DIR=str(store))
    digest = hashlib.sha256(f"{SHOP}.sql.gz".encode()).hexdigest()
    (entry,) = [found for found in invoke.listed(env) if found["name"] == SHOP]
    assert entry["id"] == digest[:8]
    for text in (digest[:8], digest[:4], SHOP, f"{SHOP}.sql.gz", f"{store}/{SHOP}.sql.gz"):
        assert SHOP in invoke.run("verify", text, env=env), text
    path = f"{store}/{SHOP}.sql.gz"
    for command in (["show", "--json"], ["cat", "--schema-only"], ["restore", "--verify-only"]):
        named = command[0] == "restore"
        said = [invoke.run(*command, f"--backup={text}" if named else text, env=env)
                for text in (digest[:8], path)]  # fmt: skip
        assert said[0] == said[1]
    out = invoke.run("hold", digest[:5], "--reason=audit", env=env)
    assert f"{digest[:8]} ({SHOP}) is held" in out
    assert f"({SHOP}) is no longer held" in invoke.run("release", digest[:8], env=env)
    (store / f"{SHOP}.manifest.json").unlink()
    assert "adopted" in invoke.run("adopt", digest[:8], env=env)


def test_a_doubtful_id_names_nothing(tmp_path: Path) -> None:
    """E16: what could be another backup, or a file, is refused, also where two stores have them."""
    here, there = tmp_path / "here", tmp_path / "there"
    made = pair()
    for backup, store in zip(made, (here, there), strict=True):
        planted.plant(store, backup)
        planted.plant(tmp_path / "both", backup)
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "both"))
    beginning = made[0].name.id[:4]
    for command in (["show"], ["release"]):
        said = invoke.run(*command, beginning, env=env, code=2)
        assert f"2 backups have an id that begins with {beginning}" in said
        for backup in made:
            assert f"    {backup.name.id} {backup.name.stem}\n" in said
    for command, code in ((["show"], 6), (["hold", "--reason=x"], 9)):
        said = invoke.run(*command, "0000", env=env, code=code)
        assert f"no backup with id 0000 in {tmp_path}/both" in said
        assert "pgkeep list" in said


def test_an_id_costs_one_list_of_a_bucket(buckets: Buckets, tmp_path: Path) -> None:
    """C10: instead of the request for a name; none if the directory has the backup."""
    bucket = buckets.bucket()
    client = buckets.client()
    for path in FORMER.glob(f"{SHOP}*"):
        key = f"backups/daily/{path.name}"
        client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    digest = hashlib.sha256(f"{SHOP}.sql.gz".encode()).hexdigest()
    with proxy(buckets.port) as counted:
        settings = buckets.environment(bucket) | {"BACKUP_S3_ENDPOINT": counted.endpoint}
        env = invoke.environment() | settings | {"BACKUP_DIR": str(tmp_path / "none")}

        def requests(text: str, **more: str) -> list[str]:
            counted.requests.clear()
            shown = json.loads(invoke.run("show", "--json", text, env=env | more))
            assert shown["database"]["name"] == "shop"
            return [line.split(" ")[0] for line in counted.requests]

        by_name = requests(SHOP)
        assert by_name[:2] == ["HEAD", "HEAD"], "whether it exists, and its size"
        assert requests(digest[:8]) == requests(digest[:4]) == ["GET", *by_name[1:]]
        here = {"BACKUP_DIR": str(FORMER)}
        assert requests(digest[:8], **here) == []
        assert requests(digest[:4], **here) == ["GET"], "it can be that of another backup there"
    unreachable = env | here | {"BACKUP_S3_ENDPOINT": "http://127.0.0.1:1"}
    assert "shop" in invoke.run("show", digest[:8], env=unreachable)
    assert "could not list" in invoke.run("show", digest[:4], env=unreachable, code=6)


@pytest.mark.parametrize("directory", [False, True])
def test_a_file_can_have_the_name_of_an_id(
    directory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E16: a date, for example; it is used unless it could be a backup, and ./ always names it."""
    digest = hashlib.sha256(f"{SHOP}.sql.gz".encode()).hexdigest()
    env = invoke.environment(BACKUP_DIR=str(FORMER))
    monkeypatch.chdir(tmp_path)
    shutil.copy(FORMER / f"{SHOP}.sql.gz", "20261126")
    assert "database   shop" in invoke.run("show", "20261126", env=env)
    if directory:
        Path(digest[:8]).mkdir()
    else:
        shutil.copy("20261126", digest[:8])
    said = invoke.run("show", digest[:8], env=env, code=2)
    assert f"{digest[:8]} is the id of backup {SHOP}, and a file in the current directory" in said
    assert f"Write ./{digest[:8]} for the file" in said
    invoke.run("show", f"./{digest[:8]}", env=env, code=6 if directory else 0)
