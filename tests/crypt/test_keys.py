"""pgkeep key: create private keys, and find backups that a key does not decrypt."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pyrage
import pytest

from pgkeep.model.manifest import decode, encode
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, private_keys, servers
from tests.support.buckets import Buckets
from tests.support.private_keys import AgeKey, GpgKey

ENV = invoke.environment()


def test_a_new_key_works_with_age(tmp_path: Path) -> None:
    """The file is private from its first byte, and is never replaced, nor written through a link.

    What is printed is the public key alone.
    """
    file = tmp_path / "key.txt"
    out, err = invoke.outputs("key", "new", f"--output={file}", env=ENV)
    text = file.read_text()
    assert file.stat().st_mode & 0o7777 == 0o600
    assert [line.split()[:2] for line in text.splitlines()[:2]] == [
        ["#", "created:"],
        ["#", "public"],
    ]
    public = subprocess.check_output(["age-keygen", "-y", file], text=True).strip()
    assert (f"# public key: {public}" in text, f"BACKUP_ENCRYPT_TO={public}\n" in out) == (
        True,
        True,
    )
    assert "SECRET-KEY" not in out + err
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for existing in (file, link):
        assert "never replaced" in invoke.run("key", "new", f"--output={existing}", env=ENV, code=9)
    assert (file.read_text(), (tmp_path / "elsewhere").exists()) == (text, False)
    missing = invoke.run("key", "new", f"--output={tmp_path}/no/key", env=ENV, code=2)
    assert "No such file" in missing


def test_where_a_private_key_is_printed() -> None:
    """Never into a pipe or a document unless that is asked for; once to a terminal."""
    assert "not a terminal" in invoke.run("key", "new", env=ENV, code=2)
    assert "--json requires" in invoke.run("key", "new", "--json", env=ENV, code=2)
    out, err = invoke.outputs("key", "new", "--print", env=ENV)
    assert out.splitlines()[2].startswith("AGE-SECRET-KEY-1")
    assert (len(out.splitlines()), "BACKUP_ENCRYPT_TO=age1" in err) == (3, True)
    document = json.loads(invoke.run("key", "new", "--json", "--print", env=ENV))
    assert document["public_key"] in document["private_key"]
    code, shown = invoke.on_terminal("key", "new", env=ENV)
    assert (code, shown.count("AGE-SECRET-KEY-1"), "written nowhere" in shown) == (0, 1, True)


def test_a_key_with_a_passphrase(tmp_path: Path) -> None:
    """Age's own format; both questions have to get the same answer."""
    file = tmp_path / "key.txt"
    again = {"passphrase for": "s3cret", "same passphrase": "other"}
    args = ("key", "new", f"--output={file}", "--passphrase")
    code, shown = invoke.on_terminal(*args, env=ENV, answers=again)
    assert (code, "differ" in shown, file.exists()) == (2, True, False)
    again["same passphrase"] = "s3cret"
    code, shown = invoke.on_terminal(*args, env=ENV, answers=again)
    assert (code, file.read_text()[:34]) == (0, "-----BEGIN AGE ENCRYPTED FILE-----")
    assert "s3cret" not in shown
    assert b"AGE-SECRET-KEY-1" in pyrage.passphrase.decrypt(file.read_bytes(), "s3cret")
    assert "cannot ask" in invoke.run(*args, env=ENV, code=2)


@pytest.fixture
def encrypted(
    pg17: Server, database: DatabaseFactory, tmp_path: Path, age_key: AgeKey, gpg_key: GpgKey
) -> list[Path]:
    """A backup that is not encrypted, one with age, one with GPG."""
    name = database(pg17)
    servers.sql(pg17, name, "create table t as select 1 a")
    return [
        invoke.backup(pg17, name, tmp_path, f"--type={kind}", BACKUP_ENCRYPT_TO=to)
        for kind, to in (
            ("daily", "none"), ("weekly", age_key.recipient), ("manual", str(gpg_key.public)),
        )
    ]  # fmt: skip


def states(env: Mapping[str, str], *args: str, code: int = 0) -> list[tuple[str, str | None]]:
    done, out, err = invoke.complete("key", "check", "--json", *args, env=env)
    assert done == code, err
    found = sorted(json.loads(out), key=lambda each: (each["store"], each["cipher"] or ""))
    return [(each["state"], each["proved"]) for each in found]


def test_which_backups_a_key_decrypts(
    encrypted: list[Path], tmp_path: Path, age_key: AgeKey, other_age_key: AgeKey,
    gpg_key: GpgKey, buckets: Buckets,
) -> None:  # fmt: skip
    """In directory and bucket: which were decrypted, and what that proves.

    A key that does not decrypt a backup is exit code 5; damage and a missing file are no answer
    about the key. The run leaves a record, from which metrics take the age of the last check.
    """
    settings = buckets.environment(buckets.bucket())
    env = {
        **ENV, **settings, **gpg_key.environment,
        "BACKUP_DIR": str(tmp_path), "BACKUP_IDENTITY_FILE": str(age_key.file),
    }  # fmt: skip
    invoke.run("sync", "--all", env=env)
    good = [("not encrypted", None), ("opened", "header and last chunk"), ("opened", "globals")]
    assert states(env) == good * 2
    (record,) = json.loads(invoke.run("history", "--kind=key-check", "--json", env=env))
    assert (record["command"], record["exit_code"]) == ("key-check", 0)
    assert [sorted(result) for result in record["results"]] == [["database"]]
    wrong = f"--identity={other_age_key.file}"
    assert [state for state, _ in states(env, wrong, code=5)] == [
        "not encrypted", "other key", "opened",
    ] * 2  # fmt: skip
    shown, err = invoke.outputs("key", "check", wrong, env=env, code=5)
    assert max(len(line) for line in shown.splitlines() if line[:1] == " ") <= 80
    assert (age_key.recipient[:10] in shown, "2 of 6 backups" in err) == (True, True)
    other = private_keys.gpg_key(tmp_path)
    try:
        local = {name: text for name, text in env.items() if "S3" not in name}
        without = {**local, **other.environment}
        assert states(without, code=5)[2] == ("other key", None)
        (path,) = tmp_path.glob("*_manual_*.manifest.json")
        described = path.read_bytes()
        manifest = decode(described, path.name)
        path.write_bytes(encode(msgspec.structs.replace(manifest, globals=None)))
        assert states(local)[2] == ("opened", "beginning")
        assert states(without, code=5)[2] == ("other key", None)
        path.write_bytes(described)
        assert "no private key is given" in invoke.run(
            "key", "check", env=local | {"BACKUP_IDENTITY_FILE": ""}, code=2
        )
        os.truncate(encrypted[1], encrypted[1].stat().st_size - 1)
        roles = next(tmp_path.glob("*.globals.sql.gz.gpg"))
        roles.write_bytes(roles.read_bytes()[:-30] + bytes(30))
        assert [state for state, _ in states(local, code=5)] == [
            "not encrypted", "missing", "damaged",
        ]  # fmt: skip
        encrypted[2].unlink()
        shown, err = invoke.outputs("key", "check", env=local, code=5)
        said = " ".join(shown.split())  # where lines are wrapped depends on the path
        assert (said.count("missing or incomplete"), "2 of 3 backups" in err) == (2, True)
        assert "no backups in" in invoke.run("key", "check", "--database=x", env=local, code=9)
    finally:
        private_keys.close(other)
