"""Several files in one `pgkeep verify`, each with a verdict; and the copy of a damaged backup."""

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, planted, servers
from tests.support.buckets import Buckets, keys

FORMER = Path(__file__).parents[1] / "fixtures" / "backups"
DAILY, WEEKLY = "shop_daily_20261126T130700Z", "shop_weekly_20261126T175451Z"


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def test_each_file_of_a_directory_has_a_verdict(tmp_path: Path) -> None:
    """A2.1, E5: of several databases and clusters, and of other tools; the worst decides."""
    store = tmp_path / "store"
    shutil.copytree(FORMER, store)
    env = invoke.environment(BACKUP_DIR=str(store))

    def verdicts(*args: str, code: int = 0) -> list[tuple[str, bool]]:
        status, out, err = invoke.complete("verify", *args, "--json", env=env)
        assert status == code, err
        return [(Path(each["file"]).name, each["ok"]) for each in json.loads(out)]

    both = [(f"{DAILY}.sql.gz", True), (f"{WEEKLY}.sql.gz", True)]
    assert verdicts(str(store)) == verdicts("--all") == verdicts("--all", "--database=shop") == both
    assert verdicts("--latest") == both, "each is the newest of its cluster"
    # A backup of another cluster whose file is missing, and one that has only its file.
    missing = planted.plant(store, planted.manifest(datetime.now(UTC).replace(microsecond=0)))
    (store / missing.artifact.name).unlink()
    (store / missing.name.checksum).unlink()
    (store / f"{WEEKLY}.manifest.json").unlink()
    spoil(store / f"{DAILY}.sql.gz")
    (store / "cluster.dump").write_bytes(b"PGDMP" + bytes(100))
    (store / "notes.txt").write_text("no dump")
    expected = [(missing.artifact.name, False), (both[0][0], False), both[1]]
    assert verdicts("--all", code=5) == expected
    assert verdicts(str(store), code=5) == [*expected, ("cluster.dump", False)]
    status, out, err = invoke.complete("verify", str(store), env=env)
    assert (status, out.count("\nok: "), out.count("failed: ")) == (5, 1, 3)
    assert f"{missing.artifact.name} is missing, its manifest is not" in out
    assert "not a plain dump: custom format of pg_dump (PGDMP), expected plain SQL" in out
    assert "    Convert it: pg_restore -f FILE.sql FILE." in out
    assert "verifying 4 of 4" in err
    assert "error: 3 of 4 files failed: " in err
    assert verdicts("--latest", code=5) == expected[:2], "the manifest of the other one is lost"
    assert "no backups in" in invoke.run("verify", "--all", "--database=x", env=env, code=9)
    assert "no backups in" in invoke.run("verify", str(FORMER / "records"), env=env, code=9)
    for args in ((), ("--all", str(store))):
        said = invoke.run("verify", *args, env=env, code=2)
        assert "either FILE, --latest or --all is required" in said
    said = invoke.run("verify", "none.sql.gz", f"{store}/{WEEKLY}.sql.gz", env=env, code=6)
    assert "1 of 2 files failed: could not open" in said


def test_dumps_in_other_formats(pg17: Server, database: DatabaseFactory, tmp_path: Path) -> None:
    """G1.6: each is named, with the command that makes a plain dump of it."""
    name = database(pg17)
    servers.sql(pg17, name, "create table t as select 1 a")
    programs = servers.programs_for(17)
    for option in ("-Fc", "-Ft", "-Fd"):
        subprocess.run(
            [programs.program("pg_dump"), option, "-f", str(tmp_path / f"dump{option}"), name],
            env=invoke.environment(pg17), check=True,
        )  # fmt: skip
    (tmp_path / "empty.sql").touch()
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "catalog"))
    for path, said, hint in (
        ("dump-Fc", "custom format of pg_dump (PGDMP)", "Convert it: pg_restore"),
        ("dump-Ft", "a tar archive", "convert it: pg_restore -f FILE.sql FILE"),
        ("dump-Fd", "directory format of pg_dump (toc.dat)", "pg_restore -f FILE.sql DIRECTORY"),
        ("empty.sql", "the dump is empty", "the disk was full"),
    ):
        _, out, err = invoke.complete("verify", str(tmp_path / path), env=env)
        assert said in out + err
        assert hint in out + err
    assert "custom format" in invoke.run("adopt", str(tmp_path / "dump-Fc"), env=env, code=5)
    assert "refused  dump.dump" in adopted(tmp_path / "dump-Fc", env)
    said = invoke.run("show", str(tmp_path / "dump-Fd"), env=env, code=6)
    assert "is a directory, expected a file" in said
    assert "It has the directory format of pg_dump" in said


def adopted(dump: Path, env: dict[str, str]) -> str:
    folder = dump.parent / "folder"
    folder.mkdir()
    shutil.copy(dump, folder / "dump.dump")
    status, out, _ = invoke.complete("adopt", str(folder), "--database=x", env=env)
    assert status == 9
    return out


@pytest.fixture
def damaged(
    pg17: Server, database: DatabaseFactory, buckets: Buckets, tmp_path: Path
) -> tuple[dict[str, str], Path, str]:
    """Return the environment, a damaged backup in the directory, and the URL of its good copy."""
    name = database(pg17)
    servers.sql(pg17, name, "create table t as select i from generate_series(1, 5000) i")
    bucket = buckets.bucket()
    env = invoke.environment(
        pg17, name, BACKUP_DIR=str(tmp_path / "here"), **buckets.environment(bucket)
    )
    invoke.run("backup", "--verify", "--type=daily", env=env)
    (key,) = [key for key in keys(buckets.client(), bucket) if key.endswith("Z.sql.gz")]
    file = tmp_path / "here" / key.rpartition("/")[2]
    spoil(file)
    return env, file, f"s3://{bucket}/{key}"


def test_a_good_copy_takes_the_place_of_a_damaged_file(
    pg17: Server, damaged: tuple[dict[str, str], Path, str]
) -> None:
    """E5: the newest backup has a good copy, so neither is an older one used nor nothing."""
    env, file, url = damaged
    target = f"{env['PGDATABASE']}_copy"
    hint = f"{url} is another copy of this backup. Use it with:\n"
    restore = f"pgkeep restore --backup={url}\n"
    said = invoke.run("verify", str(file), env=env, code=5)
    assert f"hint: {hint}      pgkeep verify {url}\n      {restore}" in said
    status, out, _ = invoke.complete("verify", "--all", env=env)
    assert (status, out.count("ok: "), f"    pgkeep verify {url}\n" in out) == (5, 1, True)
    # A named file is not exchanged, and a drill that passes would hide the damage.
    args = ("restore", f"--target-db={target}")
    assert restore in invoke.run(*args, f"--backup={file}", env=env, code=5)
    assert f"pgkeep drill --backup={url}\n" in invoke.run("drill", env=env, code=5)
    for more in (["--dry-run"], []):
        _, err = invoke.outputs(*args, "--latest", *more, env=env)
        assert f"warning: {file}: SHA-256 is" in err
        assert f"warning: restoring the copy {url} instead" in err
    assert servers.sql(pg17, target, "select count(*) from t") == [(5000,)]
    servers.drop(pg17, target)
    file.write_bytes(file.read_bytes()[:-1])
    _, err = invoke.outputs(*args, "--latest", "--dry-run", env=env)
    assert f"warning: {file} is missing or incomplete: its copy {url} is used" in err
